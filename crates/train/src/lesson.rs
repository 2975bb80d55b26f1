//! One batch forward and backward: what the training loop, the search for a learning rate and the replay of a
//! failed step share.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use nn::network::Network;

use crate::failure::Failure;
use crate::loader::Batch;
use crate::objective::Objective;
use crate::random::Counter;

/// Where the counter-based generator is used for dropout (the loader has its own purposes).
const DROPOUT: u64 = 0xD0;

/// A batch that went forward.
pub struct Lesson {
    /// The mean over its pictures.
    pub loss: f64,
    tensor: Tensor<1>,
    share: usize,
    shape: [usize; 4],
}

/// The seed of a batch's dropout masks; `batch` is counted from 1.
pub fn dropout_seed(seed: u64, epoch: u64, batch: usize) -> u64 {
    Counter::new(seed, epoch, batch as u64, DROPOUT).u64()
}

/// The loss of a batch, whose gradients will be divided by the `share` batches that make one step. Takes the
/// pictures out of the batch.
///
/// # Errors
/// When the device has no memory for it.
pub fn lesson(
    network: &Network,
    objective: &Objective,
    batch: &mut Batch,
    share: usize,
    dropout: u64,
    tape: &Device,
) -> Result<Lesson, Failure> {
    let (values, shape) = (std::mem::take(&mut batch.images), batch.shape);
    caught(shape, || {
        let images = Tensor::<4>::from_data(TensorData::new(values, shape), tape);
        let targets = objective.targets(batch, tape);
        let taught = objective.taught(&images);
        let outputs = network.forward_train(images, dropout);
        let tensor = objective.loss(&outputs, targets, taught);
        let loss = f64::from(tensor.clone().inner().into_scalar::<f32>());
        Lesson { loss, tensor, share, shape }
    })
}

impl Lesson {
    /// The gradients.
    ///
    /// # Errors
    /// When the device has no memory for them.
    pub fn gradients(self, network: &Network) -> Result<GradientsParams, Failure> {
        let Self { tensor, share, shape, .. } = self;
        caught(shape, || {
            GradientsParams::from_grads(tensor.div_scalar(share as f32).backward(), network)
        })
    }
}

/// The work, its panic for want of memory made a sentence.
fn caught<R>(
    [count, _, height, width]: [usize; 4],
    work: impl FnOnce() -> R,
) -> Result<R, Failure> {
    // Nothing that is changed inside is used again after a panic.
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| match exhausted(&*panic) {
        Some(why) => Failure::backend(format!(
            "a batch of {count} pictures of {height}x{width} pixels does not fit the device's memory \
             ({why}); halve --batch-size and double --grad-accum-steps, which keeps the step the same \
             but for batch norm; the last checkpoint is intact"
        )),
        None => resume_unwind(panic),
    })
}

/// The first line of a panic that tells of missing memory. Burn and wgpu have no error for it.
fn exhausted(panic: &(dyn std::any::Any + Send)) -> Option<String> {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())?;
    let small = text.to_lowercase();
    let words =
        ["out of memory", "outofmemory", "out_of_memory", "memory allocation", "max_buffer_size"];
    words
        .iter()
        .any(|word| small.contains(word))
        .then(|| text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::exhausted;

    #[test]
    fn missing_memory_is_told_from_other_panics() {
        let of = |text: &str| {
            let panic = std::panic::catch_unwind(|| panic!("{text}")).unwrap_err();
            exhausted(&*panic)
        };
        assert_eq!(
            of("wgpu error: Out of Memory\nmore").as_deref(),
            Some("wgpu error: Out of Memory")
        );
        assert!(of("index out of bounds").is_none());
    }
}
