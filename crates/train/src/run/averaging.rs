//! Averages of the weights during a run: the exponential one after every step, the equal one (SWA)
//! after every epoch, and the statistics of batch norm for weights that no forward pass has seen.

use nn::network::Network;

use crate::config::plan::Plan;
use crate::error::Error;
use crate::files::crash_point;
use crate::learner::bn_statistics;
use crate::optimizers::weight_average::{Average, ema_decay};
use crate::run::retention;
use crate::run::state::TrainState;
use crate::run::synchronise;
use crate::run::trainer::Trainer;
use crate::run::validate::{evaluate_model, update_best};

/// After an update of the weights: updates their exponential average, if the run has one.
pub(super) fn update_ema(mut state: TrainState, plan: &Plan) -> TrainState {
    if let Some(ema) = &mut state.ema {
        let decay =
            ema_decay(plan.averaging.model_ema_decay, ema.count, plan.averaging.model_ema_warmup);
        state.network = ema.update_ema(state.network, decay);
    }
    state
}

/// After an epoch: updates the equal average of the weights, from `--swa-start` on.
pub(super) fn update_swa(mut state: TrainState, plan: &Plan, epoch: u64) -> TrainState {
    if plan.averaging.swa_start.is_some_and(|start| epoch >= start) {
        let mut swa = state.swa.take().unwrap_or_else(|| Average::new(&state.network));
        state.network = swa.update_swa(state.network);
        state.swa = Some(swa);
    }
    state
}

/// The network with statistics of batch norm from the first `count` batches of epoch 0; none if a
/// signal ended the estimation.
///
/// # Errors
/// As [`bn_statistics::reestimate`].
pub(super) fn reestimate(
    trainer: &Trainer,
    network: Network,
    count: usize,
) -> Result<Option<Network>, Error> {
    let goes_on = || trainer.stop.requested().is_none();
    if trainer.signal()?.is_some() {
        return Ok(None);
    }
    let batches = trainer.loader.epoch(0, 0).take(count).enumerate();
    // The first batch counts in any case: an estimation without any is an error.
    let batches = batches.take_while(|(number, _)| {
        crash_point();
        *number == 0 || goes_on()
    });
    let batches = batches.map(|(_, batch)| batch);
    let device = &trainer.context.autodiff_device;
    let network = bn_statistics::reestimate(network, batches, device)?;
    let network = synchronise::average_statistics(trainer.communicator(), network)?;
    Ok(trainer.signal()?.is_none().then_some(network))
}

/// The outcome of [`finish_swa`].
pub(super) enum Finish {
    /// The run is finished; whether its equal average is the best of its models.
    Done(bool),
    /// A signal, by its exit code, came first.
    Interrupted(u8),
}

/// At the end of a run, after its last epoch `epoch`: evaluates the equal average, if there is one,
/// and saves it as `model_swa.ckpt`, and as the best checkpoint if it is. The state stays that of
/// the trained weights, but for its best evaluation.
///
/// # Errors
/// As [`reestimate`] and [`evaluate_model`]; a checkpoint that cannot be written.
pub(super) fn finish_swa(
    trainer: &Trainer,
    state: &mut TrainState,
    epoch: u64,
) -> Result<Finish, Error> {
    let Some(swa) = &state.swa else { return Ok(Finish::Done(false)) };
    let plan = &trainer.context.plan;
    // No forward pass has seen these weights, so their statistics do not exist yet.
    let count = if plan.averaging.bn_reestimate > 0 {
        plan.averaging.bn_reestimate
    } else {
        trainer.batches()
    };
    let network = reestimate(trainer, trainer.context.network_of(swa), count)?;
    let report = network.as_ref().map(|n| evaluate_model(trainer, n)).transpose()?;
    // What a signal cut short is no evaluation: the resumed run makes it anew.
    if let Some(code) = trainer.signal()? {
        return Ok(Finish::Interrupted(code));
    }
    let (Some(network), Some(report)) = (network, report) else { return Ok(Finish::Done(false)) };
    trainer.observer.averaged(&report);
    if !report.loss.is_finite() {
        trainer.observer.note("note: the loss of the equal average is not finite: it is not saved");
        return Ok(Finish::Done(false));
    }
    let own = (
        std::mem::replace(&mut state.network, network),
        state.swa.take(),
        std::mem::replace(&mut state.prefer_ema, false),
    );
    let better = update_best(state, epoch, &report, plan.training.eval_metric.score(&report));
    if let Some(best) = state.best.as_mut().filter(|_| better) {
        best.swa = true;
    }
    let saved = trainer.save(state, retention::SWA);
    (state.network, state.swa, state.prefer_ema) = own;
    saved?;
    if better && trainer.is_root() {
        retention::make_swa_best(&trainer.folder)?;
    }
    Ok(Finish::Done(better))
}
