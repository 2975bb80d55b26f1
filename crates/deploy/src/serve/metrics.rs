//! Counters and histograms in Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Upper limits of the buckets for times, seconds.
const SECONDS: [f64; 12] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
/// Upper limits of the buckets for the images of a batch.
const BATCH: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

/// How often a value fell below each limit, and their sum.
struct Histogram {
    limits: &'static [f64],
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    fn new(limits: &'static [f64]) -> Self {
        Self { limits, counts: vec![0; limits.len() + 1], sum: 0.0 }
    }

    fn observe(&mut self, value: f64) {
        let bucket = self.limits.iter().position(|limit| value <= *limit);
        self.counts[bucket.unwrap_or(self.limits.len())] += 1;
        self.sum += value;
    }

    fn write(&self, name: &str, help: &str, text: &mut String) {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} histogram");
        let mut below = 0;
        for (limit, count) in self.limits.iter().zip(&self.counts) {
            below += count;
            let _ = writeln!(text, "{name}_bucket{{le=\"{limit}\"}} {below}");
        }
        below += self.counts[self.limits.len()];
        let sum = self.sum;
        let _ = writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {below}");
        let _ = writeln!(text, "{name}_sum {sum}\n{name}_count {below}");
    }
}

struct Histograms {
    request: Histogram,
    decode: Histogram,
    queue: Histogram,
    infer: Histogram,
    batch: Histogram,
    /// Requests by route and status.
    requests: BTreeMap<(String, u16), u64>,
}

/// What a server has done so far.
pub(super) struct Metrics {
    models: Vec<String>,
    histograms: Mutex<Histograms>,
    images: AtomicU64,
    in_flight: AtomicUsize,
    reloads: [AtomicU64; 2],
}

/// A request under way; it is over when this is dropped.
pub(super) struct InFlight<'a>(&'a Metrics);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The times of one image, seconds, and the images of its batch where it is the first of them.
pub(super) struct ImageTimes {
    pub(super) decode: Option<f64>,
    pub(super) queue: f64,
    pub(super) infer: f64,
    pub(super) batch: Option<usize>,
}

impl Metrics {
    pub(super) fn new(models: Vec<String>) -> Self {
        let histograms = Histograms {
            request: Histogram::new(&SECONDS),
            decode: Histogram::new(&SECONDS),
            queue: Histogram::new(&SECONDS),
            infer: Histogram::new(&SECONDS),
            batch: Histogram::new(&BATCH),
            requests: BTreeMap::new(),
        };
        Self {
            models,
            histograms: Mutex::new(histograms),
            images: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            reloads: [AtomicU64::new(0), AtomicU64::new(0)],
        }
    }

    /// Requests under way.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn begin(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self)
    }

    pub(super) fn request(&self, route: &str, status: u16, seconds: f64) {
        let mut all = self.histograms.lock().unwrap_or_else(PoisonError::into_inner);
        all.request.observe(seconds);
        *all.requests.entry((route.to_owned(), status)).or_default() += 1;
    }

    pub(super) fn image(&self, times: &ImageTimes) {
        self.images.fetch_add(1, Ordering::Relaxed);
        let mut all = self.histograms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seconds) = times.decode {
            all.decode.observe(seconds);
        }
        all.queue.observe(times.queue);
        if let Some(batch) = times.batch {
            all.infer.observe(times.infer);
            all.batch.observe(batch as f64);
        }
    }

    pub(super) fn reloaded(&self, done: bool) {
        self.reloads[usize::from(!done)].fetch_add(1, Ordering::Relaxed);
    }

    /// Prometheus' text; `depth` images wait.
    pub(super) fn text(&self, depth: usize) -> String {
        let mut text = String::new();
        let mut one = |name: &str, kind: &str, help: &str, lines: &[(String, u64)]| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in lines {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        };
        let all = self.histograms.lock().unwrap_or_else(PoisonError::into_inner);
        let version = env!("CARGO_PKG_VERSION");
        let builds: Vec<_> = self
            .models
            .iter()
            .map(|model| (format!("{{version=\"{version}\",model=\"{model}\"}}"), 1))
            .collect();
        one("kindling_build_info", "gauge", "Version and models.", &builds);
        let requests: Vec<_> = all
            .requests
            .iter()
            .map(|((route, status), count)| {
                (format!("{{path=\"{route}\",code=\"{status}\"}}"), *count)
            })
            .collect();
        one("kindling_requests_total", "counter", "Requests by path and status.", &requests);
        let plain = |value: u64| [(String::new(), value)];
        let images = plain(self.images.load(Ordering::Relaxed));
        one("kindling_images_total", "counter", "Images classified.", &images);
        let batches = plain(all.batch.counts.iter().sum());
        one("kindling_batches_total", "counter", "Passes through a network.", &batches);
        one("kindling_queue_depth", "gauge", "Images that wait.", &plain(depth as u64));
        let in_flight = plain(self.in_flight() as u64);
        one("kindling_in_flight", "gauge", "Requests under way.", &in_flight);
        let rejected: u64 =
            all.requests.iter().filter(|((_, status), _)| *status == 429).map(|(_, n)| n).sum();
        one("kindling_rejected_total", "counter", "Requests refused with 429.", &plain(rejected));
        let [done, failed] = &self.reloads;
        let reloads = [("done", done), ("failed", failed)].map(|(result, count)| {
            (format!("{{result=\"{result}\"}}"), count.load(Ordering::Relaxed))
        });
        one("kindling_reloads_total", "counter", "Models read again.", &reloads);
        all.request.write("kindling_request_seconds", "Time of a request.", &mut text);
        all.decode.write("kindling_decode_seconds", "Time to decode an image.", &mut text);
        all.queue.write("kindling_queue_seconds", "Time of an image in the queue.", &mut text);
        all.infer.write("kindling_infer_seconds", "Time of a pass.", &mut text);
        all.batch.write("kindling_batch_images", "Images of a pass.", &mut text);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::{ImageTimes, Metrics};

    /// Mutations caught, each alone: buckets that do not add up; a batch counted once an image.
    #[test]
    fn buckets_count_all_below_and_a_batch_counts_once() {
        let metrics = Metrics::new(vec!["m".into()]);
        for (batch, infer) in [(Some(2), 0.02), (None, 0.02), (Some(1), 40.0)] {
            metrics.image(&ImageTimes { decode: Some(0.002), queue: 0.0, infer, batch });
        }
        metrics.request("/predict", 200, 0.3);
        metrics.request("/predict", 429, 0.0);
        let text = metrics.text(3);
        for line in [
            "kindling_images_total 3",
            "kindling_batches_total 2",
            "kindling_batch_images_sum 3",
            "kindling_infer_seconds_bucket{le=\"0.01\"} 0",
            "kindling_infer_seconds_bucket{le=\"0.025\"} 1",
            "kindling_infer_seconds_bucket{le=\"10\"} 1",
            "kindling_infer_seconds_bucket{le=\"+Inf\"} 2",
            "kindling_decode_seconds_count 3",
            "kindling_requests_total{path=\"/predict\",code=\"429\"} 1",
            "kindling_rejected_total 1",
            "kindling_queue_depth 3",
            "kindling_build_info{version=\"0.1.0\",model=\"m\"} 1",
        ] {
            assert!(text.lines().any(|own| own == line), "no `{line}` in\n{text}");
        }
    }
}
