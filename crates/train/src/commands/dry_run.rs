//! `train --dry-run`: what a run will cost, before it begins. The real loop makes real steps on real batches in a
//! scratch folder of the system, is stopped, and everything it wrote is thrown away; nothing is made below
//! `--output`. What is measured and what is computed is said.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use burn::module::Module as _;
use nn::cost::cost;
use nn::layer_spec::Naming;
use serde::Serialize;

use crate::commands::bench::peak_rss_mb;
use crate::config::plan::Plan;
use crate::datasets::cache::CacheKind;
use crate::datasets::loader::Mode;
use crate::datasets::shards;
use crate::device::OpenedDevice;
use crate::error::Error;
use crate::learner::evaluate::evaluate;
use crate::out;
use crate::run::checkpoint::write_atomically;
use crate::run::fit;
use crate::run::fit::Run;
use crate::run::logger::{BatchRecord, Logger, clock};
use crate::signal::Stop;

/// Batches that are trained on.
const BATCHES: usize = 20;

/// Seconds after which fewer batches are enough.
const PATIENCE: f64 = 60.0;

/// The first batches, which fill caches and queues and are not counted.
const WARM: usize = 2;

/// Batches of the evaluation that are measured.
const EVALUATED: usize = 8;

/// Points of the learning-rate curve.
const POINTS: u64 = 120;

/// What the loop told while it was measured.
#[derive(Default)]
pub struct Probe {
    told: Mutex<Measurements>,
}

#[derive(Clone, Default)]
struct Measurements {
    began: Option<Instant>,
    /// Seconds, seconds waited for data, and images of each batch.
    batches: Vec<(f64, f64, u64)>,
    /// (epoch, seconds, waited, seen) when the last batch ended.
    last: (u64, f64, f64, u64),
    batches_per_epoch: usize,
    epochs: u64,
    notes: Vec<String>,
}

impl Probe {
    fn with<T>(&self, act: impl FnOnce(&mut Measurements) -> T) -> T {
        act(&mut self.told.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// After a training batch.
    pub fn batch(&self, line: &BatchRecord) {
        self.with(|told| {
            let now = (line.epoch, line.tally.seconds, line.tally.waited, line.tally.seen);
            let before = if told.last.0 == line.epoch { told.last } else { (0, 0.0, 0.0, 0) };
            told.batches.push((now.1 - before.1, now.2 - before.2, now.3 - before.3));
            told.last = now;
            told.began.get_or_insert_with(Instant::now);
            (told.batches_per_epoch, told.epochs) = (line.batches, line.epochs);
        });
    }

    /// A sentence of the loop.
    pub fn say(&self, text: &str) {
        self.with(|told| told.notes.push(text.to_owned()));
    }

    /// Whether enough was measured.
    pub fn is_enough(&self) -> bool {
        self.with(|told| {
            let late = told.began.is_some_and(|began| began.elapsed().as_secs_f64() > PATIENCE);
            told.batches.len() >= BATCHES || (late && told.batches.len() > WARM)
        })
    }
}

/// Everything that a dry run finds out.
#[derive(Debug, Serialize)]
struct Estimate {
    model: String,
    backend: String,
    data_dir: PathBuf,
    classes: usize,
    #[serde(rename = "train_pictures")]
    train_images: usize,
    #[serde(rename = "val_pictures")]
    val_images: usize,
    parameters: u64,
    multiply_adds: u64,
    img_size: usize,
    batch_size: usize,
    grad_accum_steps: usize,
    batches_per_epoch: usize,
    steps_per_epoch: u64,
    epochs: u64,
    total_steps: u64,
    /// (optimizer step, learning rate).
    learning_rate: Vec<(u64, f64)>,
    measured_batches: usize,
    seconds_per_batch: f64,
    images_per_s: f64,
    data_wait_pct: f64,
    evaluation_s: f64,
    evaluations: u64,
    /// Whole run, seconds.
    eta_s: f64,
    peak_memory_mb: f64,
    /// Whether `peak_memory_mb` was measured; otherwise computed from layers and weights.
    memory_measured: bool,
    checkpoint_bytes: u64,
    /// Most that the run's checkpoints take at a time.
    disk_bytes: u64,
    notes: Vec<String>,
}

/// A folder that is removed again.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Measures and prints; nothing is left on the disk but the plot that was asked for.
///
/// # Errors
/// What would refuse the run itself: data, backend; a plot that cannot be written.
pub fn dry_run(
    plan: &Plan,
    chosen: OpenedDevice,
    json: bool,
    plot: Option<&Path>,
) -> Result<u8, Error> {
    let (train, val) = fit::open(plan)?;
    let scratch =
        Scratch(std::env::temp_dir().join(format!("kindling-dry-run-{}", std::process::id())));
    std::fs::create_dir_all(&scratch.0).map_err(|e| {
        Error::file(format!("{}: cannot make the folder: {e}", scratch.0.display()))
    })?;
    let rehearsal = Arc::new(Probe::default());
    let logger = Logger::rehearsing(Arc::clone(&rehearsal));
    let stop = Stop::listen().map_err(|e| Error::file(format!("signals: {e}")))?;
    let short = Plan {
        // Not more batches than are measured belong to a step; no file but the last checkpoint.
        grad_accum_steps: plan.grad_accum_steps.min(BATCHES),
        checkpoint_hist: 0,
        checkpoint_interval_steps: 0,
        checkpoint_interval_minutes: 0.0,
        max_hours: 0.0,
        // Neither memory nor a folder is filled for images that are not seen again.
        cache: Some(CacheKind::None),
        ..plan.clone()
    };
    let run = Run {
        plan: short,
        folder: scratch.0.clone(),
        from: None,
        fresh_optimizer: false,
        device: chosen.device.clone(),
        backend: chosen.name.clone(),
        stop: stop.clone(),
    };
    fit::fit(run, &logger)?;
    if let Some(signal) = stop.requested() {
        return Ok(signal);
    }
    let bytes = std::fs::metadata(scratch.0.join("last.ckpt")).map_or(0, |file| file.len());
    let told = rehearsal.with(|told| told.clone());

    // The evaluation, on its first batches.
    let network = plan.network(train.classes.len());
    let (all, val_size) = (val.items.len(), plan.val_batch_size);
    let mut part = val;
    part.items.truncate(val_size * EVALUATED);
    let count = part.items.len();
    let loader = fit::loader(plan, &Arc::new(part), Mode::Eval, val_size);
    let weights = network.init_seeded(&chosen.device.clone().autodiff(), plan.seed).valid();
    let began = Instant::now();
    evaluate(&weights, &loader, &train.classes, &chosen.device, &stop, |_| {})?;
    let evaluation_s = began.elapsed().as_secs_f64() * all as f64 / count as f64;

    let cost = cost(&network, plan.img_size, plan.img_size);
    let steady = &told.batches[WARM.min(told.batches.len() - 1)..];
    let (mut seconds, mut waited, mut seen) = (0.0, 0.0, 0);
    for (s, w, n) in steady {
        (seconds, waited, seen) = (seconds + s, waited + w, seen + n);
    }
    let per_batch = seconds / steady.len() as f64;
    let steps_per_epoch = told.batches_per_epoch.div_ceil(plan.grad_accum_steps) as u64;
    let total_steps = steps_per_epoch * told.epochs;
    let schedule = plan.schedule(steps_per_epoch);
    let points = POINTS.min(total_steps.max(2) - 1);
    let at = |i: u64| (total_steps - 1) * i / points.max(1);
    let evaluations = told.epochs.div_ceil(plan.val_interval);
    let measured = peak_rss_mb();
    let estimate = Estimate {
        model: plan.model.clone(),
        backend: chosen.name,
        data_dir: plan.data_dir.clone(),
        classes: train.classes.len(),
        train_images: train.items.len(),
        val_images: all,
        parameters: cost.parameters,
        multiply_adds: cost.multiply_adds,
        img_size: plan.img_size,
        batch_size: plan.batch_size,
        grad_accum_steps: plan.grad_accum_steps,
        batches_per_epoch: told.batches_per_epoch,
        steps_per_epoch,
        epochs: told.epochs,
        total_steps,
        learning_rate: (0..=points).map(|i| (at(i), schedule.at(at(i)))).collect(),
        measured_batches: steady.len(),
        seconds_per_batch: per_batch,
        images_per_s: seen as f64 / seconds.max(1e-9),
        data_wait_pct: 100.0 * waited / seconds.max(1e-9),
        evaluation_s,
        evaluations,
        eta_s: per_batch * (told.batches_per_epoch as u64 * told.epochs) as f64
            + evaluation_s * evaluations as f64,
        peak_memory_mb: measured.unwrap_or_else(|| {
            let windows = shards::window_mb(&train, plan.shard_window);
            windows + computed_mb(plan, train.classes.len(), plan.batch_size)
        }),
        memory_measured: measured.is_some(),
        checkpoint_bytes: bytes,
        // Last and best, the epochs kept, and the one that is being written.
        disk_bytes: bytes * (3 + plan.checkpoint_hist as u64),
        notes: told.notes.into_iter().filter(|n| n.starts_with("note: ")).collect(),
    };
    if let Some(path) = plot {
        write_atomically(path, svg(&estimate).as_bytes())?;
    }
    match json {
        true => out!("{}", serde_json::to_string_pretty(&estimate).expect("plain data")),
        false => out!("{}", text(&estimate).trim_end()),
    }
    Ok(0)
}

/// Weights, gradients and two states of the optimizer, and every map of a batch with its gradient.
pub(crate) fn computed_mb(plan: &Plan, classes: usize, batch: usize) -> f64 {
    let layers = plan.network(classes).layers(plan.img_size, plan.img_size, Naming::Torchvision);
    let maps: usize = layers.iter().map(|layer| layer.output.iter().product::<usize>()).sum();
    let weights: u64 = layers.iter().map(nn::layer_spec::LayerSpec::parameters).sum();
    (4.0 * weights as f64 + 2.0 * (maps * batch) as f64) * 4.0 / f64::from(1 << 20)
}

fn text(e: &Estimate) -> String {
    let mut text = String::new();
    let mut row = |name: &str, words: String| {
        let _ = writeln!(text, "{name:<14}{words}");
    };
    row("dry run", format!("{} on {}; nothing is kept", e.model, e.backend));
    e.notes.iter().for_each(|note| row("", note.clone()));
    row(
        "data",
        format!(
            "{}: {} classes, {} + {} images",
            e.data_dir.display(),
            e.classes,
            e.train_images,
            e.val_images
        ),
    );
    row(
        "network",
        format!(
            "{:.2} M parameters, {:.1} M multiply-adds at {}x{}",
            e.parameters as f64 / 1e6,
            e.multiply_adds as f64 / 1e6,
            e.img_size,
            e.img_size
        ),
    );
    let accumulated = match e.grad_accum_steps {
        1 => String::new(),
        n => format!(", {n} batches a step"),
    };
    row(
        "steps",
        format!(
            "{} an epoch ({} batches of {}{accumulated}), {} in {} epochs",
            e.steps_per_epoch, e.batches_per_epoch, e.batch_size, e.total_steps, e.epochs
        ),
    );
    let rates = || e.learning_rate.iter().map(|(_, lr)| *lr);
    row(
        "learning rate",
        format!(
            "{}  {:.2e} first, {:.2e} highest, {:.2e} last",
            sparkline(&rates().collect::<Vec<_>>()),
            rates().next().unwrap_or(0.0),
            rates().fold(0.0, f64::max),
            rates().next_back().unwrap_or(0.0)
        ),
    );
    let memory = match e.memory_measured {
        true => format!("measured over {} batches and an evaluation", e.measured_batches + WARM),
        false => "computed from layers and weights, at least".to_owned(),
    };
    row("memory", format!("{:.0} MB at the peak, {memory}", e.peak_memory_mb));
    let mb = |bytes: u64| bytes as f64 / 1e6;
    row(
        "disk",
        format!(
            "{:.1} MB a checkpoint (measured), at most {:.1} MB for the run",
            mb(e.checkpoint_bytes),
            mb(e.disk_bytes)
        ),
    );
    let span = |seconds: f64| clock(std::time::Duration::from_secs_f64(seconds.min(1e15)));
    row(
        "speed",
        format!(
            "{:.3} s a batch, {:.1} images/s, data wait {:.0} % (measured over {} batches); {:.1} s an evaluation",
            e.seconds_per_batch,
            e.images_per_s,
            e.data_wait_pct,
            e.measured_batches,
            e.evaluation_s
        ),
    );
    row(
        "time",
        format!(
            "{} for {} epochs, of it {} for {} evaluations",
            span(e.eta_s),
            e.epochs,
            span(e.evaluation_s * e.evaluations as f64),
            e.evaluations
        ),
    );
    text
}

/// Values as bars of eight heights, three values to a bar.
fn sparkline(values: &[f64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = values.iter().copied().fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let bar = |part: &[f64]| BARS[((mean(part) / most * 7.0).round() as usize).min(7)];
    values.chunks(3).map(bar).collect()
}

/// The learning-rate curve as an image.
fn svg(e: &Estimate) -> String {
    let most = e.learning_rate.iter().map(|(_, lr)| *lr).fold(0.0, f64::max);
    let last = e.learning_rate.last().map_or(1, |(step, _)| (*step).max(1));
    let place = |(step, lr): &(u64, f64)| {
        let x = 60.0 + 560.0 * *step as f64 / last as f64;
        let y = 200.0 - 160.0 * lr / most.max(f64::MIN_POSITIVE);
        format!("{x:.1},{y:.1}")
    };
    let points: Vec<String> = e.learning_rate.iter().map(place).collect();
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="640" height="240" font-family="sans-serif" font-size="12">
<rect width="640" height="240" fill="#fff"/>
<path d="M60 40V200H620" fill="none" stroke="#444"/>
<polyline points="{}" fill="none" stroke="#c2410c" stroke-width="2"/>
<text x="320" y="24" text-anchor="middle">learning rate of {}</text>
<text x="54" y="44" text-anchor="end">{most:.1e}</text><text x="54" y="204" text-anchor="end">0</text>
<text x="60" y="220">step 0</text><text x="620" y="220" text-anchor="end">{last} ({} epochs)</text>
</svg>
"##,
        points.join(" "),
        e.model,
        e.epochs
    )
}

#[cfg(test)]
mod tests {
    use super::sparkline;

    #[test]
    fn a_line_of_bars_follows_the_values() {
        let rise: Vec<f64> = (0..24).map(f64::from).collect();
        assert_eq!(sparkline(&rise), "▁▂▃▄▅▆▇█");
        assert_eq!(sparkline(&[0.0; 6]), "▁▁");
    }
}
