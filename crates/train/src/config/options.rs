//! Every option of a run as it may be written: a flag, or a key of a TOML file. What they mean together is
//! decided in `config`.

use std::path::PathBuf;

use clap::Args;
use nn::block::convolution::Padding;
use serde::{Deserialize, Serialize};

use crate::datasets::cache::CacheKind;
use crate::device::Backend;
use crate::learner::evaluate::EvalMetric;
use crate::learner::nan_guard::NanAction;
use crate::optimizers::gradients::ClipMode;
use crate::optimizers::lr_schedule::{Anneal, LrSchedulerKind};
use crate::optimizers::optimizer::{LrScale, OptimizerKind};
use crate::optimizers::weight_average::EmaWarmup;
use crate::run::logger::LogFormat;
use transforms::augment::TrainFilter;
use transforms::augment::erase::Fill;
use transforms::augment::policy::Policy;
use transforms::decode::Decoding;
use transforms::preprocess::Interpolation;

/// Every option of a run, as typed: in a configuration file by the same names with `_` for `-`.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    #[doc = "Folder with `train/<class>/*` and `val/<class>/*` [default: datasets/fashion-mnist-mini]"]
    #[arg(value_name = "DIR", conflicts_with = "data_dir_flag")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// The same as DIR
    #[arg(long = "data-dir", alias = "data-path", alias = "data", value_name = "DIR")]
    #[serde(skip)]
    pub data_dir_flag: Option<PathBuf>,
    /// Published way to train, under the other options; `kindling recipes` lists them
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipe: Option<String>,
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
    /// Turn images by their EXIF orientation
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exif: Option<bool>,
    /// Whether the training decodes large JPEGs at 1/2, 1/4 or 1/8 where the resize still halves them
    /// [default: scaled, with a cache exact]
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decode: Option<Decoding>,
    /// Area of the random resized crop, as shares of the image; `1 1` keeps it whole
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
    /// Probability of a vertical flip
    #[arg(long, value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vflip: Option<f64>,
    /// Filter of the random crop and of `--aa` [default: --interpolation]
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_interpolation: Option<TrainFilter>,
    /// Neither crop, flip, colour nor erasing: short edge to --img-size, centre crop
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_aug: Option<bool>,
    /// Automatic augmentation, as timm (rand-m9-mstd0.5-inc1, original, v0, augmix-m3) or torchvision (ra, ta_wide,
    /// imagenet, augmix) names it
    #[arg(long, alias = "auto-augment")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aa: Option<Policy>,
    /// Colour jitter: one number for brightness, contrast and saturation, or three, or four with the hue, with
    /// commas; left out beside --aa, as in timm
    #[arg(long, value_delimiter = ',', value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub color_jitter: Option<Vec<f64>>,
    /// Colour jitter beside --aa too
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force_color_jitter: Option<bool>,
    /// Probability of random erasing
    #[arg(long, alias = "random-erase", value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reprob: Option<f64>,
    /// What is put where an image was erased [default: pixel]
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remode: Option<Fill>,
    /// Greatest number of erased rectangles [default: 1]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recount: Option<usize>,
    /// Mixup's alpha; 0 is none
    #[arg(long, alias = "mixup-alpha", value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mixup: Option<f64>,
    /// CutMix's alpha; 0 is none
    #[arg(long, alias = "cutmix-alpha", value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cutmix: Option<f64>,
    /// Edges of CutMix's box as shares of the image's, in place of its alpha
    #[arg(long, num_args = 2, value_names = ["MIN", "MAX"])]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cutmix_minmax: Option<Vec<f64>>,
    /// Probability that a batch is mixed, where mixup or CutMix is on
    #[arg(long, value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mixup_prob: Option<f64>,
    /// Probability of CutMix where mixup is on too
    #[arg(long, value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mixup_switch_prob: Option<f64>,
    /// From this epoch on nothing is mixed; 0 is never
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mixup_off_epoch: Option<u64>,
    /// How often an image comes in a row, each time augmented anew; the epoch stays as long
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aug_repeats: Option<usize>,
    /// Train on images of this size at first, which grow to --img-size
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub img_size_start: Option<usize>,
    /// The epoch that has the full size [default: half of the epochs]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progressive_epochs: Option<u64>,
    /// End at the first unreadable image instead of skipping it
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strict_data: Option<bool>,
    /// List of images to leave out [default: DIR/quarantine.txt, if it is there]
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<PathBuf>,
    /// Take the images on the quarantine list too
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignore_quarantine: Option<bool>,
    /// Images per batch
    #[arg(short, long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<usize>,
    /// Images per batch of the evaluation
    #[arg(long, alias = "validation-batch-size")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_batch_size: Option<usize>,
    /// Batches whose gradients are averaged into one step
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grad_accum_steps: Option<usize>,
    /// Passes over the training images
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u64>,
    /// Keep an exponential moving average of weights and statistics, and evaluate it too
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_ema: Option<bool>,
    /// Decay of the average
    #[arg(long, value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_ema_decay: Option<f64>,
    /// Shorter averages at first: timm's rise of the decay (where no word is given), TensorFlow's, or none [default:
    /// tensorflow]
    #[arg(long, num_args = 0..=1, default_missing_value = "timm", value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_ema_warmup: Option<EmaWarmup>,
    /// First epoch, from 0, whose end counts in the average of SWA (arXiv:1803.05407)
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swa_start: Option<u64>,
    /// Learning rate from that epoch on
    #[arg(long, value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swa_lr: Option<f64>,
    /// Epochs in which the rate comes to --swa-lr, as torch's SWALR (which has 10); 0 is at once
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swa_anneal_epochs: Option<u64>,
    /// How it comes there [default: cos]
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swa_anneal_strategy: Option<Anneal>,
    /// Batches to estimate the statistics of batch norm anew on: of SWA [default: an epoch], and of the weights at the end of the run [default: 0, none]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bn_reestimate: Option<usize>,
    /// Threads that read and prepare images
    #[arg(short = 'j', long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<usize>,
    /// Where to keep the training images decoded from epoch to epoch; a folder is used by later runs too [default: none, or ram with --cache-gb]
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheKind>,
    /// Gigabytes that they may take, 0 leaves it to --cache [default: half of the free memory; on a disk no limit]
    #[arg(long, value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_gb: Option<f64>,
    /// Folder of --cache disk [default: kindling in the user's cache folder, on Linux ~/.cache/kindling]
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_dir: Option<PathBuf>,
    /// Read the tar files of `data shard` from front to back, shuffled in windows of so many images, of which two are
    /// in memory; 0 reads each image by its place, in the folder's order [default: 0]
    #[arg(long, value_name = "IMAGES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard_window: Option<usize>,
    /// Optimizer
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opt: Option<OptimizerKind>,
    /// Peak learning rate
    #[arg(long, value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Peak learning rate for a batch of `--lr-base-size` images, where `--lr` is not given
    #[arg(long, value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_base: Option<f64>,
    /// See `--lr-base`; the batch counts `--grad-accum-steps` [default: 256]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_base_size: Option<usize>,
    /// How the rate follows the batch [default: sqrt for adam, adamw and lamb, linear otherwise]
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_base_scale: Option<LrScale>,
    /// Factor of the learning rate from each layer to the one before it, the classifier having 1
    #[arg(long, value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer_decay: Option<f64>,
    /// Weights not to train: names as torchvision has them, parts up to a dot, `*` and `?`; frozen norms use their running statistics
    #[arg(long, num_args = 1.., value_name = "PATTERN")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freeze: Option<Vec<String>>,
    /// Largest gradient, as `--clip-mode` measures it; 0 is none
    #[arg(long, alias = "clip-grad-norm", value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_grad: Option<f64>,
    /// What `--clip-grad` limits
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_mode: Option<ClipMode>,
    /// Momentum of sgd, momentum, rmsprop, rmsproptf and muon
    #[arg(long, value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
    /// Epsilon of the optimizer; inside the root for rmsproptf
    #[arg(long, value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opt_eps: Option<f64>,
    /// The two decay rates of adam, adamw, lamb, lion and muon
    #[arg(long, num_args = 2, value_names = ["BETA1", "BETA2"])]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opt_betas: Option<Vec<f64>>,
    /// Smoothing of rmsprop's and rmsproptf's squared average (torch's alpha)
    #[arg(long, alias = "opt-alpha", value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha_smoothing: Option<f64>,
    /// Weight decay; never applied to norm and bias
    #[arg(long, alias = "wd", value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// Weight decay of norms [default: 0]
    #[arg(long, value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub norm_weight_decay: Option<f64>,
    /// Schedule after the warm-up
    #[arg(long, value_enum, alias = "lr-scheduler")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sched: Option<LrSchedulerKind>,
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
    /// Epochs between two drops of `--sched step` or exponential
    #[arg(long, alias = "lr-step-size", value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay_epochs: Option<f64>,
    /// Factor of one drop (step, multistep, exponential, plateau)
    #[arg(long, alias = "lr-gamma", value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay_rate: Option<f64>,
    /// Momentum, or Adam's first beta, from .95 to .85 and back against the rate of `--sched onecycle`, instead of
    /// --momentum and --opt-betas [default: true with onecycle, as in torch]
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cycle_momentum: Option<bool>,
    /// Epochs at which `--sched multistep` drops
    #[arg(long, num_args = 1.., value_name = "EPOCH", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay_milestones: Option<Vec<f64>>,
    /// Drop `--sched exponential` once every --decay-epochs instead of smoothly
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay_staircase: Option<bool>,
    /// Exponent of `--sched poly`
    #[arg(long, value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub poly_power: Option<f64>,
    /// Epochs after --epochs at the last rate; for plateau, evaluations after a drop that do not count
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cooldown_epochs: Option<u64>,
    /// Evaluations without a better one that `--sched plateau` bears
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience_epochs: Option<u64>,
    /// Range of the run, as two shares, in which the rate of each epoch is noisy
    #[arg(long, num_args = 2, value_names = ["FROM", "TO"])]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_noise: Option<Vec<f64>>,
    /// Largest noise, as a share of the rate
    #[arg(long, value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_noise_pct: Option<f64>,
    /// Standard deviation of the noise
    #[arg(long, value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_noise_std: Option<f64>,
    /// Label smoothing
    #[arg(long, alias = "label-smoothing", value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smoothing: Option<f64>,
    /// Binary cross-entropy, every class for itself, instead of the softmax
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bce_loss: Option<bool>,
    /// With --bce-loss: targets above this are 1, others 0
    #[arg(long, value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bce_target_thresh: Option<f64>,
    /// With --bce-loss: sum over the classes instead of their mean
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bce_sum: Option<bool>,
    /// Focal loss with this gamma, on the softmax or, with --bce-loss, as published; 0 is none
    #[arg(long, value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub focal_gamma: Option<f64>,
    /// Weight of each class in the loss: `none`, `balanced`, or a file with `class,weight` lines
    #[arg(long, value_name = "balanced|none|FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_weights: Option<String>,
    /// Draw every class equally often, with replacement
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balanced_sampling: Option<bool>,
    /// Learn from this checkpoint too
    #[arg(long, value_name = "CKPT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<PathBuf>,
    /// Share of the teacher in the loss
    #[arg(long, value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distill_alpha: Option<f64>,
    /// Temperature of both softmaxes of the teacher's loss
    #[arg(long, value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distill_temperature: Option<f64>,
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
    #[arg(long, alias = "weights", alias = "initial-checkpoint")]
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
    /// Epochs between two evaluations; the last epoch is always evaluated
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_interval: Option<u64>,
    /// Share of the training images to evaluate on, for a folder without a val split
    #[arg(long, value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_fraction: Option<f64>,
    /// End after so many epochs without a better top-1 accuracy; 0 is never
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<u64>,
    /// What tells which epoch is best
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_metric: Option<EvalMetric>,
    /// Steps in a row without a finite loss and gradient after which the run goes back to its last checkpoint
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nan_patience: Option<u64>,
    /// Whether a step without a finite loss and gradient is skipped or ends the run
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nan_action: Option<NanAction>,
    /// Save and end after so many hours, with exit code 4; 0 is never
    #[arg(long, alias = "time", value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_hours: Option<f64>,
    /// Also save every so many minutes; 0 is at epoch ends only
    #[arg(long, value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_interval_minutes: Option<f64>,
    /// Form of the console lines
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_format: Option<LogFormat>,
    /// Batches between two console lines
    #[arg(long, alias = "print-freq")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_interval: Option<usize>,
}

impl Options {
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

/// The nearest of some known names, if it is near at all.
pub fn nearest(word: &str, known: &[String]) -> Option<String> {
    let score = |k: &String| strsim::jaro_winkler(word, k);
    let best = known.iter().max_by(|a, b| score(a).total_cmp(&score(b)))?;
    (score(best) > 0.7).then(|| best.clone())
}
