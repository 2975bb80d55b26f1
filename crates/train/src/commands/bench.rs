//! `kindling bench`: how many images a second a network trains on or infers, on images of noise
//! that lie in memory.

use std::time::{Duration, Instant};

use burn::module::Module as _;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use clap::{Args, ValueEnum};
use kernels::allocator::try_with_capacity;
use kernels::ops::images::from_bytes;
use nn::cost::cost;
use nn::network::Network;
use serde::Serialize;

use crate::commands::model_args::{ModelArgs, build};
use crate::device::{Backend, is_host};
use crate::error::Error;
use crate::learner::loss::{soft_targets, with_auxiliary};
use crate::optimizers::optimizer::Optimizer;
use crate::optimizers::optimizer_kind::{OptimizerConfig, OptimizerKind};
use crate::out;
use crate::system_memory::{available, peak_rss_mb};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Work {
    /// Forward and backward pass; in `bench` an optimizer step (SGD with momentum) too.
    Train,
    /// Forward pass of the inference network.
    Infer,
}

/// Arguments of `kindling bench`.
#[derive(Args)]
pub struct BenchArgs {
    #[command(flatten)]
    selection: ModelArgs,
    /// Images per batch [range: 1 to 65536]
    #[arg(short, long, default_value_t = 16, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch_size: u32,
    /// Height and width of the images [default: the native size of the model] [range: up to 4096]
    #[arg(long, visible_aliases = ["imgsz", "image-size", "size"], value_name = "PIXELS")]
    img_size: Option<usize>,
    /// Work to measure
    #[arg(long, value_enum, default_value = "train")]
    mode: Work,
    /// Backend; `list` prints those of this machine
    #[arg(long, value_enum, default_value = "auto", value_name = "NAME")]
    backend: Backend,
    /// Batches to time [range: at least 1]
    #[arg(long, default_value_t = 10, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    batches: u32,
    /// Batches before the first one that is timed
    #[arg(long, default_value_t = 3, value_name = "N")]
    warmup: u32,
    /// Use 16-bit maps; a GPU alone has them [default: 32 bits]
    #[arg(long)]
    amp: bool,
    /// Print the result as JSON [default: text]
    #[arg(long)]
    json: bool,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Measured {
    model: String,
    mode: Work,
    backend: String,
    isa: &'static str,
    threads: usize,
    batch_size: usize,
    img_size: usize,
    amp: bool,
    batches: usize,
    /// Speed of the median batch.
    img_per_s: f64,
    ms: Milliseconds,
    /// The process's largest resident memory; absent where the system does not tell.
    peak_rss_mb: Option<f64>,
    /// Operations of convolutions and linear layers per second, in 10^9: two for each multiply-add,
    /// three times as many in training.
    gflops: f64,
}

/// Time of a batch.
#[derive(Debug, Serialize)]
struct Milliseconds {
    median: f64,
    min: f64,
    max: f64,
}

/// Runs the subcommand.
///
/// # Errors
/// Faults of flags and of the backend.
pub fn bench(args: &BenchArgs) -> Result<(), Error> {
    let chosen = args.backend.open_for(args.amp)?;
    let autodiff_device = chosen.device.clone().autodiff();
    let selection = ModelArgs { half_maps: args.amp, ..args.selection.clone() };
    let (network, _) = build(&selection, None, 0, &autodiff_device)?;
    let config = network.config().clone();
    let architecture = config.architecture;
    let size = args.img_size.unwrap_or(architecture.native_size());
    let least = architecture.min_size();
    if !(least..=4096).contains(&size) {
        return Err(Error::usage(format!(
            "--img-size: `{size}`: {} takes {least} to 4096",
            architecture.name()
        )));
    }
    let batch = args.batch_size as usize;
    let mut times = timed(args, batch_of(args.mode, network, batch, size, &autodiff_device));
    times.sort();
    let ms = |time: Duration| 1e3 * time.as_secs_f64();
    let median = times[times.len() / 2];
    let passes = if args.mode == Work::Train { 3.0 } else { 1.0 };
    let operations = 2.0 * passes * cost(&config, size, size).multiply_adds as f64;
    let img_per_s = batch as f64 / median.as_secs_f64();
    let measured = Measured {
        model: args.selection.model.clone().unwrap_or_default(),
        mode: args.mode,
        backend: chosen.name,
        isa: kernels::isa::Isa::chosen().name(),
        threads: rayon::current_num_threads(),
        batch_size: batch,
        img_size: size,
        amp: args.amp,
        batches: times.len(),
        img_per_s,
        ms: Milliseconds { median: ms(median), min: ms(times[0]), max: ms(times[times.len() - 1]) },
        peak_rss_mb: peak_rss_mb(),
        gflops: operations * img_per_s / 1e9,
    };
    if args.json {
        out!("{}", serde_json::to_string(&measured).expect("plain data"));
        return Ok(());
    }
    let m = &measured;
    out!("{} {:?} on {}, {} threads, {}", m.model, m.mode, m.backend, m.threads, m.isa);
    out!(
        "{:.1} images/s  {:.1} ms a batch of {batch} at {size}x{size} ({:.1} to {:.1})  {:.1} GFLOP/s{}",
        m.img_per_s,
        m.ms.median,
        m.ms.min,
        m.ms.max,
        m.gflops,
        m.peak_rss_mb.map_or_else(String::new, |mb| format!("  peak {mb:.0} MB"))
    );
    Ok(())
}

/// Values of noise, -1 to 1.
///
/// # Panics
/// Where the machine has no memory for them, in the words that `catch_oom` knows.
pub(super) fn noise(count: usize) -> Vec<f32> {
    let fits = |bytes: u64| available().is_none_or(|free| bytes <= free);
    let values = if fits(4 * count as u64) { try_with_capacity(count) } else { None };
    let Some(mut values) = values else {
        panic!("out of memory: no {} MB for the input", (4 * count).div_ceil(1 << 20));
    };
    let value = |i: usize| ((i.wrapping_mul(2_654_435_761) >> 8) % 2048) as f32 / 1024.0 - 1.0;
    values.extend((0..count).map(value));
    values
}

/// Images of noise, the same for every batch: copied as a loader would give them, in numbers for a
/// CPU and in bytes for a GPU.
fn images(batch: usize, size: usize, device: &Device) -> impl Fn() -> Tensor<4> + use<> {
    let values = noise(batch * 3 * size * size);
    let (device, host) = (device.clone(), is_host(device));
    let bytes: Vec<u8> = match host {
        true => Vec::new(),
        false => values.iter().map(|value| (128.0 + 127.0 * value) as u8).collect(),
    };
    let data = TensorData::new(values, [batch, 3, size, size]);
    move || match host {
        true => Tensor::from_data(data.clone(), &device),
        false => from_bytes(bytes.clone(), [batch, size, size], [[0.5; 3]; 2], &device),
    }
}

fn timed(args: &BenchArgs, mut batch: impl FnMut()) -> Vec<Duration> {
    (0..args.warmup).for_each(|_| batch());
    let mut time = || {
        let start = Instant::now();
        batch();
        start.elapsed()
    };
    (0..args.batches).map(|_| time()).collect()
}

/// One batch of the work on images of noise, which ends when the device has computed it.
///
/// # Panics
/// Where the machine has no memory for the images, in the words that `catch_oom` knows.
pub(super) fn batch_of(
    mode: Work,
    network: Network,
    batch: usize,
    size: usize,
    autodiff_device: &Device,
) -> Box<dyn FnMut()> {
    match mode {
        Work::Train => Box::new(train(network, batch, size, autodiff_device)),
        Work::Infer => Box::new(infer(network.valid(), batch, size, autodiff_device)),
    }
}

fn infer(
    network: Network,
    batch: usize,
    size: usize,
    autodiff_device: &Device,
) -> impl FnMut() + use<> {
    let images = images(batch, size, &autodiff_device.clone().inner());
    move || {
        let logits = network.forward(images());
        let _ = logits.into_data(); // waits for the device
    }
}

fn train(
    network: Network,
    batch: usize,
    size: usize,
    autodiff_device: &Device,
) -> impl FnMut() + use<> {
    let config = OptimizerConfig { weight_decay: 4e-5, ..OptimizerKind::Sgd.config() };
    let mut optimizer = Optimizer::new(config);
    let classes = network.config().num_classes;
    let labels: Vec<i64> = (0..batch).map(|i| (i % classes) as i64).collect();
    let (images, device) = (images(batch, size, autodiff_device), autodiff_device.clone());
    let mut network = Some(network);
    let mut step = 0;
    move || {
        let now = network.take().expect("put back below");
        let outputs = now.forward_train(images(), step);
        let loss = with_auxiliary(&outputs, soft_targets(&labels, classes, 0.0, &device));
        let gradients = GradientsParams::from_grads(loss.backward(), &now);
        network = Some(optimizer.step(1e-3, now, gradients));
        let _ = loss.into_data(); // waits for the device
        step += 1;
    }
}
