//! Classifiers over HTTP: KServe's Open Inference Protocol v2, `POST /predict`, and a page at `/`.
//!
//! A request's images are decoded on tokio's blocking threads and wait in the queue of their model.
//! One thread a model takes all that wait, at most a batch, and sends them through the network
//! together.
//!
//! In reading order: `serve/config`, `connections` (sockets, drain), `routes`, `predict` and
//! `kserve` (the two protocols), `page`, `shared`, `body` (limits), `model` (reload), `queue`
//! (batches), `metrics`, `refusal`.

mod body;
mod config;
mod connections;
mod kserve;
mod metrics;
mod model;
mod page;
mod predict;
mod queue;
mod refusal;
mod routes;
mod shared;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

pub use crate::serve::config::{
    Load, NamedModel, RequestLog, RequestRecord, ServeConfig, ServeError,
};
use crate::serve::connections::serve;
use crate::serve::metrics::Metrics;
use crate::serve::model::Model;
use crate::serve::shared::{Phase, Shared};

/// A server that listens and has its models loaded.
pub struct Server {
    runtime: Runtime,
    listener: TcpListener,
    shared: Arc<Shared>,
    phase: watch::Sender<Phase>,
}

/// Steers a server from other threads.
#[derive(Clone)]
pub struct ServerHandle {
    shared: Arc<Shared>,
    phase: watch::Sender<Phase>,
}

impl Server {
    /// Loads the models, runs each once, and listens. Every request is given to `log`.
    ///
    /// # Errors
    /// [`ServeError`].
    pub fn bind(
        config: ServeConfig,
        models: Vec<NamedModel>,
        log: RequestLog,
    ) -> Result<Self, ServeError> {
        let mut served: Vec<Model> = Vec::with_capacity(models.len());
        for NamedModel { name, load } in models {
            let usable = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            if name.is_empty() || !name.chars().all(usable) {
                return Err(ServeError::Name(format!(
                    "`{name}`: expected a name of letters, digits, `.`, `_` and `-`"
                )));
            }
            if served.iter().any(|other| other.name == name) {
                return Err(ServeError::Name(format!("`{name}`: two models of one name")));
            }
            served.push(Model::start(name, load, &config)?);
        }
        if served.is_empty() {
            return Err(ServeError::Name("no model to serve".into()));
        }
        // Decoding takes a blocking thread: as many images at a time as there are cores.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let runtime = Builder::new_multi_thread()
            .worker_threads(cores.min(4))
            .max_blocking_threads(cores)
            .enable_all()
            .build()
            .map_err(ServeError::Thread)?;
        let address = config.address;
        let listener = runtime
            .block_on(TcpListener::bind(address))
            .map_err(|source| ServeError::Listen { address, source })?;
        let (phase, _) = watch::channel(Phase::Ready);
        let metrics = Metrics::new(served.iter().map(|model| model.name.clone()).collect());
        let shared = Arc::new(Shared::new(config, served, metrics, log, phase.subscribe()));
        Ok(Self { runtime, listener, shared, phase })
    }

    /// The address on which the server listens.
    ///
    /// # Errors
    /// The reason of the operating system.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Steers the server.
    pub fn handle(&self) -> ServerHandle {
        ServerHandle { shared: Arc::clone(&self.shared), phase: self.phase.clone() }
    }

    /// Answers requests until [`ServerHandle::drain`] and the last answer: whether every request
    /// was answered before the time limit.
    pub fn run(self) -> bool {
        let finished = self.runtime.block_on(serve(self.listener, Arc::clone(&self.shared)));
        // A blocking thread may still decode an image that nobody waits for.
        self.runtime.shutdown_background();
        finished
    }
}

impl ServerHandle {
    /// Ends the server: not ready at once, then no new connections, and the requests that are there
    /// are answered.
    pub fn drain(&self) {
        self.phase.send_replace(Phase::Draining);
    }

    /// Reads every model again. A model that cannot be read stays as it is. One line a model: its
    /// name, and what happened.
    pub fn reload(&self) -> Vec<(String, Result<(), String>)> {
        let reload = |model: &Model| {
            let result = model.reload(&self.shared.config);
            self.shared.metrics.reloaded(result.is_ok());
            (model.name.clone(), result)
        };
        self.shared.models.iter().map(reload).collect()
    }
}
