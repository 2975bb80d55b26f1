//! The training loop: [`fit`].
//!
//! Every random number is a function of (seed, epoch, index) or (seed, step). The learning rate is
//! a function of the step, and of the few numbers of plateau and NaN guard that checkpoints hold. A
//! checkpoint therefore needs no generator state, and a resumed run computes the same bits as an
//! uninterrupted one on a CPU backend with the same number of threads.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::config::plan::Plan;
use crate::datasets::batch::Batch;
use crate::datasets::data_error::DataError;
use crate::datasets::loader::patient_epoch::PatientEpoch;
use crate::error::Error;
use crate::learner::evaluate::EvalReport;
use crate::run::averaging;
use crate::run::averaging::Finish;
use crate::run::incident;
use crate::run::late_step::ReadOutcome;
use crate::run::observer::{BatchRecord, Observer};
use crate::run::progress::{EpochStats, Position};
use crate::run::readable::{ClassReads, check_readable};
use crate::run::resume::{epochs_waited, evaluation_due};
use crate::run::retention;
use crate::run::retention::LAST;
use crate::run::run_folder;
use crate::run::run_folder::StepRecord;
use crate::run::state::TrainState;
use crate::run::step::{AccumulationGroup, BatchResult, StepOutcome, read_late, step};
use crate::run::trainer::{Run, RunOutcome, STOPPED, Trainer};
use crate::run::validate::{Validation, report_epoch, validate};

/// Trains from the position of the run to its last epoch.
///
/// # Errors
/// Faulty data, checkpoints and files; [`crate::error::ErrorKind::Memory`] if one image does not
/// fit the memory; [`crate::error::ErrorKind::Diverged`] if losses or gradients stay not finite. A
/// step that fails never reaches the weights, so the last checkpoint stays intact.
pub fn fit(run: Run, observer: &dyn Observer) -> Result<RunOutcome, Error> {
    let (trainer, mut state) = Trainer::open(run, observer)?;
    let plan = &trainer.context.plan;
    let (mut saved, mut pace, mut advised) = (Instant::now(), Pace::default(), false);
    let note = |text: &str| observer.note(&format!("note: {text}"));
    // What other ranks have still to hear of.
    let mut skipped = Vec::new();
    let mut group = AccumulationGroup::new(&state.network, state.epoch_stats);
    'epochs: while state.position.epoch < trainer.epochs() {
        let Position { epoch, batch: first, .. } = state.position;
        let mut batches = PatientEpoch::new(&trainer.loader, epoch, first, &trainer.stop, &note);
        let mut reads = ClassReads::new(trainer.train.classes.len(), first);
        group.next(&state.network, state.epoch_stats);
        let mut closed = true;
        while state.position.batch < trainer.batches() {
            let (began, waited) = (Instant::now(), batches.waited());
            let batch = match batches.next() {
                None => break,
                Some(Ok(batch)) => batch,
                Some(Err(error)) => {
                    (state, _) = read_late(&trainer, state, &mut group)?;
                    return without_batch(&trainer, &state, closed, error);
                }
            };
            reads.add(&batch, &trainer.train);
            skipped.extend(report_skipped(&trainer, &mut state, &batch, &mut advised)?);
            let outcome;
            (state, outcome) = step(&trainer, state, &mut group, batch)?;
            let StepOutcome::Done(result) = outcome else { continue 'epochs };
            let (spent, waited) = (began.elapsed(), batches.waited().saturating_sub(waited));
            state.epoch_stats.seconds += spent.as_secs_f64();
            state.epoch_stats.waited += waited.as_secs_f64();
            pace.add(spent);
            report_batch(&trainer, &state, &result, &pace)?;
            closed = result.closes;
            if result.closes && state.position.batch < trainer.batches() {
                let due = checkpoint_due(plan, state.position.step, saved);
                let agreed = trainer.agree(due, std::mem::take(&mut skipped))?;
                report_others(&trainer, &mut state, &agreed.skipped)?;
                if agreed.stop.is_some() || agreed.save {
                    let read;
                    (state, read) = read_late(&trainer, state, &mut group)?;
                    if matches!(read, ReadOutcome::RolledBack) {
                        continue 'epochs;
                    }
                    trainer.gather_keys()?;
                    trainer.save(&state, LAST)?;
                    saved = Instant::now();
                }
                if agreed.stop.is_some() {
                    return Ok(outcome_of(&state, None, agreed.stop));
                }
            }
        }
        drop(batches);
        let agreed = trainer.agree(false, std::mem::take(&mut skipped))?;
        report_others(&trainer, &mut state, &agreed.skipped)?;
        let reads = reads.of_all_ranks(trainer.communicator())?;
        check_readable(&trainer, &state, &reads)?;

        // The trained epoch is saved before it is evaluated, so that nothing is lost meanwhile.
        trainer.gather_keys()?;
        trainer.save(&state, LAST)?;
        saved = Instant::now();
        let end;
        (state, end) = end_epoch(&trainer, state)?;
        if let Some(outcome) = end {
            return Ok(outcome);
        }
    }
    Ok(outcome_of(&state, None, None))
}

/// Evaluates a trained epoch where an evaluation is due, averages its weights, and saves it;
/// returns the outcome of the run if it ends here.
///
/// Until its checkpoint is published as the last one, the last one is that of the trained epoch,
/// and a run that is killed or interrupted evaluates the epoch anew when it is resumed.
fn end_epoch(
    trainer: &Trainer,
    mut state: TrainState,
) -> Result<(TrainState, Option<RunOutcome>), Error> {
    let (plan, epoch) = (&trainer.context.plan, state.position.epoch);
    let last = epoch + 1 == trainer.epochs();
    let interrupted = |state: TrainState, code: u8| {
        let outcome = outcome_of(&state, None, Some(code));
        Ok((state, Some(outcome)))
    };
    if last && plan.averaging.bn_reestimate > 0 {
        let network = state.network.clone();
        match averaging::reestimate(trainer, network, plan.averaging.bn_reestimate)? {
            Some(network) => state.network = network,
            None => {
                let code = trainer.signal()?.unwrap_or(STOPPED);
                return interrupted(state, code);
            }
        }
    }
    let mut evaluated = None;
    if last || evaluation_due(epoch, plan.training.val_interval) {
        match validate(trainer, &mut state)? {
            Validation::Done { report, better } => evaluated = Some((report, better)),
            Validation::Interrupted(code) => return interrupted(state, code),
            Validation::NotFinite(loss) => {
                return Ok((incident::respond_to_evaluation(trainer, state, loss)?, None));
            }
        }
    } else {
        report_epoch(trainer, &state, None, None, false);
    }
    state = averaging::update_swa(state, plan, epoch);
    state.position = Position { epoch: epoch + 1, batch: 0, step: state.position.step };
    state.epoch_stats = EpochStats::default();
    state = trainer.context.unfreeze(state)?;
    let Some((report, better)) = evaluated else {
        trainer.save(&state, LAST)?;
        let outcome = trainer.agreed_stop()?.map(|code| outcome_of(&state, None, Some(code)));
        return Ok((state, outcome));
    };
    let waited = epochs_waited(plan, state.best, epoch);
    if let Some(waited) = waited {
        trainer.observer.note(&format!("no better accuracy for {waited} epochs: ended early"));
    }
    let ends = last || waited.is_some();
    let mut swa_is_best = false;
    if ends {
        match averaging::finish_swa(trainer, &mut state, epoch)? {
            Finish::Done(best) => swa_is_best = best,
            Finish::Interrupted(code) => return interrupted(state, code),
        }
    }
    if trainer.is_root() {
        let checkpoint = trainer.context.stage(&state, &trainer.folder.join(LAST))?;
        let (better, keep) = (better && !swa_is_best, plan.checkpoints.checkpoint_hist);
        retention::publish(checkpoint, &trainer.folder, epoch, better, keep)?;
    }
    let code = if ends { None } else { trainer.agreed_stop()? };
    let outcome = (ends || code.is_some()).then(|| outcome_of(&state, Some(report), code));
    Ok((state, outcome))
}

fn outcome_of(state: &TrainState, report: Option<EvalReport>, code: Option<u8>) -> RunOutcome {
    RunOutcome { report, best: state.best, steps: state.position.step, code }
}

/// Notes the images of a batch that could not be read, lists them in `skipped.txt`, and advises
/// once how to find them all. Returns their lines, which other ranks do not know.
fn report_skipped(
    trainer: &Trainer,
    state: &mut TrainState,
    batch: &Batch,
    advised: &mut bool,
) -> Result<Vec<String>, Error> {
    let note = |text: String| trainer.observer.note(&text);
    let line = |(path, why): &(PathBuf, String)| format!("{}: {why}", path.display());
    let lines: Vec<String> = batch.skipped.iter().map(line).collect();
    list_skipped(trainer, &lines)?;
    trainer.loader.cache_warning().iter().for_each(|why| note(format!("note: {why}")));
    if !batch.skipped.is_empty() && !*advised {
        *advised = true;
        note(format!(
            "note: `kindling data check {} --write-quarantine` finds every such image and leaves \
             it out",
            trainer.context.plan.data.data_dir.display()
        ));
    }
    state.epoch_stats.skipped += batch.skipped.len() as u64;
    Ok(lines)
}

/// Notes what other ranks could not read.
fn report_others(
    trainer: &Trainer,
    state: &mut TrainState,
    skipped: &[String],
) -> Result<(), Error> {
    state.epoch_stats.skipped += skipped.len() as u64;
    list_skipped(trainer, skipped)
}

/// Notes images that could not be read, and lists them in `skipped.txt`.
fn list_skipped(trainer: &Trainer, lines: &[String]) -> Result<(), Error> {
    for line in lines.iter().filter(|_| trainer.is_root()) {
        trainer.observer.note(&format!("skipped: {line}"));
        run_folder::append(&trainer.folder.join("skipped.txt"), line)?;
    }
    Ok(())
}

/// Ends a run whose next batch cannot be made. Where the system is the cause and not the data, what
/// is trained is saved first, unless the accumulation group is open: then the last checkpoint
/// stands.
///
/// # Errors
/// The fault, unless a signal ended the waiting for the storage.
fn without_batch(
    trainer: &Trainer,
    state: &TrainState,
    closed: bool,
    error: DataError,
) -> Result<RunOutcome, Error> {
    if !error.is_the_systems() {
        return Err(error.into());
    }
    let code = trainer.stop_code();
    if closed && (state.position.step > 0 || code.is_some()) {
        trainer.save(state, LAST)?;
    }
    if let (true, Some(code)) = (closed, code) {
        return Ok(outcome_of(state, None, Some(code)));
    }
    let mut error = Error::from(error);
    if trainer.folder.join(LAST).exists() {
        error.message += &trainer.way_back();
    }
    Err(error)
}

/// Reports a batch to the observer, and every [`Trainer::log_interval`] batches to `steps.jsonl`.
fn report_batch(
    trainer: &Trainer,
    state: &TrainState,
    result: &BatchResult,
    pace: &Pace,
) -> Result<(), Error> {
    let (epochs, batches) = (trainer.epochs(), trainer.batches());
    let (Position { epoch, batch, step }, epoch_stats) = (state.position, state.epoch_stats);
    let &BatchResult { loss, lr, grad_norm, .. } = result;
    let left = (epochs - epoch) * batches as u64 - batch as u64;
    let remaining = pace.remaining(left);
    trainer.observer.batch(&BatchRecord {
        epoch,
        epochs,
        batch,
        batches,
        loss,
        lr,
        epoch_stats,
        remaining,
    });
    if !(batch.is_multiple_of(trainer.log_interval) || batch == batches) || !trainer.is_root() {
        return Ok(());
    }
    let record = StepRecord {
        epoch,
        batch,
        step,
        loss,
        lr,
        grad_norm,
        skipped_steps: epoch_stats.skipped_steps,
        img_per_s: epoch_stats.img_per_s(),
        data_wait_pct: epoch_stats.wait_percent(),
    };
    run_folder::record_step(&trainer.folder, &record)
}

/// Whether a checkpoint within the epoch is due after `step` steps.
fn checkpoint_due(plan: &Plan, step: u64, saved: Instant) -> bool {
    let (every, minutes) =
        (plan.checkpoints.checkpoint_interval_steps, plan.checkpoints.checkpoint_interval_minutes);
    minutes > 0.0 && saved.elapsed().as_secs_f64() > 60.0 * minutes
        || every > 0 && step.is_multiple_of(every)
}

/// The mean time of a batch since the run began or was resumed.
#[derive(Default)]
struct Pace {
    batches: u64,
    time: Duration,
}

impl Pace {
    fn add(&mut self, spent: Duration) {
        (self.batches, self.time) = (self.batches + 1, self.time + spent);
    }

    /// The expected time of `batches` further batches.
    fn remaining(&self, batches: u64) -> Duration {
        self.time.mul_f64(batches as f64 / self.batches as f64)
    }
}
