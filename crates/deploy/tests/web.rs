//! The page of a classifier holds its parts whole, whatever its classes are called. What it says to
//! pictures is compared with `kindling predict` in a browser, by `browser.mjs`.
//!
//! Mutations caught, each alone: the parts put in by replacing one mark after the other; classes
//! that end the script.

use std::io::Read as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use burn::tensor::Device;
use deploy::classifier::Classifier;
use deploy::onnx::{Description, to_onnx};
use deploy::web::{WebRuntime, folder, page};
use flate2::read::GzDecoder;
use nn::models::variants::VARIANTS;
use transforms::preprocess::Preprocess;

/// The text of an element that is found by its id.
fn element<'a>(page: &'a str, id: &str) -> &'a str {
    let start = page.find(&format!("id=\"{id}\"")).unwrap_or_else(|| panic!("{id}"));
    let text = &page[start..];
    &text[text.find('>').unwrap() + 1..text.find("</script>").unwrap()]
}

fn unpacked(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    GzDecoder::new(&STANDARD.decode(text).unwrap()[..]).read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_page_holds_the_model_the_runtime_and_the_classes() {
    let config = VARIANTS.iter().find(|v| v.name == "mobilenetv3_small_050").unwrap().config(3);
    let classes = ["{{MODEL}}", "</script><b>", "Käfer"].map(str::to_owned).to_vec();
    let network = config.init(&Device::flex());
    let classifier =
        Classifier::new(network, Preprocess::imagenet(36, 32), classes.clone()).unwrap();
    let description = Description { model: "m & m".into(), source_crc32: None };
    let onnx = to_onnx(&classifier, &description, None).unwrap();
    let runtime = WebRuntime { module: b"export default 1", wasm: b"\0asm" };
    let files = folder(&classifier, &description, &onnx, runtime);
    let page = page(&classifier, &description, &onnx, runtime);
    // The files for a server: the same page without its parts, which it finds by their names.
    let [.., (name, index)] = &files;
    let index = String::from_utf8(index.clone()).unwrap();
    assert_eq!((*name, element(&index, "about")), ("index.html", element(&page, "about")));
    for (id, (name, bytes)) in ["runtime", "wasm", "model"].iter().zip(&files) {
        assert_eq!(element(&index, id), "");
        assert!(index.contains(&format!("id=\"{id}\" type=\"text/plain\" data-file=\"{name}\">")));
        assert_eq!(unpacked(element(&page, id)), *bytes);
    }
    assert_eq!(unpacked(element(&page, "model")), onnx.bytes);
    assert_eq!(unpacked(element(&page, "runtime")), runtime.module);
    assert_eq!(unpacked(element(&page, "wasm")), runtime.wasm);
    let about: serde_json::Value = serde_json::from_str(element(&page, "about")).unwrap();
    assert_eq!(about["classes"], serde_json::json!(classes));
    assert_eq!(about["rule"]["resize_short_edge"], 36);
    assert!(page.contains("<title>m &amp; m</title>"));
    // The page's own scripts, and no other.
    assert_eq!(page.matches("</script>").count(), 5);
    assert!(!page.contains("http://") && !page.contains("https://"), "the page asks a server");
}
