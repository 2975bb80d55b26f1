//! The evaluation of an epoch: the network and its exponential average, the best epoch, the
//! plateau.

use burn::module::Module as _;
use nn::network::Network;

use crate::datasets::batch::Batch;
use crate::error::{Error, ErrorKind};
use crate::files::crash_point;
use crate::learner::evaluate::{EvalReport, evaluate_shared, forward};
use crate::learner::out_of_memory;
use crate::optimizers::lr_schedule::LrSchedulerKind;
use crate::run::observer::EpochRecord;
use crate::run::progress::Best;
use crate::run::run_folder;
use crate::run::state::TrainState;
use crate::run::trainer::Trainer;

/// The outcome of a validation.
pub(super) enum Validation {
    /// The epoch is evaluated.
    Done {
        /// The better report of the network and its average.
        report: EvalReport,
        /// Whether it is the best of the run so far.
        better: bool,
    },
    /// A signal, by its exit code, ended the evaluation.
    Interrupted(u8),
    /// This loss of the network, or of its average, is not finite.
    NotFinite(f64),
}

/// Evaluates the network and its exponential average, writes `summary.csv` and `eval/`, and updates
/// the best epoch and the plateau. An evaluation whose loss is not finite changes neither of the
/// two, whatever its accuracy.
///
/// # Errors
/// [`crate::error::ErrorKind::Memory`]: a batch does not fit the memory. An image that cannot be
/// read with `--strict-data`; a file that cannot be written.
pub(super) fn validate(trainer: &Trainer, state: &mut TrainState) -> Result<Validation, Error> {
    let (plan, epoch) = (&trainer.context.plan, state.position.epoch);
    let report = evaluate_model(trainer, &state.network)?;
    let ema = state.ema.as_ref().map(|ema| trainer.context.network_of(ema));
    let ema_report = ema.map(|network| evaluate_model(trainer, &network)).transpose()?;
    let interrupted = report.interrupted || ema_report.as_ref().is_some_and(|r| r.interrupted);
    if let (true, Some(signal)) = (interrupted, trainer.signal()?) {
        return Ok(Validation::Interrupted(signal));
    }

    let last_step = state.position.step.saturating_sub(1);
    let lr = trainer.schedule.at(last_step) * state.plateau.factor;
    let stats = state.epoch_stats;
    let summarise = |report: &EvalReport, ema: Option<&EvalReport>| match trainer.is_root() {
        true => run_folder::summarise(&trainer.folder, epoch, lr, &stats, report, ema),
        false => Ok(()),
    };

    let losses = [Some(&report), ema_report.as_ref()];
    if let Some(failed) = losses.into_iter().flatten().find(|report| !report.loss.is_finite()) {
        report_epoch(trainer, state, Some(&report), ema_report.as_ref(), false);
        summarise(&report, ema_report.as_ref())?;
        return Ok(Validation::NotFinite(failed.loss));
    }

    let score = |report: &EvalReport| plan.training.eval_metric.score(report);
    state.prefer_ema = ema_report.as_ref().is_some_and(|ema| score(ema) > score(&report));
    let chosen = ema_report.as_ref().filter(|_| state.prefer_ema).unwrap_or(&report);
    let score = score(chosen);
    let better = update_best(state, epoch, chosen, score);
    report_epoch(trainer, state, Some(&report), ema_report.as_ref(), better);
    summarise(&report, ema_report.as_ref())?;
    let report = ema_report.filter(|_| state.prefer_ema).unwrap_or(report);
    if trainer.is_root() {
        run_folder::write_evaluation(&trainer.folder.join("eval"), &report)?;
    }
    update_plateau(trainer, state, score);
    Ok(Validation::Done { report, better })
}

/// Reports a trained epoch to the observer.
pub(super) fn report_epoch(
    trainer: &Trainer,
    state: &TrainState,
    report: Option<&EvalReport>,
    ema: Option<&EvalReport>,
    better: bool,
) {
    let record = EpochRecord {
        epoch: state.position.epoch,
        epochs: trainer.epochs(),
        stats: state.epoch_stats,
        report,
        ema,
        better,
    };
    trainer.observer.epoch(&record);
    let warnings = trainer.advice.after(&record);
    warnings.iter().for_each(|text| trainer.observer.note(&format!("warning: {text}")));
}

/// Evaluates a network on the validation images.
///
/// # Errors
/// As [`validate`].
pub(super) fn evaluate_model(trainer: &Trainer, network: &Network) -> Result<EvalReport, Error> {
    let Trainer { val_loader, device, stop, observer, .. } = trainer;
    let (network, all) = (network.valid(), trainer.val.items.len());
    let communicator = trainer.communicator();
    let progress = |done: u64| {
        crash_point();
        // The ranks have about as many images each.
        observer.evaluated((done * communicator.world() as u64).min(all as u64), all);
    };
    let forward = |batch: &mut Batch| Ok(forward(&network, batch, device));
    let note = |text: &str| observer.note(&format!("note: {text}"));
    let classes = &trainer.context.classes;
    let work =
        || evaluate_shared(&forward, val_loader, classes, stop, progress, &note, communicator);
    let report = out_of_memory::catch_oom(work).unwrap_or_else(|why| {
        Err(Error::memory(format!(
            "an evaluation of {} images at a time does not fit the device's memory ({why}); \
             --resume {} with a lower --val-batch-size",
            trainer.context.plan.training.val_batch_size,
            trainer.folder.display()
        )))
    });
    report.map_err(|mut error| {
        // The trained epoch is saved before it is evaluated.
        if error.kind == ErrorKind::Data {
            error.message += &trainer.way_back();
        }
        error
    })
}

/// Makes the report the best one of the run if its score is; returns whether it is.
/// `state.prefer_ema` says which weights were evaluated.
pub(super) fn update_best(
    state: &mut TrainState,
    epoch: u64,
    report: &EvalReport,
    score: f64,
) -> bool {
    // Of equal scores the lower loss is better: a few images know few accuracies.
    let lower = |best: Best| best.loss.is_some_and(|loss| report.loss < loss);
    let better =
        state.best.is_none_or(|best| score > best.score() || score == best.score() && lower(best));
    if better {
        let (top1, loss, ema) = (report.top1, Some(report.loss), state.prefer_ema);
        state.best = Some(Best { epoch, top1, loss, score: Some(score), ema, swa: false });
    }
    better
}

/// With `--sched plateau`: lowers the rate once the evaluations have stopped improving.
fn update_plateau(trainer: &Trainer, state: &mut TrainState, score: f64) {
    let plan = &trainer.context.plan;
    if plan.schedule.sched != LrSchedulerKind::Plateau {
        return;
    }
    let (patience, rate, cooldown) =
        (plan.schedule.patience_epochs, plan.schedule.decay_rate, plan.schedule.cooldown_epochs);
    let min_factor = plan.schedule.min_lr / plan.optimizer.lr.max(f64::MIN_POSITIVE);
    if state.plateau.record(score, patience, rate, cooldown, min_factor) {
        let factor = state.plateau.factor;
        trainer
            .observer
            .note(&format!("no better for {patience} evaluations: rate times {factor}"));
    }
}
