//! What may be written (flags, TOML) becomes a checked [`Plan`]. Precedence: default < file < flag.
//! After a `Plan` exists nothing in it can be invalid.

use std::path::{Path, PathBuf};

use clap::Args;
use nn::activation::Activation;
use nn::block::convolution::Padding;
use nn::network::{Architecture, NetworkConfig};
use nn::variants::Variant;
use serde::{Deserialize, Serialize};

use crate::backend::Backend;
use crate::failure::Failure;
use crate::optimizer::{OptimizerConfig, Rule};
use crate::preprocess::{Augment, Interpolation, Preprocess};
use crate::schedule::{Decay, Schedule};

/// Every option of a run, as typed: in a configuration file by the same names with `_` for `-`.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Folder with train/<class>/* and val/<class>/* [default: datasets/fashion-mnist-mini]
    #[arg(value_name = "DIR", conflicts_with = "data_dir_flag")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// The same as DIR
    #[arg(long = "data-dir", alias = "data-path", alias = "data", value_name = "DIR")]
    #[serde(skip)]
    pub data_dir_flag: Option<PathBuf>,
    /// Architecture; `kindling models` lists them
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Width multiplier
    #[arg(long, alias = "alpha", value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<f64>,
    /// Height and width of what the network sees, in pixels
    #[arg(long, alias = "imgsz", alias = "image-size")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub img_size: Option<usize>,
    /// Centre crop as a share of the resized short edge
    #[arg(long, value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop_pct: Option<f64>,
    /// Resampling filter
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interpolation: Option<Interpolation>,
    /// Mean of each channel, after division by 255
    #[arg(long, num_args = 3, value_names = ["R", "G", "B"])]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<Vec<f32>>,
    /// Standard deviation of each channel
    #[arg(long, num_args = 3, value_names = ["R", "G", "B"])]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<Vec<f32>>,
    /// Turn pictures by their EXIF orientation
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exif: Option<bool>,
    /// Area of the random resized crop, as shares of the picture; `1 1` keeps it whole
    #[arg(long, num_args = 2, value_names = ["MIN", "MAX"])]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<Vec<f64>>,
    /// Aspect ratio of the random resized crop
    #[arg(long, num_args = 2, value_names = ["MIN", "MAX"])]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<Vec<f64>>,
    /// Probability of a horizontal flip
    #[arg(long, value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hflip: Option<f64>,
    /// End at the first unreadable picture instead of skipping it
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strict_data: Option<bool>,
    /// Pictures per batch
    #[arg(short, long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<usize>,
    /// Pictures per batch of the evaluation
    #[arg(long, alias = "validation-batch-size")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_batch_size: Option<usize>,
    /// Batches whose gradients are averaged into one step
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grad_accum_steps: Option<usize>,
    /// Passes over the training pictures
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u64>,
    /// Threads that read and prepare pictures
    #[arg(short = 'j', long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<usize>,
    /// Optimizer
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opt: Option<Rule>,
    /// Peak learning rate
    #[arg(long, value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Momentum of sgd and rmsprop
    #[arg(long, value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
    /// Epsilon of rmsprop and adamw
    #[arg(long, value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opt_eps: Option<f64>,
    /// Weight decay; never applied to norm and bias
    #[arg(long, alias = "wd", value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// Schedule after the warm-up
    #[arg(long, value_enum, alias = "lr-scheduler")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sched: Option<Decay>,
    /// Epochs of linear warm-up
    #[arg(long, alias = "lr-warmup-epochs", value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_epochs: Option<f64>,
    /// Learning rate of the first step
    #[arg(long, value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_lr: Option<f64>,
    /// Floor of the learning rate
    #[arg(long, value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_lr: Option<f64>,
    /// Epochs between two drops of `--sched step`
    #[arg(long, alias = "lr-step-size", value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay_epochs: Option<f64>,
    /// Factor of one drop
    #[arg(long, alias = "lr-gamma", value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay_rate: Option<f64>,
    /// Label smoothing
    #[arg(long, alias = "label-smoothing", value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smoothing: Option<f64>,
    /// Dropout before the classifier
    #[arg(long, alias = "dropout", value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop: Option<f64>,
    /// Momentum of the batch-norm statistics (torch's convention)
    #[arg(long, value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bn_momentum: Option<f64>,
    /// Epsilon of batch norm
    #[arg(long, value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bn_eps: Option<f64>,
    /// Border of the MobileNets' convolutions: torch's or TensorFlow's [default: the variant's]
    #[arg(long, value_parser = padding)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub padding: Option<Padding>,
    /// ReLU instead of ReLU6 in MobileNetV1
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relu: Option<bool>,
    /// Train with the auxiliary heads of GoogLeNet and Inception v3
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aux: Option<bool>,
    /// Start from these weights (.pth, .safetensors or a Kindling checkpoint)
    #[arg(long, alias = "weights")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pretrained_path: Option<PathBuf>,
    /// Seed of initial weights, order, augmentation and dropout
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Where the network runs
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<Backend>,
    /// Run folders are made below this folder
    #[arg(long, alias = "output-dir")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<PathBuf>,
    /// Name of the run folder [default: date-time-model-size]
    #[arg(long, alias = "name")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experiment: Option<String>,
    /// Epoch checkpoints to keep beside last and best
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_hist: Option<usize>,
    /// Also save every so many optimizer steps; 0 is at epoch ends only
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_interval_steps: Option<u64>,
    /// Batches between two console lines
    #[arg(long, alias = "print-freq")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_interval: Option<usize>,
}

/// A run, resolved and checked. Written to `args.toml`, which `--config` reads back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields are those of `Options`, documented there")]
pub struct Plan {
    pub data_dir: PathBuf,
    pub model: String,
    pub width: f64,
    pub img_size: usize,
    pub crop_pct: f64,
    pub interpolation: Interpolation,
    pub mean: [f32; 3],
    pub std: [f32; 3],
    pub exif: bool,
    pub scale: [f64; 2],
    pub ratio: [f64; 2],
    pub hflip: f64,
    pub strict_data: bool,
    pub batch_size: usize,
    pub val_batch_size: usize,
    pub grad_accum_steps: usize,
    pub epochs: u64,
    pub workers: usize,
    pub opt: Rule,
    pub lr: f64,
    pub momentum: f64,
    pub opt_eps: f64,
    pub weight_decay: f64,
    pub sched: Decay,
    pub warmup_epochs: f64,
    pub warmup_lr: f64,
    pub min_lr: f64,
    pub decay_epochs: f64,
    pub decay_rate: f64,
    pub smoothing: f64,
    pub drop: f64,
    pub bn_momentum: f64,
    pub bn_eps: f64,
    #[serde(default = "symmetric")]
    pub padding: Padding,
    #[serde(default)]
    pub relu: bool,
    #[serde(default)]
    pub aux: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pretrained_path: Option<PathBuf>,
    pub seed: u64,
    pub backend: Backend,
    pub output: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experiment: Option<String>,
    pub checkpoint_hist: usize,
    pub checkpoint_interval_steps: u64,
    pub log_interval: usize,
}

/// The data set that the repository carries.
pub const DEFAULT_DATA: &str = "datasets/fashion-mnist-mini";

impl Options {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// Unreadable file, wrong TOML, or an unknown key, with the nearest known one.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let place = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::usage(format!("{place}: cannot read the configuration: {error}"))
        })?;
        let table = text.parse::<toml::Table>().unwrap_or_default();
        let broken = |v: &toml::Value| v.as_float().is_some_and(|f| !f.is_finite());
        if let Some((key, _)) = table.iter().find(|(_, v)| broken(v)) {
            return Err(Failure::usage(format!("{place}: {key}: not a finite number")));
        }
        toml::from_str(&text).map_err(|error| {
            let before = error.span().map_or("", |s| text.get(..s.start).unwrap_or(&text));
            let line = 1 + before.matches('\n').count();
            let message = error.message();
            let hint = unknown_key(message)
                .and_then(|(key, known)| nearest(&key, &known).map(|n| (key, n)))
                .map(|(key, near)| format!("unknown key `{key}`; did you mean `{near}`?"));
            let message = hint.unwrap_or_else(|| message.replace('\n', " "));
            Failure::usage(format!("{place}: line {}: {message}", line))
        })
    }

    /// These options over `under`: what is given here wins.
    #[must_use]
    pub fn over(&self, under: &Options) -> Options {
        let mut merged = serde_json::to_value(under).expect("options are plain data");
        let mut top = self.clone();
        top.data_dir = top.data_dir.or(top.data_dir_flag.take());
        let top = serde_json::to_value(top).expect("options are plain data");
        if let (Some(merged), serde_json::Value::Object(top)) = (merged.as_object_mut(), top) {
            merged.extend(top);
        }
        serde_json::from_value(merged).expect("both sides were options")
    }

    /// The names and values given, for messages.
    pub fn given(&self) -> serde_json::Map<String, serde_json::Value> {
        let own = self.over(&Options::default());
        match serde_json::to_value(own).expect("options are plain data") {
            serde_json::Value::Object(map) => map,
            _ => unreachable!("a struct serialises to an object"),
        }
    }

    /// Fills in the defaults and checks everything.
    ///
    /// # Errors
    /// The first value out of its range, by flag name, with the range.
    pub fn plan(&self) -> Result<Plan, Failure> {
        let name = self.model.as_deref().unwrap_or("mobilenet_v3_large");
        let variant = crate::selection::variant(name)?;
        let standard = variant.config(1);
        let three = |flag: &str, given: &Option<Vec<f32>>, default: [f32; 3]| match given {
            None => Ok(default),
            Some(v) => <[f32; 3]>::try_from(v.as_slice()).map_err(|_| {
                Failure::usage(format!("{flag}: expected 3 numbers, got {}", v.len()))
            }),
        };
        let two = |flag: &str, given: &Option<Vec<f64>>, default: [f64; 2]| match given {
            None => Ok(default),
            Some(v) => <[f64; 2]>::try_from(v.as_slice()).map_err(|_| {
                Failure::usage(format!("{flag}: expected 2 numbers, got {}", v.len()))
            }),
        };
        let on_default = self.data_dir.is_none();
        let opt = self.opt.unwrap_or(Rule::Adamw);
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let plan = Plan {
            data_dir: self.data_dir.clone().unwrap_or_else(|| DEFAULT_DATA.into()),
            model: variant.name.to_owned(),
            width: self.width.unwrap_or(standard.width),
            // The carried pictures are 28x28 and gray.
            img_size: self.img_size.unwrap_or(if on_default {
                standard.architecture.least_size().max(48)
            } else {
                standard.architecture.native_size()
            }),
            crop_pct: self.crop_pct.unwrap_or(if on_default { 1.0 } else { 0.875 }),
            interpolation: self.interpolation.unwrap_or(Interpolation::Bilinear),
            mean: three("--mean", &self.mean, [0.485, 0.456, 0.406])?,
            std: three("--std", &self.std, [0.229, 0.224, 0.225])?,
            exif: self.exif.unwrap_or(false),
            scale: two("--scale", &self.scale, if on_default { [0.6, 1.0] } else { [0.08, 1.0] })?,
            ratio: two("--ratio", &self.ratio, [3.0 / 4.0, 4.0 / 3.0])?,
            hflip: self.hflip.unwrap_or(0.5),
            strict_data: self.strict_data.unwrap_or(false),
            batch_size: self.batch_size.unwrap_or(32),
            val_batch_size: self.val_batch_size.or(self.batch_size).unwrap_or(64),
            grad_accum_steps: self.grad_accum_steps.unwrap_or(1),
            epochs: self.epochs.unwrap_or(if on_default { 12 } else { 100 }),
            workers: self.workers.unwrap_or(cores.min(8)),
            opt,
            lr: self.lr.unwrap_or(match opt {
                Rule::Sgd => 0.05,
                Rule::Rmsprop | Rule::Adamw => 0.002,
            }),
            momentum: self.momentum.unwrap_or(0.9),
            opt_eps: self.opt_eps.unwrap_or(match opt {
                Rule::Rmsprop => 0.0316,
                Rule::Sgd | Rule::Adamw => 1e-8,
            }),
            weight_decay: self.weight_decay.unwrap_or(match opt {
                Rule::Adamw => 0.01,
                Rule::Sgd | Rule::Rmsprop => 1e-5,
            }),
            sched: self.sched.unwrap_or(Decay::Cosine),
            warmup_epochs: self.warmup_epochs.unwrap_or(1.0),
            warmup_lr: self.warmup_lr.unwrap_or(1e-5),
            min_lr: self.min_lr.unwrap_or(0.0),
            decay_epochs: self.decay_epochs.unwrap_or(2.0),
            decay_rate: self.decay_rate.unwrap_or(0.973),
            smoothing: self.smoothing.unwrap_or(0.0),
            drop: self.drop.unwrap_or(standard.dropout),
            // 0.01 needs thousands of steps before the running statistics mean anything.
            bn_momentum: self.bn_momentum.unwrap_or(if on_default {
                0.1
            } else {
                standard.bn_momentum
            }),
            bn_eps: self.bn_eps.unwrap_or(standard.bn_eps),
            padding: self.padding.unwrap_or(standard.padding),
            relu: self.relu.unwrap_or(false),
            aux: self.aux.unwrap_or(false),
            pretrained_path: self.pretrained_path.clone(),
            seed: self.seed.unwrap_or(42),
            backend: self.backend.unwrap_or(Backend::Auto),
            output: self.output.clone().unwrap_or_else(|| "checkpoints".into()),
            experiment: self.experiment.clone(),
            checkpoint_hist: self.checkpoint_hist.unwrap_or(2),
            checkpoint_interval_steps: self.checkpoint_interval_steps.unwrap_or(0),
            log_interval: self.log_interval.unwrap_or(50),
        };
        plan.check()?;
        Ok(plan)
    }
}

impl Plan {
    fn check(&self) -> Result<(), Failure> {
        let between = |flag: &str, value: f64, low: f64, high: f64| {
            if value.is_finite() && (low..=high).contains(&value) {
                return Ok(());
            }
            Err(Failure::usage(format!("{flag}: `{value}`: expected {low} to {high}")))
        };
        let positive = |flag: &str, value: usize| match value {
            0 => Err(Failure::usage(format!("{flag}: `0`: expected at least 1"))),
            _ => Ok(()),
        };
        between("--width", self.width, 0.05, 8.0)?;
        between("--img-size", self.img_size as f64, 16.0, 4096.0)?;
        between("--crop-pct", self.crop_pct, 0.1, 1.0)?;
        between("--scale MIN", self.scale[0], 0.001, self.scale[1])?;
        between("--scale MAX", self.scale[1], self.scale[0], 1.0)?;
        between("--ratio MIN", self.ratio[0], 0.01, self.ratio[1])?;
        between("--ratio MAX", self.ratio[1], self.ratio[0], 100.0)?;
        between("--hflip", self.hflip, 0.0, 1.0)?;
        positive("--batch-size", self.batch_size)?;
        positive("--val-batch-size", self.val_batch_size)?;
        positive("--grad-accum-steps", self.grad_accum_steps)?;
        positive("--workers", self.workers)?;
        positive("--log-interval", self.log_interval)?;
        positive("--epochs", self.epochs as usize)?;
        between("--lr", self.lr, 0.0, 100.0)?;
        between("--warmup-lr", self.warmup_lr, 0.0, 100.0)?;
        between("--min-lr", self.min_lr, 0.0, self.lr)?;
        between("--warmup-epochs", self.warmup_epochs, 0.0, 1e6)?;
        between("--decay-epochs", self.decay_epochs, 1e-3, 1e6)?;
        between("--decay-rate", self.decay_rate, 0.0, 1.0)?;
        between("--momentum", self.momentum, 0.0, 0.9999)?;
        between("--opt-eps", self.opt_eps, 0.0, 1.0)?;
        between("--weight-decay", self.weight_decay, 0.0, 10.0)?;
        between("--smoothing", self.smoothing, 0.0, 0.999)?;
        between("--drop", self.drop, 0.0, 0.999)?;
        between("--bn-momentum", self.bn_momentum, 0.0, 1.0)?;
        between("--bn-eps", self.bn_eps, 1e-12, 1.0)?;
        let network = self.network(1);
        network.validate().map_err(|why| Failure::usage(format!("--model: {why}")))?;
        // Inception v3's auxiliary head has windows that need the map of a whole picture.
        let aux = self.aux && network.architecture == Architecture::InceptionV3;
        let least = if aux { 299 } else { network.architecture.least_size() };
        if self.img_size < least {
            return Err(Failure::usage(format!(
                "--img-size: `{}`: {} needs at least {least} pixels{}",
                self.img_size,
                self.model,
                if aux { " with its auxiliary head" } else { "" }
            )));
        }
        self.preprocess().validate().map_err(Failure::usage)
    }

    /// The one rule by which pictures become tensors.
    pub fn preprocess(&self) -> Preprocess {
        Preprocess {
            resize: (self.img_size as f64 / self.crop_pct).floor() as usize,
            crop: [self.img_size, self.img_size],
            interpolation: self.interpolation,
            mean: self.mean,
            std: self.std,
            exif: self.exif,
        }
    }

    /// The random part of training.
    pub fn augment(&self) -> Augment {
        Augment { scale: self.scale, ratio: self.ratio, hflip: self.hflip }
    }

    /// The variant that `model` names.
    pub fn variant(&self) -> &'static Variant {
        Variant::parse(&self.model).expect("a plan names a variant that exists")
    }

    /// The network for so many classes.
    pub fn network(&self, classes: usize) -> NetworkConfig {
        NetworkConfig {
            width: self.width,
            dropout: self.drop,
            bn_eps: self.bn_eps,
            bn_momentum: self.bn_momentum,
            padding: self.padding,
            activation: self.relu.then_some(Activation::Relu),
            auxiliary: self.aux,
            ..self.variant().config(classes)
        }
    }

    /// Rule and constants of the optimizer.
    pub fn optimizer(&self) -> OptimizerConfig {
        OptimizerConfig {
            rule: self.opt,
            momentum: self.momentum,
            alpha: 0.9,
            betas: [0.9, 0.999],
            epsilon: self.opt_eps,
            weight_decay: self.weight_decay,
        }
    }

    /// The learning rate for epochs of so many optimizer steps.
    pub fn schedule(&self, steps_per_epoch: u64) -> Schedule {
        let steps = |epochs: f64| (epochs * steps_per_epoch as f64).round() as u64;
        Schedule {
            lr: self.lr,
            warmup_lr: self.warmup_lr.min(self.lr),
            warmup_steps: steps(self.warmup_epochs),
            min_lr: self.min_lr,
            decay: self.sched,
            decay_steps: steps(self.decay_epochs).max(1),
            decay_rate: self.decay_rate,
            total_steps: self.epochs * steps_per_epoch,
        }
    }
}

fn symmetric() -> Padding {
    Padding::Symmetric
}

/// The value of `--padding`.
pub(crate) fn padding(text: &str) -> Result<Padding, String> {
    match text {
        "symmetric" => Ok(Padding::Symmetric),
        "same" => Ok(Padding::Same),
        _ => Err("expected symmetric or same".into()),
    }
}

/// A number that is one: NaN and infinities are refused before anything compares with them.
fn finite(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err("not a finite number".into()),
    }
}

/// The key and the known keys in serde's "unknown field `x`, expected one of `a`, `b`".
fn unknown_key(message: &str) -> Option<(String, Vec<String>)> {
    let mut quoted = message.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    Some((quoted.next()?.to_owned(), quoted.map(str::to_owned).collect()))
}

/// The nearest of some known names, if it is near at all.
pub fn nearest(word: &str, known: &[String]) -> Option<String> {
    let score = |k: &String| strsim::jaro_winkler(word, k);
    let best = known.iter().max_by(|a, b| score(a).total_cmp(&score(b)))?;
    (score(best) > 0.7).then(|| best.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolved_plan_is_a_configuration_that_gives_the_same_plan() {
        let plan = Options { lr: Some(0.3), ..Options::default() }.plan().unwrap();
        let text = toml::to_string(&plan).unwrap();
        let again: Options = toml::from_str(&text).unwrap();
        assert_eq!(again.plan().unwrap(), plan);
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let file = Options { lr: Some(0.3), epochs: Some(7), ..Options::default() };
        let flags = Options { lr: Some(0.4), ..Options::default() };
        let plan = flags.over(&file).plan().unwrap();
        assert_eq!((plan.lr, plan.epochs, plan.seed), (0.4, 7, 42));
    }
}
