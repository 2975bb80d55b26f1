//! What training asks of a GPU, by count: no card is needed to see that a kernel was lost.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use serde_json::Value;
use test_folder::{TestFolder, code, error, refused};

fn profile(place: &TestFolder, words: &[&str]) -> Value {
    let output = place.run(&[&["profile", "mobilenet_v3_large", "--json"], words].concat());
    assert_eq!(code(&output), 0, "install mesa-vulkan-drivers: {}", error(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Without kernels of our own a step is 1,940 launches and 139 GB, with sums of 400,000 terms.
///
/// Mutations caught, each alone: batch norm, its epilogue in a depthwise convolution, or the update of
/// all parameters composed of Burn's operations.
#[test]
fn a_training_step_asks_for_no_more_than_it_has_to() {
    let place = TestFolder::new("gpu-work");
    let words = ["--batch-size", "128", "--backend", "wgpu", "--count"];
    let step = profile(&place, &words);
    let number = |of: &Value, key: &str| of[key].as_f64().unwrap();
    assert!(number(&step, "gb") < 35.0, "{}", step["gb"]);
    assert!(number(&step, "launches") <= 560.0, "{}", step["launches"]);
    assert!(number(&step, "longest_chain") <= 4096.0, "{}", step["longest_chain"]);
    let calls = |of: &Value, operation: &str| -> f64 {
        let all = of["operations"].as_array().unwrap();
        let own = all.iter().find(|own| own["operation"] == operation);
        own.map_or(0.0, |own| number(own, "calls"))
    };
    // 46 layers with a norm, 15 of them depthwise, one standard; 8 blocks of squeeze-excite.
    for (operation, count) in [
        ("batch_norm_apply", 46.0),
        ("batch_norm_backward_apply", 46.0),
        ("depthwise", 15.0),
        ("depthwise_dx", 15.0),
        ("depthwise_dw", 15.0),
        ("pointwise", 30.0),
        ("pointwise_dx", 30.0),
        ("patches", 1.0),
        ("squeeze_excite_gates_backward", 8.0),
        ("optimizer_update", 1.0),
    ] {
        assert_eq!(calls(&step, operation), count, "{operation} in {step:#}");
    }
    // 16-bit maps: half the bytes, and the weights rounded once for each product.
    let half = profile(&place, &[&words[..], &["--amp"]].concat());
    assert!(number(&half, "gb") < 18.0, "{}", half["gb"]);
    let inference = profile(&place, &[&words[..], &["--mode", "infer"]].concat());
    // The maps of all layers once read and once written, 4.6 GB, and those of squeeze-excite again.
    assert!(number(&inference, "gb") < 6.0, "{}", inference["gb"]);
    assert!(number(&inference, "launches") < 100.0, "{}", inference["launches"]);
    assert_eq!(calls(&inference, "batch_norm_statistics"), 0.0);
}

#[test]
fn kernels_are_timed_one_by_one_and_a_cpu_has_none() {
    let place = TestFolder::new("gpu-times");
    let small = ["--batch-size", "2", "--img-size", "32", "--kernels", "--backend"];
    let times = profile(&place, &[&small[..], &["wgpu"]].concat());
    let times = times.as_array().unwrap();
    assert!(times.len() > 10, "{times:?}");
    for time in times {
        assert!(time["ms"].as_f64().unwrap() > 0.0 && time["launches"].as_u64().unwrap() > 0);
    }
    let words = [&["profile", "mobilenet_v3_large"], &small[..], &["flex"]].concat();
    refused(&place.run(&words), 2, &["flex (cpu) has no GPU kernels", "--backend wgpu"]);
}
