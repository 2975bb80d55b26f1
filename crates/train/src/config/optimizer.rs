//! Options of the optimizer: its update rule, its constants, its learning rate.

use crate::config::range::each;
use crate::config::theme::{finite, theme};
use crate::optimizers::gradients::ClipMode;
use crate::optimizers::lr_schedule::LrScale;
use crate::optimizers::optimizer_kind::{OptimizerConfig, OptimizerKind};

theme! {
    /// Update rule, learning rate, decay and clipping.
    "Optimizer": OptimizerOptions -> OptimizerPlan (given, step_images: usize);

    /// Optimizer
    #[arg(long, value_enum, ignore_case = true, value_name = "NAME")]
    #[brief]
    opt: OptimizerKind = OptimizerKind::Adamw;

    /// Peak learning rate
    #[arg(long, value_parser = finite)]
    #[brief]
    lr: f64 = given.base_lr(opt, step_images),
        shown "0.002, sgd and momentum 0.05, lamb 0.005, lion 0.0003", in 0.0..=100.0;

    /// Momentum of sgd, momentum, rmsprop, rmsproptf and muon
    #[arg(long, value_parser = finite)]
    momentum: f64 = opt.config().momentum, shown "0.9, muon 0.95", in 0.0..=0.9999;

    /// Decay rates of the averages of adam, adamw, lamb, lion and muon
    #[arg(long, num_args = 2, value_names = ["BETA1", "BETA2"])]
    opt_betas: Vec<f64> => [f64; 2] = opt.config().betas, shown "0.9 0.999, lion 0.9 0.99",
        in each(0.0..=0.999_999), older [0.9, 0.999];

    /// Epsilon of the optimizer, inside the square root for rmsproptf
    #[arg(long, value_parser = finite)]
    opt_eps: f64 = opt.config().epsilon,
        shown "1e-8, rmsprop 0.0316, rmsproptf 1e-3, lamb 1e-6", in 0.0..=1.0;

    /// Smoothing of the squared average of rmsprop and rmsproptf (torch's alpha)
    #[arg(long, visible_alias = "opt-alpha", value_parser = finite)]
    alpha_smoothing: f64 = 0.9, in 0.0..=0.999_999;

    /// Weight decay of weights, never of biases
    #[arg(long, visible_alias = "wd", value_parser = finite)]
    weight_decay: f64 = opt.config().weight_decay,
        shown "1e-5, adamw, lamb and muon 0.01, lion 0.1", in 0.0..=10.0;

    /// Weight decay of norm layers
    #[arg(long, value_parser = finite)]
    norm_weight_decay: f64 = 0.0, in 0.0..=10.0;

    /// Layer-wise decay of the learning rate: the factor per layer, from the classifier backwards
    #[arg(long, value_parser = finite)]
    layer_decay: f64 => Option<f64>,
        shown "0.9 for a new classifier on trained weights, else none", in 0.01..=1.0;

    /// Limit of the gradient, as --clip-mode measures it; 0 disables clipping
    #[arg(long, visible_alias = "clip-grad-norm", value_parser = finite)]
    // timm's Lamb clips by itself.
    clip_grad: f64 = if opt == OptimizerKind::Lamb { 1.0 } else { 0.0 }, shown "0, lamb 1",
        in 0.0..=1e9, older 0.0;

    /// Quantity that --clip-grad limits
    #[arg(long, value_enum)]
    clip_mode: ClipMode = ClipMode::Norm;

    only given {
        /// Peak learning rate for a batch of --lr-base-size images, in place of --lr
        #[arg(long, value_parser = finite)]
        lr_base: f64, shown "none", in 0.0..=100.0;

        /// Batch size that --lr-base is for; the actual one counts --grad-accum-steps
        #[arg(long)]
        lr_base_size: usize, shown "256", in 1..;

        /// Scaling of --lr-base with the batch size
        #[arg(long, value_enum)]
        lr_base_scale: LrScale, shown "sqrt for adam, adamw and lamb, otherwise linear";
    }
}

impl OptimizerOptions {
    /// The peak learning rate where --lr is not given: timm's rule for a base rate and the images
    /// of an optimizer step, or the usual rate of the optimizer.
    fn base_lr(&self, opt: OptimizerKind, step_images: usize) -> f64 {
        let Some(base) = self.lr_base else { return opt.lr() };
        let ratio = step_images as f64 / self.lr_base_size.unwrap_or(256).max(1) as f64;
        let scale = self.lr_base_scale.unwrap_or(match opt {
            OptimizerKind::Adam | OptimizerKind::Adamw | OptimizerKind::Lamb => LrScale::Sqrt,
            _ => LrScale::Linear,
        });
        match scale {
            LrScale::Linear => base * ratio,
            LrScale::Sqrt => base * ratio.sqrt(),
        }
    }
}

impl OptimizerPlan {
    /// Rule and constants of the optimizer.
    pub fn config(&self) -> OptimizerConfig {
        OptimizerConfig {
            kind: self.opt,
            momentum: self.momentum,
            alpha: self.alpha_smoothing,
            betas: self.opt_betas,
            epsilon: self.opt_eps,
            weight_decay: self.weight_decay,
        }
    }
}
