//! What a key is in plans that were written before there was one, and what it is where nothing is typed.

use nn::block::convolution::Padding;

use crate::learner::evaluate::EvalMetric;
use crate::learner::nan_guard::NanAction;
use crate::optimizers::gradients::ClipMode;
use crate::run::logger::LogFormat;
use transforms::augment::erase::Fill;

pub(super) fn one() -> u64 {
    1
}

pub(super) fn pixel() -> Fill {
    Fill::Pixel
}

pub(super) fn once() -> usize {
    1
}

pub(super) fn always() -> f64 {
    1.0
}

pub(super) fn half() -> f64 {
    0.5
}

pub(super) fn text() -> LogFormat {
    LogFormat::Text
}

pub(super) fn symmetric() -> Padding {
    Padding::Symmetric
}

pub(super) fn ema_decay() -> f64 {
    0.9998
}

pub(super) fn norm() -> ClipMode {
    ClipMode::Norm
}

pub(super) fn betas() -> [f64; 2] {
    [0.9, 0.999]
}

pub(super) fn alpha() -> f64 {
    0.9
}

pub(super) fn power() -> f64 {
    1.0
}

pub(super) fn ten() -> u64 {
    10
}

pub(super) fn noise_limit() -> f64 {
    0.67
}

pub(super) fn temperature() -> f64 {
    4.0
}

pub(super) fn top1() -> EvalMetric {
    EvalMetric::Top1
}

pub(super) fn skip() -> NanAction {
    NanAction::Skip
}
