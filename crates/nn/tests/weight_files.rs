//! Files of weights as training programs leave them: every type in every container, weights below
//! the names of entries, attributes and wrappers, averages beside them, files that are cut, files
//! that are something else, and weights of another network.

#[path = "weight_file/weight_file.rs"]
mod weight_file;

use std::path::PathBuf;

use burn::tensor::Device;
use nn::config::{Architecture, NetworkConfig};
use nn::layer_spec::Naming;
use nn::models::variants::Variant;
use nn::weights::kind::WeightsKind;
use nn::weights::load::{HeadPolicy, load_state_dict};
use nn::weights::read::{FileWeights, read_weights};
use nn::weights::state_dict::{state_dict, state_dict_as};
use nn::weights::{NamedTensor, WeightsError};
use weight_file::{FLOATS, Float, Layout, Value, dict, safetensors, state, torch};

fn config() -> NetworkConfig {
    NetworkConfig { width: 0.1, ..NetworkConfig::new(Architecture::MobilenetV3Small, 3) }
}

/// The weights of a small network.
fn weights(seed: u64) -> Vec<NamedTensor> {
    state_dict(&config().init_seeded(&Device::flex(), seed))
}

struct File(PathBuf);

impl File {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let name = format!("kindling-files-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, bytes).unwrap();
        Self(path)
    }

    fn read(&self, kind: WeightsKind) -> Result<FileWeights, WeightsError> {
        read_weights(&self.0, kind)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The weights of the file are these, but for the rounding of its type.
#[track_caller]
fn holds(what: &str, found: FileWeights, want: &[NamedTensor], tolerance: f32) {
    let network = config().init_zero(&Device::flex());
    let (network, _) = load_state_dict(network, found.tensors, HeadPolicy::Exact)
        .unwrap_or_else(|e| panic!("{what}: {e}"));
    for (got, want) in state_dict(&network).iter().zip(want) {
        assert_eq!(got.name, want.name, "{what}");
        for (got, want) in got.values.iter().zip(&want.values) {
            assert!((got - want).abs() <= tolerance * want.abs().max(1e-4), "{what}: {got} {want}");
        }
    }
}

/// Mutations caught: f64 read as the upper half of its bits; bf16 read as f16.
#[test]
fn every_type_is_read_from_every_container() {
    let want = weights(1);
    for float in FLOATS {
        let tolerance = match float {
            Float::F64 | Float::F32 => 0.0,
            Float::F16 => 1e-3,
            Float::Bf16 => 8e-3,
        };
        let files = [
            ("zip", torch(&state(&want, float, ""), Layout::Zip)),
            ("legacy", torch(&state(&want, float, ""), Layout::Legacy)),
            ("safetensors", safetensors(&[("", &want)], float)),
        ];
        for (container, bytes) in files {
            let what = format!("{container} {float:?}");
            let found = File::new(container, &bytes).read(WeightsKind::Best).unwrap();
            assert_eq!(found.taken, None, "{what}");
            holds(&what, found, &want, tolerance);
        }
    }
}

/// Mutations caught: a type that holds no weights not looked at.
#[test]
fn values_of_another_type_are_named() {
    let want = weights(1);
    let mut entries = vec![("epoch", Value::Int(3))];
    let bytes = vec![1; want[0].values.len()];
    entries
        .push(("features.0.0.weight", Value::Tensor("CharStorage", want[0].shape.clone(), bytes)));
    let Value::Dict(mut all) = dict(entries) else { unreachable!() };
    let Value::Dict(rest) = state(&want[1..], Float::F32, "") else { unreachable!() };
    all.extend(rest);
    for layout in [Layout::Zip, Layout::Legacy] {
        let file = File::new("char", &torch(&Value::Dict(all.clone()), layout));
        let error = file.read(WeightsKind::Best).unwrap_err();
        assert!(matches!(error, WeightsError::Unreadable(_)), "{error}");
        let text = error.to_string();
        assert!(text.contains("`features.0.0.weight` is of type I8"), "{text}");
        assert!(text.contains("expected f64, f32, f16 or bf16"), "{text}");
    }
}

/// Prefixes, entries and averages, in both containers: what is taken, and what is said about it.
///
/// Mutations caught: `_orig_mod` no wrapper; the trained weights before their average; an average's
/// tensors not left out where the trained ones have no prefix.
#[test]
fn weights_are_found_wherever_they_lie() {
    use WeightsKind::{Best, Ema, Raw};
    let (raw, ema) = (weights(1), weights(2));
    // The prefixes of the trained weights and of the average, and a word of what is said.
    let cases: [(&str, Option<&str>, &str); 22] = [
        ("", None, ""),
        ("module.", None, ""),
        ("_orig_mod.", None, ""),
        ("module._orig_mod.", None, ""),
        ("_orig_mod.module.", None, ""),
        ("model.", None, "`model`"),
        ("model._orig_mod.", None, "`model`"),
        ("net.", None, "`net`"),
        ("backbone.", None, "`backbone`"),
        ("student.inner.", None, "`student.inner`"),
        ("state_dict.", None, "`state_dict`"),
        ("state_dict.model.", None, "`state_dict.model`"),
        ("state_dict.net.", None, "`state_dict.net`"),
        ("state_dict.module.", None, "`state_dict`"),
        ("model_state_dict.", None, "`model_state_dict`"),
        ("state_dict.", Some("state_dict_ema."), "`state_dict_ema`"),
        ("state_dict.", Some("state_dict_ema.module."), "`state_dict_ema`"),
        ("model.", Some("model_ema.module."), "`model_ema`"),
        ("model.", Some("ema."), "`ema`"),
        ("", Some("ema."), "`ema`"),
        ("state_dict.model.", Some("state_dict.ema_model."), "`state_dict.ema_model`"),
        ("params.", Some("params_ema."), "`params_ema`"),
    ];
    for (prefix, average, said) in cases {
        let mut flat = vec![(prefix, &raw[..])];
        flat.extend(average.map(|average| (average, &ema[..])));
        let nested = nested(&flat);
        let files = [
            ("safetensors", safetensors(&flat, Float::F32)),
            ("zip", torch(&nested, Layout::Zip)),
            ("legacy", torch(&nested, Layout::Legacy)),
        ];
        for (container, bytes) in files {
            let file = File::new("found", &bytes);
            let what = |kind| format!("{container} {prefix} {average:?} {kind:?}");
            let best = if average.is_some() { &ema } else { &raw };
            let found = file.read(Best).unwrap();
            let taken = found.taken.clone().unwrap_or_default();
            assert!(taken.contains(said) && taken.is_empty() == said.is_empty(), "{taken}");
            assert_eq!(taken.contains("--weights-kind raw"), average.is_some(), "{taken}");
            holds(&what(Best), found, best, 0.0);
            holds(&what(Raw), file.read(Raw).unwrap(), &raw, 0.0);
            match file.read(Ema) {
                Ok(found) => holds(&what(Ema), found, average.map(|_| &ema).unwrap(), 0.0),
                Err(e) => assert!(average.is_none() && matches!(e, WeightsError::Kind(_)), "{e}"),
            }
        }
    }
}

/// A dictionary of dictionaries: prefixes are split at their first dot, as a training program has
/// entries, with an optimizer's state and numbers beside them.
fn nested(flat: &[(&str, &[NamedTensor])]) -> Value {
    let mut entries: Vec<(String, Value)> = Vec::new();
    for (prefix, tensors) in flat {
        let (top, rest) = prefix.split_once('.').unwrap_or(("", prefix));
        let Value::Dict(inner) = state(tensors, Float::F32, rest) else { unreachable!() };
        match top {
            "" => entries.extend(inner),
            top => match entries.iter_mut().find(|(name, _)| name == top) {
                Some((_, Value::Dict(all))) => all.extend(inner),
                _ => entries.push((top.to_owned(), Value::Dict(inner))),
            },
        }
    }
    let moment = Value::Tensor("FloatStorage", vec![2], vec![0; 8]);
    let moments = dict(vec![("exp_avg", moment.clone()), ("exp_avg_sq", moment)]);
    if !flat[0].0.is_empty() {
        entries.push(("optimizer".into(), dict(vec![("state", dict(vec![("0", moments)]))])));
    }
    entries.push(("epoch".into(), Value::Int(7)));
    Value::Dict(entries)
}

/// Mutations caught: the reader's own sentence in its place.
#[test]
fn objects_are_read_as_their_state_or_refused_by_name() {
    let want = weights(1);
    for layout in [Layout::Zip, Layout::Legacy] {
        // torch.save(model): modules within modules.
        let module = File::new("module", &torch(&module(&want), layout));
        holds("module", module.read(WeightsKind::Best).unwrap(), &want, 0.0);
        let tensor = Value::Tensor("FloatStorage", vec![1], vec![0; 4]);
        let object = Value::Object("TrainingState", vec![("weight".into(), tensor.clone())]);
        let list = Value::List(vec![Value::Int(1), tensor]);
        for (value, name) in [
            (object.clone(), "__main__.TrainingState"),
            (dict(vec![("x", object)]), "TrainingState"),
            (list, "list"),
        ] {
            let file = File::new("object", &torch(&value, layout));
            let error = file.read(WeightsKind::Best).unwrap_err();
            assert!(matches!(error, WeightsError::Unreadable(_)), "{error}");
            let text = error.to_string();
            assert!(text.contains(name) && text.contains("save(model.state_dict()"), "{text}");
        }
    }
}

/// `torch.save(model)` of a network with these tensors.
fn module(tensors: &[NamedTensor]) -> Value {
    let mut here: Vec<(String, Value)> = Vec::new();
    let mut children: Vec<(String, Vec<NamedTensor>)> = Vec::new();
    for t in tensors {
        match t.name.split_once('.') {
            None => here.push((
                t.name.clone(),
                Value::Tensor("FloatStorage", t.shape.clone(), Float::F32.bytes(&t.values)),
            )),
            Some((child, rest)) => {
                let tensor = NamedTensor { name: rest.into(), ..t.clone() };
                match children.iter_mut().find(|(name, _)| name == child) {
                    Some((_, all)) => all.push(tensor),
                    None => children.push((child.into(), vec![tensor])),
                }
            }
        }
    }
    let children = children.into_iter().map(|(name, all)| (name, module(&all))).collect();
    let tables = vec![
        ("training".into(), Value::Int(0)),
        ("_parameters".into(), Value::Dict(here)),
        ("_buffers".into(), Value::Dict(vec![])),
        ("_modules".into(), Value::Dict(children)),
    ];
    Value::Object("Net", tables)
}

/// A file cut anywhere is called cut or unreadable; where the format tells its length, cut.
///
/// Mutations caught: a safetensors file or a zip archive that is cut called unreadable.
#[test]
fn a_file_that_is_cut_is_called_that() {
    let want = weights(1);
    let files = [
        ("safetensors", safetensors(&[("", &want)], Float::F32)),
        ("zip", torch(&state(&want, Float::F32, ""), Layout::Zip)),
        ("legacy", torch(&state(&want, Float::F32, ""), Layout::Legacy)),
    ];
    for (container, bytes) in files {
        let ends = (1..40).map(|i| bytes.len() * i / 40).chain([1, 9, bytes.len() - 1]);
        for end in ends.chain([0]) {
            let error = File::new("cut", &bytes[..end]).read(WeightsKind::Best).unwrap_err();
            let cut = matches!(error, WeightsError::Truncated(_));
            let told = error.to_string().contains("cut short");
            // Fewer bytes than any format begins with could be of any.
            assert!(cut && told || end < 64, "{container} {end} of {}: {error}", bytes.len());
        }
    }
    let mut long = safetensors(&[("", &want)], Float::F32);
    long.push(0);
    let error = File::new("long", &long).read(WeightsKind::Best).unwrap_err();
    assert!(matches!(error, WeightsError::Unreadable(_)), "{error}");
    assert!(error.to_string().contains("the safetensors header speaks of"), "{error}");
}

/// Mutations caught: the name cut off.
#[test]
fn files_of_another_kind_are_called_by_their_name() {
    let mut damaged = safetensors(&[("", &weights(1))], Float::F32);
    damaged[9] = b'x';
    let cases: [(&[u8], &str); 10] = [
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"\x89HDF\r\n\x1a\n\x00\x00\x00", "Keras"),
        (b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00", "gzip"),
        (b"GGUF\x03\x00\x00\x00\x00\x00\x00\x00\x00", "GGUF"),
        (b"{\"a\": 1, \"b\": 2, \"c\": 3}", "JSON"),
        (b"\x08\x07\x12\x07pytorch\x1a\x05", "ONNX"),
        (b"\x0a\x9b\x01\x0a\x05input\x12\x0bPlaceholder", "frozen graph"),
        (b"random bytes of nothing", "no ZIP"),
        (&damaged, "header is damaged"),
    ];
    for (bytes, word) in cases {
        let error = File::new("other", bytes).read(WeightsKind::Best).unwrap_err();
        assert!(matches!(error, WeightsError::Unreadable(_)), "{error}");
        let text = error.to_string();
        assert!(text.contains(word) && !text.contains('\n'), "`{word}` in: {text}");
    }
}

/// Whatever the values' type, NaN and infinity are refused by the name of the tensor, and so are
/// negative variances.
///
/// Mutations caught: no value looked at; a variance refused only where all are negative.
#[test]
fn values_that_are_no_numbers_are_refused_by_name() {
    let good = weights(1);
    let index = |name: &str| good.iter().position(|t| t.name == name).unwrap();
    let refused = |tensors: &[NamedTensor], float, name: &str, word: &str| {
        let files = [
            torch(&state(tensors, float, ""), Layout::Zip),
            torch(&state(tensors, float, ""), Layout::Legacy),
            safetensors(&[("", tensors)], float),
        ];
        for bytes in files {
            let found = File::new("odd", &bytes).read(WeightsKind::Best).unwrap();
            let network = config().init_zero(&Device::flex());
            let error =
                load_state_dict(network, found.tensors, HeadPolicy::Exact).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(word), "{error}");
        }
    };
    let places = ["features.0.0.weight", "features.0.1.running_mean", "classifier.3.bias"];
    for (name, odd) in places
        .into_iter()
        .flat_map(|p| [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].map(|o| (p, o)))
    {
        let mut tensors = good.clone();
        *tensors[index(name)].values.last_mut().unwrap() = odd;
        for float in FLOATS {
            refused(&tensors, float, &format!("`{name}`"), "not all values are finite");
        }
    }
    // Of a classifier for other classes, which is not loaded, too.
    let mut tensors = good.clone();
    tensors[index("classifier.3.bias")].values[0] = f32::NAN;
    let network = NetworkConfig { num_classes: 7, ..config() }.init_zero(&Device::flex());
    let error = load_state_dict(network, tensors, HeadPolicy::KeepInitialised).unwrap_err();
    assert!(matches!(&error, WeightsError::NotFinite(names) if names == "`classifier.3.bias`"));
    let name = "features.1.block.0.1.running_var";
    let mut tensors = good.clone();
    tensors[index(name)].values[0] = -0.25;
    refused(&tensors, Float::F32, &format!("`{name}`"), "running variance is negative");
    // An overflow on the way to f16 is infinite in the file.
    let mut tensors = good.clone();
    tensors[0].values[0] = 1e5;
    refused(&tensors, Float::F16, "`features.0.0.weight`", "not all values are finite");
}

/// Mutations caught: all faults listed instead; the numbers of values not compared.
#[test]
fn weights_of_another_network_are_called_by_its_name() {
    let names = [
        "mobilenet_v1",
        "mobilenet_v1_025",
        "mobilenet_v2",
        "mobilenetv2_050",
        "mobilenet_v3_small",
        "mobilenet_v3_large",
        "mobilenet_v3_small_reduced_tail",
        "mobilenetv3_small_075",
        "tf_mobilenetv3_small_minimal_100",
        "googlenet",
        "googlenet_5x5",
    ];
    for name in names {
        let variant = Variant::parse(name).unwrap();
        let network = variant.config(7).init_zero(&Device::flex());
        for naming in [Naming::Torchvision, Naming::Timm] {
            let tensors = state_dict_as(&network, naming);
            for other in ["mobilenet_v2", "mobilenet_v3_small", "googlenet", "xception"] {
                let other = Variant::parse(other).unwrap().config(7);
                let same =
                    other.architecture == variant.architecture && other.width == variant.width;
                if same {
                    continue;
                }
                let blank = other.init_zero(&Device::flex());
                let error = load_state_dict(blank, tensors.clone(), HeadPolicy::Exact).unwrap_err();
                let text = error.to_string();
                // Under timm's names it is timm's variant of the same table and width.
                let told = text.rsplit("--model ").next().and_then(Variant::parse);
                let told = told.unwrap_or_else(|| panic!("{name} {naming:?}: {text}"));
                let own = (variant.architecture, variant.width, variant.modification);
                let same = (told.architecture, told.width, told.modification) == own;
                assert!(same && text.contains("these are"), "{name} {naming:?}: {text}");
            }
        }
    }
}

/// Mutations caught: all faults listed; another width called a published one.
#[test]
fn of_many_faults_the_first_few_are_named() {
    let refused = |tensors: Vec<NamedTensor>| {
        let network = config().init_zero(&Device::flex());
        load_state_dict(network, tensors, HeadPolicy::Exact).unwrap_err().to_string()
    };
    // Another width of the same network is no published one.
    let other = NetworkConfig { width: 0.3, ..config() };
    let text = refused(state_dict(&other.init_zero(&Device::flex())));
    assert!(text.contains("where the network has") && text.contains(" more"), "{text}");
    assert!(text.len() < 500, "{text}");
    // A network that nobody here knows.
    let unknown = (0..460).map(|i| NamedTensor {
        name: format!("layer{i}.conv1.weight"),
        shape: vec![1],
        values: vec![0.0],
    });
    let text = refused(unknown.collect());
    assert!(text.contains("and 457 more are not of this network"), "{text}");
    assert!(
        text.contains("`features.0.0.weight`, ") && text.contains(" more are missing"),
        "{text}"
    );
    assert!(text.len() < 500, "{text}");
}
