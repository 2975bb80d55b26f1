//! The subcommands that measure: what they print, not how fast it is.
//!
//! Mutations caught: images per second of half the median; a backward pass without time; `--isa` not in
//! the result.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use test_folder::{TestFolder, code, error, refused};

fn json(output: &std::process::Output) -> serde_json::Value {
    assert_eq!(code(output), 0, "{}", error(output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn bench_measures_training_and_inference_and_refuses_impossible_sizes() {
    let place = TestFolder::new("bench");
    for (mode, backend, threads) in [("train", "ndarray", 2), ("infer", "flex", 1)] {
        let threads_text = threads.to_string();
        let words = [
            "bench",
            "--model",
            "mobilenet_v3_small",
            "--batch-size",
            "2",
            "--img-size",
            "32",
            "--mode",
            mode,
            "--backend",
            backend,
            "--threads",
            &threads_text,
            "--batches",
            "3",
            "--json",
        ];
        let found = json(&place.run(&words));
        assert_eq!([&found["threads"], &found["batches"]], [threads, 3], "{found}");
        let number = |key: &str| found[key].as_f64().unwrap_or_default();
        let median = found["ms"]["median"].as_f64().unwrap();
        assert!((number("img_per_s") * median / 2000.0 - 1.0).abs() < 1e-9, "{found}");
        assert!(found["ms"]["min"].as_f64().unwrap() <= median, "{found}");
        assert!(number("gflops") > 0.0 && number("peak_rss_mb") > 1.0, "{found}");
    }
    let words = ["--model", "mobilenet_v3_small", "--batch-size", "1", "--img-size", "32"];
    let portable = [&["bench", "--backend", "flex"], &words[..]].concat();
    let portable = [&portable, &["--batches", "1", "--json", "--isa", "portable"][..]].concat();
    assert_eq!(json(&place.run(&portable))["isa"], "portable");
    let bench = |more: &[&str]| place.run(&[&["bench", "--backend", "flex"], more].concat());
    let xception = bench(&["--model", "xception", "--img-size", "8"]);
    refused(&xception, 2, &["--img-size", "8", "33 to 4096"]);
    refused(&bench(&["--model", "mobilnet"]), 2, &["mobilnet", "did you mean"]);
    refused(&bench(&["--model", "xception", "--threads", "0"]), 2, &["--threads"]);
    refused(&bench(&["--model", "xception", "--isa", "mmx"]), 2, &["--isa", "mmx", "portable"]);
}

#[test]
fn profile_has_a_row_for_every_layer_and_draws_them() {
    let place = TestFolder::new("profile");
    let words = [
        "profile",
        "mobilenet_v3_small",
        "--batch-size",
        "2",
        "--img-size",
        "32",
        "--repeats",
        "1",
        "--backend",
        "flex",
        "--svg",
        "layers.svg",
        "--json",
    ];
    let found = json(&place.run(&words));
    let layers = found["layers"].as_array().unwrap();
    let summary =
        json(&place.run(&["summary", "mobilenet_v3_small", "--img-size", "32", "--json"]));
    assert_eq!(layers.len(), summary.as_array().unwrap().len());
    for (layer, row) in layers.iter().zip(summary.as_array().unwrap()) {
        assert_eq!(
            [&layer["layer"], &layer["multiply_adds"]],
            [&row["layer"], &row["multiply_adds"]]
        );
        assert!(layer["forward"]["ms"].as_f64().unwrap() > 0.0, "{layer}");
        assert!(layer["backward"]["ms"].as_f64().unwrap() > 0.0, "{layer}");
    }
    assert!(found["roof"]["gflops"].as_f64().unwrap() > 0.1, "{found}");
    let svg = std::fs::read_to_string(place.path("layers.svg")).unwrap();
    assert!(svg.ends_with("</svg>\n") && svg.matches("<rect").count() == 1 + 2 * layers.len());
    let words =
        ["profile", "mobilenet_v3_small", "--svg", "no/such/folder/x.svg", "--img-size", "32"];
    refused(&place.run(&words), 8, &["no/such/folder"]);
}
