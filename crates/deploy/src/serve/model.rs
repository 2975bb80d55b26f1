//! A model of a server: the classifier of now, and the thread that runs it.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use axum::body::Bytes;

use crate::classifier::Classifier;
use crate::serve::body::prepared;
use crate::serve::config::{Load, ServeConfig, ServeError};
use crate::serve::queue::{Answer, Queue};
use crate::serve::refusal::Refusal;

/// A classifier that can be replaced while requests run.
pub(super) struct Model {
    pub(super) name: String,
    load: Load,
    /// One reload at a time.
    reloading: Mutex<()>,
    current: RwLock<Arc<Classifier>>,
    pub(super) queue: Queue,
}

/// The answer for an image of a request, and the time its decoding took.
pub(super) struct Classified {
    pub(super) answer: Answer,
    pub(super) decode: f64,
}

impl Model {
    /// Loads a model, runs it once and starts its thread.
    pub(super) fn start(
        name: String,
        load: Load,
        config: &ServeConfig,
    ) -> Result<Self, ServeError> {
        let classifier = load().map_err(ServeError::Model)?;
        warm_up(&classifier, config);
        let queue = Queue::start(config.max_batch, config.max_delay).map_err(ServeError::Thread)?;
        let current = RwLock::new(Arc::new(classifier));
        Ok(Self { name, load, reloading: Mutex::default(), current, queue })
    }

    pub(super) fn classifier(&self) -> Arc<Classifier> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the classifier again beside the one of now. Requests that were prepared for the old
    /// one are answered by it.
    pub(super) fn reload(&self, config: &ServeConfig) -> Result<(), String> {
        let _one = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let classifier = (self.load)()?;
        warm_up(&classifier, config);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(classifier);
        Ok(())
    }

    /// Classifies encoded images, all at once; the first refusal ends it.
    pub(super) async fn classify(
        &self,
        classifier: &Arc<Classifier>,
        images: Vec<Bytes>,
        max_pixels: u64,
    ) -> Result<Vec<Classified>, Refusal> {
        let count = images.len();
        let tasks: Vec<_> = images
            .into_iter()
            .map(|bytes| tokio::spawn(prepared(Arc::clone(classifier), bytes, max_pixels)))
            .collect();
        let mut waiting = Vec::with_capacity(count);
        let mut refused = None;
        for (index, task) in tasks.into_iter().enumerate() {
            let image = task.await.expect("the task neither panics nor is aborted");
            match image {
                Ok(image) if refused.is_none() => {
                    let answer = self.queue.push(Arc::clone(classifier), image.values);
                    waiting.push((image.seconds, answer));
                }
                Ok(_) => {}
                Err(refusal) => {
                    refused.get_or_insert(refusal.of_image(index, count));
                }
            }
        }
        if let Some(refusal) = refused {
            return Err(refusal);
        }
        let mut classified = Vec::with_capacity(count);
        for (index, (decode, answer)) in waiting.into_iter().enumerate() {
            let answer = answer.await.map_err(|refusal| refusal.of_image(index, count))?;
            classified.push(Classified { answer, decode });
        }
        Ok(classified)
    }
}

/// Runs a full batch, so that the first request does not pay for what is made once.
fn warm_up(classifier: &Classifier, config: &ServeConfig) {
    let start = Instant::now();
    let _ = classifier.classify_prepared(vec![0.0; classifier.preprocess().values()]);
    // A network that needs seconds an image is not run for a minute.
    if start.elapsed().as_secs_f64() < 1.0 {
        let batch = vec![0.0; config.max_batch * classifier.preprocess().values()];
        let _ = classifier.classify_prepared(batch);
    }
}
