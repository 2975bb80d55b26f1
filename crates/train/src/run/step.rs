//! One step of the loop: a batch forward and backward, and the optimizer's update when the batch
//! closes its accumulation group.

use burn::optim::GradientsAccumulator;
use burn::tensor::Tensor;
use nn::block::sync_batch_norm;
use nn::network::Network;

use crate::datasets::batch::Batch;
use crate::distributed::communicator::Communicator;
use crate::distributed::launch::injected;
use crate::error::{Error, ErrorKind};
use crate::learner::bn_statistics;
use crate::learner::bn_statistics::Share;
use crate::learner::forward_backward::{
    LossAndGradients, PassConfig, dropout_seed, forward_backward,
};
use crate::learner::nan_guard::Response;
use crate::optimizers::gradients::Gradients;
use crate::run::averaging;
use crate::run::incident;
use crate::run::incident::NonFiniteStep;
use crate::run::late_step;
use crate::run::late_step::{ReadOutcome, UnreadSteps};
use crate::run::progress::{EpochStats, Position};
use crate::run::state::TrainState;
use crate::run::synchronise;
use crate::run::synchronise::{BatchLoss, GradientSum, StepBatches};
use crate::run::trainer::Trainer;

/// The batches whose gradients make one optimizer step.
pub(super) struct AccumulationGroup {
    accumulator: GradientsAccumulator<Network>,
    /// Batches in the accumulator.
    accumulated: usize,
    /// Every batch, in their order.
    batches: Vec<BatchLoss>,
    /// The last batch whose loss was not finite: its number, from 1, and the indices of its images.
    non_finite: Option<(usize, Vec<usize>)>,
    /// Running statistics before the first batch.
    statistics: Vec<Tensor<1>>,
    /// Sums of the epoch before the first batch.
    epoch_stats: EpochStats,
    /// Steps before this one that nobody has read yet.
    unread: UnreadSteps,
}

impl AccumulationGroup {
    /// An empty group.
    pub(super) fn new(network: &Network, epoch_stats: EpochStats) -> Self {
        Self {
            accumulator: GradientsAccumulator::new(),
            accumulated: 0,
            batches: Vec::new(),
            non_finite: None,
            statistics: bn_statistics::snapshot(network),
            epoch_stats,
            unread: UnreadSteps::default(),
        }
    }

    /// The empty group that follows this one.
    pub(super) fn next(&mut self, network: &Network, epoch_stats: EpochStats) {
        let unread = std::mem::take(&mut self.unread);
        *self = Self { unread, ..Self::new(network, epoch_stats) };
    }

    /// The running statistics before the next batch.
    fn statistics_before(&self, network: &Network) -> Vec<Tensor<1>> {
        match self.accumulated {
            0 => self.statistics.clone(),
            _ => bn_statistics::snapshot(network),
        }
    }

    /// Adds the gradients of a batch with these images, or marks the group if they are not finite.
    fn accumulate(&mut self, state: &mut TrainState, pass: LossAndGradients, indices: &[usize]) {
        self.batches.push(BatchLoss { loss: pass.loss, images: pass.images as u64 });
        let Some(gradients) = pass.gradients else {
            self.non_finite = Some((state.position.batch, indices.to_vec()));
            return;
        };
        self.accumulator.accumulate(&state.network, gradients);
        self.accumulated += 1;
        state.epoch_stats.loss += pass.loss * pass.images as f64;
        state.epoch_stats.seen += pass.images as u64;
    }

    /// Adds up the batches over the ranks, and counts them in the epoch's sums.
    fn add_ranks(
        &self,
        communicator: &dyn Communicator,
        stats: &mut EpochStats,
    ) -> Result<StepBatches, Error> {
        let step = synchronise::add_batches(communicator, &self.batches)?;
        (stats.loss, stats.seen) = (self.epoch_stats.loss, self.epoch_stats.seen);
        let finite = |batch: &&BatchLoss| batch.images > 0 && batch.loss.is_finite();
        for batch in step.batches.iter().filter(finite) {
            stats.loss += batch.loss * batch.images as f64;
            stats.seen += batch.images;
        }
        Ok(step)
    }
}

/// The result of a batch.
pub(super) struct BatchResult {
    /// Loss; NaN for a batch without a readable image.
    pub loss: f64,
    /// Learning rate of the step.
    pub lr: f64,
    /// Norm of the step's gradients before clipping, if the batch closed an accumulation group.
    pub grad_norm: Option<f64>,
    /// Whether the batch closed its accumulation group.
    pub closes: bool,
}

/// The outcome of a step.
pub(super) enum StepOutcome {
    /// The batch is done.
    Done(BatchResult),
    /// The state is that of the last checkpoint again.
    RolledBack,
}

/// Trains on one batch, and updates the weights if the batch closes its accumulation group.
///
/// # Errors
/// [`ErrorKind::Memory`]: one image does not fit the memory. [`ErrorKind::Diverged`]: losses or
/// gradients stay not finite. A file that cannot be read or written.
pub(super) fn step(
    trainer: &Trainer,
    mut state: TrainState,
    group: &mut AccumulationGroup,
    batch: Batch,
) -> Result<(TrainState, StepOutcome), Error> {
    let plan = &trainer.context.plan;
    let lr = trainer.lr(&state);
    state.position.batch += 1;
    // The number of a batch in its epoch decides to which accumulation group it belongs.
    let number = state.position.batch;
    let closes =
        number.is_multiple_of(plan.training.grad_accum_steps) || number == trainer.batches();
    let mut result = BatchResult { loss: f64::NAN, lr, grad_norm: None, closes };
    if group.unread.may_wait() && waits(trainer, &state, &batch) {
        return late(trainer, state, group, batch, result);
    }
    let indices = batch.indices.clone();

    if batch.labels.is_empty() {
        trainer.shared_images(0)?;
        group.batches.push(BatchLoss { loss: f64::NAN, images: 0 });
    } else {
        let pass;
        (state, pass) = forward_backward_halving(trainer, state, group, batch)?;
        result.loss = pass.loss;
        group.accumulate(&mut state, pass, &indices);
    }
    if !closes {
        return Ok((state, StepOutcome::Done(result)));
    }

    let communicator = trainer.communicator();
    let summed = group.add_ranks(communicator, &mut state.epoch_stats)?;
    let last = summed.batches.last().filter(|batch| batch.images > 0);
    result.loss = last.map_or(result.loss, |batch| batch.loss);
    let non_finite = summed.batches.iter().any(BatchLoss::is_non_finite);
    let trained = summed.batches.iter().any(|b| b.images > 0 && b.loss.is_finite());
    let mut gradients = Gradients::take(&state.network, group.accumulator.grads());
    gradients.scale(1.0 / state.nan_guard.loss_scale(plan.machine.amp));
    let (summands, dtype) = (trainer.norm_group.is_some(), plan.machine.comm_dtype);
    let sum = GradientSum { summands, dtype };
    (state.network, gradients) =
        synchronise::average(communicator, state.network, gradients, &summed, sum)?;
    let norm = if trained { gradients.norm() } else { 0.0 };
    result.grad_norm = trained.then_some(norm);
    if non_finite || !norm.is_finite() {
        group.unread.count(None);
        let response;
        (state, response) = undo_non_finite_step(trainer, state, group, &result, norm, indices)?;
        if response == Response::RollBack {
            return Ok((state, StepOutcome::RolledBack));
        }
    } else if trained {
        state.nan_guard.on_finite_step();
        group.unread.count(Some(result.loss));
        if plan.optimizer.clip_grad > 0.0 {
            let groups = state.optimizer.groups();
            gradients.clip(
                plan.optimizer.clip_mode,
                plan.optimizer.clip_grad,
                norm,
                &state.network,
                groups,
            );
        }
        if let Some(momentum) = trainer.schedule.momentum(state.position.step) {
            state.optimizer.set_momentum(momentum);
        }
        state.network = state.optimizer.apply(lr, state.network, gradients);
        state = averaging::update_ema(state, plan);
    }
    group.next(&state.network, state.epoch_stats);
    state.position.step += 1;
    synchronise::check_replicas(communicator, &state.network, state.position.step)?;
    assert!(!injected("panic", state.position.step), "a panic for a test");
    Ok((state, StepOutcome::Done(result)))
}

/// Whether this step may be read late: nothing that follows it on the host needs its numbers.
fn waits(trainer: &Trainer, state: &TrainState, batch: &Batch) -> bool {
    late_step::supports(trainer, &state.optimizer)
        && state.micro_batch.is_none()
        && !batch.labels.is_empty()
        && cumulative_share(trainer, state.position, 1).is_none()
}

/// A step that is read with others, every [`Trainer::log_interval`] batches.
fn late(
    trainer: &Trainer,
    mut state: TrainState,
    group: &mut AccumulationGroup,
    batch: Batch,
    mut result: BatchResult,
) -> Result<(TrainState, StepOutcome), Error> {
    state = late_step::step(trainer, state, &mut group.unread, batch, result.lr)?;
    result.loss = group.unread.last_loss;
    let number = state.position.batch;
    if number.is_multiple_of(trainer.log_interval) || number == trainer.batches() {
        let outcome;
        (state, outcome) = read_late(trainer, state, group)?;
        match outcome {
            ReadOutcome::RolledBack => return Ok((state, StepOutcome::RolledBack)),
            ReadOutcome::Read(Some(last)) => {
                (result.loss, result.grad_norm) = (last.loss, Some(last.grad_norm));
            }
            ReadOutcome::Read(None) => {}
        }
    }
    group.next(&state.network, state.epoch_stats);
    Ok((state, StepOutcome::Done(result)))
}

/// Reads the steps that nobody has read yet: before the state is saved, and where one is logged.
pub(super) fn read_late(
    trainer: &Trainer,
    state: TrainState,
    group: &mut AccumulationGroup,
) -> Result<(TrainState, ReadOutcome), Error> {
    late_step::read(trainer, state, &mut group.unread)
}

/// Runs the batch forward and backward. While the memory does not suffice, the micro-batch is
/// halved and the batch made anew, with the running statistics from before it.
fn forward_backward_halving(
    trainer: &Trainer,
    mut state: TrainState,
    group: &AccumulationGroup,
    mut batch: Batch,
) -> Result<(TrainState, LossAndGradients), Error> {
    let plan = &trainer.context.plan;
    let Position { epoch, batch: number, .. } = state.position;
    let images = batch.labels.len();
    let batches_per_step = group_size(number, trainer.batches(), plan.training.grad_accum_steps);
    let dropout_seed = dropout_seed(plan.training.seed, epoch, number);
    let before = group.statistics_before(&state.network);
    let shared_images = trainer.shared_images(images)?;
    loop {
        // Ranks that share their statistics have as many forward passes.
        let whole = shared_images.map(|_| plan.training.batch_size);
        let micro_batch = whole.or(state.micro_batch).unwrap_or(plan.training.batch_size);
        let loss_scale = state.nan_guard.loss_scale(plan.machine.amp);
        let config =
            PassConfig { micro_batch, batches_per_step, dropout_seed, shared_images, loss_scale };
        let device = &trainer.context.autodiff_device;
        let share = cumulative_share(trainer, state.position, images.div_ceil(micro_batch));
        let mut own = None;
        if share.is_some() {
            let (network, before) = bn_statistics::from_zero(state.network);
            (state.network, own) = (network, Some(before));
        }
        let pass = || forward_backward(&state.network, &trainer.objective, batch, config, device);
        let error = match sync_batch_norm::within(trainer.norm_group.clone(), pass) {
            Err(error) if error.kind == ErrorKind::Memory => error,
            other => {
                if let Some((share, before)) = share.zip(own) {
                    state.network = bn_statistics::blend(state.network, before, share);
                }
                return Ok((state, other?));
            }
        };
        let half = half(images.min(micro_batch)).filter(|_| shared_images.is_none());
        let half = half.ok_or(error)?;
        state.micro_batch = Some(half);
        state.network = bn_statistics::restore(state.network, before.clone());
        trainer.observer.note(&halving_note(plan.training.batch_size, half));
        // A batch is a function of its number, so these are the same images to the bit.
        batch = trainer.loader.batch(epoch, number - 1)?;
    }
}

/// The weight of the batch in the statistics of batch norm while they are the mean over all batches
/// so far: at the beginning of a run, where the momentum would count the initial values for more.
fn cumulative_share(
    trainer: &Trainer,
    Position { epoch, batch, .. }: Position,
    parts: usize,
) -> Option<Share> {
    let plan = &trainer.context.plan.network;
    let number = epoch * trainer.batches() as u64 + batch as u64;
    let share = || bn_statistics::cumulative_share(plan.bn_momentum, number, parts);
    plan.bn_cumulative.then(share).flatten()
}

/// Undoes the forward passes of a group whose loss or gradient is not finite, records the step, and
/// skips it or rolls the run back.
fn undo_non_finite_step(
    trainer: &Trainer,
    mut state: TrainState,
    group: &mut AccumulationGroup,
    result: &BatchResult,
    norm: f64,
    indices: Vec<usize>,
) -> Result<(TrainState, Response), Error> {
    let own = (group.non_finite.take(), indices);
    let (found, indices): (Vec<_>, Vec<_>) =
        trainer.communicator().gather_values(own)?.into_iter().unzip();
    let last = || (state.position.batch, indices.concat());
    let (batch, indices) = found.into_iter().flatten().next().unwrap_or_else(last);
    let position = Position { batch, ..state.position };
    state.network = bn_statistics::restore(state.network, std::mem::take(&mut group.statistics));
    // A step that is not made has no loss.
    let EpochStats { loss, seen, .. } = group.epoch_stats;
    (state.epoch_stats.loss, state.epoch_stats.seen) = (loss, seen);
    if incident::back_off(trainer, &mut state, position.step, result.loss) {
        return Ok((state, Response::Skip));
    }
    let step = NonFiniteStep::new(position, result.lr, result.loss, norm, &trainer.train, &indices);
    incident::respond(trainer, state, &step)
}

/// Half of a micro-batch that did not fit; none for a single image.
fn half(images: usize) -> Option<usize> {
    (images > 1).then(|| images.div_ceil(2))
}

/// The note on a batch that is split.
fn halving_note(batch: usize, micro_batch: usize) -> String {
    let parts = batch.div_ceil(micro_batch);
    let norm = batch.div_ceil(parts);
    let images = if norm == 1 { "image" } else { "images" };
    format!(
        "note: out of memory at batch {batch}: going on with {parts} micro-batches of {norm}; \
         batch norm sees {norm} {images}"
    )
}

/// Number of batches in the accumulation group of batch number `batch` (from 1).
fn group_size(batch: usize, batches: usize, accumulate: usize) -> usize {
    let first = (batch - 1) / accumulate * accumulate;
    accumulate.min(batches - first)
}
