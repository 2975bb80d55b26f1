//! Everything that the training loop reads and never changes, opened from a run: data, objective,
//! schedule, device, observer.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use burn::tensor::Device;
use nn::block::sync_batch_norm::NormGroup;

use crate::config::plan::Plan;
use crate::datasets::image_folder::ImageFolder;
use crate::datasets::loader::{Loader, Mode};
use crate::datasets::sampler::BatchShare;
use crate::device::is_host;
use crate::distributed::communicator::Communicator;
use crate::error::Error;
use crate::files::{failed, write_atomically};
use crate::learner::evaluate::EvalReport;
use crate::learner::objective::Objective;
use crate::optimizers::lr_schedule::Schedule;
use crate::run::advice::Advice;
use crate::run::build_objective::build_objective;
use crate::run::checkpoint::Checkpoint;
use crate::run::observer::Observer;
use crate::run::open_data;
use crate::run::open_data::RunImages;
use crate::run::progress::{Best, Position};
use crate::run::resume::PLAN;
use crate::run::run_folder;
use crate::run::state::{RunContext, TrainState};
use crate::run::synchronise;
use crate::run::synchronise::Agreed;
use crate::signal::Stop;

/// Exit code of a run that was saved because its time was up.
pub const OUT_OF_TIME: u8 = 4;

/// Exit code of a run that an observer stopped: as by SIGINT.
pub(super) const STOPPED: u8 = 130;

/// A run: its plan, its folder, and the checkpoint that it resumes from.
pub struct Run {
    /// Resolved configuration.
    pub plan: Plan,
    /// Folder of the run.
    pub folder: PathBuf,
    /// A checkpoint of the same run to resume from.
    pub from: Option<Checkpoint>,
    /// Whether to resume with a fresh optimizer instead of the checkpoint's.
    pub fresh_optimizer: bool,
    /// Device, without autodiff.
    pub device: Device,
    /// Name of the backend, for `run.json`.
    pub backend: String,
    /// Batches between two lines of `steps.jsonl`.
    pub log_interval: usize,
    /// SIGINT and SIGTERM.
    pub stop: Stop,
    /// The ranks that train together. Rank 0 has the checkpoint, and writes the folder.
    pub communicator: Arc<dyn Communicator>,
}

/// The result of a run.
pub struct RunOutcome {
    /// The last evaluation, if there was one.
    pub report: Option<EvalReport>,
    /// The best evaluation.
    pub best: Option<Best>,
    /// Optimizer steps done.
    pub steps: u64,
    /// Why the run ended early, as an exit code: 130 or 143 for a signal, [`OUT_OF_TIME`] for
    /// `--max-hours`.
    pub code: Option<u8>,
}

/// The constant part of the training loop.
pub(super) struct Trainer<'a> {
    /// Plan, classes and network.
    pub context: RunContext,
    /// Folder of the run.
    pub folder: PathBuf,
    /// The training images.
    pub train: Arc<ImageFolder>,
    /// The validation images.
    pub val: Arc<ImageFolder>,
    /// Batches of the training images.
    pub loader: Loader,
    /// Batches of the validation images.
    pub val_loader: Loader,
    /// The loss.
    pub objective: Objective,
    /// The learning rate of every step.
    pub schedule: Schedule,
    /// Device, without autodiff.
    pub device: Device,
    /// SIGINT and SIGTERM.
    pub stop: Stop,
    /// Batches between two lines of `steps.jsonl`.
    pub log_interval: usize,
    /// Gets every report.
    pub observer: &'a dyn Observer,
    /// Warns of what goes wrong without an error.
    pub advice: Advice,
    /// The ranks whose batches share the statistics of batch norm.
    pub norm_group: Option<NormGroup>,
    communicator: Arc<dyn Communicator>,
    began: Instant,
}

impl<'a> Trainer<'a> {
    /// Opens a run, with its initial or resumed state, and writes its `run.json`.
    ///
    /// # Errors
    /// Faulty data, class weights, teacher, pretrained weights or checkpoint; files of the run
    /// folder that cannot be written.
    pub(super) fn open(run: Run, observer: &'a dyn Observer) -> Result<(Self, TrainState), Error> {
        let Run { plan, folder, from, fresh_optimizer, device, backend, log_interval, .. } = run;
        let (stop, communicator) = (run.stop, run.communicator);
        let began = Instant::now();
        let (rank, world) = (communicator.rank(), communicator.world());
        refuse_small_batches(&plan, world)?;
        let share = BatchShare { rank, world };
        let norm_group = synchronise::norm_group(plan.training.sync_bn, &communicator);

        // The class list comes from the training images, and validation shares it.
        let begun_on = from.as_ref().map(|checkpoint| checkpoint.manifest.data);
        let begun_on = communicator.value_of_root(begun_on)?;
        let RunImages { train, val, left_out } = open_data::open_for_run(&plan, begun_on, &folder)?;
        let (train, val) = (Arc::new(train), Arc::new(val));
        let note = |text: &String| observer.note(text);
        let of_ranks = synchronise::notes(&plan, &backend, &*communicator)?;
        let notes = train.notes.iter().chain(&val.notes).chain(&of_ranks);
        notes.for_each(|text| note(&format!("note: {text}")));
        let mode = Mode::Train(plan.augment());
        let loader = open_data::loader(&plan, &train, mode, plan.training.batch_size)
            .caching(&open_data::caching(&plan))
            .leaving_out(left_out)
            .as_bytes(!is_host(&device))
            .sharing(share);
        open_data::check_shards(&plan, &loader)?;
        let shards = synchronise::shard_notes(&plan, &loader, &*communicator)?;
        loader.window_notes().iter().chain(&shards).for_each(note);
        loader.cache_estimate().iter().for_each(note);
        let val_loader = open_data::loader(&plan, &val, Mode::Eval, plan.training.val_batch_size)
            .as_bytes(!is_host(&device))
            .sharing(share);
        if loader.batches() == 0 {
            return Err(Error::data(format!(
                "{}: {} training images give no batch of at least 2; add images",
                plan.data.data_dir.display(),
                train.items.len()
            )));
        }
        let schedule =
            plan.schedule(loader.batches().div_ceil(plan.training.grad_accum_steps) as u64);

        let (objective, teacher_note) = build_objective(&plan, &train, &device)?;
        teacher_note.iter().for_each(note);
        let context = RunContext::new(&plan, &train, &device.clone().autodiff())?;
        let loader = loader.recording(&context.keys);
        let state = match from {
            _ if !communicator.is_root() => None,
            Some(checkpoint) => {
                let mut state = context.resume(checkpoint, fresh_optimizer)?;
                // The schedule counts steps, of which another batch size has another number.
                if fresh_optimizer && state.position.batch == 0 {
                    let steps = loader.batches().div_ceil(plan.training.grad_accum_steps) as u64;
                    state.position.step = state.position.epoch * steps;
                }
                Some(state)
            }
            None => Some(context.initial_state(observer)?),
        };
        let state = synchronise::replicate(&context, &*communicator, state)?;
        if state.position.batch > loader.batches() {
            return Err(Error::checkpoint(format!(
                "{}: position.batch: {}: an epoch of this run has {} batches; resume another \
                 checkpoint of the run",
                folder.display(),
                state.position.batch,
                loader.batches()
            )));
        }
        if communicator.is_root() {
            write_beginning(&plan, &folder, &backend, &context, state.position)?;
        }
        let advice = Advice::new(&context.plan, context.classes.len());
        let trainer = Self {
            context,
            folder,
            train,
            val,
            loader,
            val_loader,
            objective,
            schedule,
            device,
            stop,
            log_interval,
            observer,
            advice,
            norm_group,
            communicator,
            began,
        };
        Ok((trainer, state))
    }

    /// The ranks that train together.
    pub(super) fn communicator(&self) -> &dyn Communicator {
        &*self.communicator
    }

    /// See [`synchronise::shared_images`].
    ///
    /// # Errors
    /// As there.
    pub(super) fn shared_images(&self, own: usize) -> Result<Option<u64>, Error> {
        synchronise::shared_images(self.norm_group.as_ref(), self.communicator(), own)
    }

    /// Whether this process writes the folder of the run.
    pub(super) fn is_root(&self) -> bool {
        self.communicator().is_root()
    }

    /// The exit code of a signal that any rank got.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Communication`].
    pub(super) fn signal(&self) -> Result<Option<u8>, Error> {
        let code = self.communicator().max(self.stop.requested().unwrap_or(0))?;
        Ok((code > 0).then_some(code))
    }

    /// The exit code of a run that has to save and stop now, on every rank: see
    /// [`Trainer::stop_code`].
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Communication`].
    pub(super) fn agreed_stop(&self) -> Result<Option<u8>, Error> {
        let code = self.communicator().max(self.stop_code().unwrap_or(0))?;
        Ok((code > 0).then_some(code))
    }

    /// Agrees with the other ranks on what follows a step. `save` says whether a checkpoint is due,
    /// and `skipped` what this rank could not read.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Communication`].
    pub(super) fn agree(&self, save: bool, skipped: Vec<String>) -> Result<Agreed, Error> {
        synchronise::agree(self.communicator(), self.stop_code(), save, skipped)
    }

    /// Collects the keys of the images that the ranks have read, for the next checkpoint.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Communication`].
    pub(super) fn gather_keys(&self) -> Result<(), Error> {
        if self.communicator.world() > 1 {
            let own = self.context.keys.trained_images();
            self.context.keys.set_others(self.communicator().gather_values(own)?);
        }
        Ok(())
    }

    /// Batches of an epoch.
    pub(super) fn batches(&self) -> usize {
        self.loader.batches()
    }

    /// Epochs of the run.
    pub(super) fn epochs(&self) -> u64 {
        self.context.plan.total_epochs()
    }

    /// The learning rate of the next step: the schedule's times the factors of plateau and NaN
    /// guard.
    pub(super) fn lr(&self, state: &TrainState) -> f64 {
        self.schedule.at(state.position.step) * state.plateau.factor * state.nan_guard.factor
    }

    /// Writes the state to the checkpoint `name` of the run folder: the work of rank 0.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::File`]. [`crate::error::ErrorKind::Diverged`]: values of the
    /// state are not finite.
    pub(super) fn save(&self, state: &TrainState, name: &str) -> Result<(), Error> {
        match self.is_root() {
            true => self.context.stage(state, &self.folder.join(name))?.publish().map_err(failed),
            false => Ok(()),
        }
    }

    /// The end of an error's message where the run can be resumed.
    pub(super) fn way_back(&self) -> String {
        format!("; the run is saved: --resume {} goes on", self.folder.display())
    }

    /// The exit code of a run that has to save and stop now: a signal, an observer, or its time.
    pub(super) fn stop_code(&self) -> Option<u8> {
        let hours = self.context.plan.training.max_hours;
        let out_of_time = || hours > 0.0 && self.began.elapsed().as_secs_f64() > hours * 3600.0;
        match self.stop.requested() {
            Some(signal) => Some(signal),
            None if self.observer.stop_requested() => Some(STOPPED),
            None => out_of_time().then_some(OUT_OF_TIME),
        }
    }
}

/// Writes what a run that begins or goes on at `position` is.
fn write_beginning(
    plan: &Plan,
    folder: &Path,
    backend: &str,
    context: &RunContext,
    position: Position,
) -> Result<(), Error> {
    deploy::files::remove_leftovers(folder);
    let resumed = (position != Position::default()).then_some(position);
    run_folder::write_facts(folder, backend, context.data, resumed)?;
    if resumed.is_some() {
        // What the resumed run changed of it.
        let text = toml::to_string(plan).expect("a plan is plain data");
        write_atomically(&folder.join(PLAN), text.as_bytes())?;
    }
    run_folder::rewind_steps(folder, position)
}

/// Refuses a batch that leaves a rank one image: it would have no usable batch statistics.
fn refuse_small_batches(plan: &Plan, world: usize) -> Result<(), Error> {
    let batch = plan.training.batch_size;
    match world > 1 && batch < 2 * world {
        true => Err(Error::usage(format!(
            "--batch-size {batch}: {world} ranks share every batch, and each needs 2 images; give \
             {} or more, or start fewer ranks",
            2 * world
        ))),
        false => Ok(()),
    }
}
