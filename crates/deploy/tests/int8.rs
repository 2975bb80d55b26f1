//! Every architecture in 8-bit integers: another runtime reads the file and answers nearly as the
//! network does.

#![expect(clippy::print_stdout, reason = "what was measured")]

use burn::tensor::Device;
use deploy::classifier::Classifier;
use deploy::onnx::{Description, OnnxRunner, to_onnx, to_onnx_int8};
use deploy::quantization::quantize;
use nn::init::uniform;
use nn::models::variants::Variant;
use nn::weights::load::{HeadPolicy, load_state_dict};
use nn::weights::state_dict::state_dict;
use transforms::preprocess::Preprocess;

/// A classifier whose scales differ from channel to channel, in depthwise layers up to `spread`
/// times.
fn classifier(name: &str, size: usize, spread: f64) -> Classifier {
    let device = Device::flex();
    let mut config = Variant::parse(name).unwrap().config(10);
    config.transform_input = ["googlenet", "inception_v3"].contains(&name);
    let mut tensors = state_dict(&config.init(&device));
    for (number, tensor) in tensors.iter_mut().enumerate() {
        let draw = |i: usize| uniform(number as u64, i as u64);
        let name = tensor.name.clone();
        for (i, value) in tensor.values.iter_mut().enumerate() {
            match tensor.shape.len() {
                // The scale of a norm, and the variance that it divides by.
                1 if name.ends_with("weight") => *value = (0.6 + 0.8 * draw(i)) as f32,
                1 if name.ends_with("running_var") => *value = spread.powf(-draw(i)) as f32,
                1 => *value += (0.4 * draw(i) - 0.2) as f32,
                _ => {}
            }
        }
    }
    let network = load_state_dict(config.init_zero(&device), tensors, HeadPolicy::Exact).unwrap().0;
    let classes = (0..10).map(|class| format!("c{class}")).collect();
    Classifier::new(network, Preprocess::imagenet(size, size), classes).unwrap()
}

/// A MobileNetV2 as training makes them, to the worst: a depthwise filter has one large weight
/// among eight that round to zero, so that rounding shifts its mean; and of two neighbouring
/// channels one has maps 32 times smaller and weights 32 times larger.
fn uneven() -> Classifier {
    let even = classifier("mobilenet_v2", 64, 1.0);
    let mut tensors = state_dict(even.network());
    let small = |channel: usize| if channel % 2 == 1 { 1.0 / 32.0 } else { 1.0 };
    for tensor in &mut tensors {
        let (shape, name) = (tensor.shape.clone(), tensor.name.clone());
        if shape.len() == 4 && shape[1] == 1 {
            for (channel, filter) in tensor.values.chunks_exact_mut(9).enumerate() {
                let draw = uniform(channel as u64, 77) as f32;
                let largest = (0.2 + 0.3 * draw)
                    / if name.contains(".conv.1.") { small(channel) } else { 1.0 };
                filter.fill(0.0035 * largest);
                filter[4] = largest;
            }
        }
        let expanded = name.contains(".conv.0.1.") && name.split('.').nth(1) != Some("1");
        if expanded && (name.ends_with("weight") || name.ends_with("bias")) {
            tensor.values.iter_mut().enumerate().for_each(|(channel, v)| *v *= small(channel));
        }
    }
    let zero = even.network().config().init_zero(&Device::flex());
    let network = load_state_dict(zero, tensors, HeadPolicy::Exact).unwrap().0;
    Classifier::new(network, even.preprocess().clone(), even.classes().to_vec()).unwrap()
}

/// Images with edges and slopes, prepared.
fn images(classifier: &Classifier, count: usize, seed: u64) -> Vec<f32> {
    let rule = classifier.preprocess();
    let size = rule.crop[0] as u32;
    let image = |number: usize| {
        let draw = |i: u64| uniform(seed + number as u64, i);
        let (cx, cy, radius) = (draw(0), draw(1), 0.1 + 0.3 * draw(2));
        image::RgbImage::from_fn(size, size, |x, y| {
            let (u, v) = (f64::from(x) / f64::from(size), f64::from(y) / f64::from(size));
            let inside = (u - cx).hypot(v - cy) < radius;
            image::Rgb([3, 4, 5].map(|channel: u64| {
                let slope = 255.0 * (draw(channel) * u + draw(channel + 5) * v) / 2.0;
                if inside { (255.0 * draw(channel + 10)) as u8 } else { slope as u8 }
            }))
        })
    };
    (0..count).flat_map(|number| rule.apply(&image(number))).collect()
}

/// The root of the mean square of the logits' differences, in units of the logits' size.
fn error(classifier: &Classifier, bytes: &[u8], images: &[f32]) -> f64 {
    let ours = classifier.classify_prepared(images.to_vec());
    let ours: Vec<f32> = ours.into_iter().flat_map(|one| one.unwrap().logits().to_vec()).collect();
    let theirs = OnnxRunner::new(bytes, classifier).unwrap().logits(images).unwrap();
    let square = |values: &mut dyn Iterator<Item = f32>| -> f64 {
        values.map(|value| f64::from(value).powi(2)).sum()
    };
    let apart = square(&mut ours.iter().zip(&theirs).map(|(a, b)| a - b));
    (apart / square(&mut ours.iter().copied())).sqrt()
}

/// The first maps of random MobileNetV1s hardly differ between images, and nothing leads around a
/// layer: what rounding changes there is a large part of what differs.
///
/// Mutations caught: the zero point of the maps off by one.
#[test]
fn every_architecture_keeps_its_logits_in_integers() {
    let mut wrong = Vec::new();
    for (name, size, most) in [
        ("mobilenet_v1", 64, 0.5),
        ("tf_mobilenet_v1", 64, 0.5),
        ("mobilenet_v2", 64, 0.02),
        ("mobilenet_v3_large", 64, 0.01),
        ("mobilenet_v3_small", 64, 0.01),
        ("googlenet", 64, 0.01),
        ("inception_v3", 75, 0.15),
        ("xception", 72, 0.01),
    ] {
        let classifier = classifier(name, size, 10.0);
        let found = quantize(&classifier, images(&classifier, 12, 100)).unwrap();
        assert_eq!(found.images, 12);
        let onnx = to_onnx_int8(&classifier, &Description::default(), &found).unwrap();
        let whole = to_onnx(&classifier, &Description::default(), None).unwrap();
        assert!(2 * onnx.bytes.len() < whole.bytes.len(), "{name}: {}", onnx.bytes.len());
        let error = error(&classifier, &onnx.bytes, &images(&classifier, 12, 900));
        println!("{name}: {error:.3}, to the rounded network {:.1e}", onnx.difference);
        if error > most {
            wrong.push(format!("{name}: {error}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// Every `step`th image of a folder of the carried data set, prepared.
fn carried(classifier: &Classifier, split: &str, step: usize) -> Vec<f32> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../datasets/fashion-mnist-mini");
    let list = |path: &std::path::Path| {
        let mut paths: Vec<_> =
            std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    };
    let classes = list(&std::path::Path::new(root).join(split));
    let paths = classes.iter().flat_map(|class| list(class)).step_by(step);
    paths.flat_map(|path| classifier.prepare(&std::fs::read(path).unwrap()).unwrap()).collect()
}

/// Mutations caught, each alone: hard-swish's negative side cut off; the gate's range cut to [-1,
/// 1]; the correction added the other way.
#[test]
fn a_trained_network_answers_the_same_in_integers() {
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    let classifier = Classifier::load(format!("{here}/fashion.ckpt")).unwrap();
    let found = quantize(&classifier, carried(&classifier, "train", 17)).unwrap();
    let onnx = to_onnx_int8(&classifier, &Description::default(), &found).unwrap();
    let images = carried(&classifier, "val", 4);
    let error = error(&classifier, &onnx.bytes, &images);
    println!("fashion: {error:.4}, to the rounded network {:.1e}", onnx.difference);
    assert!(error < 0.08, "{error}");
}

/// Mutations caught: no correction (0.047 where it is 0.022).
#[test]
fn biases_are_corrected_for_what_rounding_shifts() {
    let classifier = uneven();
    let found = quantize(&classifier, images(&classifier, 24, 100)).unwrap();
    let onnx = to_onnx_int8(&classifier, &Description::default(), &found).unwrap();
    let error = error(&classifier, &onnx.bytes, &images(&classifier, 24, 900));
    println!("uneven: {error:.4}, to the rounded network {:.1e}", onnx.difference);
    assert!(error < 0.035, "{error}");
}
