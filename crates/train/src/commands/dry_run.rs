//! `train --dry-run`: what a run will cost, before it begins.
//!
//! The real loop makes real steps on real batches in a scratch folder of the system and is then
//! stopped. Everything that it wrote is deleted, and nothing is made below `--output`. The output
//! says which numbers are measured and which are computed.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use burn::module::Module as _;
use nn::cost::cost;
use nn::layer_spec::Naming;
use serde::Serialize;

use crate::config::plan::Plan;
use crate::datasets::cache::CacheKind;
use crate::datasets::image_folder::ImageFolder;
use crate::datasets::loader::Mode;
use crate::datasets::shards::order::window_mb;
use crate::device::OpenedDevice;
use crate::distributed::communicator::Alone;
use crate::error::Error;
use crate::files::write_atomically;
use crate::learner::evaluate::evaluate;
use crate::optimizers::param_groups::{count_parameters, frozen};
use crate::out;
use crate::plot::line_chart::{LineChart, Series};
use crate::run::fit::fit;
use crate::run::observer::clock;
use crate::run::open_data;
use crate::run::probe::{BATCHES, Measurements, Probe, WARMUP_BATCHES};
use crate::run::retention::LAST;
use crate::run::trainer::Run;
use crate::signal::Stop;
use crate::system_memory::peak_rss_mb;

/// Batches of the evaluation that are measured.
const EVALUATED: usize = 8;

/// Points of the learning-rate curve.
const POINTS: u64 = 120;

/// Everything that a dry run finds out.
#[derive(Debug, Default, Serialize)]
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
    trainable_parameters: u64,
    frozen_parameters: u64,
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
    /// What the GPU's allocator holds after the probe, and what layers and weights need by
    /// computation; absent on a CPU.
    device_memory_mb: Option<[f64; 2]>,
    checkpoint_bytes: u64,
    /// Most that the run's checkpoints take at a time.
    disk_bytes: u64,
    notes: Vec<String>,
}

/// A folder that is removed on drop.
struct ScratchFolder(PathBuf);

impl Drop for ScratchFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Measures and prints. Nothing stays on the disk but the plot, if one is asked for.
///
/// # Errors
/// What would refuse the run itself: data, backend; a plot that cannot be written.
pub fn dry_run(
    plan: &Plan,
    opened: OpenedDevice,
    json: bool,
    plot: Option<&Path>,
) -> Result<u8, Error> {
    let (train, val) = open_data::open(plan)?;
    let stop = Stop::listen().map_err(|e| Error::file(format!("signals: {e}")))?;
    let (measurements, checkpoint_bytes) = run_probe(plan, &opened, &stop)?;
    if let Some(signal) = stop.requested() {
        return Ok(signal);
    }
    let images = [train.items.len(), val.items.len()];
    let evaluation_s = time_evaluation(plan, &opened, &stop, val, &train.classes)?;
    let memory = peak_rss_mb();
    let computed = || {
        let windows = window_mb(&train, plan.data.shard_window);
        windows + computed_mb(plan, train.classes.len(), plan.training.batch_size)
    };
    let classes = train.classes.len();
    let reserved = opened.device.memory_pool_usage().filter(|_| !opened.is_host());
    let needed = || computed_mb(plan, classes, plan.training.batch_size);
    let network = plan.network(classes);
    let (parameters, held) = count_parameters(&network, &frozen(&network, &plan.network.frozen())?);
    let estimate = Estimate {
        trainable_parameters: parameters - held,
        frozen_parameters: held,
        peak_memory_mb: memory.unwrap_or_else(computed),
        memory_measured: memory.is_some(),
        device_memory_mb: reserved.map(|pool| [pool.bytes_reserved as f64 / 1e6, needed()]),
        checkpoint_bytes,
        // Last and best, the epochs kept, and the one that is being written.
        disk_bytes: checkpoint_bytes * (3 + plan.checkpoints.checkpoint_hist as u64),
        ..Estimate::new(plan, opened.name, classes, images, measurements, evaluation_s)
    };
    if let Some(path) = plot {
        write_atomically(path, drawing(&estimate).as_bytes())?;
    }
    match json {
        true => out!("{}", serde_json::to_string_pretty(&estimate).expect("plain data")),
        false => out!("{}", text(&estimate).trim_end()),
    }
    Ok(0)
}

/// Runs the loop in a scratch folder until the probe has enough. Returns the measurements and the
/// bytes of a checkpoint.
fn run_probe(
    plan: &Plan,
    opened: &OpenedDevice,
    stop: &Stop,
) -> Result<(Measurements, u64), Error> {
    let scratch = ScratchFolder(
        std::env::temp_dir().join(format!("kindling-dry-run-{}", std::process::id())),
    );
    std::fs::create_dir_all(&scratch.0).map_err(|e| {
        Error::file(format!("{}: cannot make the folder: {e}", scratch.0.display()))
    })?;
    let mut plan = plan.clone();
    // A step takes no more batches than are measured.
    plan.training.grad_accum_steps = plan.training.grad_accum_steps.min(BATCHES);
    // No file is written but the last checkpoint.
    plan.checkpoints.checkpoint_hist = 0;
    plan.checkpoints.checkpoint_interval_steps = 0;
    plan.checkpoints.checkpoint_interval_minutes = 0.0;
    plan.training.max_hours = 0.0;
    // Neither memory nor a folder is filled with images that are not seen again.
    plan.data.cache = Some(CacheKind::None);
    let run = Run {
        plan,
        folder: scratch.0.clone(),
        from: None,
        fresh_optimizer: false,
        device: opened.device.clone(),
        backend: opened.name.clone(),
        log_interval: usize::MAX,
        stop: stop.clone(),
        communicator: Arc::new(Alone),
    };
    let probe = Probe::default();
    fit(run, &probe)?;
    let bytes = std::fs::metadata(scratch.0.join(LAST)).map_or(0, |file| file.len());
    Ok((probe.measurements(), bytes))
}

/// Seconds of an evaluation of `val`, from its first batches.
fn time_evaluation(
    plan: &Plan,
    opened: &OpenedDevice,
    stop: &Stop,
    mut val: ImageFolder,
    classes: &[String],
) -> Result<f64, Error> {
    let (all, batch_size) = (val.items.len(), plan.training.val_batch_size);
    val.items.truncate(batch_size * EVALUATED);
    let count = val.items.len();
    let loader = open_data::loader(plan, &Arc::new(val), Mode::Eval, batch_size);
    let network = plan.network(classes.len());
    let network =
        network.init_seeded(&opened.device.clone().autodiff(), plan.training.seed).valid();
    let began = Instant::now();
    evaluate(&network, &loader, classes, &opened.device, stop, |_| {}, &|_| {})?;
    Ok(began.elapsed().as_secs_f64() * all as f64 / count as f64)
}

impl Estimate {
    /// The estimate from the measured batches and the seconds of an evaluation, still without
    /// memory and disk. `images` are the numbers of training and validation images.
    fn new(
        plan: &Plan,
        backend: String,
        classes: usize,
        [train_images, val_images]: [usize; 2],
        measured: Measurements,
        evaluation_s: f64,
    ) -> Self {
        let cost = cost(&plan.network(classes), plan.data.img_size, plan.data.img_size);
        let steady = &measured.batches[WARMUP_BATCHES.min(measured.batches.len() - 1)..];
        let (mut seconds, mut waited, mut images) = (0.0, 0.0, 0);
        for batch in steady {
            seconds += batch.seconds;
            waited += batch.waited;
            images += batch.images;
        }
        let per_batch = seconds / steady.len() as f64;
        let batches = measured.batches_per_epoch as u64 * measured.epochs;
        let evaluations = measured.epochs.div_ceil(plan.training.val_interval);
        let steps_per_epoch =
            measured.batches_per_epoch.div_ceil(plan.training.grad_accum_steps) as u64;
        let total_steps = steps_per_epoch * measured.epochs;
        let schedule = plan.schedule(steps_per_epoch);
        let points = POINTS.min(total_steps.max(2) - 1);
        let at = |i: u64| (total_steps - 1) * i / points.max(1);
        Self {
            model: plan.network.model.clone(),
            backend,
            data_dir: plan.data.data_dir.clone(),
            classes,
            train_images,
            val_images,
            parameters: cost.parameters,
            multiply_adds: cost.multiply_adds,
            img_size: plan.data.img_size,
            batch_size: plan.training.batch_size,
            grad_accum_steps: plan.training.grad_accum_steps,
            batches_per_epoch: measured.batches_per_epoch,
            steps_per_epoch,
            epochs: measured.epochs,
            total_steps,
            learning_rate: (0..=points).map(|i| (at(i), schedule.at(at(i)))).collect(),
            measured_batches: steady.len(),
            seconds_per_batch: per_batch,
            images_per_s: images as f64 / seconds.max(1e-9),
            data_wait_pct: 100.0 * waited / seconds.max(1e-9),
            evaluation_s,
            evaluations,
            eta_s: per_batch * batches as f64 + evaluation_s * evaluations as f64,
            notes: measured.notes.into_iter().filter(|n| n.starts_with("note: ")).collect(),
            ..Self::default()
        }
    }
}
/// Weights, gradients and two states of the optimizer, and every map of a batch with its gradient.
pub(crate) fn computed_mb(plan: &Plan, classes: usize, batch: usize) -> f64 {
    let layers =
        plan.network(classes).layers(plan.data.img_size, plan.data.img_size, Naming::Torchvision);
    let maps: usize = layers.iter().map(|layer| layer.output.iter().product::<usize>()).sum();
    let weights: u64 = layers.iter().map(nn::layer_spec::LayerSpec::parameters).sum();
    let of_map = if plan.machine.amp { 2.0 } else { 4.0 };
    (16.0 * weights as f64 + 2.0 * of_map * (maps * batch) as f64) / f64::from(1 << 20)
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
            "{:.2} M parameters ({}), {:.1} M multiply-adds at {}x{}",
            e.parameters as f64 / 1e6,
            match e.frozen_parameters {
                0 => "all trained".to_owned(),
                frozen => format!("{} trained, {frozen} frozen", e.trainable_parameters),
            },
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
        true => format!(
            "measured over {} batches and an evaluation",
            e.measured_batches + WARMUP_BATCHES
        ),
        false => "computed from layers and weights, at least".to_owned(),
    };
    row("memory", format!("{:.0} MB at the peak, {memory}", e.peak_memory_mb));
    if let Some([held, needed]) = e.device_memory_mb {
        row(
            "GPU memory",
            format!("{held:.0} MB held after the batches measured; {needed:.0} MB by computation"),
        );
    }
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
fn drawing(e: &Estimate) -> String {
    let points = e.learning_rate.iter().map(|(step, lr)| [*step as f64, *lr]).collect();
    LineChart {
        title: format!("Learning rate of {} over {} epochs", e.model, e.epochs),
        x: "step".to_owned(),
        y: "learning rate".to_owned(),
        from_zero: true,
        series: vec![Series { name: String::new(), points, dots: false }],
        ..LineChart::default()
    }
    .svg()
}

#[cfg(test)]
mod tests {
    use super::sparkline;

    /// Mutations caught: other groups of values.
    #[test]
    fn a_line_of_bars_follows_the_values() {
        let rise: Vec<f64> = (0..24).map(f64::from).collect();
        assert_eq!(sparkline(&rise), "▁▂▃▄▅▆▇█");
        assert_eq!(sparkline(&[0.0; 6]), "▁▁");
    }
}
