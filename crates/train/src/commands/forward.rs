//! `kindling forward`: a network on tensors from a file, for comparison with any other framework.
//! One inference, or training steps with their losses, gradients and statistics.

use std::path::{Path, PathBuf};

use burn::module::Module as _;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use clap::Args;
use deploy::container::{TensorRef, safetensors_of};
use nn::network::Network;
use nn::weights::NamedTensor;
use nn::weights::state_dict::{gradients, state_dict_as};
use safetensors::tensor::{Dtype, SafeTensors};

use crate::commands::model_args::{ModelArgs, build};
use crate::config::range::number;
use crate::device::Backend;
use crate::error::Error;
use crate::files::{read, write_atomically};
use crate::learner::loss::{cross_entropy, soft_targets};
use crate::optimizers::optimizer::Optimizer;
use crate::optimizers::optimizer_kind::{OptimizerConfig, OptimizerKind};

/// Arguments of `kindling forward`.
#[derive(Args)]
pub struct ForwardArgs {
    #[command(flatten)]
    selection: ModelArgs,
    /// Weights: .safetensors, .pth or .ckpt [default: initial weights from --seed]
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// .safetensors with `input` [n, 3, h, w] and, for --train-step, `targets`: int64 [n] or
    /// f32 [n, classes]
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// .safetensors file to write
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Write the last feature map of each stride too, as `features.<i>` [default: `logits` alone]
    #[arg(long, conflicts_with = "train_step")]
    features: bool,
    /// Train: write the `loss` of each step, `grad.<name>` of the last one, and the weights after
    /// it [default: infer]
    #[arg(long)]
    train_step: bool,
    /// Optimizer steps [range: at least 1]
    #[arg(long, default_value_t = 1, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    /// Optimizer
    #[arg(long, visible_alias = "opt", value_enum, default_value = "sgd", value_name = "NAME")]
    optimizer: OptimizerKind,
    /// Learning rate [range: 0 to 100]
    #[arg(long, default_value_t = 0.01, value_parser = number(0.0..=100.0))]
    lr: f64,
    /// Momentum of sgd, momentum, rmsprop, rmsproptf and muon [range: 0 to 0.9999]
    #[arg(long, default_value_t = 0.9, value_parser = number(0.0..=0.9999))]
    momentum: f64,
    /// Weight decay of weights, never of norm layers and biases [range: 0 to 10]
    #[arg(long, visible_alias = "wd", default_value_t = 0.0, value_parser = number(0.0..=10.0))]
    #[arg(hide_short_help = true)]
    weight_decay: f64,
    /// Label smoothing of integer targets [range: 0 to 0.999]
    #[arg(long, visible_alias = "smoothing", default_value_t = 0.0)]
    #[arg(value_parser = number(0.0..=0.999), hide_short_help = true)]
    label_smoothing: f64,
    /// Weight of the loss of each auxiliary classifier [default: the published one] [range: 0 to
    /// 100]
    #[arg(long, value_parser = number(0.0..=100.0), hide_short_help = true)]
    aux_weight: Option<f64>,
    /// Seed of initial weights and dropout
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Backend; `list` prints those of this machine
    #[arg(long, value_enum, default_value = "auto", value_name = "NAME")]
    backend: Backend,
}

/// What the input file holds.
struct Input {
    images: Vec<f32>,
    shape: [usize; 4],
    targets: Option<Targets>,
}

enum Targets {
    Labels(Vec<i64>),
    Soft(Vec<f32>, usize),
}

/// Runs the subcommand.
///
/// # Errors
/// Faults of flags, of the input file, of the weights, of the backend, of writing.
pub fn forward(args: &ForwardArgs) -> Result<(), Error> {
    let input = read_input(&args.input)?;
    let chosen = args.backend.open()?;
    let autodiff_device = chosen.device.clone().autodiff();
    let (network, naming) =
        build(&args.selection, args.weights.as_ref(), args.seed, &autodiff_device)?;
    check_size(&network, &input, args)?;
    let mut found = Vec::new();
    if args.train_step {
        let targets = input.targets.as_ref().ok_or_else(|| {
            let name = args.input.display();
            Error::data(format!("{name}: no `targets` to train with; add int64 [n] labels"))
        })?;
        let classes = network.config().num_classes;
        let count = match targets {
            Targets::Labels(labels) => {
                if let Some(wrong) = labels.iter().find(|l| !(0..classes as i64).contains(l)) {
                    return Err(Error::data(format!(
                        "{}: label {wrong} with {classes} classes",
                        args.input.display()
                    )));
                }
                labels.len()
            }
            Targets::Soft(values, width) => {
                if *width != classes {
                    return Err(Error::data(format!(
                        "{}: targets of {width} classes for a network of {classes}",
                        args.input.display()
                    )));
                }
                values.len() / width
            }
        };
        if count != input.shape[0] {
            return Err(Error::data(format!(
                "{}: {count} targets for {} images",
                args.input.display(),
                input.shape[0]
            )));
        }
        train(args, network, naming, &input, targets, &autodiff_device, &mut found);
    } else {
        infer(args, &network.valid(), &input, &chosen.device, &mut found);
    }
    finite(&found, args)?;
    write(&args.output, &found)
}

/// Refuses logits and losses that are not finite numbers, by image or step.
fn finite(found: &[NamedTensor], args: &ForwardArgs) -> Result<(), Error> {
    let input = args.input.display();
    for (name, what) in [("logits", "image"), ("loss", "step")] {
        let Some(tensor) = found.iter().find(|tensor| tensor.name == name) else { continue };
        let width = tensor.values.len() / tensor.shape[0].max(1);
        if let Some(at) = tensor.values.iter().position(|value| !value.is_finite()) {
            return Err(Error::diverged(format!(
                "{input}: the {name} of {what} {} are not finite numbers, so that nothing was written; \
                 the values of `input` or the weights are too large",
                at / width + 1
            )));
        }
    }
    Ok(())
}

fn infer(
    args: &ForwardArgs,
    network: &Network,
    input: &Input,
    device: &Device,
    found: &mut Vec<NamedTensor>,
) {
    let images =
        || Tensor::<4>::from_data(TensorData::new(input.images.clone(), input.shape), device);
    found.push(named("logits", network.forward(images())));
    if args.features {
        for (i, map) in network.forward_features(images()).into_iter().enumerate() {
            found.push(named(&format!("features.{i}"), map));
        }
    }
}

fn train(
    args: &ForwardArgs,
    mut network: Network,
    naming: nn::layer_spec::Naming,
    input: &Input,
    targets: &Targets,
    autodiff_device: &Device,
    found: &mut Vec<NamedTensor>,
) {
    let config = OptimizerConfig {
        momentum: args.momentum,
        weight_decay: args.weight_decay,
        ..args.optimizer.config()
    };
    let mut optimizer = Optimizer::new(config);
    let classes = network.config().num_classes;
    let targets = match targets {
        Targets::Labels(labels) => {
            soft_targets(labels, classes, args.label_smoothing, autodiff_device)
        }
        Targets::Soft(values, width) => {
            let shape = [values.len() / width, *width];
            Tensor::from_data(TensorData::new(values.clone(), shape), autodiff_device)
        }
    };
    let mut losses = Vec::new();
    for step in 0..args.steps {
        let images = TensorData::new(input.images.clone(), input.shape);
        let seed = args.seed.wrapping_add(step);
        let outputs = network.forward_train(Tensor::from_data(images, autodiff_device), seed);
        let main = cross_entropy(outputs.logits, targets.clone());
        let loss = outputs.auxiliary.into_iter().fold(main, |sum, head| {
            let weight = args.aux_weight.unwrap_or(head.weight);
            sum + cross_entropy(head.logits, targets.clone()).mul_scalar(weight)
        });
        losses.push(loss.clone().inner().into_scalar::<f32>());
        let grads = GradientsParams::from_grads(loss.backward(), &network);
        if step + 1 == args.steps {
            for mut gradient in gradients(&network, &grads, naming) {
                gradient.name = format!("grad.{}", gradient.name);
                found.push(gradient);
            }
        }
        network = optimizer.step(args.lr, network, grads);
    }
    found.push(NamedTensor { name: "loss".into(), shape: vec![losses.len()], values: losses });
    found.extend(state_dict_as(&network, naming));
}

fn check_size(network: &Network, input: &Input, args: &ForwardArgs) -> Result<(), Error> {
    let config = network.config();
    let inception = config.architecture == nn::config::Architecture::InceptionV3;
    let least = match inception && config.auxiliary && args.train_step {
        true => 299,
        false => config.architecture.min_size(),
    };
    match input.shape[2].min(input.shape[3]) < least {
        true => Err(Error::data(format!(
            "{}: images of {}x{} pixels; {} needs at least {least}",
            args.input.display(),
            input.shape[2],
            input.shape[3],
            config.architecture.name()
        ))),
        false => Ok(()),
    }
}

fn read_input(path: &Path) -> Result<Input, Error> {
    let name = path.display();
    let fail = |what: &str| Error::data(format!("{name}: {what}"));
    let bytes = read(path).map_err(|e| fail(&format!("cannot read it: {e}")))?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|e| fail(&format!("not a safetensors file, or a truncated one ({e})")))?;
    let input =
        file.tensor("input").map_err(|_| fail("no tensor `input`; expected f32 [n, 3, h, w]"))?;
    let shape = <[usize; 4]>::try_from(input.shape().to_vec())
        .ok()
        .filter(|s| s[1] == 3 && s.iter().all(|side| *side > 0) && input.dtype() == Dtype::F32)
        .ok_or_else(|| {
            let (shape, kind) = (input.shape(), input.dtype());
            fail(&format!("`input` is {kind:?} {shape:?}; expected f32 [n, 3, h, w]"))
        })?;
    let floats = |data: &[u8]| -> Vec<f32> {
        data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    };
    let targets = match file.tensor("targets") {
        Err(_) => None,
        Ok(view) => Some(match (view.dtype(), view.shape()) {
            (Dtype::I64, [_]) => Targets::Labels(
                view.data()
                    .chunks_exact(8)
                    .map(|b| i64::from_le_bytes(b.try_into().expect("eight bytes")))
                    .collect(),
            ),
            (Dtype::F32, [_, width]) if *width > 0 => Targets::Soft(floats(view.data()), *width),
            (kind, shape) => {
                return Err(fail(&format!(
                    "`targets` is {kind:?} {shape:?}; expected int64 [n] or f32 [n, classes]"
                )));
            }
        }),
    };
    let images = floats(input.data());
    match images.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(fail(&format!(
            "`input` has the value {} in image {}; expected finite numbers",
            images[at],
            at / (images.len() / shape[0]) + 1
        ))),
        None => Ok(Input { images, shape, targets }),
    }
}

fn named<const D: usize>(name: &str, tensor: Tensor<D>) -> NamedTensor {
    let shape = tensor.dims().to_vec();
    let values = tensor.into_data().convert::<f32>().try_into_vec::<f32>().expect("floats");
    NamedTensor { name: name.to_owned(), shape, values }
}

/// Writes tensors as f32.
///
/// # Errors
/// [`crate::error::ErrorKind::File`].
pub fn write(path: &Path, tensors: &[NamedTensor]) -> Result<(), Error> {
    write_atomically(path, &safetensors_of(tensors.iter().map(TensorRef::from), &[]))
}
