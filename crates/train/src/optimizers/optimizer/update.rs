//! The numbers of one parameter's update, which the bodies on slices and on tensors share.

use crate::optimizers::optimizer_kind::OptimizerKind;

/// The numbers of one parameter's update.
#[derive(Clone, Debug)]
pub(super) struct Update {
    pub kind: OptimizerKind,
    /// Learning rate, scaled for this parameter.
    pub lr: f64,
    /// Weight decay of this parameter.
    pub decay: f64,
    pub momentum: f64,
    pub alpha: f64,
    pub betas: [f64; 2],
    pub epsilon: f64,
    /// `1 - beta^steps` for the two betas.
    pub corrections: [f64; 2],
}

impl Update {
    /// The value that each buffer of a parameter's state begins with.
    pub(super) fn initial(&self) -> &'static [f32] {
        match self.kind {
            OptimizerKind::Sgd | OptimizerKind::Momentum if self.momentum == 0.0 => &[],
            OptimizerKind::Rmsprop if self.momentum == 0.0 => &[0.0],
            OptimizerKind::RmspropTf if self.momentum == 0.0 => &[1.0],
            OptimizerKind::Sgd | OptimizerKind::Momentum | OptimizerKind::Lion => &[0.0],
            OptimizerKind::RmspropTf => &[1.0, 0.0],
            OptimizerKind::Rmsprop
            | OptimizerKind::Adam
            | OptimizerKind::Adamw
            | OptimizerKind::Lamb
            | OptimizerKind::Muon => &[0.0, 0.0],
        }
    }
}
