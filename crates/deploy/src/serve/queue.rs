//! Images that wait for the network, and the thread that takes them in batches.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use tokio::sync::oneshot;

use crate::classifier::Classifier;
use crate::predict::Prediction;
use crate::serve::refusal::Refusal;

/// An image's prediction and how it came about.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) prediction: Prediction,
    /// Seconds in the queue.
    pub(super) queue: f64,
    /// Seconds of the pass through the network.
    pub(super) infer: f64,
    /// Images of the pass, in the answer of its first image alone, so that sums count a pass once.
    pub(super) batch: Option<usize>,
}

/// A prepared image. It knows its classifier: after a reload the old one answers what was prepared
/// for it.
struct Job {
    classifier: Arc<Classifier>,
    values: Vec<f32>,
    since: Instant,
    reply: oneshot::Sender<Result<Answer, Refusal>>,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    closed: bool,
}

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    arrived: Condvar,
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that wait for one classifier, at most `most`, once there are as many or the first has
    /// waited for `delay`; none when the queue is closed.
    fn batch(&self, most: usize, delay: Duration) -> Option<Vec<Job>> {
        let mut state = self.lock();
        loop {
            // Nobody waits any more for an image whose client is gone.
            state.jobs.retain(|job| !job.reply.is_closed());
            let Some(first) = state.jobs.front() else {
                if state.closed {
                    return None;
                }
                state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let same = |job: &&Job| Arc::ptr_eq(&job.classifier, &first.classifier);
            let count = state.jobs.iter().take(most).take_while(same).count();
            let waited = first.since.elapsed();
            // A job of another classifier behind them ends the batch.
            let full = count == most || count < state.jobs.len();
            if full || waited >= delay || state.closed {
                return Some(state.jobs.drain(..count).collect());
            }
            let rest = delay.saturating_sub(waited);
            state =
                self.arrived.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The queue of a model.
pub(super) struct Queue(Arc<Inner>);

impl Queue {
    /// Starts the thread that runs the network.
    pub(super) fn start(most: usize, delay: Duration) -> std::io::Result<Self> {
        let inner = Arc::new(Inner::default());
        let own = Arc::clone(&inner);
        thread::Builder::new().name("inference".into()).spawn(move || {
            while let Some(jobs) = own.batch(most, delay) {
                run(jobs);
            }
        })?;
        Ok(Self(inner))
    }

    /// Images that wait.
    pub(super) fn depth(&self) -> usize {
        self.0.lock().jobs.len()
    }

    /// Lets a prepared image wait for its turn. An answer that is dropped takes the image out
    /// again.
    pub(super) fn push(
        &self,
        classifier: Arc<Classifier>,
        values: Vec<f32>,
    ) -> impl Future<Output = Result<Answer, Refusal>> + use<> {
        let (reply, answer) = oneshot::channel();
        self.0.lock().jobs.push_back(Job { classifier, values, since: Instant::now(), reply });
        self.0.arrived.notify_one();
        async move {
            answer.await.unwrap_or_else(|_| {
                let status = StatusCode::SERVICE_UNAVAILABLE;
                Err(Refusal::new(status, "the server is ending"))
            })
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.arrived.notify_all();
    }
}

/// Runs a batch and answers each of its images.
fn run(jobs: Vec<Job>) {
    let start = Instant::now();
    let batch = jobs.len();
    let classifier = Arc::clone(&jobs[0].classifier);
    let mut values = Vec::with_capacity(batch * classifier.preprocess().values());
    let mut waiting = Vec::with_capacity(batch);
    for job in jobs {
        values.extend_from_slice(&job.values);
        waiting.push((job.reply, (start - job.since).as_secs_f64()));
    }
    // Memory that is not there is a panic of Burn's; the next batch may be smaller.
    let results = catch_unwind(AssertUnwindSafe(|| classifier.classify_prepared(values)));
    let infer = start.elapsed().as_secs_f64();
    let Ok(results) = results else {
        for (reply, _) in waiting {
            let message = "the network could not be run; is there memory for a batch?";
            let _ = reply.send(Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, message)));
        }
        return;
    };
    for (index, ((reply, queue), result)) in waiting.into_iter().zip(results).enumerate() {
        let answer = match result {
            Ok(prediction) => {
                Ok(Answer { prediction, queue, infer, batch: (index == 0).then_some(batch) })
            }
            Err(error) => Err(Refusal::from(&error)),
        };
        // A client may be gone.
        let _ = reply.send(answer);
    }
}
