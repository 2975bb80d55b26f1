//! `--tui`: burn-train's terminal dashboard with its plots, driven by our loop.
//!
//! When the user kills the process on the dashboard, its renderer panics in the caller. The panic
//! is caught here and becomes a request to save and stop.

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

use crate::learner::evaluate::EvalReport;
use crate::run::observer::{BatchRecord, EpochRecord, Observer};

/// The plotted metrics: name, unit, whether higher is better.
const METRICS: [(&str, Option<&str>, bool); 4] = [
    ("Loss", None, false),
    ("Accuracy", Some("%"), true),
    ("Learning rate", None, false),
    ("Images/s", None, true),
];

/// The dashboard of a run. Dropping it gives the terminal back.
pub struct Dashboard {
    renderer: Mutex<Option<TuiMetricsRendererWrapper>>,
    interrupter: Interrupter,
    killed: AtomicBool,
}

impl Dashboard {
    /// Takes over the terminal for a run of `epochs` epochs that begins with epoch `first`.
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
}

impl Observer for Dashboard {
    fn batch(&self, record: &BatchRecord) {
        self.with(|renderer| {
            if record.batch == 1 {
                renderer.start_split("train", record.batches);
            }
            renderer.update_train(point("Loss", record.loss, 4));
            renderer.update_train(point("Learning rate", record.lr, 6));
            renderer.update_train(point("Images/s", record.epoch_stats.img_per_s(), 1));
            renderer.update_split(record.batch);
            if record.batch == record.batches {
                renderer.end_split();
            }
        });
    }

    fn evaluated(&self, done: u64, all: usize) {
        self.with(|renderer| {
            renderer.start_split("valid", all);
            renderer.update_split(done as usize);
        });
    }

    fn epoch(&self, record: &EpochRecord) {
        let Some((report, _)) = record.chosen() else { return };
        self.with(|renderer| {
            renderer.update_valid(point("Loss", report.loss, 4));
            renderer.update_valid(point("Accuracy", 100.0 * report.top1, 2));
            renderer.end_split();
            renderer.update_epoch(record.epoch as usize + 1);
        });
    }

    fn averaged(&self, _report: &EvalReport) {}

    /// The notes stand on the console and in `train.log`.
    fn note(&self, _text: &str) {}

    fn stop_requested(&self) -> bool {
        self.killed.load(Ordering::Relaxed) || self.interrupter.should_stop()
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        let renderer = self.renderer.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // Dropping a killed renderer panics once more.
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
