//! `POST /predict`: the bytes of an image, a form with files, or base64 in JSON; the most probable
//! classes back.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequest as _, Multipart, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::serve::body;
use crate::serve::model::Classified;
use crate::serve::refusal::Refusal;
use crate::serve::shared::{Images, Shared};

/// The query of an address.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PredictQuery {
    /// Classes an image; 5 without it.
    topk: Option<usize>,
    /// Name of a model; the first one without it.
    model: Option<String>,
}

/// Classifies the images of a request.
pub(super) async fn predict(
    State(shared): State<Arc<Shared>>,
    query: Result<Query<PredictQuery>, QueryRejection>,
    request: Request,
) -> Result<Response, Refusal> {
    let Query(query) = query.map_err(|error| {
        Refusal::bad(format!("{}: expected topk=K or model=NAME", error.body_text()))
    })?;
    let model = shared.model(query.model.as_deref())?;
    let topk = query.topk.unwrap_or(5).max(1);
    let _permit = shared.permit()?;
    let (mut parts, body) = request.into_parts();
    let bytes = body::bytes(&parts.headers, body, &shared.config).await?;
    let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = kind.unwrap_or("application/octet-stream").to_ascii_lowercase();
    let (images, list) = if kind.starts_with("multipart/form-data") {
        // It is decompressed by now.
        parts.headers.remove(header::CONTENT_ENCODING);
        parts.headers.remove(header::CONTENT_LENGTH);
        (files(Request::from_parts(parts, Body::from(bytes))).await?, true)
    } else if kind.starts_with("application/json") {
        from_json(&bytes)?
    } else {
        (vec![bytes], false)
    };
    let (count, most) = (images.len(), shared.config.max_images);
    if count > most {
        let message = format!("{count} images; this server takes at most {most} in one request");
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message));
    }
    let classifier = model.classifier();
    let work = model.classify(&classifier, images, shared.config.max_pixels);
    let classified = shared.within_time(work).await?;
    classified.iter().for_each(|image| shared.count(&image.answer, Some(image.decode)));
    let mut answers: Vec<Value> =
        classified.iter().map(|image| answer(&model.name, image, topk)).collect();
    let answer = match list {
        true => json!({ "model": model.name, "images": answers }),
        false => answers.swap_remove(0),
    };
    Ok((Extension(Images(count)), Json(answer)).into_response())
}

/// The classes of an image, and where its time went.
fn answer(model: &str, image: &Classified, topk: usize) -> Value {
    let milliseconds = |seconds: f64| (seconds * 1e5).round() / 1e2;
    let guesses: Vec<Value> = image
        .answer
        .prediction
        .top(topk)
        .into_iter()
        .map(|guess| {
            json!({ "label": guess.class, "index": guess.index, "probability": guess.probability })
        })
        .collect();
    json!({
        "model": model,
        "predictions": guesses,
        "milliseconds": {
            "decode": milliseconds(image.decode),
            "queue": milliseconds(image.answer.queue),
            "infer": milliseconds(image.answer.infer),
        },
    })
}

/// The files of a form, whatever their fields are called.
async fn files(request: Request) -> Result<Vec<Bytes>, Refusal> {
    let wrong = |error: &dyn std::fmt::Display| Refusal::bad(format!("the form: {error}"));
    let mut form = Multipart::from_request(request, &()).await.map_err(|error| wrong(&error))?;
    let mut images = Vec::new();
    while let Some(field) = form.next_field().await.map_err(|error| wrong(&error))? {
        let is_file = field.file_name().is_some();
        let bytes = field.bytes().await.map_err(|error| wrong(&error))?;
        if is_file {
            images.push(bytes);
        }
    }
    match images.is_empty() {
        true => Err(Refusal::bad("the form has no file; send one as `file`")),
        false => Ok(images),
    }
}

/// `{"image": BASE64}` or `{"images": [BASE64, ..]}`; whether it is a list.
fn from_json(bytes: &[u8]) -> Result<(Vec<Bytes>, bool), Refusal> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Encoded {
        image: Option<String>,
        images: Option<Vec<String>>,
    }
    let encoded: Encoded = serde_json::from_slice(bytes)
        .map_err(|error| Refusal::bad(format!("the JSON: {error}")))?;
    let (texts, list) = match (encoded.image, encoded.images) {
        (Some(image), None) => (vec![image], false),
        (None, Some(images)) if !images.is_empty() => (images, true),
        _ => {
            return Err(Refusal::bad("expected {\"image\": BASE64} or {\"images\": [BASE64, ..]}"));
        }
    };
    let count = texts.len();
    let decode = |(index, text): (usize, String)| {
        // A page's `readAsDataURL` puts the kind in front.
        let data = text.split_once(";base64,").map_or(&*text, |(_, data)| data);
        STANDARD.decode(data).map(Bytes::from).map_err(|error| {
            Refusal::bad(format!("not base64: {}", error.to_string().trim_end_matches('.')))
                .of_image(index, count)
        })
    };
    let images: Result<Vec<Bytes>, Refusal> = texts.into_iter().enumerate().map(decode).collect();
    Ok((images?, list))
}
