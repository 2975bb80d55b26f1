//! Averages of the weights during a run: the exponential one after every step, the equal one (SWA)
//! after every epoch, and the statistics of batch norm for weights that no forward pass has seen.

use nn::network::Network;

use crate::config::plan::Plan;
use crate::error::Error;
use crate::learner::bn_statistics;
use crate::optimizers::weight_average::{Average, ema_decay};
use crate::run::observer::accuracy_line;
use crate::run::retention;
use crate::run::state::TrainState;
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

/// The network with statistics of batch norm from the first `count` batches of epoch 0.
///
/// # Errors
/// As [`bn_statistics::reestimate`].
pub(super) fn reestimate(
    trainer: &Trainer,
    network: Network,
    count: usize,
) -> Result<Network, Error> {
    let batches = trainer.loader.epoch(0, 0).take(count);
    bn_statistics::reestimate(network, batches, &trainer.context.autodiff_device)
}

/// At the end of a run, after its last epoch `epoch`: makes the equal average the network,
/// evaluates it and saves it as `model_swa.ckpt`, and as the best checkpoint if it is.
///
/// # Errors
/// As [`reestimate`] and [`evaluate_model`]; a checkpoint that cannot be written.
pub(super) fn finish_swa(
    trainer: &Trainer,
    mut state: TrainState,
    epoch: u64,
) -> Result<TrainState, Error> {
    let Some(swa) = state.swa.take() else { return Ok(state) };
    let plan = &trainer.context.plan;
    // No forward pass has seen these weights, so their statistics do not exist yet.
    let count = if plan.averaging.bn_reestimate > 0 {
        plan.averaging.bn_reestimate
    } else {
        trainer.batches()
    };
    state.network = reestimate(trainer, trainer.context.network_of(&swa), count)?;
    let report = evaluate_model(trainer, &state.network)?;
    trainer.observer.note(&format!("{} SWA", accuracy_line(&report)));
    state.prefer_ema = false;
    trainer.save(&state, retention::SWA)?;
    if update_best(&mut state, epoch, &report, plan.training.eval_metric.score(&report)) {
        trainer.save(&state, retention::SWA)?;
        retention::copy(&trainer.folder, retention::SWA, retention::BEST)?;
    }
    Ok(state)
}
