//! A batch forward and backward: what the training loop, the search for a learning rate and the replay of a failed step
//! share.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Tensor, TensorData};
use nn::network::Network;

use crate::datasets::loader::Batch;
use crate::error::Error;
use crate::learner::objective::Objective;
use crate::learner::out_of_memory;
use transforms::random::Counter;

/// Where the counter-based generator is used for dropout (the loader has its own purposes).
const DROPOUT: u64 = 0xD0;

/// Images that went forward.
pub struct ForwardPass {
    /// The mean over the images.
    pub loss: f64,
    tensor: Tensor<1>,
    divisor: f64,
    shape: [usize; 4],
}

/// The seed of a batch's dropout masks; `batch` is counted from 1.
pub fn dropout_seed(seed: u64, epoch: u64, batch: usize) -> u64 {
    Counter::new(seed, epoch, batch as u64, DROPOUT).u64()
}

/// The loss of a batch, whose gradients will be divided by `divisor` (the batches that make one step). Takes the
/// images out of the batch.
///
/// # Errors
/// When the device has no memory for it.
pub fn forward(
    network: &Network,
    objective: &Objective,
    batch: &mut Batch,
    divisor: f64,
    dropout: u64,
    autodiff_device: &Device,
) -> Result<ForwardPass, Error> {
    let (values, shape) = (std::mem::take(&mut batch.images), batch.shape);
    let forward = || {
        let images = Tensor::<4>::from_data(TensorData::new(values, shape), autodiff_device);
        let targets = objective.targets(batch, autodiff_device);
        let teacher_logits = objective.teacher_logits(&images);
        let outputs = network.forward_train(images, dropout);
        let tensor = objective.loss(&outputs, targets, teacher_logits);
        let loss = f64::from(tensor.clone().inner().into_scalar::<f32>());
        ForwardPass { loss, tensor, divisor, shape }
    };
    out_of_memory::catch_oom(forward).map_err(|why| {
        forget(network);
        no_room(shape, &why)
    })
}

impl ForwardPass {
    /// The gradients.
    ///
    /// # Errors
    /// When the device has no memory for them.
    pub fn gradients(self, network: &Network) -> Result<GradientsParams, Error> {
        let Self { tensor, divisor, shape, .. } = self;
        let backward = || {
            out_of_memory::inject_oom(shape[0]);
            GradientsParams::from_grads(tensor.div_scalar(divisor as f32).backward(), network)
        };
        out_of_memory::catch_oom(backward).map_err(|why| {
            forget(network);
            no_room(shape, &why)
        })
    }
}

/// Lets go of what a pass that broke off has left: autodiff keeps every map of a forward pass until a backward pass
/// through one of its parameters ends, so a smaller batch would find no more room than the one before.
fn forget(network: &Network) {
    struct Sum(Option<Tensor<1>>);
    impl ModuleVisitor for Sum {
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
    let mut sum = Sum(None);
    network.visit(&mut sum);
    if let Some(sum) = sum.0 {
        drop(sum.backward());
    }
}

fn no_room([count, _, height, width]: [usize; 4], why: &str) -> Error {
    let (images, way_out) = match count {
        1 => ("image", "lower --img-size or --width, or use --backend flex"),
        _ => ("images", "lower --batch-size"),
    };
    Error::memory(format!(
        "a batch of {count} {images} of {height}x{width} pixels does not fit the device's memory ({why}); \
         {way_out}; the last checkpoint is intact"
    ))
}

/// Loss and gradients of a batch.
pub struct LossAndGradients {
    /// The mean over the images.
    pub loss: f64,
    /// Divided as asked; none where the loss is not finite.
    pub gradients: Option<GradientsParams>,
}

/// A batch forward and backward in micro-batches of at most `most` images, the gradients those of the whole batch
/// divided by the `share` batches that make one step. Batch norm sees a micro-batch at a time.
///
/// # Errors
/// When the device has no memory for a micro-batch; running statistics have moved by then.
pub fn forward_backward(
    network: &Network,
    objective: &Objective,
    batch: Batch,
    most: usize,
    share: usize,
    dropout: u64,
    autodiff_device: &Device,
) -> Result<LossAndGradients, Error> {
    let whole = batch.labels.len() as f64;
    let mut loss = 0.0;
    let mut taken: Option<GradientsParams> = None;
    let mut sum = GradientsAccumulator::new();
    for (number, mut part) in parts(batch, most).into_iter().enumerate() {
        let images = part.labels.len() as f64;
        // The first has the seed of the batch, so that one micro-batch is the batch.
        let dropout = match number {
            0 => dropout,
            _ => Counter::new(dropout, number as u64, 0, DROPOUT).u64(),
        };
        let divisor = share as f64 * (whole / images);
        let forward = forward(network, objective, &mut part, divisor, dropout, autodiff_device)?;
        loss += forward.loss * (images / whole);
        if !loss.is_finite() {
            return Ok(LossAndGradients { loss, gradients: None });
        }
        let gradients = forward.gradients(network)?;
        match taken.take() {
            None if number == 0 => taken = Some(gradients),
            first => {
                first.into_iter().for_each(|first| sum.accumulate(network, first));
                sum.accumulate(network, gradients);
            }
        }
    }
    Ok(LossAndGradients { loss, gradients: Some(taken.unwrap_or_else(|| sum.grads())) })
}

/// The batch in equal parts of at most `most` images, in order.
fn parts(batch: Batch, most: usize) -> Vec<Batch> {
    let count = batch.labels.len();
    let parts = count.div_ceil(most);
    if parts < 2 {
        return vec![batch];
    }
    let [_, channels, height, width] = batch.shape;
    let size = channels * height * width;
    let part = |number: usize| {
        let range = number * count / parts..(number + 1) * count / parts;
        let labels = |all: &[i64]| all[range.clone()].to_vec();
        Batch {
            images: batch.images[range.start * size..range.end * size].to_vec(),
            shape: [range.len(), channels, height, width],
            labels: labels(&batch.labels),
            mixed_labels: batch.mixed_labels.as_ref().map(|(all, share)| (labels(all), *share)),
            indices: batch.indices[range.clone()].to_vec(),
            skipped: Vec::new(),
        }
    };
    (0..parts).map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seen to fail with the labels of the partners left whole, and with the remainder in the last part.
    #[test]
    fn a_batch_comes_apart_in_equal_parts() {
        let batch = || Batch {
            images: (0_u8..35 * 3).map(f32::from).collect(),
            shape: [35, 3, 1, 1],
            labels: (0..35).collect(),
            mixed_labels: Some(((0..35).rev().collect(), 0.25)),
            indices: (100..135).collect(),
            skipped: Vec::new(),
        };
        let apart = parts(batch(), 16);
        let sizes: Vec<usize> = apart.iter().map(|part| part.labels.len()).collect();
        assert_eq!(sizes, [11, 12, 12]);
        let joined =
            |of: &dyn Fn(&Batch) -> Vec<f64>| apart.iter().flat_map(of).collect::<Vec<_>>();
        let numbers = |from: u32, to: u32| (from..to).map(f64::from).collect::<Vec<_>>();
        assert_eq!(joined(&|b| b.images.iter().map(|v| f64::from(*v)).collect()), numbers(0, 105));
        assert_eq!(joined(&|b| b.labels.iter().map(|v| *v as f64).collect()), numbers(0, 35));
        assert_eq!(joined(&|b| b.indices.iter().map(|v| *v as f64).collect()), numbers(100, 135));
        let partners =
            joined(&|b| b.mixed_labels.as_ref().unwrap().0.iter().map(|v| *v as f64).collect());
        assert_eq!(partners, numbers(0, 35).into_iter().rev().collect::<Vec<_>>());
        assert!(apart.iter().all(|b| b.shape[0] == b.labels.len()));
        assert_eq!(parts(batch(), 35).len(), 1);
        assert_eq!(parts(batch(), 1).len(), 35);
    }
}
