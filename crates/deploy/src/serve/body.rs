//! The bytes of a request within their limits, and images within theirs.

use std::io::Read as _;
use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, StatusCode, header};
use flate2::read::{GzDecoder, ZlibDecoder};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use transforms::decode::header as image_header;

use crate::classifier::Classifier;
use crate::serve::config::ServeConfig;
use crate::serve::refusal::Refusal;

fn too_large(limit: usize) -> Refusal {
    let message = format!("the request has more than {limit} bytes, the limit of this server");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message)
}

/// Reads the body of a request and decompresses it.
///
/// # Errors
/// 413 above the limit, 408 where the body does not come in time, 415 for another compression, 400
/// for a body that cannot be decompressed or was cut off.
pub(super) async fn bytes(
    headers: &HeaderMap,
    body: Body,
    config: &ServeConfig,
) -> Result<Bytes, Refusal> {
    let limit = config.max_body;
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    if declared.is_some_and(|length: u64| length > limit as u64) {
        return Err(too_large(limit));
    }
    let read = timeout(config.timeout, to_bytes(body, limit)).await.map_err(|_| {
        let message =
            format!("the body did not come within {} seconds", config.timeout.as_secs_f32());
        Refusal::new(StatusCode::REQUEST_TIMEOUT, message)
    })?;
    let bytes = read.map_err(|error| {
        // axum wraps the reason once or twice.
        let mut source: Option<&dyn std::error::Error> = Some(&error);
        while let Some(reason) = source {
            if reason.to_string().contains("length limit") {
                return too_large(limit);
            }
            source = reason.source();
        }
        Refusal::bad(format!("the body cannot be read: {error}"))
    })?;
    let encoding = headers.get(header::CONTENT_ENCODING).map(|value| value.to_str());
    match encoding {
        None | Some(Ok("identity" | "")) => Ok(bytes),
        Some(Ok("gzip")) => decompressed(GzDecoder::new(&bytes[..]), limit),
        Some(Ok("deflate")) => decompressed(ZlibDecoder::new(&bytes[..]), limit),
        Some(other) => Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!(
                "Content-Encoding {}: expected gzip or deflate",
                other.unwrap_or("of other letters")
            ),
        )),
    }
}

fn decompressed(decoder: impl std::io::Read, limit: usize) -> Result<Bytes, Refusal> {
    let mut bytes = Vec::new();
    // One byte more than the limit tells a body at the limit from one above it.
    let read = decoder.take(limit as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| Refusal::bad(format!("the body cannot be decompressed: {error}")))?;
    match bytes.len() > limit {
        true => Err(too_large(limit)),
        false => Ok(bytes.into()),
    }
}

/// A prepared image and how long that took.
pub(super) struct Prepared {
    pub(super) values: Vec<f32>,
    pub(super) seconds: f64,
}

/// Decodes and prepares an image on a blocking thread.
///
/// # Errors
/// 413 for too many pixels, 415 for a kind that is not read, 422 for a damaged image.
pub(super) async fn prepared(
    classifier: Arc<Classifier>,
    bytes: Bytes,
    max_pixels: u64,
) -> Result<Prepared, Refusal> {
    let work = move || {
        if let Some(found) = image_header(&bytes) {
            let (width, height) = (found.width, found.height);
            if u64::from(width) * u64::from(height) > max_pixels {
                let message = format!(
                    "{width} x {height} pixels are more than {max_pixels}, the limit of this server"
                );
                return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message));
            }
        }
        let start = Instant::now();
        let values = classifier.prepare(&bytes).map_err(|error| Refusal::from(&error))?;
        Ok(Prepared { values, seconds: start.elapsed().as_secs_f64() })
    };
    spawn_blocking(work).await.unwrap_or_else(|_| {
        let message = "the image could not be decoded";
        Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, message))
    })
}
