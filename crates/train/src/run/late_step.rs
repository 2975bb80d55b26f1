//! Steps that a GPU is asked for without waiting for it: their losses and norms are read together,
//! every `--log-interval` batches.
//!
//! The device itself keeps a step that is not finite from the weights, and the statistics of a
//! batch that is not finite from the running ones. What the guard answers to such steps it answers
//! when they are read.

use burn::tensor::Tensor;
use kernels::ops::multi_tensor;

use crate::datasets::batch::Batch;
use crate::error::Error;
use crate::learner::forward_backward::{
    PassConfig, UnreadPass, dropout_seed, forward_backward_unread,
};
use crate::learner::nan_guard::Response;
use crate::optimizers::gradients::{ClipMode, Gradients};
use crate::optimizers::optimizer::{Guard, Optimizer};
use crate::run::averaging;
use crate::run::incident;
use crate::run::incident::NonFiniteStep;
use crate::run::progress::Position;
use crate::run::state::TrainState;
use crate::run::trainer::Trainer;

/// Steps in a row that are read at once before others are read late: a device without memory for a
/// batch says so when it is read, and a loss scale that is too large shows.
const READ_AT_ONCE: u64 = 10;

/// A step whose numbers are on the device.
struct UnreadStep {
    /// The loss, and the sum of the squared gradients before `scale`.
    numbers: Tensor<1>,
    images: u64,
    /// What the gradients were multiplied by.
    scale: f64,
    /// The step's last batch, and the steps done before it.
    position: Position,
    lr: f64,
    indices: Vec<usize>,
}

/// The steps that nobody has read yet.
#[derive(Default)]
pub(super) struct UnreadSteps {
    steps: Vec<UnreadStep>,
    /// Finite steps since the run began or one was not.
    finite: u64,
    /// The last finite loss that was read.
    pub(super) last_loss: f64,
}

/// The last of some steps that were read.
pub(super) struct ReadStep {
    pub(super) loss: f64,
    pub(super) grad_norm: f64,
}

/// What reading has brought.
pub(super) enum ReadOutcome {
    /// The numbers of the last finite step, if there was one.
    Read(Option<ReadStep>),
    /// The state is that of the last checkpoint again.
    RolledBack,
}

impl UnreadSteps {
    /// Counts a step that was read, by its loss; none for one that was not finite.
    pub(super) fn count(&mut self, loss: Option<f64>) {
        match loss {
            Some(loss) => (self.finite, self.last_loss) = (self.finite + 1, loss),
            None => self.finite = 0,
        }
    }

    /// Whether the next step may be read late.
    pub(super) fn may_wait(&self) -> bool {
        self.finite >= READ_AT_ONCE
    }
}

/// Whether steps of this run can be read late: on a GPU, by one process, whose update needs no
/// number on the host.
pub(super) fn supports(trainer: &Trainer, optimizer: &Optimizer) -> bool {
    let plan = &trainer.context.plan;
    let clips = plan.optimizer.clip_grad > 0.0 && plan.optimizer.clip_mode != ClipMode::Norm;
    multi_tensor::supports(&Tensor::<1>::empty([1], &trainer.device))
        && trainer.communicator().world() == 1
        && plan.training.grad_accum_steps == 1
        // Larger images may find no memory, which would show too late.
        && plan.augmentation.img_size_start.is_none()
        && optimizer.has_guarded_updates()
        && !clips
}

/// Trains on a batch, which is a step, without waiting for the device.
///
/// # Errors
/// [`crate::error::ErrorKind::Memory`]: the device has no memory for the batch.
pub(super) fn step(
    trainer: &Trainer,
    mut state: TrainState,
    unread: &mut UnreadSteps,
    batch: Batch,
    lr: f64,
) -> Result<TrainState, Error> {
    let plan = &trainer.context.plan;
    let Position { epoch, batch: number, .. } = state.position;
    let indices = batch.indices.clone();
    let loss_scale = state.nan_guard.loss_scale(plan.machine.amp);
    let config = PassConfig {
        micro_batch: plan.training.batch_size,
        batches_per_step: 1,
        dropout_seed: dropout_seed(plan.training.seed, epoch, number),
        shared_images: None,
        loss_scale,
    };
    let device = &trainer.context.autodiff_device;
    let pass = forward_backward_unread(&state.network, &trainer.objective, batch, config, device)?;
    let UnreadPass { loss, images, gradients } = pass;
    let mut gradients = Gradients::take(&state.network, gradients);
    gradients.scale(1.0 / loss_scale);
    let squares = gradients.squares().expect("gradients on a GPU");
    let values = Tensor::cat(vec![loss, squares], 0);
    let guard = Guard { values: values.clone(), max_norm: plan.optimizer.clip_grad };
    if let Some(momentum) = trainer.schedule.momentum(state.position.step) {
        state.optimizer.set_momentum(momentum);
    }
    state.network = state.optimizer.apply_guarded(lr, state.network, gradients, &guard);
    state = averaging::update_ema(state, plan);
    unread.steps.push(UnreadStep {
        numbers: values,
        images: images as u64,
        scale: 1.0 / loss_scale,
        position: state.position,
        lr,
        indices,
    });
    state.position.step += 1;
    Ok(state)
}

/// Reads all steps, counts them in the epoch's sums, and responds to those that were not finite.
///
/// # Errors
/// As [`incident::respond`].
pub(super) fn read(
    trainer: &Trainer,
    mut state: TrainState,
    unread: &mut UnreadSteps,
) -> Result<(TrainState, ReadOutcome), Error> {
    let steps = std::mem::take(&mut unread.steps);
    let numbers: Vec<Tensor<1>> = steps.iter().map(|step| step.numbers.clone()).collect();
    let values = match numbers.is_empty() {
        true => Vec::new(),
        false => Tensor::cat(numbers, 0).into_data().try_into_vec::<f32>().expect("f32"),
    };
    let mut last = None;
    for (step, [loss, squares]) in steps.into_iter().zip(values.as_chunks::<2>().0) {
        let (loss, grad_norm) = (f64::from(*loss), f64::from(*squares).sqrt() * step.scale);
        let finite = loss.is_finite() && grad_norm.is_finite();
        unread.count(finite.then_some(loss));
        if finite {
            state.nan_guard.on_finite_step();
            state.epoch_stats.loss += loss * step.images as f64;
            state.epoch_stats.seen += step.images;
            last = Some(ReadStep { loss, grad_norm });
            continue;
        }
        state.optimizer.uncount_step();
        let response;
        (state, response) = respond(trainer, state, &step, [loss, grad_norm])?;
        if response == Response::RollBack {
            return Ok((state, ReadOutcome::RolledBack));
        }
    }
    Ok((state, ReadOutcome::Read(last)))
}

/// Responds to a step that was not finite, and that the device has kept from the weights.
fn respond(
    trainer: &Trainer,
    mut state: TrainState,
    step: &UnreadStep,
    [loss, grad_norm]: [f64; 2],
) -> Result<(TrainState, Response), Error> {
    if incident::back_off(trainer, &mut state, step.position.step, loss) {
        return Ok((state, Response::Skip));
    }
    let (position, lr) = (step.position, step.lr);
    let record = NonFiniteStep::new(position, lr, loss, grad_norm, &trainer.train, &step.indices);
    incident::respond(trainer, state, &record)
}
