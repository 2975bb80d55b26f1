//! Options against overfitting that are neither augmentation of single images nor weight decay:
//! dropout, label smoothing, mixing of images.

use crate::config::range::or_zero;
use crate::config::theme::{finite, theme};
use transforms::mixup::Mix;

theme! {
    /// Dropout, label smoothing, mixup and CutMix.
    "Regularisation": RegularisationOptions -> RegularisationPlan (given, dropout: f64);

    /// Dropout before the classifier
    #[arg(long, visible_alias = "dropout", value_parser = finite)]
    drop: f64 = dropout, shown "the variant's", in 0.0..=0.999;

    /// Label smoothing
    #[arg(long, visible_alias = "label-smoothing", value_parser = finite)]
    smoothing: f64 = 0.0, in 0.0..=0.999;

    /// Alpha of mixup; 0 disables it
    #[arg(long, visible_alias = "mixup-alpha", value_parser = finite)]
    // Below 0.01 every lambda is 0 or 1.
    mixup: f64 = 0.0, in or_zero(0.01..=100.0);

    /// Alpha of CutMix; 0 disables it
    #[arg(long, visible_alias = "cutmix-alpha", value_parser = finite)]
    cutmix: f64 = 0.0, in or_zero(0.01..=100.0);

    /// Edges of CutMix's box as shares of the image, instead of --cutmix
    #[arg(long, num_args = 2, value_names = ["MIN", "MAX"])]
    cutmix_minmax: Vec<f64> => Option<[f64; 2]>, in 0.0..=1.0;

    /// Probability that a batch is mixed, if mixup or CutMix is on
    #[arg(long, value_parser = finite)]
    mixup_prob: f64 = 1.0, in 0.0..=1.0;

    /// Probability of CutMix, if mixup is on too
    #[arg(long, value_parser = finite)]
    mixup_switch_prob: f64 = 0.5, in 0.0..=1.0;

    /// Epoch from which nothing is mixed; 0 mixes to the end
    #[arg(long)]
    mixup_off_epoch: u64 = 0;
}

impl RegularisationPlan {
    /// Mixup and CutMix, if one of them is on.
    pub(in crate::config) fn mix(&self) -> Option<Mix> {
        let mix = Mix {
            mixup: self.mixup,
            cutmix: self.cutmix,
            minmax: self.cutmix_minmax,
            probability: self.mixup_prob,
            switch: self.mixup_switch_prob,
            off_epoch: self.mixup_off_epoch,
        };
        (mix.mixup > 0.0 || mix.cutmix > 0.0 || mix.minmax.is_some()).then_some(mix)
    }
}
