//! The evaluation of an epoch: the network and its exponential average, the best epoch, the
//! plateau.

use burn::module::Module as _;
use nn::network::Network;

use crate::error::{Error, ErrorKind};
use crate::files::crash_point;
use crate::learner::evaluate::{EvalReport, evaluate};
use crate::learner::out_of_memory;
use crate::optimizers::lr_schedule::LrSchedulerKind;
use crate::run::observer::accuracy_line;
use crate::run::progress::{Best, EpochStats};
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
    if let (true, Some(signal)) = (interrupted, trainer.stop.requested()) {
        return Ok(Validation::Interrupted(signal));
    }

    trainer.observer.note(&epoch_line(epoch, &state.epoch_stats));
    trainer.observer.epoch(epoch, &report);
    if let Some(report) = &ema_report {
        trainer.observer.note(&format!("{} EMA", accuracy_line(report)));
    }
    let last_step = state.position.step.saturating_sub(1);
    let lr = trainer.schedule.at(last_step) * state.plateau.factor;
    let stats = &state.epoch_stats;
    run_folder::summarise(&trainer.folder, epoch, lr, stats, &report, ema_report.as_ref())?;

    let losses = [Some(&report), ema_report.as_ref()];
    if let Some(failed) = losses.into_iter().flatten().find(|report| !report.loss.is_finite()) {
        return Ok(Validation::NotFinite(failed.loss));
    }

    let score = |report: &EvalReport| plan.training.eval_metric.score(report);
    state.prefer_ema = ema_report.as_ref().is_some_and(|ema| score(ema) > score(&report));
    let report = ema_report.filter(|_| state.prefer_ema).unwrap_or(report);
    run_folder::write_evaluation(&trainer.folder.join("eval"), &report)?;
    let score = score(&report);
    let better = update_best(state, epoch, &report, score);
    update_plateau(trainer, state, score);
    Ok(Validation::Done { report, better })
}

/// Evaluates a network on the validation images.
///
/// # Errors
/// As [`validate`].
pub(super) fn evaluate_model(trainer: &Trainer, network: &Network) -> Result<EvalReport, Error> {
    let Trainer { val_loader, device, stop, observer, .. } = trainer;
    let (network, all) = (network.valid(), trainer.val.items.len());
    let progress = |done| {
        crash_point();
        observer.evaluated(done, all);
    };
    let note = |text: &str| observer.note(&format!("note: {text}"));
    let classes = &trainer.context.classes;
    let work = || evaluate(&network, val_loader, classes, device, stop, progress, &note);
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
    let better = state.best.is_none_or(|best| score > best.score());
    if better {
        let (top1, ema) = (report.top1, state.prefer_ema);
        state.best = Some(Best { epoch, top1, score: Some(score), ema, swa: false });
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

/// The line of a trained epoch.
pub(super) fn epoch_line(epoch: u64, stats: &EpochStats) -> String {
    let skipped = match stats.skipped_steps {
        0 => String::new(),
        count => format!("  {count} steps skipped"),
    };
    let loss = stats.mean_loss().map_or_else(|| "none".to_owned(), |loss| format!("{loss:.4}"));
    format!(
        "Epoch {epoch}: Loss {loss}  {:.1} images/s  data wait {:.1}%{skipped}",
        stats.img_per_s(),
        stats.wait_percent()
    )
}
