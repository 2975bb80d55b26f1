//! `--tui`: burn-train's terminal dashboard with its plots, driven by our loop. Its renderer ends a killed
//! process by a panic in the caller; here that is caught and becomes a request to save and stop.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use burn::train::Interrupter;
use burn::train::logger::TrainingProgressLogger;
use burn::train::metric::{
    MetricAttributes, MetricDefinition, MetricEntry, MetricId, NumericAttributes, NumericEntry,
    SerializedEntry,
};
use burn::train::renderer::tui::TuiMetricsRendererWrapper;
use burn::train::renderer::{MetricState, MetricsRenderer, MetricsRendererTraining};

use crate::learner::evaluate::Report;
use crate::run::logger::BatchRecord;

/// What is plotted: name, unit, whether more is better.
const METRICS: [(&str, Option<&str>, bool); 4] = [
    ("Loss", None, false),
    ("Accuracy", Some("%"), true),
    ("Learning rate", None, false),
    ("Images/s", None, true),
];

/// The dashboard of a run; the terminal is given back when it is dropped.
pub struct Dashboard {
    renderer: Mutex<Option<TuiMetricsRendererWrapper>>,
    interrupter: Interrupter,
    killed: AtomicBool,
}

impl Dashboard {
    /// Takes over the terminal for a run of so many epochs.
    pub fn open(epochs: u64, first: u64) -> Self {
        let interrupter = Interrupter::new();
        let mut renderer = TuiMetricsRendererWrapper::new(interrupter.clone(), None);
        for (name, unit, higher_is_better) in METRICS {
            let unit = unit.map(str::to_owned);
            let attributes = NumericAttributes { unit, higher_is_better };
            renderer.register_metric(MetricDefinition {
                metric_id: id(name),
                name: Arc::new(name.to_owned()),
                description: None,
                attributes: MetricAttributes::Numeric(attributes),
            });
        }
        renderer.start(epochs as usize, first as usize + 1, None, Some("Kindling"));
        let (renderer, killed) = (Mutex::new(Some(renderer)), AtomicBool::new(false));
        Self { renderer, interrupter, killed }
    }

    /// Whether the user asked to stop.
    pub fn stop_requested(&self) -> bool {
        self.killed.load(Ordering::Relaxed) || self.interrupter.should_stop()
    }

    fn with(&self, draw: impl FnOnce(&mut TuiMetricsRendererWrapper)) {
        if self.killed.load(Ordering::Relaxed) {
            return;
        }
        let mut renderer = self.renderer.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(renderer) = renderer.as_mut() else { return };
        if catch_unwind(AssertUnwindSafe(|| draw(renderer))).is_err() {
            self.killed.store(true, Ordering::Relaxed);
        }
    }

    /// After every training batch.
    pub fn batch(&self, line: &BatchRecord) {
        self.with(|renderer| {
            if line.batch == 1 {
                renderer.start_split("train", line.batches);
            }
            renderer.update_train(point("Loss", line.loss, 4));
            renderer.update_train(point("Learning rate", line.lr, 6));
            renderer.update_train(point("Images/s", line.tally.img_per_s(), 1));
            renderer.update_split(line.batch);
            if line.batch == line.batches {
                renderer.end_split();
            }
        });
    }

    /// During an evaluation.
    pub fn evaluated(&self, done: u64, all: usize) {
        self.with(|renderer| {
            renderer.start_split("valid", all);
            renderer.update_split(done as usize);
        });
    }

    /// After an evaluation.
    pub fn epoch(&self, epoch: u64, report: &Report) {
        self.with(|renderer| {
            renderer.update_valid(point("Loss", report.loss, 4));
            renderer.update_valid(point("Accuracy", 100.0 * report.top1, 2));
            renderer.end_split();
            renderer.update_epoch(epoch as usize + 1);
        });
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        let renderer = self.renderer.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // Closing a killed renderer panics once more.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(renderer)));
    }
}

fn id(name: &str) -> MetricId {
    MetricId::new(Arc::new(name.to_owned()))
}

fn point(name: &str, value: f64, digits: usize) -> MetricState {
    let shown = format!("{value:.digits$}");
    let entry = MetricEntry::new(id(name), SerializedEntry::new(shown.clone(), shown));
    MetricState::Numeric(entry, Some(NumericEntry::Value(value)))
}
