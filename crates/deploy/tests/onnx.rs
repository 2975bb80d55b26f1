//! Every variant becomes an ONNX file that another runtime reads and answers as the network does.
//!
//! Mutations caught, each alone: batch norm's epsilon of another network; the padding's two ends
//! exchanged; hard-sigmoid with the default alpha; the mean of padded windows without the padding;
//! a sum with a wrong map.

use burn::tensor::Device;
use deploy::classifier::Classifier;
use deploy::onnx::{Description, to_onnx};
use nn::models::variants::VARIANTS;
use nn::weights::load::{HeadPolicy, load_state_dict};
use nn::weights::state_dict::state_dict;
use transforms::preprocess::Preprocess;

/// A classifier of a variant with statistics that are not those of a new network.
fn classifier(name: &str, size: usize) -> Classifier {
    let device = Device::flex();
    let variant = VARIANTS.iter().find(|variant| variant.name == name).unwrap();
    let config = variant.config(5);
    let mut tensors = state_dict(&config.init(&device));
    for (number, tensor) in tensors.iter_mut().enumerate() {
        if tensor.shape.len() == 1 {
            for (i, value) in tensor.values.iter_mut().enumerate() {
                *value += 0.3 * nn::init::uniform(number as u64, i as u64) as f32;
            }
        }
    }
    let network = load_state_dict(config.init_zero(&device), tensors, HeadPolicy::Exact).unwrap().0;
    let classes = ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec();
    Classifier::new(network, Preprocess::imagenet(size, size), classes).unwrap()
}

#[test]
fn every_variant_answers_the_same_in_another_runtime() {
    for variant in VARIANTS {
        // An even size, at which TensorFlow's padding differs from PyTorch's.
        let size = variant.config(5).architecture.min_size().next_multiple_of(2).max(64);
        let onnx = to_onnx(&classifier(variant.name, size), &Description::default(), None);
        let onnx = onnx.unwrap_or_else(|error| panic!("{}: {error}", variant.name));
        assert!(onnx.difference < 1e-4, "{}: {}", variant.name, onnx.difference);
    }
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let device = Device::flex();
    let network = || VARIANTS[0].config(5).init(&device);
    let classes = |count: usize| vec!["x".to_owned(); count];
    let refused =
        |classes, rule| Classifier::new(network(), rule, classes).unwrap_err().to_string();
    let why = refused(classes(4), Preprocess::imagenet(64, 64));
    assert_eq!(why, "4 class names for 5 logits");
    assert!(refused(classes(5), Preprocess::imagenet(64, 0)).contains("crop"));
}
