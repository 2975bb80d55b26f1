//! The training loop, one visible function: [`fit`].
//!
//! Everything random is a function of (seed, epoch, index) or (seed, step); the learning rate is a
//! function of the step. So a checkpoint needs no generator state, and a resumed run computes the
//! same bits as an uninterrupted one on a CPU backend with the same number of threads.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use burn::module::Module as _;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Tensor, TensorData};
use nn::network::Network;
use nn::pretrained::{HeadPolicy, load_state_dict, read_weights, state_dict};

use crate::checkpoint::{Best, Checkpoint, DataMark, Manifest, Position, Tally};
use crate::config::Plan;
use crate::evaluate::{Report, evaluate};
use crate::failure::Failure;
use crate::folder::ImageFolder;
use crate::journal::{Journal, Line};
use crate::loader::{Loader, LoaderConfig, Mode};
use crate::loss::{targets, with_auxiliary};
use crate::optimizer::Optimizer;
use crate::quarantine;
use crate::random::Counter;
use crate::run_folder;
use crate::signal::Stop;

/// Where the counter-based generator is used for dropout (the loader has its own purposes).
const DROPOUT: u64 = 0xD0;

/// Bytes of prepared pictures that may wait.
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
pub struct Ended {
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
/// Data, file and checkpoint failures; [`crate::failure::Kind::Diverged`] on a loss that is not
/// finite, before it reaches the weights: the last checkpoint stays good.
pub fn fit(run: Run, journal: &Journal) -> Result<Ended, Failure> {
    let Run { plan, folder, from, fresh_optimizer, device, backend, stop } = run;
    let began_run = Instant::now();

    // Data: the class list comes from train and is shared with val.
    let (train, val) = open(&plan)?;
    let (train, val) = (Arc::new(train), Arc::new(val));
    train.notes.iter().chain(&val.notes).for_each(|note| journal.say(&format!("note: {note}")));
    let mark = mark_of(&train);
    let loader = loader(&plan, &train, Mode::Train(plan.augment()), plan.batch_size);
    let val_loader = self::loader(&plan, &val, Mode::Eval, plan.val_batch_size);
    let batches = loader.batches();
    if batches == 0 {
        return Err(Failure::data(format!(
            "{}: {} training pictures give no batch of at least 2; add pictures",
            plan.data_dir.display(),
            train.items.len()
        )));
    }
    let steps_per_epoch = batches.div_ceil(plan.grad_accum_steps) as u64;
    let schedule = plan.schedule(steps_per_epoch);

    // Network, optimizer, position: fresh or from the checkpoint.
    let tape = device.clone().autodiff();
    let network_config = plan.network(train.classes.len());
    let mut network = network_config.init_seeded(&tape, plan.seed);
    let mut optimizer = Optimizer::new(plan.optimizer());
    let (mut position, mut tally, mut best) = (Position::default(), Tally::default(), None);
    let mut last_good = None;
    match from {
        Some(checkpoint) => {
            let Checkpoint { manifest, weights, optimizer: state } = checkpoint;
            same_data(&manifest, mark, &train.classes)?;
            (network, _) = load_state_dict(network, weights, HeadPolicy::Exact)
                .map_err(|e| Failure::checkpoint(e.to_string()))?;
            if !fresh_optimizer {
                let steps = manifest.position.step;
                optimizer = Optimizer::load(plan.optimizer(), steps, state, &device)
                    .map_err(Failure::checkpoint)?;
            }
            (position, tally, best) = (manifest.position, manifest.tally, manifest.best);
        }
        None => {
            if let Some(path) = &plan.pretrained_path {
                network = start_from(network, path, journal)?;
            }
        }
    }
    run_folder::write_facts(
        &folder,
        &backend,
        mark,
        (position != Position::default()).then_some(position),
    )?;
    run_folder::rewind_steps(&folder, position)?;
    let manifest = |position, tally, best| Manifest {
        format: Manifest::format(),
        kindling: env!("CARGO_PKG_VERSION").to_owned(),
        network: network_config.clone(),
        classes: train.classes.clone(),
        preprocess: plan.preprocess(),
        plan: plan.clone(),
        position,
        tally,
        best,
        data: mark,
    };
    let save = |name: &str, network: &Network, optimizer: &Optimizer, manifest: Manifest| {
        let weights = state_dict(network);
        Checkpoint { manifest, weights, optimizer: optimizer.save() }.write(&folder.join(name))
    };

    // Seconds, in the words of the options.
    let hurry = |hours: f64| hours > 0.0 && began_run.elapsed().as_secs_f64() > hours * 3600.0;
    let ended_early = || match stop.requested() {
        Some(signal) => Some(signal),
        None if journal.stop_requested() => Some(STOPPED),
        None => hurry(plan.max_hours).then_some(OUT_OF_TIME),
    };
    let (mut saved, mut advised) = (Instant::now(), false);
    let (mut steps_here, mut time_here) = (0_u64, Duration::ZERO);
    while position.epoch < plan.epochs {
        let mut prepared = loader.epoch(position.epoch, position.batch);
        let mut accumulator = GradientsAccumulator::new();
        let mut held = 0;
        while position.batch < batches {
            let began = Instant::now();
            let waited_before = prepared.waited();
            let Some(batch) = prepared.next() else { break };
            let batch = batch?;
            for (path, why) in &batch.skipped {
                let line = format!("{}: {why}", path.display());
                journal.say(&format!("skipped: {line}"));
                run_folder::append(&folder.join("skipped.txt"), &line)?;
            }
            if !batch.skipped.is_empty() && !advised {
                advised = true;
                journal.say(&format!(
                    "note: `kindling data check {} --write-quarantine` finds every such picture and leaves it out",
                    plan.data_dir.display()
                ));
            }
            tally.skipped += batch.skipped.len() as u64;
            let lr = schedule.at(position.step);
            let count = batch.labels.len();
            position.batch += 1;
            // The accumulation group this batch closes is fixed by its number in the epoch.
            let closes = position.batch % plan.grad_accum_steps == 0 || position.batch == batches;
            let mut loss = f64::NAN;
            if count > 0 {
                let targets = targets(&batch, train.classes.len(), plan.smoothing, &tape);
                let images =
                    Tensor::<4>::from_data(TensorData::new(batch.images, batch.shape), &tape);
                let dropout =
                    Counter::new(plan.seed, position.epoch, position.batch as u64, DROPOUT).u64();
                let outputs = network.forward_train(images, dropout);
                let objective = with_auxiliary(&outputs, targets);
                loss = f64::from(objective.clone().inner().into_scalar::<f32>());
                if !loss.is_finite() {
                    return Err(diverged(&folder, position, lr, last_good));
                }
                let share = group_size(position.batch, batches, plan.grad_accum_steps);
                let gradients = objective.div_scalar(share as f32).backward();
                accumulator.accumulate(&network, GradientsParams::from_grads(gradients, &network));
                held += 1;
                tally.loss += loss * count as f64;
                tally.seen += count as u64;
            }
            if closes {
                if held > 0 {
                    network = optimizer.step(lr, network, accumulator.grads());
                    held = 0;
                }
                position.step += 1;
            }
            let spent = began.elapsed();
            tally.seconds += spent.as_secs_f64();
            tally.waited += prepared.waited().saturating_sub(waited_before).as_secs_f64();
            (steps_here, time_here) = (steps_here + 1, time_here + spent);
            let left = (plan.epochs - position.epoch) * batches as u64 - position.batch as u64;
            journal.batch(&Line {
                epoch: position.epoch,
                epochs: plan.epochs,
                batch: position.batch,
                batches,
                loss,
                lr,
                tally,
                remaining: time_here.mul_f64(left as f64 / steps_here as f64),
            });
            if journal.due(position.batch, batches) {
                run_folder::record_step(&folder, &step_record(position, loss, lr, &tally))?;
            }
            if closes && position.batch < batches {
                if let Some(code) = ended_early() {
                    save("last.ckpt", &network, &optimizer, manifest(position, tally, best))?;
                    let steps = position.step;
                    return Ok(Ended { report: None, best, steps, code: Some(code) });
                }
                let (every, minutes) =
                    (plan.checkpoint_interval_steps, plan.checkpoint_interval_minutes);
                let due = minutes > 0.0 && saved.elapsed().as_secs_f64() > 60.0 * minutes;
                if due || (every > 0 && position.step.is_multiple_of(every)) {
                    save("last.ckpt", &network, &optimizer, manifest(position, tally, best))?;
                    last_good = Some(position.step);
                    saved = Instant::now();
                }
            }
        }
        drop(prepared);

        // The epoch is trained: keep it before evaluating it, so that nothing is lost meanwhile.
        save("last.ckpt", &network, &optimizer, manifest(position, tally, best))?;
        last_good = Some(position.step);
        saved = Instant::now();
        let epoch = position.epoch;
        let last = epoch + 1 == plan.epochs;
        if !last && !(epoch + 1).is_multiple_of(plan.val_interval) {
            journal.say(&epoch_line(epoch, &tally));
            position = Position { epoch: epoch + 1, batch: 0, step: position.step };
            tally = Tally::default();
            save("last.ckpt", &network, &optimizer, manifest(position, tally, best))?;
            if let Some(code) = ended_early() {
                return Ok(Ended { report: None, best, steps: position.step, code: Some(code) });
            }
            continue;
        }
        let eval_network = network.valid();
        let each = |done| journal.evaluated(done, val.items.len());
        let report = evaluate(&eval_network, &val_loader, &train.classes, &device, &stop, each)?;
        if let (true, Some(signal)) = (report.interrupted, stop.requested()) {
            return Ok(Ended { report: None, best, steps: position.step, code: Some(signal) });
        }
        let lr = schedule.at(position.step.saturating_sub(1));
        journal.say(&epoch_line(epoch, &tally));
        journal.epoch(epoch, &report);
        run_folder::summarise(&folder, epoch, lr, &tally, &report)?;
        run_folder::write_evaluation(&folder.join("eval"), &report)?;
        let better = best.is_none_or(|b: Best| report.top1 > b.top1);
        if better {
            best = Some(Best { epoch: position.epoch, top1: report.top1 });
        }
        position = Position { epoch: epoch + 1, batch: 0, step: position.step };
        tally = Tally::default();
        save("last.ckpt", &network, &optimizer, manifest(position, tally, best))?;
        if better {
            copy(&folder, "last.ckpt", "model_best.ckpt")?;
        }
        if plan.checkpoint_hist > 0 {
            copy(&folder, "last.ckpt", &format!("checkpoint-{epoch}.ckpt"))?;
            prune(&folder, epoch, plan.checkpoint_hist);
        }
        if last {
            return Ok(Ended { report: Some(report), best, steps: position.step, code: None });
        }
        let waited = best.map_or(0, |b| epoch - b.epoch);
        if plan.patience > 0 && waited >= plan.patience {
            journal.say(&format!("no better accuracy for {waited} epochs: ended early"));
            return Ok(Ended { report: Some(report), best, steps: position.step, code: None });
        }
        if let Some(code) = ended_early() {
            let (report, steps) = (Some(report), position.step);
            return Ok(Ended { report, best, steps, code: Some(code) });
        }
    }
    Ok(Ended { report: None, best, steps: position.step, code: None })
}

fn epoch_line(epoch: u64, tally: &Tally) -> String {
    format!(
        "Epoch {epoch}: Loss {:.4}  {:.1} images/s  data wait {:.1}%",
        tally.mean_loss(),
        tally.img_per_s(),
        tally.wait_percent()
    )
}

fn step_record(at: Position, loss: f64, lr: f64, tally: &Tally) -> run_folder::Step {
    run_folder::Step {
        epoch: at.epoch,
        batch: at.batch,
        step: at.step,
        loss,
        lr,
        img_per_s: tally.img_per_s(),
        data_wait_pct: tally.wait_percent(),
    }
}

/// Both splits of the plan's folder.
///
/// # Errors
/// What is wrong with the folder.
pub fn open(plan: &Plan) -> Result<(ImageFolder, ImageFolder), Failure> {
    let (mut train, mut val) = match plan.val_fraction {
        Some(share) => ImageFolder::split(&plan.data_dir, share, plan.seed)?,
        None => {
            let train = ImageFolder::open_train(&plan.data_dir, None)?;
            let val = ImageFolder::open_val(&plan.data_dir, None, &train.classes)?;
            (train, val)
        }
    };
    quarantine::leave_out(plan, &mut train, &mut val)?;
    Ok((train, val))
}

/// The batches of a split as the plan has them made.
pub fn loader(plan: &Plan, folder: &Arc<ImageFolder>, mode: Mode, batch_size: usize) -> Loader {
    let config = LoaderConfig {
        batch_size,
        workers: plan.workers,
        prefetch_bytes: PREFETCH_BYTES,
        seed: plan.seed,
        strict: plan.strict_data,
        // A last batch of one picture has no batch statistics worth the name.
        drop_last: matches!(mode, Mode::Train(_)),
    };
    Loader::new(Arc::clone(folder), plan.preprocess(), mode, config)
}

/// How many batches share the optimizer step that batch number `batch` (from 1) belongs to.
fn group_size(batch: usize, batches: usize, accumulate: usize) -> usize {
    let first = (batch - 1) / accumulate * accumulate;
    accumulate.min(batches - first)
}

fn mark_of(folder: &ImageFolder) -> DataMark {
    let mut crc = crc32fast::Hasher::new();
    for (path, label) in &folder.items {
        let path = path.strip_prefix(&folder.root).unwrap_or(path);
        crc.update(path.to_string_lossy().as_bytes());
        crc.update(&label.to_le_bytes());
    }
    DataMark { pictures: folder.items.len(), crc32: crc.finalize() }
}

fn same_data(manifest: &Manifest, mark: DataMark, classes: &[String]) -> Result<(), Failure> {
    if manifest.classes != classes {
        return Err(Failure::data(format!(
            "{}: {} classes where the run to resume has {}; give the folder it was begun on, or \
             start anew with --pretrained-path",
            manifest.plan.data_dir.display(),
            classes.len(),
            manifest.classes.len()
        )));
    }
    if manifest.data != mark {
        return Err(Failure::data(format!(
            "{}: the training pictures changed since the run began ({} then, {} now); restore \
             them, or start anew with --pretrained-path",
            manifest.plan.data_dir.display(),
            manifest.data.pictures,
            mark.pictures
        )));
    }
    Ok(())
}

fn start_from(network: Network, path: &Path, journal: &Journal) -> Result<Network, Failure> {
    let fail = |e: &dyn std::fmt::Display| Failure::checkpoint(format!("{}: {e}", path.display()));
    let weights = match path.extension().is_some_and(|x| x == "ckpt") {
        true => Checkpoint::read(path)?.weights,
        false => read_weights(path).map_err(|e| fail(&e))?,
    };
    let (network, report) =
        load_state_dict(network, weights, HeadPolicy::KeepInitialised).map_err(|e| fail(&e))?;
    journal.say(&format!("{}: {report}", path.display()));
    Ok(network)
}

fn diverged(folder: &Path, at: Position, lr: f64, last_good: Option<u64>) -> Failure {
    let kept = match last_good {
        Some(step) => format!("; {} of step {step} is intact", folder.join("last.ckpt").display()),
        None => String::new(),
    };
    Failure::diverged(format!(
        "the loss is not finite at epoch {}, batch {}, step {}, learning rate {lr:.3e}{kept}; lower \
         --lr or lengthen --warmup-epochs",
        at.epoch, at.batch, at.step
    ))
}

/// Gives the checkpoint `from` a second name, replacing what had it. A hard link where the file system
/// has them: checkpoints are only ever replaced by a rename, never written in place.
fn copy(folder: &Path, from: &str, to: &str) -> Result<(), Failure> {
    let (from, to) = (folder.join(from), folder.join(to));
    let scratch = to.with_extension("tmp");
    let _ = std::fs::remove_file(&scratch);
    std::fs::hard_link(&from, &scratch)
        .or_else(|_| std::fs::copy(&from, &scratch).map(|_| ()))
        .and_then(|()| std::fs::rename(&scratch, &to))
        .map_err(|e| Failure::file(format!("{}: cannot write: {e}", to.display())))?;
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
