//! Weight files as torch writes them: .pth zip and legacy, nested below a wrapper's prefix, f16 and
//! bf16; and safetensors files, written and read back. The fixtures' values follow the random rule
//! of `fixtures/make.py`.
//!
//! Mutations caught: linear weights not transposed; bf16 read as f16.

use std::path::Path;

use burn::tensor::Device;
use nn::config::{Architecture, NetworkConfig};
use nn::init::uniform;
use nn::layer_spec::Naming;
use nn::weights::kind::WeightsKind;
use nn::weights::load::{HeadPolicy, load_state_dict};
use nn::weights::read::read_weights;
use nn::weights::state_dict::{state_dict, state_dict_as};
use nn::weights::{NamedTensor, WeightsError};
use safetensors::tensor::{Dtype, TensorView};

fn config() -> NetworkConfig {
    NetworkConfig { width: 0.1, ..NetworkConfig::new(Architecture::MobilenetV3Small, 3) }
}

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The weights in a file of one network.
#[track_caller]
fn read(path: &Path) -> Vec<NamedTensor> {
    read_weights(path, WeightsKind::Best).unwrap().tensors
}

/// The value of an element by the rule of `fixtures/make.py`, before it is rounded to a shorter
/// type.
fn rule(t: &NamedTensor, index: usize) -> f64 {
    let hash = t.name.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |h, byte| {
        (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    let r = 2.0 * uniform(hash, index as u64) - 1.0;
    let fan = t.shape[1..].iter().product::<usize>() as f64;
    let spread = t.name.ends_with("running_var") || t.name.ends_with("weight");
    match t.shape.len() {
        4 => r * (6.0 / fan).sqrt(),
        2 => r * (3.0 / fan).sqrt(),
        _ if spread => 1.0 + 0.5 * r,
        _ => 0.3 * r,
    }
}

/// Writes a safetensors file that torch loads with `strict=True`.
fn write_safetensors(path: &Path, tensors: &[NamedTensor]) {
    let raw: Vec<Vec<u8>> =
        tensors.iter().map(|t| t.values.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let views = tensors.iter().zip(&raw).map(|(t, bytes)| {
        let view = TensorView::new(Dtype::F32, t.shape.clone(), bytes);
        (t.name.as_str(), view.expect("four bytes for every element"))
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn every_container_gives_the_values_that_were_written() {
    let files = [
        ("zip.pth", 1e-6),
        ("legacy_half.pth", 1e-3),
        ("nested_half.pth", 1e-3),
        ("bfloat.safetensors", 8e-3),
    ];
    for (file, tolerance) in files {
        let tensors = read(&fixture(file));
        let network = config().init_zero(&Device::flex());
        let (network, report) = load_state_dict(network, tensors, HeadPolicy::Exact).unwrap();
        let state = state_dict(&network);
        assert_eq!(report.loaded, state.len(), "{file}");
        for t in &state {
            for (i, value) in t.values.iter().enumerate() {
                let want = rule(t, i);
                let error = (f64::from(*value) - want).abs();
                assert!(
                    error <= tolerance * want.abs().max(0.1),
                    "{file} {}: {value} {want}",
                    t.name
                );
            }
        }
    }
}

#[test]
fn a_file_under_either_naming_is_read_back() {
    let first = config().init_seeded(&Device::flex(), 5);
    let want = state_dict(&first);
    for naming in [Naming::Torchvision, Naming::Timm] {
        let path = std::env::temp_dir()
            .join(format!("kindling-{naming:?}-{}.safetensors", std::process::id()));
        write_safetensors(&path, &state_dict_as(&first, naming));
        let tensors = read(&path);
        std::fs::remove_file(&path).unwrap();
        let network = config().init_zero(&Device::flex());
        let (second, _) = load_state_dict(network, tensors, HeadPolicy::Exact).unwrap();
        assert_eq!(state_dict(&second), want, "{naming:?}");
    }
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let tensors = read(&fixture("zip.pth"));
    let refused = |tensors: Vec<NamedTensor>, config: NetworkConfig, word: &str| {
        let network = config.init_zero(&Device::flex());
        let error = load_state_dict(network, tensors, HeadPolicy::Exact).unwrap_err();
        assert!(matches!(error, WeightsError::Mismatch(_)), "{error}");
        assert!(error.to_string().contains(word), "`{word}` in: {error}");
    };
    let mut missing = tensors.clone();
    missing.retain(|t| t.name != "features.0.1.bias");
    refused(missing, config(), "`features.0.1.bias` is missing");
    let mut more = tensors.clone();
    more.push(NamedTensor { name: "extra".into(), shape: vec![1], values: vec![0.0] });
    refused(more, config(), "`extra` is not of this network");
    refused(tensors.clone(), NetworkConfig { width: 0.5, ..config() }, "where the network has");
    let other = NetworkConfig { num_classes: 7, ..config() };
    refused(tensors.clone(), other.clone(), "classifier.3.weight");
    // Fine-tuning loads all layers but the classifier and reports the tensors that keep their
    // initial values.
    let network = other.init_seeded(&Device::flex(), 1);
    let (_, report) = load_state_dict(network, tensors, HeadPolicy::KeepInitialised).unwrap();
    assert_eq!(report.kept, ["classifier.3.weight", "classifier.3.bias"]);
}

#[test]
fn foreign_and_broken_files_are_refused() {
    let path = std::env::temp_dir().join(format!("kindling-broken-{}.pth", std::process::id()));
    let good = std::fs::read(fixture("zip.pth")).unwrap();
    for bytes in
        [&good[..good.len() / 2], &good[..10], b"", b"PK\x03\x04 no zip", b"no weights at all"]
    {
        std::fs::write(&path, bytes).unwrap();
        let error = read_weights(&path, WeightsKind::Best).unwrap_err();
        let cut = matches!(error, WeightsError::Truncated(_));
        assert!(cut || matches!(error, WeightsError::Unreadable(_)), "{}: {error}", bytes.len());
    }
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(read_weights(&path, WeightsKind::Best), Err(WeightsError::Io(_))));
}
