//! A classifier as one HTML page: the model, a runtime in WebAssembly and the page itself in one
//! file, which works from `file://` and asks no server.
//!
//! The runtime is ONNX Runtime's (`onnxruntime-web` in npm's registry, MIT). Its two files are
//! given.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::classifier::Classifier;
use crate::onnx::{Description, OnnxModel, preprocessing};

/// The page without its parts.
const PAGE: &str = include_str!("web/page.html");

/// How a page looks, in light and dark.
pub(crate) const STYLE: &str = include_str!("web/style.css");

/// The camera of a page.
pub(crate) const CAMERA: &str = include_str!("web/camera.js");

/// The files of `onnxruntime-web` that a page holds.
#[derive(Clone, Copy, Debug)]
pub struct WebRuntime<'a> {
    /// `dist/ort.wasm.bundle.min.mjs`.
    pub module: &'a [u8],
    /// `dist/ort-wasm-simd-threaded.wasm`.
    pub wasm: &'a [u8],
}

impl WebRuntime<'_> {
    /// The version of `onnxruntime-web` with which the page is tested.
    pub const VERSION: &'static str = "1.30.0";
}

/// The page of a classifier whose ONNX form is checked, in one file: choose, drop or paste a
/// picture or use the camera, and see the five most probable classes. The page decodes and prepares
/// pictures as [`Classifier::classify`] does.
pub fn page(
    classifier: &Classifier,
    description: &Description,
    onnx: &OnnxModel,
    runtime: WebRuntime<'_>,
) -> String {
    let within = |bytes: &[u8]| format!(">{}", packed(bytes));
    let parts = [runtime.module, runtime.wasm, &onnx.bytes].map(within);
    page_of(classifier, description, parts)
}

/// [`page`] as files for a web server, by their names: the page, its model and its runtime beside
/// it, which a browser keeps apart. The server sends `.mjs` as text/javascript and `.wasm` as
/// application/wasm.
pub fn folder(
    classifier: &Classifier,
    description: &Description,
    onnx: &OnnxModel,
    runtime: WebRuntime<'_>,
) -> [(&'static str, Vec<u8>); 4] {
    let [module, wasm, model] =
        ["ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm", "model.onnx"];
    let parts = [module, wasm, model].map(|name| format!(" data-file=\"{name}\">"));
    let page = page_of(classifier, description, parts);
    [
        (module, runtime.module.to_vec()),
        (wasm, runtime.wasm.to_vec()),
        (model, onnx.bytes.clone()),
        // What leads to the others comes last.
        ("index.html", page.into_bytes()),
    ]
}

/// The page with its runtime, the runtime's code and the model, each as the rest of its element.
fn page_of(classifier: &Classifier, description: &Description, parts: [String; 3]) -> String {
    let classes = classifier.classes();
    let about = json!({ "classes": classes, "rule": preprocessing(classifier.preprocess()) });
    let title = match description.model.is_empty() {
        true => classifier.network().config().architecture.name(),
        false => &description.model,
    };
    let footer = format!(
        "Made by Kindling {}; runs on onnxruntime-web {} (MIT).",
        env!("CARGO_PKG_VERSION"),
        WebRuntime::VERSION
    );
    let [module, wasm, model] = parts;
    let parts = [
        ("{{TITLE}}", escaped(title)),
        ("{{STYLE}}", STYLE.to_owned()),
        ("{{CAMERA}}", CAMERA.to_owned()),
        ("{{CLASSES}}", escaped(&counted(classes))),
        ("{{FOOTER}}", escaped(&footer)),
        ("{{ABOUT}}", inert(&about)),
        ("{{RUNTIME}}", module),
        ("{{WASM}}", wasm),
        ("{{MODEL}}", model),
    ];
    filled(PAGE, &parts)
}

/// How many classes there are, and their names or the first of them.
pub(crate) fn counted(classes: &[String]) -> String {
    match classes {
        few if few.len() <= 12 => format!("{} classes: {}", few.len(), few.join(", ")),
        many => {
            format!("{} classes: {} and {} more", many.len(), many[..8].join(", "), many.len() - 8)
        }
    }
}

/// A page with its marks `{{NAME}}` filled in, in one pass: a class may be called as a mark is.
pub(crate) fn filled(template: &str, parts: &[(&str, String)]) -> String {
    let size = parts.iter().map(|(_, text)| text.len()).sum::<usize>();
    let mut page = String::with_capacity(template.len() + size);
    let mut rest = template;
    while let Some(start) = rest.find("{{") {
        page += &rest[..start];
        rest = &rest[start..];
        let (mark, text) = parts
            .iter()
            .find(|(mark, _)| rest.starts_with(mark))
            .unwrap_or_else(|| panic!("no part for {}", &rest[..rest.len().min(20)]));
        page += text;
        rest = &rest[mark.len()..];
    }
    page + rest
}

/// gzip, in base64.
fn packed(bytes: &[u8]) -> String {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).expect("memory takes every byte");
    STANDARD.encode(encoder.finish().expect("memory takes every byte"))
}

/// Text in HTML.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// JSON that ends no script.
pub(crate) fn inert(value: &Value) -> String {
    value.to_string().replace('<', "\\u003c")
}

#[cfg(test)]
mod tests {
    use super::{escaped, inert};

    /// Mutations caught, each alone: a script's end in JSON; a quotation mark in an element.
    #[test]
    fn a_class_name_ends_no_script_and_opens_no_element() {
        let name = "</script><b onclick=\"x\">&";
        assert!(!inert(&serde_json::json!([name])).contains('<'));
        assert_eq!(escaped(name), "&lt;/script&gt;&lt;b onclick=&quot;x&quot;&gt;&amp;");
    }
}
