//! The addresses of a server, and what holds for all of them: time, count, log.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::http::{HeaderValue, Method, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use crate::serve::config::RequestRecord;
use crate::serve::refusal::{Refusal, Refused};
use crate::serve::shared::{Images, Shared};
use crate::serve::{kserve, page, predict};

/// The addresses.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(page::page))
        .route("/predict", post(predict::predict))
        .route("/healthz", get(kserve::live))
        .route("/readyz", get(kserve::ready))
        .route("/metrics", get(metrics))
        .route("/v2", get(kserve::server))
        .route("/v2/health/live", get(kserve::live))
        .route("/v2/health/ready", get(kserve::ready))
        .route("/v2/repository/index", post(kserve::index))
        .route("/v2/models/{model}", get(kserve::metadata))
        .route("/v2/models/{model}/ready", get(kserve::model_ready))
        .route("/v2/models/{model}/config", get(kserve::config))
        .route("/v2/models/{model}/infer", post(kserve::infer))
        .route("/v2/models/{model}/versions/{version}", get(kserve::metadata))
        .route("/v2/models/{model}/versions/{version}/ready", get(kserve::model_ready))
        .route("/v2/models/{model}/versions/{version}/config", get(kserve::config))
        .route("/v2/models/{model}/versions/{version}/infer", post(kserve::infer))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        // `body` has the limit.
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(Arc::clone(&shared), recorded))
        .with_state(shared)
}

async fn not_found(request: Request) -> Refusal {
    let path = request.uri().path();
    let message = format!("{path}: no such address; POST /predict classifies, GET / is a page");
    Refusal::new(StatusCode::NOT_FOUND, message)
}

async fn wrong_method(method: Method, request: Request) -> Refusal {
    let path = request.uri().path();
    let message = format!("{path}: {method} is not for this address");
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, message)
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let depth = shared.models.iter().map(|model| model.queue.depth()).sum();
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], shared.metrics.text(depth)).into_response()
}

/// Counts a request, measures and logs it.
async fn recorded(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let under_way = shared.metrics.begin();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
    let mut response = next.run(request).await;
    let nosniff = HeaderValue::from_static("nosniff");
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    let seconds = start.elapsed().as_secs_f64();
    let status = response.status().as_u16();
    // A path that nobody serves would be a label of its own for every scanner.
    shared.metrics.request(route.as_deref().unwrap_or("other"), status, seconds);
    (shared.log)(&RequestRecord {
        method,
        path,
        status,
        images: response.extensions().get::<Images>().map_or(0, |images| images.0),
        milliseconds: (seconds * 1e5).round() / 1e2,
        error: response.extensions().get::<Refused>().map(|refused| refused.0.clone()),
    });
    drop(under_way);
    response
}
