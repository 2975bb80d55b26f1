//! What all requests of a server share: its limits, models and counts.

use axum::http::StatusCode;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::timeout;

use crate::serve::config::{RequestLog, ServeConfig};
use crate::serve::metrics::{ImageTimes, Metrics};
use crate::serve::model::Model;
use crate::serve::queue::Answer;
use crate::serve::refusal::Refusal;

/// Whether a server takes requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Ready,
    Draining,
}

/// What all requests share.
pub(super) struct Shared {
    pub(super) config: ServeConfig,
    pub(super) models: Vec<Model>,
    pub(super) metrics: Metrics,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) log: RequestLog,
    permits: Semaphore,
}

/// The images of a request, for its record.
#[derive(Clone, Copy)]
pub(super) struct Images(pub(super) usize);

impl Shared {
    pub(super) fn new(
        config: ServeConfig,
        models: Vec<Model>,
        metrics: Metrics,
        log: RequestLog,
        phase: watch::Receiver<Phase>,
    ) -> Self {
        let permits = Semaphore::new(config.max_requests);
        Self { config, models, metrics, phase, log, permits }
    }

    pub(super) fn ready(&self) -> bool {
        *self.phase.borrow() == Phase::Ready
    }

    /// The model of a name; without a name the first one.
    ///
    /// # Errors
    /// 404 with the names there are.
    pub(super) fn model(&self, name: Option<&str>) -> Result<&Model, Refusal> {
        let Some(name) = name else { return Ok(&self.models[0]) };
        self.models.iter().find(|model| model.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.models.iter().map(|model| &*model.name).collect();
            let message = format!("no model `{name}`; there is {}", names.join(", "));
            Refusal::new(StatusCode::NOT_FOUND, message)
        })
    }

    /// One of the requests at a time.
    ///
    /// # Errors
    /// 429 where there are as many as may be.
    pub(super) fn permit(&self) -> Result<SemaphorePermit<'_>, Refusal> {
        self.permits.try_acquire().map_err(|_| {
            let message = format!(
                "{} requests are under way, as many as this server takes; try again later",
                self.config.max_requests
            );
            Refusal::new(StatusCode::TOO_MANY_REQUESTS, message)
        })
    }

    /// Ends what comes after the body of a request at the limit on time.
    ///
    /// # Errors
    /// 504 at the limit; the refusal of `work`.
    pub(super) async fn within_time<T>(
        &self,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        timeout(self.config.timeout, work).await.unwrap_or_else(|_| {
            let seconds = self.config.timeout.as_secs_f32();
            let message = format!("no answer within {seconds} seconds; the server is busy");
            Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, message))
        })
    }

    /// Counts an answered image. `decode` is the time of its decoding, if it was encoded.
    pub(super) fn count(&self, answer: &Answer, decode: Option<f64>) {
        let &Answer { queue, infer, batch, .. } = answer;
        self.metrics.image(&ImageTimes { decode, queue, infer, batch });
    }
}
