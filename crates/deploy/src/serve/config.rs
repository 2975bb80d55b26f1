//! The configuration of a server: models, limits, log; and why it does not start.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use crate::classifier::Classifier;

/// Reads a classifier, now and at every reload: the classifier, or one sentence.
pub type Load = Box<dyn Fn() -> Result<Classifier, String> + Send + Sync>;

/// A classifier to serve and its name in addresses.
pub struct NamedModel {
    /// Name: letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// How the classifier is read.
    pub load: Load,
}

/// Limits and delays of a server.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// Address to listen on; port 0 takes a free one.
    pub address: SocketAddr,
    /// Most images in one pass through the network.
    pub max_batch: usize,
    /// How long the first image of a batch waits for others. On a CPU waiting gains nothing: images
    /// are computed one per thread.
    pub max_delay: Duration,
    /// Most bytes of a request, after decompression.
    pub max_body: usize,
    /// Most pixels of an image. They are counted before it is decoded.
    pub max_pixels: u64,
    /// Most images of one request.
    pub max_images: usize,
    /// Most requests at a time; the next one gets 429.
    pub max_requests: usize,
    /// Most open connections; the next one waits.
    pub max_connections: usize,
    /// Longest time for one request: 408 while its body is read, 504 after it.
    pub timeout: Duration,
    /// Longest time for the header of a request, and longest rest between two requests.
    pub header_timeout: Duration,
    /// Time between the end of readiness and the end of accepting.
    pub drain_delay: Duration,
    /// Longest time for the last requests.
    pub drain_timeout: Duration,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 8000)),
            max_batch: 16,
            max_delay: Duration::ZERO,
            max_body: 10_000_000,
            max_pixels: 50_000_000,
            max_images: 64,
            max_requests: 64,
            max_connections: 1024,
            timeout: Duration::from_secs(30),
            header_timeout: Duration::from_secs(30),
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(30),
        }
    }
}

/// An answered request, for a log.
#[derive(Clone, Debug, Serialize)]
pub struct RequestRecord {
    /// Method.
    pub method: String,
    /// Path of the address, without its query.
    pub path: String,
    /// Status of the answer.
    pub status: u16,
    /// Images that were classified.
    pub images: usize,
    /// Time from the header to the answer, milliseconds.
    pub milliseconds: f64,
    /// The sentence of a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What happens to requests, for a log.
pub type RequestLog = Box<dyn Fn(&RequestRecord) + Send + Sync>;

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be taken.
    #[error("{address}: cannot listen there: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Reason of the operating system.
        source: std::io::Error,
    },
    /// A thread cannot be started.
    #[error("no thread can be started: {0}")]
    Thread(std::io::Error),
    /// A model cannot be read.
    #[error("{0}")]
    Model(String),
    /// The names of the models are no names.
    #[error("{0}")]
    Name(String),
}
