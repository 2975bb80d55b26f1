//! `kindling profile`: how long each layer of a network takes, against what this machine could do
//! at best.

mod kernels_of_device;
pub mod roofline;

use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::module::Module as _;
use burn::nn::{Initializer, LinearConfig};
use burn::tensor::{Device, Tensor, TensorData};
use clap::Args;
use kernels::ops::cpu_tensor::supports;
use nn::block::conv_norm_activation::ConvNormActivation;
use nn::block::convolution::Convolution;
use nn::block::pooling::{global_mean, max_pool, mean_pool};
use nn::config::Norm;
use nn::layer_spec::{LayerOperation, LayerSpec, Naming};
use serde::Serialize;

use crate::commands::bench::{Work, noise};
use crate::commands::model_args::{ModelArgs, build, size_or_native};
use crate::commands::profile::kernels_of_device::{Request, report};
use crate::commands::profile::roofline::Roof;
use crate::device::Backend;
use crate::error::Error;
use crate::files::{refuse_other_extension, write_atomically};
use crate::out;
use crate::plot::svg::Svg;

/// Arguments of `kindling profile`.
#[derive(Args)]
pub struct ProfileArgs {
    /// Model; `kindling models` lists them [default: --model]
    #[arg(value_name = "MODEL")]
    name: Option<String>,
    #[command(flatten)]
    selection: ModelArgs,
    /// Images per batch [range: 1 to 4096]
    #[arg(short, long, default_value_t = 16, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch_size: u32,
    /// Height and width of the images [default: the native size of the model] [range: up to
    /// 16384]
    #[arg(long, visible_aliases = ["imgsz", "image-size", "size"], value_name = "PIXELS")]
    img_size: Option<usize>,
    /// Work to measure
    #[arg(long, value_enum, default_value = "train")]
    mode: Work,
    /// Backend; `list` prints those of this machine
    #[arg(long, value_enum, default_value = "auto", value_name = "NAME")]
    backend: Backend,
    /// Count launches, bytes and chains of a batch on the GPU instead of timing layers; nothing runs
    #[arg(long, conflicts_with_all = ["kernels", "svg"])]
    count: bool,
    /// Time every kernel of a batch on the GPU instead of layers
    #[arg(long, conflicts_with = "svg")]
    kernels: bool,
    /// Runs of each layer, of which the median counts [range: at least 1]
    #[arg(long, default_value_t = 5, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,
    /// SVG file of the result [default: none]
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Use 16-bit maps; a GPU alone has them [default: 32 bits]
    #[arg(long)]
    amp: bool,
    /// Print JSON [default: text]
    #[arg(long)]
    json: bool,
}

/// A layer's times and what they would be at the roof.
#[derive(Serialize)]
struct LayerProfile {
    layer: String,
    operation: &'static str,
    output: [usize; 3],
    multiply_adds: u64,
    /// Read and written by the forward pass at least: input, weights, output.
    bytes: u64,
    forward: Timed,
    backward: Option<Timed>,
}

/// A pass of a layer.
#[derive(Clone, Copy, Serialize)]
struct Timed {
    ms: f64,
    gflops: f64,
    /// The time at the roof over the time taken. Operations are those of the definition, bytes
    /// those of memory: minimal filtering, which needs fewer, and a map that a cache holds pass 1.
    /// Absent on a GPU, whose roof is not measured.
    of_roof: Option<f64>,
}

#[derive(Serialize)]
struct Whole<'a> {
    model: &'a str,
    backend: &'a str,
    batch_size: usize,
    img_size: usize,
    roof: Option<Roof>,
    layers: &'a [LayerProfile],
}

/// Runs the subcommand.
///
/// # Errors
/// An unknown model, an impossible size, a missing backend, an image that cannot be written.
pub fn profile(args: &ProfileArgs) -> Result<(), Error> {
    args.svg.as_deref().map_or(Ok(()), |path| refuse_other_extension(path, "svg"))?;
    let mut selection = args.selection.clone();
    selection.model = args.name.clone().or(selection.model);
    selection.half_maps = args.amp;
    let config = selection.config(&[], None)?;
    let size = size_or_native(args.img_size, config.architecture)?;
    let chosen = args.backend.open_for(args.amp)?;
    let batch = args.batch_size as usize;
    if args.amp && !(args.count || args.kernels) {
        return Err(Error::usage("--amp: layers are timed in 32 bits; add --count or --kernels"));
    }
    if args.count || args.kernels {
        let (network, _) = build(&selection, None, 0, &chosen.device.clone().autodiff())?;
        let request = Request { mode: args.mode, times: args.kernels, json: args.json };
        return report(network, &chosen, [batch, size], &request);
    }
    let roof = (!chosen.name.starts_with("wgpu")).then(Roof::measure);
    let norm = Norm { epsilon: config.bn_eps, momentum: config.bn_momentum };
    let bench = LayerBench {
        device: chosen.device.clone(),
        train: args.mode == Work::Train,
        batch,
        repeats: args.repeats as usize,
        norm,
        roof,
    };
    let layers = config.layers(size, size, Naming::Torchvision);
    let rows: Vec<LayerProfile> = layers
        .iter()
        .filter(|layer| !layer.auxiliary)
        .enumerate()
        .map(|(i, layer)| bench.row(layer, i > 0))
        .collect();
    let model = selection.model.as_deref().unwrap_or(config.architecture.name());
    let backend = &chosen.name;
    let whole = Whole { model, backend, batch_size: batch, img_size: size, roof, layers: &rows };
    if let Some(path) = &args.svg {
        draw(path, &whole)?;
    }
    match args.json {
        true => out!("{}", serde_json::to_string_pretty(&whole).expect("plain data")),
        false => print(&whole),
    }
    Ok(())
}

/// What all layers are run with.
struct LayerBench {
    device: Device,
    train: bool,
    batch: usize,
    repeats: usize,
    norm: Norm,
    roof: Option<Roof>,
}

impl LayerBench {
    fn row(&self, layer: &LayerSpec, input_too: bool) -> LayerProfile {
        let (forward, backward) = self.run(layer, input_too);
        let values = |shape: [usize; 3]| (self.batch * shape.iter().product::<usize>()) as u64;
        let bytes = 4 * (values(layer.input) + values(layer.output) + layer.parameters());
        let multiply_adds = self.batch as u64 * layer.multiply_adds();
        // Backward makes two products of the forward's size, and passes over as much twice; without
        // the input's gradient, one.
        let passes = if input_too { 2.0 } else { 1.0 };
        let timed = |ms: f64, passes: f64| {
            let (operations, bytes) = (2.0 * passes * multiply_adds as f64, passes * bytes as f64);
            let best = self.roof.map(|roof| roof.milliseconds(operations, bytes));
            Timed { ms, gflops: operations / ms / 1e6, of_roof: best.map(|best| best / ms) }
        };
        LayerProfile {
            layer: layer.name.clone(),
            operation: name(layer),
            output: layer.output,
            multiply_adds: layer.multiply_adds(),
            bytes,
            forward: timed(forward, 1.0),
            backward: backward.map(|ms| timed(ms, passes)),
        }
    }

    /// A map in the order in which the layer before leaves it: channels last where the kernels
    /// serve.
    fn map(&self, [b, c, h, w]: [usize; 4], tracked: bool) -> Tensor<4> {
        let x = self.input([b, c, h, w], false);
        let x = match supports(&x) {
            true => self.input([b, h, w, c], false).permute([0, 3, 1, 2]),
            false => x,
        };
        if tracked && self.train { x.require_grad() } else { x }
    }

    fn input<const D: usize>(&self, shape: [usize; D], tracked: bool) -> Tensor<D> {
        let data = TensorData::new(noise(shape.iter().product()), shape);
        if !self.train {
            return Tensor::from_data(data, &self.device);
        }
        let x = Tensor::from_data(data, &self.device.clone().autodiff());
        if tracked { x.require_grad() } else { x }
    }

    /// Milliseconds of forward and backward.
    fn run(&self, layer: &LayerSpec, input_too: bool) -> (f64, Option<f64>) {
        let [c, h, w] = layer.input;
        let autodiff_device = self.device.clone().autodiff();
        let map = || self.map([self.batch, c, h, w], input_too);
        match layer.operation {
            LayerOperation::Convolution { conv, norm: true, .. } => {
                let block =
                    ConvNormActivation::new(conv, self.norm, layer.activation, &autodiff_device);
                if self.train {
                    return self.time_map(&map(), |x| block.forward(x));
                }
                let block = block.valid();
                self.time_map(&map(), |x| block.forward(x))
            }
            LayerOperation::Convolution { conv, .. } => {
                let conv = Convolution::new(conv, &autodiff_device);
                if self.train {
                    return self.time_map(&map(), |x| conv.forward(x));
                }
                let conv = conv.valid();
                self.time_map(&map(), |x| conv.forward(x))
            }
            LayerOperation::MaxPool(pool) => self.time_map(&map(), |x| max_pool(x, pool)),
            LayerOperation::MeanPool(pool) => self.time_map(&map(), |x| mean_pool(x, pool)),
            LayerOperation::AdaptiveMean(_) => self.time(&map(), global_mean),
            LayerOperation::Linear => {
                let features = layer.input.iter().product();
                let linear = LinearConfig::new(features, layer.output[0])
                    .with_initializer(Initializer::Zeros)
                    .init(&autodiff_device);
                let linear = if self.train { linear } else { linear.valid() };
                let bias = linear.bias.as_ref().expect("a linear layer has one by default");
                let x = self.input([self.batch, features], input_too);
                // The layout that the networks use.
                self.time(&x, |x| kernels::ops::linear::linear(x, linear.weight.val(), bias.val()))
            }
        }
    }

    /// A layer that gives a map: the gradient reaches it through the mean, as it comes from a layer
    /// of the network.
    fn time_map(
        &self,
        x: &Tensor<4>,
        forward: impl Fn(Tensor<4>) -> Tensor<4>,
    ) -> (f64, Option<f64>) {
        self.time_with(x, forward, |y| global_mean(y).sum())
    }

    fn time<const D: usize>(
        &self,
        x: &Tensor<D>,
        forward: impl Fn(Tensor<D>) -> Tensor<2>,
    ) -> (f64, Option<f64>) {
        self.time_with(x, forward, |y| y.sum())
    }

    fn time_with<const D: usize, const E: usize>(
        &self,
        x: &Tensor<D>,
        forward: impl Fn(Tensor<D>) -> Tensor<E>,
        loss: impl Fn(Tensor<E>) -> Tensor<1>,
    ) -> (f64, Option<f64>) {
        let (mut forwards, mut backwards) = (Vec::new(), Vec::new());
        // The first run makes the weights and the memory.
        for i in 0..=self.repeats {
            let start = Instant::now();
            let y = forward(x.clone());
            self.wait();
            let forward = start.elapsed().as_secs_f64();
            let mut backward = 0.0;
            if self.train {
                let loss = loss(y);
                self.wait();
                let start = Instant::now();
                let gradients = loss.backward();
                self.wait();
                backward = start.elapsed().as_secs_f64();
                drop(gradients);
            }
            if i > 0 {
                forwards.push(1e3 * forward);
                backwards.push(1e3 * backward);
            }
        }
        (median(forwards), self.train.then(|| median(backwards)))
    }

    fn wait(&self) {
        self.device.sync().expect("a device that works");
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn name(layer: &LayerSpec) -> &'static str {
    match layer.operation {
        LayerOperation::Convolution { conv, .. } if conv.is_depthwise() => "depthwise",
        LayerOperation::Convolution { conv, .. } if conv.is_pointwise() => "pointwise",
        LayerOperation::Convolution { .. } => "convolution",
        LayerOperation::MaxPool(_) => "max pool",
        LayerOperation::MeanPool(_) => "mean pool",
        LayerOperation::AdaptiveMean(_) => "mean",
        LayerOperation::Linear => "linear",
    }
}

fn percent(of_roof: Option<f64>) -> String {
    of_roof.map_or_else(|| "-".to_owned(), |share| format!("{:.0} %", 100.0 * share))
}

fn print(whole: &Whole<'_>) {
    let rows = whole.layers;
    let wide = rows.iter().map(|r| r.layer.len()).max().unwrap_or(5).max(5);
    let head = ["output", "M mult-adds", "MB", "ms", "GFLOP/s", "of roof"];
    let [output, macs, bytes, ms, gflops, roof] = head;
    let backward = if rows.iter().any(|r| r.backward.is_some()) {
        format!(" | {:>8} {gflops:>8} {roof:>8}", "backward")
    } else {
        String::new()
    };
    out!(
        "{:<wide$} {:<11} {output:>12} {macs:>12} {bytes:>7} {ms:>8} {gflops:>8} {roof:>8}{backward}",
        "layer",
        "operation"
    );
    for r in rows {
        let pass = |t: &Timed| format!("{:>8.3} {:>8.1} {:>8}", t.ms, t.gflops, percent(t.of_roof));
        let shape = format!("{}x{}x{}", r.output[0], r.output[1], r.output[2]);
        let backward = r.backward.as_ref().map_or_else(String::new, |t| format!(" | {}", pass(t)));
        let (macs, mb) = (r.multiply_adds as f64 / 1e6, r.bytes as f64 / 1e6);
        out!(
            "{:<wide$} {:<11} {shape:>12} {macs:>12.2} {mb:>7.1} {}{backward}",
            r.layer,
            r.operation,
            pass(&r.forward)
        );
    }
    let kinds =
        ["convolution", "pointwise", "depthwise", "max pool", "mean pool", "mean", "linear"];
    let total = |kind: Option<&str>| -> f64 {
        let wanted = rows.iter().filter(|r| kind.is_none_or(|kind| r.operation == kind));
        wanted.map(|r| r.forward.ms + r.backward.map_or(0.0, |t| t.ms)).sum()
    };
    let all = total(None);
    for kind in kinds {
        let ms = total(Some(kind));
        if ms > 0.0 {
            out!("{kind:<12} {ms:9.2} ms {:5.1} %", 100.0 * ms / all);
        }
    }
    out!(
        "{} on {}, batch {} at {size}x{size}: {all:.1} ms in its layers, one by one",
        whole.model,
        whole.backend,
        whole.batch_size,
        size = whole.img_size,
    );
    if let Some(roof) = &whole.roof {
        out!(
            "roof: {:.0} GFLOP/s (a matrix product in the cache), {:.1} GB/s (a copy, read and written); a layer passes it where \
             a cache holds its map, or where a 3x3 convolution needs fewer operations than its definition",
            roof.gflops,
            roof.gbytes_per_s
        );
    }
}

/// Writes a bar for every layer: forward, backward, and a mark at the time at the roof.
fn draw(path: &Path, whole: &Whole<'_>) -> Result<(), Error> {
    const ROW: usize = 16;
    const TEXT: f64 = 260.0;
    const BARS: f64 = 640.0;
    let rows = whole.layers;
    let time = |r: &LayerProfile| r.forward.ms + r.backward.map_or(0.0, |t| t.ms);
    let most = rows.iter().map(time).fold(1e-9, f64::max);
    let scale = BARS / most;
    let height = ROW * (rows.len() + 4);
    let mut svg = Svg::new(
        TEXT + BARS + 90.0,
        height as f64,
        "Milliseconds of each layer: forward, backward, and the roof",
    );
    svg.add(&format!(
        "<text x=\"8\" y=\"16\" font-size=\"13\">{}, {}, batch {} at {3}x{3}</text>\n\
         <text x=\"8\" y=\"32\" class=\"muted\">milliseconds: forward (blue), backward (orange); \
         the line is the time at this machine's roof</text>",
        whole.model, whole.backend, whole.batch_size, whole.img_size
    ));
    for (i, r) in rows.iter().enumerate() {
        let y = ROW * (i + 3);
        let (forward, backward) = (r.forward.ms * scale, r.backward.map_or(0.0, |t| t.ms) * scale);
        let at_roof = |t: &Timed| t.of_roof.map(|share| share * t.ms);
        let roof =
            at_roof(&r.forward).map(|ms| ms + r.backward.as_ref().and_then(at_roof).unwrap_or(0.0));
        svg.add(&format!(
            "<text x=\"8\" y=\"{}\">{} <tspan class=\"muted\">{}</tspan></text>\n\
             <rect x=\"{TEXT}\" y=\"{}\" width=\"{forward:.1}\" height=\"11\" fill=\"var(--c0)\"/>\n\
             <rect x=\"{:.1}\" y=\"{}\" width=\"{backward:.1}\" height=\"11\" fill=\"var(--c1)\"/>\n\
             <text x=\"{:.1}\" y=\"{}\">{:.2}</text>",
            y + 10,
            r.layer,
            r.operation,
            y + 1,
            TEXT + forward,
            y + 1,
            TEXT + forward + backward + 5.0,
            y + 10,
            time(r)
        ));
        if let Some(ms) = roof {
            let x = TEXT + ms * scale;
            svg.add(&format!(
                "<path d=\"M{x:.1} {} V{}\" stroke=\"var(--ink)\" stroke-width=\"1.5\"/>",
                y,
                y + 13
            ));
        }
    }
    write_atomically(path, svg.finish().as_bytes())
}
