//! KServe's Open Inference Protocol v2 with its extension for binary tensors, as
//! `tritonclient[http]` speaks it.
//!
//! A model takes `input` (FP32, prepared images) or `image` (BYTES, encoded images) and gives
//! `logits` and `probabilities`. Source: the protocol's `required_api.md`,
//! `extension_binary_data.md` and `extension_classification.md` in the repository of Triton's
//! server.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::predict::Prediction;
use crate::serve::body;
use crate::serve::model::Model;
use crate::serve::refusal::Refusal;
use crate::serve::shared::{Images, Shared};

/// Bytes of JSON in front of the binary tensors.
const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");
/// The one version of every model.
const VERSION: &str = "1";
const INPUT: &str = "input";
const IMAGE: &str = "image";
const LOGITS: &str = "logits";
const PROBABILITIES: &str = "probabilities";

/// Whether the process answers.
pub(super) async fn live() -> StatusCode {
    StatusCode::OK
}

/// Whether requests are welcome.
pub(super) async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    match shared.ready() {
        true => StatusCode::OK.into_response(),
        false => {
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the server is ending").into_response()
        }
    }
}

/// The server.
pub(super) async fn server() -> Json<Value> {
    Json(json!({
        "name": "kindling",
        "version": env!("CARGO_PKG_VERSION"),
        "extensions": ["binary_tensor_data", "classification", "model_repository", "model_configuration"],
    }))
}

/// The models.
pub(super) async fn index(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let entry = |model: &Model| json!({ "name": model.name, "version": VERSION, "state": "READY" });
    Json(shared.models.iter().map(entry).collect())
}

/// The model of an address.
fn found<'a>(shared: &'a Shared, path: &HashMap<String, String>) -> Result<&'a Model, Refusal> {
    let model = shared.model(path.get("model").map(String::as_str))?;
    match path.get("version").map(String::as_str) {
        None | Some(VERSION) => Ok(model),
        Some(other) => Err(Refusal::new(
            StatusCode::NOT_FOUND,
            format!("version {other} of {}: there is version {VERSION} alone", model.name),
        )),
    }
}

/// Whether a model takes requests.
pub(super) async fn model_ready(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<HashMap<String, String>>,
) -> Result<Response, Refusal> {
    found(&shared, &path)?;
    Ok(ready(State(shared)).await)
}

/// Names, types and shapes of a model's tensors; -1 is any number.
pub(super) async fn metadata(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<HashMap<String, String>>,
) -> Result<Json<Value>, Refusal> {
    let model = found(&shared, &path)?;
    let classifier = model.classifier();
    let [height, width] = classifier.preprocess().crop;
    let classes = classifier.classes().len();
    let tensor = |name: &str, kind: &str, shape: Value| json!({ "name": name, "datatype": kind, "shape": shape });
    Ok(Json(json!({
        "name": model.name,
        "versions": [VERSION],
        "platform": "kindling",
        "inputs": [
            tensor(INPUT, "FP32", json!([-1, 3, height, width])),
            tensor(IMAGE, "BYTES", json!([-1])),
        ],
        "outputs": [
            tensor(LOGITS, "FP32", json!([-1, classes])),
            tensor(PROBABILITIES, "FP32", json!([-1, classes])),
        ],
    })))
}

/// A model's configuration in Triton's words.
pub(super) async fn config(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<HashMap<String, String>>,
) -> Result<Json<Value>, Refusal> {
    let model = found(&shared, &path)?;
    let classifier = model.classifier();
    let [height, width] = classifier.preprocess().crop;
    let classes = classifier.classes();
    let tensor = |name: &str, kind: &str, dims: Value, optional: bool| json!({ "name": name, "data_type": kind, "dims": dims, "optional": optional });
    Ok(Json(json!({
        "name": model.name,
        "platform": "kindling",
        "backend": "kindling",
        "max_batch_size": shared.config.max_images,
        "input": [
            tensor(INPUT, "TYPE_FP32", json!([3, height, width]), true),
            tensor(IMAGE, "TYPE_STRING", json!([1]), true),
        ],
        "output": [
            tensor(LOGITS, "TYPE_FP32", json!([classes.len()]), false),
            tensor(PROBABILITIES, "TYPE_FP32", json!([classes.len()]), false),
        ],
        "dynamic_batching": {
            "preferred_batch_size": [shared.config.max_batch],
            "max_queue_delay_microseconds": shared.config.max_delay.as_micros() as u64,
        },
        "parameters": { "classes": { "string_value": json!(classes).to_string() } },
    })))
}

/// The JSON of a request.
#[derive(Deserialize)]
struct InferRequest {
    id: Option<String>,
    inputs: Vec<InputTensor>,
    #[serde(default)]
    outputs: Vec<OutputTensor>,
    #[serde(default)]
    parameters: Parameters,
}

#[derive(Deserialize)]
struct InputTensor {
    name: String,
    shape: Vec<i64>,
    datatype: String,
    #[serde(default)]
    parameters: Parameters,
    data: Option<Value>,
}

#[derive(Deserialize)]
struct OutputTensor {
    name: String,
    #[serde(default)]
    parameters: Parameters,
}

/// The parameters that are known; others have no meaning here.
#[derive(Default, Deserialize)]
struct Parameters {
    binary_data_size: Option<usize>,
    binary_data: Option<bool>,
    binary_data_output: Option<bool>,
    classification: Option<usize>,
}

/// The images of a request.
enum Input {
    Prepared(Vec<Vec<f32>>),
    Encoded(Vec<Bytes>),
}

/// Classifies a tensor of images.
pub(super) async fn infer(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<HashMap<String, String>>,
    request: Request,
) -> Result<Response, Refusal> {
    let model = found(&shared, &path)?;
    let _permit = shared.permit()?;
    let (parts, body) = request.into_parts();
    let bytes = body::bytes(&parts.headers, body, &shared.config).await?;
    let (json, binary) = separated(&parts.headers, &bytes)?;
    let request: InferRequest = serde_json::from_slice(&json)
        .map_err(|error| Refusal::bad(format!("the JSON: {error}")))?;
    check_outputs(&request)?;
    let classifier = model.classifier();
    let crop = classifier.preprocess().crop;
    let predictions = match input(&request, &binary, crop, shared.config.max_images)? {
        Input::Encoded(images) => {
            let work = model.classify(&classifier, images, shared.config.max_pixels);
            let classified = shared.within_time(work).await?;
            let take = |image: crate::serve::model::Classified| {
                shared.count(&image.answer, Some(image.decode));
                image.answer.prediction
            };
            classified.into_iter().map(take).collect()
        }
        Input::Prepared(images) => {
            let waiting: Vec<_> = images
                .into_iter()
                .map(|values| model.queue.push(Arc::clone(&classifier), values))
                .collect();
            let work = async {
                let mut predictions = Vec::with_capacity(waiting.len());
                for answer in waiting {
                    let answer = answer.await?;
                    shared.count(&answer, None);
                    predictions.push(answer.prediction);
                }
                Ok(predictions)
            };
            shared.within_time(work).await?
        }
    };
    Ok((Extension(Images(predictions.len())), answer(&model.name, &request, &predictions))
        .into_response())
}

/// The JSON of a body, and the binary tensors behind it.
fn separated(headers: &HeaderMap, bytes: &Bytes) -> Result<(Bytes, Bytes), Refusal> {
    let Some(value) = headers.get(JSON_LENGTH) else {
        return Ok((bytes.clone(), Bytes::new()));
    };
    let length: Option<usize> = value.to_str().ok().and_then(|text| text.parse().ok());
    match length {
        Some(length) if length <= bytes.len() => Ok((bytes.slice(..length), bytes.slice(length..))),
        _ => Err(Refusal::bad(format!(
            "Inference-Header-Content-Length {value:?}: expected at most the {} bytes of the body",
            bytes.len()
        ))),
    }
}

fn check_outputs(request: &InferRequest) -> Result<(), Refusal> {
    let known = |name: &str| [LOGITS, PROBABILITIES].contains(&name);
    match request.outputs.iter().find(|output| !known(&output.name)) {
        Some(other) => Err(Refusal::bad(format!(
            "output `{}`: expected {LOGITS} or {PROBABILITIES}",
            other.name
        ))),
        None => Ok(()),
    }
}

/// The images of the one input; `most` is the limit on their number.
fn input(
    request: &InferRequest,
    binary: &Bytes,
    crop: [usize; 2],
    most: usize,
) -> Result<Input, Refusal> {
    let [input] = request.inputs.as_slice() else {
        return Err(Refusal::bad(format!(
            "{} inputs: expected one, {INPUT} or {IMAGE}",
            request.inputs.len()
        )));
    };
    let [height, width] = crop;
    let count = input.shape.first().copied().unwrap_or(0);
    let (kind, expected) = match input.name.as_str() {
        INPUT => ("FP32", vec![count, 3, height as i64, width as i64]),
        IMAGE => ("BYTES", vec![count]),
        other => {
            return Err(Refusal::bad(format!("input `{other}`: expected {INPUT} or {IMAGE}")));
        }
    };
    if input.datatype != kind {
        let message = format!("{}: datatype {}: expected {kind}", input.name, input.datatype);
        return Err(Refusal::bad(message));
    }
    if count < 1 || input.shape != expected {
        let wanted =
            if kind == "FP32" { format!("[n, 3, {height}, {width}]") } else { "[n]".into() };
        let message = format!("{}: shape {:?}: expected {wanted}", input.name, input.shape);
        return Err(Refusal::bad(message));
    }
    if count > most as i64 {
        let message = format!("{count} images; this server takes at most {most} in one request");
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message));
    }
    let count = count as usize;
    let raw = match (input.parameters.binary_data_size, &input.data) {
        (Some(size), None) if size == binary.len() => None,
        (Some(size), None) => {
            let message = format!(
                "{}: binary_data_size {size}: {} bytes follow the JSON",
                input.name,
                binary.len()
            );
            return Err(Refusal::bad(message));
        }
        (None, Some(data)) => Some(data),
        _ => {
            let message = format!("{}: expected data, or binary_data_size", input.name);
            return Err(Refusal::bad(message));
        }
    };
    match (kind, raw) {
        ("FP32", None) => from_binary(binary, count, 3 * height * width).map(Input::Prepared),
        ("FP32", Some(data)) => from_numbers(data, count, 3 * height * width).map(Input::Prepared),
        (_, None) => strings(binary, count).map(Input::Encoded),
        (_, Some(data)) => from_texts(data, count).map(Input::Encoded),
    }
}

/// Numbers cut into images; all must be finite.
fn images(numbers: Vec<f32>, count: usize, size: usize) -> Result<Vec<Vec<f32>>, Refusal> {
    if numbers.len() != count * size {
        let message = format!("{INPUT}: {} numbers: expected {}", numbers.len(), count * size);
        return Err(Refusal::bad(message));
    }
    if let Some(index) = numbers.iter().position(|number| !number.is_finite()) {
        return Err(Refusal::bad(format!("{INPUT}: number {index} is not finite")));
    }
    Ok(numbers.chunks_exact(size).map(<[f32]>::to_vec).collect())
}

fn from_binary(bytes: &Bytes, count: usize, size: usize) -> Result<Vec<Vec<f32>>, Refusal> {
    if bytes.len() != 4 * count * size {
        let message = format!("{INPUT}: {} bytes: expected {}", bytes.len(), 4 * count * size);
        return Err(Refusal::bad(message));
    }
    let (words, _) = bytes.as_chunks::<4>();
    images(words.iter().map(|word| f32::from_le_bytes(*word)).collect(), count, size)
}

/// Numbers of a JSON array, flat or nested.
fn from_numbers(data: &Value, count: usize, size: usize) -> Result<Vec<Vec<f32>>, Refusal> {
    fn flatten(value: &Value, numbers: &mut Vec<f32>) -> Result<(), Refusal> {
        match value {
            Value::Array(values) => values.iter().try_for_each(|value| flatten(value, numbers)),
            Value::Number(number) => {
                numbers.push(number.as_f64().unwrap_or(f64::NAN) as f32);
                Ok(())
            }
            other => Err(Refusal::bad(format!("{INPUT}: {other}: expected numbers"))),
        }
    }
    let mut numbers = Vec::new();
    flatten(data, &mut numbers)?;
    images(numbers, count, size)
}

/// The elements of a BYTES tensor: four bytes of length, then as many bytes.
fn strings(bytes: &Bytes, count: usize) -> Result<Vec<Bytes>, Refusal> {
    let mut elements = Vec::new();
    let mut rest = bytes.clone();
    while let Some((length, _)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        if rest.len() - 4 < length {
            break;
        }
        elements.push(rest.slice(4..4 + length));
        rest = rest.slice(4 + length..);
    }
    match elements.len() == count && rest.is_empty() {
        true => Ok(elements),
        false => Err(Refusal::bad(format!(
            "{IMAGE}: expected {count} elements, each of four bytes of length and its bytes"
        ))),
    }
}

/// JSON holds no bytes: an image is base64 there.
fn from_texts(data: &Value, count: usize) -> Result<Vec<Bytes>, Refusal> {
    let wrong = || {
        Refusal::bad(format!(
            "{IMAGE}: expected {count} strings of base64, or the tensor in binary form"
        ))
    };
    let texts = data.as_array().filter(|texts| texts.len() == count).ok_or_else(wrong)?;
    let decode = |text: &Value| Some(Bytes::from(STANDARD.decode(text.as_str()?).ok()?));
    texts.iter().map(|text| decode(text).ok_or_else(wrong)).collect()
}

/// An output tensor, in JSON or in bytes.
enum Data {
    Numbers(Vec<f32>),
    Strings(Vec<String>),
}

/// The answer: JSON, and binary tensors behind it where they are asked for.
fn answer(model: &str, request: &InferRequest, predictions: &[Prediction]) -> Response {
    let all = [LOGITS, PROBABILITIES]
        .map(|name| OutputTensor { name: name.to_owned(), parameters: Parameters::default() });
    let wanted = if request.outputs.is_empty() { &all[..] } else { &request.outputs[..] };
    let binary_by_default = request.parameters.binary_data_output.unwrap_or(false);
    let mut outputs = Vec::new();
    let mut tensors = Vec::new();
    for output in wanted {
        let rows = predictions.iter().map(|prediction| match output.name.as_str() {
            LOGITS => (prediction, prediction.logits()),
            _ => (prediction, prediction.probabilities()),
        });
        let (data, columns) = match output.parameters.classification {
            Some(k) => {
                let text = |(prediction, values): (&Prediction, &[f32])| -> Vec<String> {
                    let guesses = prediction.top(k).into_iter();
                    guesses
                        .map(|g| format!("{}:{}:{}", values[g.index], g.index, g.class))
                        .collect()
                };
                let texts: Vec<String> = rows.flat_map(text).collect();
                let columns = texts.len() / predictions.len();
                (Data::Strings(texts), columns)
            }
            None => {
                let numbers: Vec<f32> = rows.flat_map(|(_, values)| values.to_vec()).collect();
                let columns = numbers.len() / predictions.len();
                (Data::Numbers(numbers), columns)
            }
        };
        let mut tensor = Map::new();
        tensor.insert("name".into(), json!(output.name));
        tensor.insert("shape".into(), json!([predictions.len(), columns]));
        let kind = if matches!(data, Data::Numbers(_)) { "FP32" } else { "BYTES" };
        tensor.insert("datatype".into(), json!(kind));
        if output.parameters.binary_data.unwrap_or(binary_by_default) {
            let before = tensors.len();
            match data {
                Data::Numbers(values) => {
                    tensors.extend(values.iter().flat_map(|value| value.to_le_bytes()));
                }
                Data::Strings(texts) => texts.iter().for_each(|text| {
                    tensors.extend((text.len() as u32).to_le_bytes());
                    tensors.extend(text.as_bytes());
                }),
            }
            let size = tensors.len() - before;
            tensor.insert("parameters".into(), json!({ "binary_data_size": size }));
        } else {
            let data = match data {
                Data::Numbers(values) => json!(values),
                Data::Strings(texts) => json!(texts),
            };
            tensor.insert("data".into(), data);
        }
        outputs.push(Value::Object(tensor));
    }
    let mut reply = json!({ "model_name": model, "model_version": VERSION, "outputs": outputs });
    if let Some(id) = &request.id {
        reply["id"] = json!(id);
    }
    if tensors.is_empty() {
        return Json(reply).into_response();
    }
    let mut bytes = reply.to_string().into_bytes();
    let length = HeaderValue::from(bytes.len());
    bytes.extend(tensors);
    let kind = HeaderValue::from_static("application/octet-stream");
    ([(header::CONTENT_TYPE, kind), (JSON_LENGTH, length)], bytes).into_response()
}
