//! What may be written (flags, TOML) becomes a checked [`Plan`]. Precedence: default < recipe < file < flag.
//! After a `Plan` exists nothing in it can be invalid.

use std::path::PathBuf;

use nn::activation::Activation;
use nn::block::convolution::Padding;
use nn::models::variants::Variant;
use nn::network::{Architecture, NetworkConfig};
use serde::{Deserialize, Serialize};

use crate::config::options::Options;
use crate::datasets::cache::CacheKind;
use crate::device::Backend;
use crate::error::Error;
use crate::learner::evaluate::EvalMetric;
use crate::learner::nan_guard::NanAction;
use crate::optimizers::gradients::ClipMode;
use crate::optimizers::lr_schedule::{
    Anneal, LrSchedulerKind, ONE_CYCLE_FIRST, ONE_CYCLE_LAST, ONE_CYCLE_RISE,
};
use crate::optimizers::optimizer::OptimizerKind;
use crate::optimizers::weight_average::EmaWarmup;
use crate::run::logger::LogFormat;
use transforms::augment::TrainFilter;
use transforms::augment::erase::Fill;
use transforms::augment::policy::Policy;
use transforms::decode::Decoding;
use transforms::preprocess::{Interpolation, Preprocess};

/// A run, resolved and checked. Written to `args.toml`, which `--config` reads back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields are those of `Options`, documented there")]
pub struct Plan {
    pub data_dir: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<String>,
    pub model: String,
    pub width: f64,
    pub img_size: usize,
    pub crop_pct: f64,
    pub interpolation: Interpolation,
    pub mean: [f32; 3],
    pub std: [f32; 3],
    pub exif: bool,
    #[serde(default)]
    pub decode: Decoding,
    pub scale: [f64; 2],
    pub ratio: [f64; 2],
    pub hflip: f64,
    #[serde(default)]
    pub vflip: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_interpolation: Option<TrainFilter>,
    #[serde(default)]
    pub no_aug: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aa: Option<Policy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub color_jitter: Option<Vec<f64>>,
    #[serde(default)]
    pub force_color_jitter: bool,
    #[serde(default)]
    pub reprob: f64,
    #[serde(default = "crate::config::defaults::pixel")]
    pub remode: Fill,
    #[serde(default = "crate::config::defaults::once")]
    pub recount: usize,
    #[serde(default)]
    pub mixup: f64,
    #[serde(default)]
    pub cutmix: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cutmix_minmax: Option<[f64; 2]>,
    #[serde(default = "crate::config::defaults::always")]
    pub mixup_prob: f64,
    #[serde(default = "crate::config::defaults::half")]
    pub mixup_switch_prob: f64,
    #[serde(default)]
    pub mixup_off_epoch: u64,
    #[serde(default = "crate::config::defaults::once")]
    pub aug_repeats: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub img_size_start: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progressive_epochs: Option<u64>,
    pub strict_data: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<PathBuf>,
    #[serde(default)]
    pub ignore_quarantine: bool,
    pub batch_size: usize,
    pub val_batch_size: usize,
    pub grad_accum_steps: usize,
    pub epochs: u64,
    #[serde(default)]
    pub model_ema: bool,
    #[serde(default = "crate::config::defaults::ema_decay")]
    pub model_ema_decay: f64,
    #[serde(default)]
    pub model_ema_warmup: EmaWarmup,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swa_start: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swa_lr: Option<f64>,
    #[serde(default)]
    pub swa_anneal_epochs: u64,
    #[serde(default)]
    pub swa_anneal_strategy: Anneal,
    #[serde(default)]
    pub bn_reestimate: usize,
    pub workers: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheKind>,
    #[serde(default)]
    pub cache_gb: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_dir: Option<PathBuf>,
    #[serde(default)]
    pub shard_window: usize,
    pub opt: OptimizerKind,
    pub lr: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer_decay: Option<f64>,
    #[serde(default)]
    pub freeze: Vec<String>,
    #[serde(default)]
    pub clip_grad: f64,
    #[serde(default = "crate::config::defaults::norm")]
    pub clip_mode: ClipMode,
    pub momentum: f64,
    pub opt_eps: f64,
    #[serde(default = "crate::config::defaults::betas")]
    pub opt_betas: [f64; 2],
    #[serde(default = "crate::config::defaults::alpha")]
    pub alpha_smoothing: f64,
    pub weight_decay: f64,
    #[serde(default)]
    pub norm_weight_decay: f64,
    pub sched: LrSchedulerKind,
    pub warmup_epochs: f64,
    pub warmup_lr: f64,
    pub min_lr: f64,
    pub decay_epochs: f64,
    pub decay_rate: f64,
    #[serde(default)]
    pub cycle_momentum: bool,
    #[serde(default)]
    pub decay_milestones: Vec<f64>,
    #[serde(default)]
    pub decay_staircase: bool,
    #[serde(default = "crate::config::defaults::power")]
    pub poly_power: f64,
    #[serde(default)]
    pub cooldown_epochs: u64,
    #[serde(default = "crate::config::defaults::ten")]
    pub patience_epochs: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr_noise: Option<[f64; 2]>,
    #[serde(default = "crate::config::defaults::noise_limit")]
    pub lr_noise_pct: f64,
    #[serde(default = "crate::config::defaults::power")]
    pub lr_noise_std: f64,
    pub smoothing: f64,
    #[serde(default)]
    pub bce_loss: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bce_target_thresh: Option<f64>,
    #[serde(default)]
    pub bce_sum: bool,
    #[serde(default)]
    pub focal_gamma: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_weights: Option<String>,
    #[serde(default)]
    pub balanced_sampling: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<PathBuf>,
    #[serde(default = "crate::config::defaults::half")]
    pub distill_alpha: f64,
    #[serde(default = "crate::config::defaults::temperature")]
    pub distill_temperature: f64,
    pub drop: f64,
    pub bn_momentum: f64,
    pub bn_eps: f64,
    #[serde(default = "crate::config::defaults::symmetric")]
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
    #[serde(default = "crate::config::defaults::one")]
    pub val_interval: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_fraction: Option<f64>,
    #[serde(default)]
    pub patience: u64,
    #[serde(default = "crate::config::defaults::top1")]
    pub eval_metric: EvalMetric,
    #[serde(default = "crate::config::defaults::ten")]
    pub nan_patience: u64,
    #[serde(default = "crate::config::defaults::skip")]
    pub nan_action: NanAction,
    #[serde(default)]
    pub max_hours: f64,
    #[serde(default)]
    pub checkpoint_interval_minutes: f64,
    #[serde(default = "crate::config::defaults::text")]
    pub log_format: LogFormat,
}

/// The data set that the repository carries.
pub const DEFAULT_DATA: &str = "datasets/fashion-mnist-mini";

impl Options {
    /// Fills in the defaults and checks everything.
    ///
    /// # Errors
    /// The first value out of its range, by flag name, with the range.
    pub fn plan(&self) -> Result<Plan, Error> {
        let name = self.model.as_deref().unwrap_or("mobilenet_v3_large");
        let variant = crate::commands::model_args::variant(name)?;
        let standard = variant.config(1);
        let three = |flag: &str, given: &Option<Vec<f32>>, default: [f32; 3]| match given {
            None => Ok(default),
            Some(v) => <[f32; 3]>::try_from(v.as_slice())
                .map_err(|_| Error::usage(format!("{flag}: expected 3 numbers, got {}", v.len()))),
        };
        let two = |flag: &str, given: &Option<Vec<f64>>, default: [f64; 2]| match given {
            None => Ok(default),
            Some(v) => <[f64; 2]>::try_from(v.as_slice())
                .map_err(|_| Error::usage(format!("{flag}: expected 2 numbers, got {}", v.len()))),
        };
        let on_default = self.data_dir.is_none();
        let opt = self.opt.unwrap_or(OptimizerKind::Adamw);
        let usual = opt.config();
        let sched = self.sched.unwrap_or(LrSchedulerKind::Cosine);
        let epochs = self.epochs.unwrap_or(if on_default { 12 } else { 100 });
        let lr = self.peak(opt);
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let plan = Plan {
            data_dir: self.data_dir.clone().unwrap_or_else(|| DEFAULT_DATA.into()),
            recipe: self.recipe.clone(),
            model: variant.name.to_owned(),
            width: self.width.unwrap_or(standard.width),
            // The carried images are 28x28 and gray.
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
            decode: self.decode.unwrap_or(self.usual_decoding()),
            scale: two("--scale", &self.scale, if on_default { [0.6, 1.0] } else { [0.08, 1.0] })?,
            ratio: two("--ratio", &self.ratio, [3.0 / 4.0, 4.0 / 3.0])?,
            hflip: self.hflip.unwrap_or(0.5),
            vflip: self.vflip.unwrap_or(0.0),
            train_interpolation: self.train_interpolation,
            no_aug: self.no_aug.unwrap_or(false),
            aa: self.aa,
            color_jitter: self.color_jitter.clone(),
            force_color_jitter: self.force_color_jitter.unwrap_or(false),
            reprob: self.reprob.unwrap_or(0.0),
            remode: self.remode.unwrap_or(crate::config::defaults::pixel()),
            recount: self.recount.unwrap_or(1),
            mixup: self.mixup.unwrap_or(0.0),
            cutmix: self.cutmix.unwrap_or(0.0),
            cutmix_minmax: match &self.cutmix_minmax {
                None => None,
                given => Some(two("--cutmix-minmax", given, [0.0, 1.0])?),
            },
            mixup_prob: self.mixup_prob.unwrap_or(crate::config::defaults::always()),
            mixup_switch_prob: self.mixup_switch_prob.unwrap_or(crate::config::defaults::half()),
            mixup_off_epoch: self.mixup_off_epoch.unwrap_or(0),
            // timm's 0 is once, too.
            aug_repeats: self.aug_repeats.unwrap_or(1).max(1),
            img_size_start: self.img_size_start,
            progressive_epochs: match self.img_size_start {
                None => self.progressive_epochs,
                Some(_) => self.progressive_epochs.or(Some(epochs.div_ceil(2))),
            },
            strict_data: self.strict_data.unwrap_or(false),
            quarantine: self.quarantine.clone(),
            ignore_quarantine: self.ignore_quarantine.unwrap_or(false),
            batch_size: self.batch_size.unwrap_or(32),
            val_batch_size: self.val_batch_size.or(self.batch_size).unwrap_or(64),
            grad_accum_steps: self.grad_accum_steps.unwrap_or(1),
            epochs,
            model_ema: self.model_ema.unwrap_or(false),
            model_ema_decay: self.model_ema_decay.unwrap_or(0.9998),
            model_ema_warmup: self.model_ema_warmup.unwrap_or_default(),
            swa_start: self.swa_start,
            swa_lr: self.swa_lr,
            swa_anneal_epochs: self.swa_anneal_epochs.unwrap_or(0),
            swa_anneal_strategy: self.swa_anneal_strategy.unwrap_or_default(),
            bn_reestimate: self.bn_reestimate.unwrap_or(0),
            workers: self.workers.unwrap_or(cores.min(8)),
            cache: self.cache,
            cache_gb: self.cache_gb.unwrap_or(0.0),
            cache_dir: self.cache_dir.clone(),
            shard_window: self.shard_window.unwrap_or(0),
            opt,
            lr,
            layer_decay: self.layer_decay,
            freeze: self.freeze.clone().unwrap_or_default(),
            // timm's Lamb clips by itself.
            clip_grad: self.clip_grad.unwrap_or(if opt == OptimizerKind::Lamb { 1.0 } else { 0.0 }),
            clip_mode: self.clip_mode.unwrap_or(ClipMode::Norm),
            momentum: self.momentum.unwrap_or(usual.momentum),
            opt_eps: self.opt_eps.unwrap_or(usual.epsilon),
            opt_betas: two("--opt-betas", &self.opt_betas, usual.betas)?,
            alpha_smoothing: self.alpha_smoothing.unwrap_or(usual.alpha),
            weight_decay: self.weight_decay.unwrap_or(usual.weight_decay),
            norm_weight_decay: self.norm_weight_decay.unwrap_or(0.0),
            sched,
            warmup_epochs: self.warmup_epochs.unwrap_or(match sched {
                LrSchedulerKind::OneCycle => ONE_CYCLE_RISE * epochs as f64,
                _ => 1.0,
            }),
            warmup_lr: self.warmup_lr.unwrap_or(match sched {
                LrSchedulerKind::OneCycle => lr * ONE_CYCLE_FIRST,
                _ => 1e-5,
            }),
            min_lr: self.min_lr.unwrap_or(match sched {
                LrSchedulerKind::OneCycle => lr * ONE_CYCLE_FIRST * ONE_CYCLE_LAST,
                _ => 0.0,
            }),
            decay_epochs: self.decay_epochs.unwrap_or(match sched {
                LrSchedulerKind::Exponential => 2.5,
                _ => 2.0,
            }),
            decay_rate: self.decay_rate.unwrap_or(match sched {
                LrSchedulerKind::Exponential => 0.98,
                LrSchedulerKind::Multistep | LrSchedulerKind::Plateau => 0.1,
                _ => 0.973,
            }),
            cycle_momentum: self.cycle_momentum.unwrap_or(sched == LrSchedulerKind::OneCycle),
            decay_milestones: self.decay_milestones.clone().unwrap_or_default(),
            decay_staircase: self.decay_staircase.unwrap_or(false),
            poly_power: self.poly_power.unwrap_or(1.0),
            cooldown_epochs: self.cooldown_epochs.unwrap_or(0),
            patience_epochs: self.patience_epochs.unwrap_or(10),
            lr_noise: match &self.lr_noise {
                None => None,
                given => Some(two("--lr-noise", given, [0.0, 1.0])?),
            },
            lr_noise_pct: self.lr_noise_pct.unwrap_or(0.67),
            lr_noise_std: self.lr_noise_std.unwrap_or(1.0),
            smoothing: self.smoothing.unwrap_or(0.0),
            bce_loss: self.bce_loss.unwrap_or(false),
            bce_target_thresh: self.bce_target_thresh,
            bce_sum: self.bce_sum.unwrap_or(false),
            focal_gamma: self.focal_gamma.unwrap_or(0.0),
            class_weights: self.class_weights.clone().filter(|given| given != "none"),
            balanced_sampling: self.balanced_sampling.unwrap_or(false),
            teacher: self.teacher.clone(),
            distill_alpha: self.distill_alpha.unwrap_or(0.5),
            distill_temperature: self.distill_temperature.unwrap_or(4.0),
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
            val_interval: self.val_interval.unwrap_or(1),
            val_fraction: self.val_fraction,
            patience: self.patience.unwrap_or(0),
            eval_metric: self.eval_metric.unwrap_or(EvalMetric::Top1),
            nan_patience: self.nan_patience.unwrap_or(10),
            nan_action: self.nan_action.unwrap_or(NanAction::Skip),
            max_hours: self.max_hours.unwrap_or(0.0),
            checkpoint_interval_minutes: self.checkpoint_interval_minutes.unwrap_or(0.0),
            log_format: self.log_format.unwrap_or(LogFormat::Text),
        };
        plan.check()?;
        Ok(plan)
    }
}

impl Plan {
    fn check(&self) -> Result<(), Error> {
        let between = |flag: &str, value: f64, low: f64, high: f64| {
            if value.is_finite() && (low..=high).contains(&value) {
                return Ok(());
            }
            Err(Error::usage(format!("{flag}: `{value}`: expected {low} to {high}")))
        };
        let positive = |flag: &str, value: usize| match value {
            0 => Err(Error::usage(format!("{flag}: `0`: expected at least 1"))),
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
        self.check_augmentation()?;
        positive("--batch-size", self.batch_size)?;
        positive("--val-batch-size", self.val_batch_size)?;
        positive("--grad-accum-steps", self.grad_accum_steps)?;
        positive("--workers", self.workers)?;
        between("--cache-gb", self.cache_gb, 0.0, 65_536.0)?;
        if self.shard_window > 0 && self.balanced_sampling {
            return Err(Error::usage(format!(
                "--shard-window {}: --balanced-sampling draws from all files at once; leave one away",
                self.shard_window
            )));
        }
        positive("--log-interval", self.log_interval)?;
        positive("--epochs", self.epochs as usize)?;
        positive("--val-interval", self.val_interval as usize)?;
        between("--max-hours", self.max_hours, 0.0, 1e5)?;
        between("--checkpoint-interval-minutes", self.checkpoint_interval_minutes, 0.0, 1e5)?;
        if let Some(share) = self.val_fraction {
            between("--val-fraction", share, 0.001, 0.9)?;
        }
        if let (Some(list), true) = (&self.quarantine, self.ignore_quarantine) {
            return Err(Error::usage(format!(
                "--quarantine {}: given together with --ignore-quarantine; leave one away",
                list.display()
            )));
        }
        between("--lr", self.lr, 0.0, 100.0)?;
        between("--warmup-lr", self.warmup_lr, 0.0, 100.0)?;
        between("--min-lr", self.min_lr, 0.0, self.lr)?;
        between("--warmup-epochs", self.warmup_epochs, 0.0, 1e6)?;
        between("--decay-epochs", self.decay_epochs, 1e-3, 1e6)?;
        between("--decay-rate", self.decay_rate, 0.0, 1.0)?;
        self.check_training(&between)?;
        between("--momentum", self.momentum, 0.0, 0.9999)?;
        between("--opt-eps", self.opt_eps, 0.0, 1.0)?;
        between("--weight-decay", self.weight_decay, 0.0, 10.0)?;
        between("--smoothing", self.smoothing, 0.0, 0.999)?;
        between("--drop", self.drop, 0.0, 0.999)?;
        between("--bn-momentum", self.bn_momentum, 0.0, 1.0)?;
        between("--bn-eps", self.bn_eps, 1e-12, 1.0)?;
        let network = self.network(1);
        network.validate().map_err(|why| Error::usage(format!("--model: {why}")))?;
        // Inception v3's auxiliary head has windows that need the map of a whole image.
        let aux = self.aux && network.architecture == Architecture::InceptionV3;
        let least = if aux { 299 } else { network.architecture.least_size() };
        if self.img_size < least {
            return Err(Error::usage(format!(
                "--img-size: `{}`: {} needs at least {least} pixels{}",
                self.img_size,
                self.model,
                if aux { " with its auxiliary head" } else { "" }
            )));
        }
        if let Some(start) = self.img_size_start {
            between("--img-size-start", start as f64, least as f64, self.img_size as f64)?;
        }
        self.preprocess().validate().map_err(Error::usage)
    }

    /// The one rule by which images become tensors.
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
}

impl Options {
    /// Scaled; exact where a cache is wanted, which holds whole images.
    fn usual_decoding(&self) -> Decoding {
        let wanted = match self.cache {
            Some(kind) => kind != CacheKind::None,
            None => self.cache_gb.is_some_and(|gb| gb > 0.0),
        };
        if wanted { Decoding::Exact } else { Decoding::Scaled }
    }
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

    /// Caught when planted: a default of `scaled` for plans without the key.
    #[test]
    fn an_old_plan_decodes_exactly_and_a_new_one_smaller() {
        let plan = Options::default().plan().unwrap();
        assert_eq!((plan.decode, plan.augment().decode), (Decoding::Scaled, Decoding::Scaled));
        let text = toml::to_string(&plan).unwrap();
        let old: Plan = toml::from_str(&text.replace("decode = \"scaled\"\n", "")).unwrap();
        assert_eq!((old.decode, old.augment().decode), (Decoding::Exact, Decoding::Exact));
    }

    /// Caught when planted: scaled beside a cache.
    #[test]
    fn images_for_a_cache_are_decoded_exactly_unless_said_otherwise() {
        let ram = Options { cache: Some(CacheKind::Ram), ..Options::default() };
        assert_eq!(ram.plan().unwrap().decode, Decoding::Exact);
        let some = Options { cache_gb: Some(2.0), ..Options::default() };
        assert_eq!(some.plan().unwrap().decode, Decoding::Exact);
        let none =
            Options { cache: Some(CacheKind::None), cache_gb: Some(2.0), ..Options::default() };
        assert_eq!(none.plan().unwrap().decode, Decoding::Scaled);
        let said = Options { decode: Some(Decoding::Scaled), ..ram };
        assert_eq!(said.plan().unwrap().decode, Decoding::Scaled);
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let file = Options { lr: Some(0.3), epochs: Some(7), ..Options::default() };
        let flags = Options { lr: Some(0.4), ..Options::default() };
        let plan = flags.over(&file).plan().unwrap();
        assert_eq!((plan.lr, plan.epochs, plan.seed), (0.4, 7, 42));
    }
}
