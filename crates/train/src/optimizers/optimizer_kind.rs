//! The optimizers by name, with the constants that they are published or used with.

use serde::{Deserialize, Serialize};

/// Which optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// SGD with Nesterov momentum, dampening 0 (torch.optim.SGD).
    Sgd,
    /// SGD with plain momentum, dampening 0 (torch.optim.SGD).
    Momentum,
    /// RMSprop with eps outside the root, average from 0, lr after momentum (torch.optim.RMSprop).
    Rmsprop,
    /// TensorFlow's RMSprop: eps inside the root, average from 1, lr inside momentum (timm's
    /// RMSpropTF).
    #[value(name = "rmsproptf", alias = "rmsprop-tf")]
    RmspropTf,
    /// L2 in the gradient, then Adam (torch.optim.Adam).
    Adam,
    /// Decoupled decay, then Adam (torch.optim.AdamW).
    Adamw,
    /// Adam with a trust ratio for every tensor (arXiv:1904.00962; timm's Lamb).
    Lamb,
    /// The sign of a blend of gradient and momentum (arXiv:2302.06675; timm's Lion).
    Lion,
    /// Orthogonalised momentum for matrices (Jordan 2024, scaled as in arXiv:2502.16982), AdamW for
    /// the rest.
    Muon,
}

impl OptimizerKind {
    /// The default learning rate.
    pub fn lr(self) -> f64 {
        match self {
            OptimizerKind::Sgd | OptimizerKind::Momentum => 0.05,
            OptimizerKind::Rmsprop
            | OptimizerKind::RmspropTf
            | OptimizerKind::Adam
            | OptimizerKind::Adamw
            | OptimizerKind::Muon => 0.002,
            OptimizerKind::Lamb => 0.005,
            OptimizerKind::Lion => 0.0003,
        }
    }

    /// The constants that the optimizer is published with, or that its recipes use.
    pub fn config(self) -> OptimizerConfig {
        OptimizerConfig {
            kind: self,
            momentum: if self == OptimizerKind::Muon { 0.95 } else { 0.9 },
            alpha: 0.9,
            betas: if self == OptimizerKind::Lion { [0.9, 0.99] } else { [0.9, 0.999] },
            epsilon: match self {
                OptimizerKind::Rmsprop => 0.0316,
                OptimizerKind::RmspropTf => 1e-3,
                OptimizerKind::Lamb => 1e-6,
                _ => 1e-8,
            },
            weight_decay: match self {
                OptimizerKind::Adamw | OptimizerKind::Lamb | OptimizerKind::Muon => 0.01,
                OptimizerKind::Lion => 0.1,
                _ => 1e-5,
            },
        }
    }
}

/// An optimizer's name and constants.
#[derive(Clone, Debug, PartialEq)]
pub struct OptimizerConfig {
    /// Which optimizer.
    pub kind: OptimizerKind,
    /// Momentum of SGD, RMSprop and Muon.
    pub momentum: f64,
    /// Smoothing of RMSprop's squared average.
    pub alpha: f64,
    /// The two decay rates of Adam, AdamW, LAMB, Lion and Muon's fallback.
    pub betas: [f64; 2],
    /// Added outside the root, inside it by [`OptimizerKind::RmspropTf`].
    pub epsilon: f64,
    /// L2 in the gradient (SGD, RMSprop, Adam), in the update (LAMB) or decoupled (AdamW, Lion,
    /// Muon). A parameter with a [`crate::optimizers::param_groups::ParamGroup`] has the group's
    /// decay instead. Without groups, norm and bias have none.
    pub weight_decay: f64,
}
