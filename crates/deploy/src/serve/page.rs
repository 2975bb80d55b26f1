//! The page at `/`: choose, drop or paste images, and see their most probable classes.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::serve::shared::Shared;
use crate::web::{CAMERA, STYLE, counted, escaped, filled, inert};

const PAGE: &str = include_str!("page.html");

/// What the page may do: run its own script, show images of its own, ask this server.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src 'self' blob: data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// The page of the first model; the others can be chosen.
pub(super) async fn page(State(shared): State<Arc<Shared>>) -> Response {
    let names: Vec<&str> = shared.models.iter().map(|model| &*model.name).collect();
    let title = match names.as_slice() {
        [name] => (*name).to_owned(),
        _ => "Kindling".to_owned(),
    };
    let about: Vec<_> = shared
        .models
        .iter()
        .map(|model| {
            let classifier = model.classifier();
            json!({ "name": model.name, "classes": counted(classifier.classes()) })
        })
        .collect();
    let parts = [
        ("{{TITLE}}", escaped(&title)),
        ("{{STYLE}}", STYLE.to_owned()),
        ("{{CAMERA}}", CAMERA.to_owned()),
        ("{{ABOUT}}", inert(&json!(about))),
        ("{{VERSION}}", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    let headers = [(header::CONTENT_TYPE, html), (header::CONTENT_SECURITY_POLICY, POLICY)];
    (headers, filled(PAGE, &parts)).into_response()
}
