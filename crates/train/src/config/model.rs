//! Options of the model: which network, with which constants, from which weights.

use std::path::PathBuf;

use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use nn::activation::Activation;
use nn::config::NetworkConfig;
use nn::geometry::Padding;
use nn::models::variants::Variant;
use nn::weights::kind::WeightsKind;
use serde::{Deserialize, Serialize};

use crate::config::theme::{finite, theme};
use crate::error::Error;
use crate::optimizers::param_groups::{TRUNK, Unfreezing};
use crate::suggest::did_you_mean;

/// The model of a run that names none.
pub const DEFAULT_MODEL: &str = "mobilenet_v3_large";

/// The value of `--weights-kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum GivenKind {
    /// The trained weights
    Raw,
    /// Their average
    Ema,
}

/// The weights that `--weights-kind` means, where it is given or not.
pub fn weights_kind(given: Option<GivenKind>) -> WeightsKind {
    match given {
        None => WeightsKind::Best,
        Some(GivenKind::Raw) => WeightsKind::Raw,
        Some(GivenKind::Ema) => WeightsKind::Ema,
    }
}

theme! {
    /// The network and the weights it starts from.
    "Model": ModelOptions -> ModelPlan (given, variant: &'static Variant);

    /// Model; `kindling models` lists them
    #[arg(long, value_name = "NAME")]
    #[brief]
    model: String = DEFAULT_MODEL.to_owned(),
        shown "mobilenet_v3_large; mobilenet_v1 for 50,000 or more images below 40 pixels",
        as |_| variant.name.to_owned();

    /// Width multiplier
    #[arg(long, visible_alias = "alpha", value_parser = finite)]
    width: f64 = variant.width, shown "the variant's", in 0.05..=8.0;

    /// Initial weights (.pth, .safetensors or .ckpt)
    #[arg(long, visible_aliases = ["weights", "initial-checkpoint"], value_name = "FILE")]
    #[brief]
    pretrained_path: PathBuf => Option<PathBuf>, shown "none, random weights from --seed";

    /// Published weights, by name or the model's best
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true, default_missing_value = "best")]
    #[brief]
    pretrained: String => Option<String>, shown "none";

    /// Which of the weights in that file: the trained ones (`raw`) or their average (`ema`)
    #[arg(long, value_enum)]
    weights_kind: GivenKind => Option<GivenKind>,
        shown "the average where there is one; of a .ckpt the better ones";

    /// Weights to freeze: `trunk`, which is all but the classifier, or torchvision's names, whole,
    /// up to a dot, or with `*` and `?`
    #[arg(long, num_args = 1.., value_name = "PATTERN")]
    freeze: Vec<String> = Vec::new(), shown "none";

    /// Train the classifier alone on the features of the trained weights: as --freeze trunk
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    linear_probe: bool = false, older false;

    /// Epochs after which frozen weights are trained too; without --freeze the trunk is frozen
    /// until then; 0 never unfreezes
    #[arg(long, value_name = "N")]
    unfreeze_epoch: u64 = 0,
        shown "1 for a new classifier on trained weights, otherwise 0", older 0;

    /// Epochs over which frozen weights are unfrozen from --unfreeze-epoch on, the last block first
    /// and the stem last; 0 unfreezes all at once
    #[arg(long, value_name = "N")]
    unfreeze_over: u64 = 0, in 0..=1_000_000_000, older 0;

    /// Padding of the MobileNets' convolutions: PyTorch's symmetric or TensorFlow's same
    #[arg(long, value_parser = padding())]
    padding: Padding = variant.config(1).padding, shown "the variant's", older Padding::Symmetric;

    /// Replace ReLU6 by ReLU in MobileNetV1
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    relu: bool = false;

    /// Train with the auxiliary classifiers of GoogLeNet and Inception v3
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    aux: bool = false;

    /// Momentum of the batch-norm statistics in PyTorch's convention
    #[arg(long, value_parser = finite)]
    bn_momentum: f64 = variant.config(1).bn_momentum,
        shown "by the steps of the run; the variant's with --recipe", in 0.0..=1.0;

    /// Begin the batch-norm statistics as the mean over all batches so far, until a batch would
    /// count less than --bn-momentum
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    bn_cumulative: bool = false, shown "true from random weights; false with --recipe",
        older false;

    /// Epsilon of batch norm
    #[arg(long, value_parser = finite)]
    bn_eps: f64 = variant.config(1).bn_eps, shown "the variant's", in 1e-12..=1.0;
}

impl ModelPlan {
    /// The variant that `model` names.
    pub fn variant(&self) -> &'static Variant {
        Variant::parse(&self.model).expect("a plan names a variant that exists")
    }

    /// The patterns of all weights that are frozen at the beginning.
    pub fn frozen(&self) -> Vec<String> {
        let trunk = self.linear_probe || self.unfreeze_epoch > 0 && self.freeze.is_empty();
        let trunk = trunk.then(|| TRUNK.to_owned());
        self.freeze.iter().cloned().chain(trunk).collect()
    }

    /// Refuses options that contradict each other.
    pub(in crate::config) fn check(&self) -> Result<(), Error> {
        if self.linear_probe && self.unfreeze_epoch > 0 {
            return Err(Error::usage(
                "--unfreeze-epoch: --linear-probe trains the classifier alone to the end; omit one of them",
            ));
        }
        if self.unfreeze_over > 0 && self.unfreeze_epoch == 0 {
            return Err(Error::usage(
                "--unfreeze-over: nothing is unfrozen without --unfreeze-epoch; add it or omit both",
            ));
        }
        Ok(())
    }

    /// When frozen weights are unfrozen.
    pub fn unfreezing(&self) -> Unfreezing {
        Unfreezing { epoch: self.unfreeze_epoch, over: self.unfreeze_over }
    }

    /// Refuses a frozen trunk of random weights: its norms use statistics that nothing has
    /// estimated, and the loss is not finite from the first step on.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Usage`].
    pub fn refuse_random_trunk(&self) -> Result<(), Error> {
        let random = self.pretrained.is_none() && self.pretrained_path.is_none();
        let flag = match self {
            Self { linear_probe: true, .. } => "--linear-probe",
            Self { unfreeze_epoch: 1.., .. } => "--unfreeze-epoch",
            _ => "--freeze trunk",
        };
        match random && self.frozen().iter().any(|pattern| pattern == TRUNK) {
            true => Err(Error::usage(format!(
                "{flag}: there are no trained weights to freeze; add --pretrained or --pretrained-path"
            ))),
            false => Ok(()),
        }
    }

    /// The network for so many classes.
    pub fn network(&self, classes: usize, dropout: f64) -> NetworkConfig {
        NetworkConfig {
            width: self.width,
            dropout,
            bn_eps: self.bn_eps,
            bn_momentum: self.bn_momentum,
            padding: self.padding,
            activation: self.relu.then_some(Activation::Relu),
            auxiliary: self.aux,
            ..self.variant().config(classes)
        }
    }
}

/// A variant by name.
///
/// # Errors
/// [`crate::error::ErrorKind::Usage`] for an unknown name, with the nearest one.
pub fn variant(name: &str) -> Result<&'static Variant, Error> {
    Variant::parse(name).ok_or_else(|| {
        let known: Vec<&str> = Variant::names().collect();
        Error::usage(format!(
            "--model: unknown model `{name}`{}; `kindling models` lists them",
            did_you_mean(name, &known)
        ))
    })
}

/// The parser of `--padding`, which suggests the nearest name.
pub(crate) fn padding() -> impl TypedValueParser<Value = Padding> {
    PossibleValuesParser::new(["symmetric", "same"]).map(|name| match name.as_str() {
        "same" => Padding::Same,
        _ => Padding::Symmetric,
    })
}
