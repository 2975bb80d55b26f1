//! The training loop, one visible function: [`fit`].
//!
//! Everything random is a function of (seed, epoch, index) or (seed, step); the learning rate is a
//! function of the step, and of the few numbers of plateau and guard that checkpoints hold. So a checkpoint
//! needs no generator state, and a resumed run computes the same bits as an uninterrupted one on a CPU backend
//! with the same number of threads.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use burn::module::Module as _;
use burn::optim::GradientsAccumulator;
use burn::tensor::Device;

use crate::commands::replay;
use crate::commands::replay::NonFiniteStep;
use crate::config::plan::Plan;
use crate::datasets::cache::Caching;
use crate::datasets::image_folder::ImageFolder;
use crate::datasets::loader::{Loader, LoaderConfig, Mode};
use crate::datasets::quarantine;
use crate::error::{Error, ErrorKind};
use crate::learner::bn_statistics;
use crate::learner::evaluate::{Report, evaluate};
use crate::learner::forward_backward::{dropout_seed, forward_backward};
use crate::learner::nan_guard::Response;
use crate::learner::objective::Objective;
use crate::learner::out_of_memory;
use crate::optimizers::gradients::Gradients;
use crate::optimizers::lr_schedule::LrSchedulerKind;
use crate::optimizers::weight_average::{Average, warmed};
use crate::run::checkpoint::{Best, Checkpoint, EpochStats, Position};
use crate::run::logger::{BatchRecord, Logger};
use crate::run::run_folder;
use crate::run::state::{Setup, State};
use crate::signal::Stop;

/// Bytes of prepared images that may wait.
pub const PREFETCH_BYTES: usize = 256 << 20;

/// Exit code of a run that was saved because its time was up.
pub const OUT_OF_TIME: u8 = 4;

/// Exit code of a run that was stopped on the dashboard: as by SIGINT.
const STOPPED: u8 = 130;

/// A run: its folder, its plan, and what it continues from.
pub struct Run {
    /// Resolved configuration.
    pub plan: Plan,
    /// Folder of the run.
    pub folder: PathBuf,
    /// A checkpoint of the same run to go on from.
    pub from: Option<Checkpoint>,
    /// Leave the optimizer's state of `from` behind.
    pub fresh_optimizer: bool,
    /// Device, without autodiff.
    pub device: Device,
    /// Name of the backend, for `run.json`.
    pub backend: String,
    /// SIGINT and SIGTERM.
    pub stop: Stop,
}

/// How a run ended.
pub struct RunOutcome {
    /// The last evaluation, if the run got to one.
    pub report: Option<Report>,
    /// Best accuracy.
    pub best: Option<Best>,
    /// Optimizer steps done.
    pub steps: u64,
    /// What ended it early, as an exit code: 130 or 143 a signal, [`OUT_OF_TIME`] the budget.
    pub code: Option<u8>,
}

/// Trains from the run's position to its last epoch.
///
/// # Errors
/// Data, file and checkpoint failures; [`crate::error::ErrorKind::Diverged`] when losses or gradients stay not
/// finite. None of them reaches the weights: the last checkpoint stays good.
pub fn fit(run: Run, logger: &Logger) -> Result<RunOutcome, Error> {
    let Run { plan, folder, from, fresh_optimizer, device, backend, stop } = run;
    let began_run = Instant::now();

    // Data: the class list comes from train and is shared with val.
    let (train, val) = open(&plan)?;
    let (train, val) = (Arc::new(train), Arc::new(val));
    train.notes.iter().chain(&val.notes).for_each(|note| logger.say(&format!("note: {note}")));
    let loader = loader(&plan, &train, Mode::Train(plan.augment()), plan.batch_size)
        .caching(&Caching::of(&plan));
    loader.window_notes().iter().for_each(|line| logger.say(line));
    loader.cache_outlook().iter().for_each(|line| logger.say(line));
    let val_loader = self::loader(&plan, &val, Mode::Eval, plan.val_batch_size);
    let batches = loader.batches();
    if batches == 0 {
        return Err(Error::data(format!(
            "{}: {} training images give no batch of at least 2; add images",
            plan.data_dir.display(),
            train.items.len()
        )));
    }
    let steps_per_epoch = batches.div_ceil(plan.grad_accum_steps) as u64;
    let schedule = plan.schedule(steps_per_epoch);
    let epochs = plan.total_epochs();

    // Loss, network, optimizer, averages, position: fresh or from the checkpoint.
    let objective = Objective::new(&plan, &train, &device)?;
    objective.notes().iter().for_each(|note| logger.say(note));
    let autodiff_device = device.clone().autodiff();
    let setup = Setup::new(&plan, &train, &autodiff_device)?;
    let mut state = match from {
        Some(checkpoint) => setup.resume(checkpoint, fresh_optimizer)?,
        None => setup.begin(logger)?,
    };
    let resumed = (state.position != Position::default()).then_some(state.position);
    run_folder::write_facts(&folder, &backend, setup.data, resumed)?;
    run_folder::rewind_steps(&folder, state.position)?;
    let save = |state: &State, name: &str| setup.save(state, &folder.join(name));

    // Seconds, in the words of the options.
    let out_of_time =
        |hours: f64| hours > 0.0 && began_run.elapsed().as_secs_f64() > hours * 3600.0;
    let ended_early = || match stop.requested() {
        Some(signal) => Some(signal),
        None if logger.stop_requested() => Some(STOPPED),
        None => out_of_time(plan.max_hours).then_some(OUT_OF_TIME),
    };
    let ended = |report, state: &State, code| -> Result<RunOutcome, Error> {
        Ok(RunOutcome { report, best: state.best, steps: state.position.step, code })
    };
    let mut saved = Instant::now();
    let mut advised = false;
    let (mut steps_here, mut time_here) = (0_u64, Duration::ZERO);
    'epochs: while state.position.epoch < epochs {
        let mut prepared = loader.epoch(state.position.epoch, state.position.batch);
        let mut accumulator = GradientsAccumulator::new();
        // Batches in the accumulator; whether one of the group had a loss that is not finite.
        let (mut held, mut poisoned) = (0, None);
        let mut statistics = bn_statistics::kept(&state.network);
        while state.position.batch < batches {
            let began = Instant::now();
            let waited_before = prepared.waited();
            let Some(batch) = prepared.next() else { break };
            let mut batch = batch?;
            for (path, why) in &batch.skipped {
                let line = format!("{}: {why}", path.display());
                logger.say(&format!("skipped: {line}"));
                run_folder::append(&folder.join("skipped.txt"), &line)?;
            }
            loader.cache_trouble().iter().for_each(|why| logger.say(&format!("note: {why}")));
            if !batch.skipped.is_empty() && !advised {
                advised = true;
                logger.say(&format!(
                    "note: `kindling data check {} --write-quarantine` finds every such image and leaves it out",
                    plan.data_dir.display()
                ));
            }
            state.tally.skipped += batch.skipped.len() as u64;
            let lr = schedule.at(state.position.step) * state.plateau.factor * state.strain.factor;
            let count = batch.labels.len();
            state.position.batch += 1;
            // The accumulation group this batch closes is fixed by its number in the epoch.
            let at = state.position;
            let closes = at.batch % plan.grad_accum_steps == 0 || at.batch == batches;
            let mut loss = f64::NAN;
            let indices = batch.indices.clone();
            if count > 0 {
                let share = group_size(at.batch, batches, plan.grad_accum_steps);
                let dropout = dropout_seed(plan.seed, at.epoch, at.batch);
                let before = match held {
                    0 => statistics.clone(),
                    _ => bn_statistics::kept(&state.network),
                };
                let studied = loop {
                    let most = state.micro_batch.unwrap_or(plan.batch_size);
                    let network = &state.network;
                    let failure = match forward_backward(
                        network,
                        &objective,
                        batch,
                        most,
                        share,
                        dropout,
                        &autodiff_device,
                    ) {
                        Err(failure) if failure.kind == ErrorKind::Memory => failure,
                        other => break other?,
                    };
                    let smaller = smaller(count.min(most)).ok_or(failure)?;
                    state.micro_batch = Some(smaller);
                    state.network = bn_statistics::restore(state.network, before.clone());
                    logger.say(&parted(plan.batch_size, smaller));
                    // The same images to the bit: a batch is a function of its number.
                    batch = loader.batch(at.epoch, at.batch - 1)?;
                };
                loss = studied.loss;
                if let Some(gradients) = studied.gradients {
                    accumulator.accumulate(&state.network, gradients);
                    held += 1;
                    state.tally.loss += loss * count as f64;
                    state.tally.seen += count as u64;
                } else {
                    poisoned = Some((at.batch, indices.clone()));
                }
            }
            let mut grad_norm = None;
            if closes {
                let mut gradients = Gradients::take(&state.network, accumulator.grads());
                let norm = if held > 0 { gradients.norm() } else { 0.0 };
                grad_norm = (held > 0).then_some(norm);
                if poisoned.is_some() || !norm.is_finite() {
                    let (number, indices) = poisoned.unwrap_or((at.batch, indices));
                    let position = Position { batch: number, ..at };
                    state.network = bn_statistics::restore(state.network, statistics);
                    let incident = NonFiniteStep::new(position, lr, loss, norm, &train, &indices);
                    let file = replay::record(&folder, &setup, &state, &incident)?;
                    let response = state.strain.bad(plan.nan_action, plan.nan_patience);
                    let last = folder.join("last.ckpt");
                    if response == Response::Stop || !last.exists() && response != Response::Skip {
                        return Err(diverged(&last, &incident, state.strain.rollbacks));
                    }
                    logger.say(&incident.sentence(response, &state.strain, file.as_deref()));
                    if response == Response::RollBack {
                        let (strain, micro_batch) = (state.strain, state.micro_batch);
                        state = setup.resume(Checkpoint::read(&last)?, false)?;
                        (state.strain, state.micro_batch) = (strain, micro_batch);
                        run_folder::rewind_steps(&folder, state.position)?;
                        continue 'epochs;
                    }
                    state.tally.skipped_steps += 1;
                } else if held > 0 {
                    state.strain.good();
                    if plan.clip_grad > 0.0 {
                        let settings = state.optimizer.settings();
                        let (mode, limit) = (plan.clip_mode, plan.clip_grad);
                        gradients.clip(mode, limit, norm, &state.network, settings);
                    }
                    if let Some(momentum) = schedule.momentum(state.position.step) {
                        state.optimizer.set_momentum(momentum);
                    }
                    state.network = state.optimizer.apply(lr, state.network, gradients);
                    if let Some(ema) = &mut state.ema {
                        let decay = warmed(plan.model_ema_decay, ema.count, plan.model_ema_warmup);
                        state.network = ema.blend(state.network, 1.0 - decay);
                    }
                }
                (held, poisoned) = (0, None);
                statistics = bn_statistics::kept(&state.network);
                state.position.step += 1;
            }
            let spent = began.elapsed();
            state.tally.seconds += spent.as_secs_f64();
            state.tally.waited += prepared.waited().saturating_sub(waited_before).as_secs_f64();
            (steps_here, time_here) = (steps_here + 1, time_here + spent);
            let left = (epochs - at.epoch) * batches as u64 - at.batch as u64;
            logger.batch(&BatchRecord {
                epoch: at.epoch,
                epochs,
                batch: at.batch,
                batches,
                loss,
                lr,
                tally: state.tally,
                remaining: time_here.mul_f64(left as f64 / steps_here as f64),
            });
            if logger.due(at.batch, batches) {
                let record = step_record(state.position, loss, lr, grad_norm, &state.tally);
                run_folder::record_step(&folder, &record)?;
            }
            if closes && at.batch < batches {
                if let Some(code) = ended_early() {
                    save(&state, "last.ckpt")?;
                    return ended(None, &state, Some(code));
                }
                let (every, minutes) =
                    (plan.checkpoint_interval_steps, plan.checkpoint_interval_minutes);
                let due = minutes > 0.0 && saved.elapsed().as_secs_f64() > 60.0 * minutes;
                if due || (every > 0 && state.position.step.is_multiple_of(every)) {
                    save(&state, "last.ckpt")?;
                    saved = Instant::now();
                }
            }
        }
        drop(prepared);

        // The epoch is trained: keep it before evaluating it, so that nothing is lost meanwhile.
        save(&state, "last.ckpt")?;
        saved = Instant::now();
        let epoch = state.position.epoch;
        let last = epoch + 1 == epochs;
        let next = Position { epoch: epoch + 1, batch: 0, step: state.position.step };
        let trained = epoch_line(epoch, &state.tally);
        if last && plan.bn_reestimate > 0 {
            state.network =
                reestimated(state.network, &loader, plan.bn_reestimate, &autodiff_device)?;
        }
        if !last && !(epoch + 1).is_multiple_of(plan.val_interval) {
            logger.say(&trained);
            state = averaged(state, &plan, epoch);
            (state.position, state.tally) = (next, EpochStats::default());
            save(&state, "last.ckpt")?;
            if let Some(code) = ended_early() {
                return ended(None, &state, Some(code));
            }
            continue;
        }
        let each = |done| logger.evaluated(done, val.items.len());
        let evaluate_model = |network: nn::network::Network| {
            let work =
                || evaluate(&network.valid(), &val_loader, &train.classes, &device, &stop, each);
            out_of_memory::catch_oom(work).unwrap_or_else(|why| {
                Err(Error::memory(format!(
                    "an evaluation of {} images at a time does not fit the device's memory \
                     ({why}); --resume {} with a lower --val-batch-size",
                    plan.val_batch_size,
                    folder.display()
                )))
            })
        };
        let report = evaluate_model(state.network.valid())?;
        let ema_report =
            state.ema.as_ref().map(|ema| evaluate_model(setup.network_of(ema))).transpose()?;
        let interrupted = report.interrupted || ema_report.as_ref().is_some_and(|r| r.interrupted);
        if let (true, Some(signal)) = (interrupted, stop.requested()) {
            return ended(None, &state, Some(signal));
        }
        let lr = schedule.at(state.position.step.saturating_sub(1)) * state.plateau.factor;
        logger.say(&trained);
        logger.epoch(epoch, &report);
        if let Some(report) = &ema_report {
            logger.averaged("EMA", report);
        }
        run_folder::summarise(&folder, epoch, lr, &state.tally, &report, ema_report.as_ref())?;
        let score = |report: &Report| plan.eval_metric.score(report);
        state.prefer_ema = ema_report.as_ref().is_some_and(|ema| score(ema) > score(&report));
        let report = ema_report.filter(|_| state.prefer_ema).unwrap_or(report);
        run_folder::write_evaluation(&folder.join("eval"), &report)?;
        let score = score(&report);
        let better = state.best.is_none_or(|best| score > best.score());
        if better {
            let (top1, ema) = (report.top1, state.prefer_ema);
            state.best = Some(Best { epoch, top1, score: Some(score), ema });
        }
        if plan.sched == LrSchedulerKind::Plateau {
            let (patience, rate, rest) =
                (plan.patience_epochs, plan.decay_rate, plan.cooldown_epochs);
            let least = plan.min_lr / plan.lr.max(f64::MIN_POSITIVE);
            if state.plateau.evaluated(score, patience, rate, rest, least) {
                let factor = state.plateau.factor;
                logger.say(&format!("no better for {patience} evaluations: rate times {factor}"));
            }
        }
        state = averaged(state, &plan, epoch);
        (state.position, state.tally) = (next, EpochStats::default());
        save(&state, "last.ckpt")?;
        if better {
            copy(&folder, "last.ckpt", "model_best.ckpt")?;
        }
        if plan.checkpoint_hist > 0 {
            copy(&folder, "last.ckpt", &format!("checkpoint-{epoch}.ckpt"))?;
            prune(&folder, epoch, plan.checkpoint_hist);
        }
        let waited = state.best.map_or(0, |b| epoch - b.epoch);
        let patient = plan.patience == 0 || waited < plan.patience;
        if last || !patient {
            if !patient && !last {
                logger.say(&format!("no better accuracy for {waited} epochs: ended early"));
            }
            if let Some(swa) = state.swa.take() {
                // No forward pass has seen these weights: their statistics are made now.
                let count = if plan.bn_reestimate > 0 { plan.bn_reestimate } else { batches };
                let network =
                    reestimated(setup.network_of(&swa), &loader, count, &autodiff_device)?;
                let swa_report = evaluate_model(network.valid())?;
                logger.averaged("SWA", &swa_report);
                (state.network, state.prefer_ema) = (network, false);
                save(&state, "model_swa.ckpt")?;
                let score = plan.eval_metric.score(&swa_report);
                if state.best.is_none_or(|best| score > best.score()) {
                    let (top1, ema) = (swa_report.top1, false);
                    state.best = Some(Best { epoch, top1, score: Some(score), ema });
                    save(&state, "model_swa.ckpt")?;
                    copy(&folder, "model_swa.ckpt", "model_best.ckpt")?;
                }
            }
            return ended(Some(report), &state, None);
        }
        if let Some(code) = ended_early() {
            return ended(Some(report), &state, Some(code));
        }
    }
    ended(None, &state, None)
}

/// The state at the end of an epoch: taken into the average of SWA where its time has come.
fn averaged(mut state: State, plan: &Plan, epoch: u64) -> State {
    if plan.swa_start.is_some_and(|start| epoch >= start) {
        let mut swa = state.swa.take().unwrap_or_else(|| Average::of(&state.network));
        state.network = swa.add(state.network);
        state.swa = Some(swa);
    }
    state
}

/// The network with the statistics of the first batches of epoch 0.
fn reestimated(
    network: nn::network::Network,
    loader: &Loader,
    count: usize,
    autodiff_device: &Device,
) -> Result<nn::network::Network, Error> {
    bn_statistics::reestimated(network, loader.epoch(0, 0).take(count), autodiff_device)
}

fn epoch_line(epoch: u64, tally: &EpochStats) -> String {
    let skipped = match tally.skipped_steps {
        0 => String::new(),
        count => format!("  {count} steps skipped"),
    };
    format!(
        "Epoch {epoch}: Loss {:.4}  {:.1} images/s  data wait {:.1}%{skipped}",
        tally.mean_loss(),
        tally.img_per_s(),
        tally.wait_percent()
    )
}

fn step_record(
    at: Position,
    loss: f64,
    lr: f64,
    grad_norm: Option<f64>,
    tally: &EpochStats,
) -> run_folder::Step {
    run_folder::Step {
        epoch: at.epoch,
        batch: at.batch,
        step: at.step,
        loss,
        lr,
        grad_norm,
        skipped_steps: tally.skipped_steps,
        img_per_s: tally.img_per_s(),
        data_wait_pct: tally.wait_percent(),
    }
}

/// Both splits of the plan's folder.
///
/// # Errors
/// What is wrong with the folder.
pub fn open(plan: &Plan) -> Result<(ImageFolder, ImageFolder), Error> {
    let (mut train, mut val) = match plan.val_fraction {
        Some(share) => ImageFolder::split(&plan.data_dir, share, plan.seed)?,
        None => {
            let train = ImageFolder::open_train(&plan.data_dir, None)?;
            let val = ImageFolder::open_val(&plan.data_dir, None, &train.classes)?;
            (train, val)
        }
    };
    quarantine::leave_out(plan, &mut train, &mut val)?;
    if plan.shard_window > 0 && train.shards.is_none() {
        return Err(Error::usage(format!(
            "--shard-window {}: {} is no folder of shards; make one with `kindling data shard`, or leave the flag away",
            plan.shard_window,
            plan.data_dir.display()
        )));
    }
    Ok((train, val))
}

/// The loader of a split as the plan says.
pub fn loader(plan: &Plan, folder: &Arc<ImageFolder>, mode: Mode, batch_size: usize) -> Loader {
    let config = LoaderConfig {
        batch_size,
        workers: plan.workers,
        prefetch_bytes: PREFETCH_BYTES,
        seed: plan.seed,
        strict: plan.strict_data,
        // A last batch of one image has no batch statistics worth the name.
        drop_last: matches!(mode, Mode::Train(_)),
    };
    let balanced = plan.balanced_sampling && matches!(mode, Mode::Train(_));
    Loader::new(Arc::clone(folder), plan.preprocess(), mode, config)
        .balanced(balanced)
        .windowed(plan.shard_window)
}

/// Half of a micro-batch that did not fit; nothing smaller than one image.
fn smaller(images: usize) -> Option<usize> {
    (images > 1).then(|| images.div_ceil(2))
}

/// What is said when a batch is taken apart.
fn parted(batch: usize, micro: usize) -> String {
    let parts = batch.div_ceil(micro);
    let norm = batch.div_ceil(parts);
    let images = if norm == 1 { "image" } else { "images" };
    format!(
        "note: out of memory at batch {batch}: going on with {parts} micro-batches of {norm}; batch norm sees {norm} \
         {images}"
    )
}

/// How many batches share the optimizer step that batch number `batch` (from 1) belongs to.
fn group_size(batch: usize, batches: usize, accumulate: usize) -> usize {
    let first = (batch - 1) / accumulate * accumulate;
    accumulate.min(batches - first)
}

fn diverged(last: &Path, incident: &NonFiniteStep, rollbacks: u64) -> Error {
    let kept = match last.exists() {
        true => format!("; {} is intact", last.display()),
        false => String::new(),
    };
    let rolled_back = match rollbacks {
        0 => String::new(),
        count => format!(" and {count} times at a lower rate from the last checkpoint"),
    };
    Error::diverged(format!(
        "{}{rolled_back}{kept}; lower --lr or lengthen --warmup-epochs",
        incident.what()
    ))
}

/// Gives the checkpoint `from` a second name, replacing what had it. A hard link where the file system
/// has them: checkpoints are only ever replaced by a rename, never written in place.
fn copy(folder: &Path, from: &str, to: &str) -> Result<(), Error> {
    let (from, to) = (folder.join(from), folder.join(to));
    let scratch = to.with_extension("tmp");
    let _ = std::fs::remove_file(&scratch);
    std::fs::hard_link(&from, &scratch)
        .or_else(|_| std::fs::copy(&from, &scratch).map(|_| ()))
        .and_then(|()| std::fs::rename(&scratch, &to))
        .map_err(|e| Error::file(format!("{}: cannot write: {e}", to.display())))?;
    // Renaming one link of a file over another link of it does nothing and leaves the scratch.
    let _ = std::fs::remove_file(&scratch);
    Ok(())
}

/// Removes epoch checkpoints older than the newest `keep`.
fn prune(folder: &Path, newest: u64, keep: usize) {
    for epoch in 0..(newest + 1).saturating_sub(keep as u64) {
        let _ = std::fs::remove_file(folder.join(format!("checkpoint-{epoch}.ckpt")));
    }
}
