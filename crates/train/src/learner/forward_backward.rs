//! One batch forward and backward. The training loop, the learning-rate finder and the replay of a
//! non-finite step share it.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Tensor};
use nn::block::dropout::DropoutSeed;
use nn::network::Network;
use transforms::random::Counter;

use crate::datasets::batch::{Batch, ByteImages};
use crate::error::Error;
use crate::learner::device_images::images;
use crate::learner::objective::Objective;
use crate::learner::out_of_memory;

/// Stream of the counter-based generator for dropout; the loader has streams of its own.
const DROPOUT: u64 = 0xD0;

/// A forward pass, ready for its backward pass.
pub struct ForwardPass {
    /// The loss, a mean over the images; NaN where it was not read.
    pub loss: f64,
    tensor: Tensor<1>,
    divisor: f64,
    shape: [usize; 4],
}

/// The seed of the dropout masks of a batch; `batch` is counted from 1.
pub fn dropout_seed(seed: u64, epoch: u64, batch: usize) -> u64 {
    Counter::new(seed, epoch, batch as u64, DROPOUT).u64()
}

/// Runs a batch forward and reads its loss. Its gradients will be divided by `divisor`. Takes the
/// images out of the batch.
///
/// # Errors
/// [`crate::error::ErrorKind::Memory`]: the device has no memory for the batch.
pub fn forward(
    network: &Network,
    objective: &Objective,
    batch: &mut Batch,
    divisor: f64,
    dropout_seed: u64,
    autodiff_device: &Device,
) -> Result<ForwardPass, Error> {
    forward_reading(network, objective, batch, divisor, dropout_seed, autodiff_device, true)
}

fn forward_reading(
    network: &Network,
    objective: &Objective,
    batch: &mut Batch,
    divisor: f64,
    dropout_seed: u64,
    autodiff_device: &Device,
    reads: bool,
) -> Result<ForwardPass, Error> {
    let shape = batch.shape;
    let forward = || {
        let images = images(batch, autodiff_device);
        let targets = objective.targets(batch, autodiff_device);
        let teacher_logits = objective.teacher_logits(&images);
        let dropout = DropoutSeed::of_rows(dropout_seed, std::mem::take(&mut batch.rows));
        let outputs = network.forward_train(images, dropout);
        let tensor = objective.loss(&outputs, targets, teacher_logits);
        let loss = match reads {
            true => f64::from(tensor.clone().inner().into_scalar::<f32>()),
            false => f64::NAN,
        };
        ForwardPass { loss, tensor, divisor, shape }
    };
    out_of_memory::catch_oom(forward).map_err(|why| {
        free_graph(network);
        no_memory(shape, &why)
    })
}

impl ForwardPass {
    /// Runs the backward pass and returns the gradients.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Memory`]: the device has no memory for them.
    pub fn gradients(self, network: &Network) -> Result<GradientsParams, Error> {
        let Self { tensor, divisor, shape, .. } = self;
        let backward = || {
            out_of_memory::inject_oom(shape[0]);
            GradientsParams::from_grads(tensor.div_scalar(divisor as f32).backward(), network)
        };
        out_of_memory::catch_oom(backward).map_err(|why| {
            free_graph(network);
            no_memory(shape, &why)
        })
    }
}

/// Frees the autograd graph of an aborted forward pass.
///
/// Autodiff keeps every activation map of a forward pass until a backward pass through one of its
/// parameters ends. Without that backward pass, retrying with a smaller batch runs out of memory
/// again.
fn free_graph(network: &Network) {
    struct SumParameters(Option<Tensor<1>>);
    impl ModuleVisitor for SumParameters {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if param.is_require_grad() {
                let own = param.val().sum();
                self.0 = Some(match self.0.take() {
                    Some(sum) => sum + own,
                    None => own,
                });
            }
        }
    }
    let mut sum = SumParameters(None);
    network.visit(&mut sum);
    if let Some(sum) = sum.0 {
        drop(sum.backward());
    }
}

fn no_memory([count, _, height, width]: [usize; 4], why: &str) -> Error {
    let (images, way_out) = match count {
        1 => ("image", "lower --img-size or --width, or use --backend flex"),
        _ => ("images", "lower --batch-size"),
    };
    Error::memory(format!(
        "a batch of {count} {images} of {height}x{width} pixels does not fit the device's memory \
         ({why}); {way_out}; the last checkpoint is intact"
    ))
}

/// Gradients of a batch whose loss stays on the device.
pub struct UnreadPass {
    /// The loss, `[1]`, a mean over the images.
    pub loss: Tensor<1>,
    /// Number of images.
    pub images: usize,
    /// As those of [`LossAndGradients`].
    pub gradients: GradientsParams,
}

/// [`forward_backward`] in one piece, without waiting for the device.
///
/// # Errors
/// [`crate::error::ErrorKind::Memory`]: the device has no memory for the batch.
pub fn forward_backward_unread(
    network: &Network,
    objective: &Objective,
    mut batch: Batch,
    config: PassConfig,
    autodiff_device: &Device,
) -> Result<UnreadPass, Error> {
    let (images, seed) = (batch.labels.len(), config.dropout_seed);
    let divisor = config.batches_per_step as f64 / config.loss_scale;
    let pass =
        forward_reading(network, objective, &mut batch, divisor, seed, autodiff_device, false)?;
    let loss = pass.tensor.clone().inner();
    Ok(UnreadPass { loss, images, gradients: pass.gradients(network)? })
}

/// Loss and gradients of a batch.
pub struct LossAndGradients {
    /// The loss, a mean over the images.
    pub loss: f64,
    /// Number of images.
    pub images: usize,
    /// Gradients divided by [`PassConfig::batches_per_step`], times [`PassConfig::loss_scale`]; none
    /// if the loss is not finite.
    pub gradients: Option<GradientsParams>,
}

/// How a batch goes through the network.
#[derive(Clone, Copy, Debug)]
pub struct PassConfig {
    /// Most images of a micro-batch.
    pub micro_batch: usize,
    /// Batches whose gradients are accumulated into one optimizer step.
    pub batches_per_step: usize,
    /// [`dropout_seed`] of the batch.
    pub dropout_seed: u64,
    /// Images of the batch on all ranks, where they share the statistics of batch norm: the
    /// gradients are then divided by them, and are the rank's summand. Otherwise they are the mean
    /// over the images of this rank.
    pub shared_images: Option<u64>,
    /// Factor of the loss in the backward pass, a power of two. Gradients of f16 maps would be
    /// rounded to zero without it; those of the weights are divided by it again.
    pub loss_scale: f64,
}

/// Runs a batch forward and backward in micro-batches. Loss and gradients are those of the whole
/// batch, but batch norm sees one micro-batch at a time.
///
/// # Errors
/// [`crate::error::ErrorKind::Memory`]: the device has no memory for a micro-batch. The running
/// statistics may have changed by then.
pub fn forward_backward(
    network: &Network,
    objective: &Objective,
    batch: Batch,
    config: PassConfig,
    autodiff_device: &Device,
) -> Result<LossAndGradients, Error> {
    let count = batch.labels.len();
    let whole = count as f64;
    let mut loss = 0.0;
    let mut only: Option<GradientsParams> = None;
    let mut sum = GradientsAccumulator::new();
    for (number, mut part) in micro_batches(batch, config.micro_batch).into_iter().enumerate() {
        let images = part.labels.len() as f64;
        // The first micro-batch has the seed of the batch, so a single one computes the whole
        // batch.
        let seed = match number {
            0 => config.dropout_seed,
            _ => Counter::new(config.dropout_seed, number as u64, 0, DROPOUT).u64(),
        };
        let all = config.shared_images.map_or(whole, |images| images as f64);
        let divisor = config.batches_per_step as f64 * (all / images) / config.loss_scale;
        let forward = forward(network, objective, &mut part, divisor, seed, autodiff_device)?;
        loss += forward.loss * (images / whole);
        // Other ranks wait in the backward pass for the gradients of their shared statistics.
        let shared = config.shared_images.is_some();
        let gradients =
            (loss.is_finite() || shared).then(|| forward.gradients(network)).transpose()?;
        let Some(gradients) = gradients.filter(|_| loss.is_finite()) else {
            return Ok(LossAndGradients { loss, images: count, gradients: None });
        };
        match only.take() {
            None if number == 0 => only = Some(gradients),
            first => {
                first.into_iter().for_each(|first| sum.accumulate(network, first));
                sum.accumulate(network, gradients);
            }
        }
    }
    let gradients = Some(only.unwrap_or_else(|| sum.grads()));
    Ok(LossAndGradients { loss, images: count, gradients })
}

/// The batch in equal parts of at most `max` images, in order.
fn micro_batches(batch: Batch, max: usize) -> Vec<Batch> {
    let count = batch.labels.len();
    let parts = count.div_ceil(max);
    if parts < 2 {
        return vec![batch];
    }
    let [_, channels, height, width] = batch.shape;
    let size = channels * height * width;
    let part = |number: usize| {
        let range = number * count / parts..(number + 1) * count / parts;
        let labels = |all: &[i64]| all[range.clone()].to_vec();
        Batch {
            images: match &batch.bytes {
                Some(_) => Vec::new(),
                None => batch.images[range.start * size..range.end * size].to_vec(),
            },
            bytes: batch.bytes.as_ref().map(|bytes| ByteImages {
                pixels: bytes.pixels[range.start * size..range.end * size].to_vec(),
                ..*bytes
            }),
            shape: [range.len(), channels, height, width],
            labels: labels(&batch.labels),
            mixed_labels: batch.mixed_labels.as_ref().map(|(all, lambda)| (labels(all), *lambda)),
            indices: batch.indices[range.clone()].to_vec(),
            // The seed of each part is another one.
            rows: (0..range.len()).collect(),
            skipped: Vec::new(),
            skipped_indices: Vec::new(),
        }
    };
    (0..parts).map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutations caught: the mixed labels not split; the remainder in the last part.
    #[test]
    fn a_batch_is_split_into_equal_parts() {
        let batch = || Batch {
            images: (0_u8..35 * 3).map(f32::from).collect(),
            bytes: None,
            shape: [35, 3, 1, 1],
            labels: (0..35).collect(),
            mixed_labels: Some(((0..35).rev().collect(), 0.25)),
            indices: (100..135).collect(),
            rows: (0..35).collect(),
            skipped: Vec::new(),
            skipped_indices: Vec::new(),
        };
        let split = micro_batches(batch(), 16);
        let sizes: Vec<usize> = split.iter().map(|part| part.labels.len()).collect();
        assert_eq!(sizes, [11, 12, 12]);
        let joined =
            |of: &dyn Fn(&Batch) -> Vec<f64>| split.iter().flat_map(of).collect::<Vec<_>>();
        let numbers = |from: u32, to: u32| (from..to).map(f64::from).collect::<Vec<_>>();
        assert_eq!(joined(&|b| b.images.iter().map(|v| f64::from(*v)).collect()), numbers(0, 105));
        assert_eq!(joined(&|b| b.labels.iter().map(|v| *v as f64).collect()), numbers(0, 35));
        assert_eq!(joined(&|b| b.indices.iter().map(|v| *v as f64).collect()), numbers(100, 135));
        let mixed_labels =
            joined(&|b| b.mixed_labels.as_ref().unwrap().0.iter().map(|v| *v as f64).collect());
        assert_eq!(mixed_labels, numbers(0, 35).into_iter().rev().collect::<Vec<_>>());
        assert!(split.iter().all(|b| b.shape[0] == b.labels.len()));
        assert_eq!(micro_batches(batch(), 35).len(), 1);
        assert_eq!(micro_batches(batch(), 1).len(), 35);
    }
}
