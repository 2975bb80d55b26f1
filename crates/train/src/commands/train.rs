//! `kindling train`: begins or resumes a run, trains it, and prints its result.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::commands::dry_run::{computed_mb, dry_run};
use crate::commands::plan_args;
use crate::config::options::Options;
use crate::config::output::LogFormat;
use crate::config::plan::Plan;
use crate::datasets::shards::order::window_mb;
use crate::device::OpenedDevice;
use crate::distributed::communicator::Communicator;
use crate::distributed::launch;
use crate::err;
use crate::error::Error;
use crate::files::refuse_other_extension;
use crate::run;
use crate::run::begin::{Begun, new_folder};
use crate::run::checkpoint::Checkpoint;
use crate::run::dashboard::Dashboard;
use crate::run::fit::fit;
use crate::run::logger::Logger;
use crate::run::manifest::Manifest;
use crate::run::observer::{Observer, Observers};
use crate::run::resume::{Found, PLAN, changed, ended, find};
use crate::run::run_lock::RunLock;
use crate::run::tensorboard::TensorBoard;
use crate::run::trainer::{OUT_OF_TIME, Run, RunOutcome};
use crate::signal::Stop;
use crate::system_memory;

mod console;

/// The arguments of `kindling train`.
#[derive(Args)]
pub struct TrainArgs {
    #[command(flatten)]
    options: Options,
    /// TOML file of options, like `args.toml` of a run [default: none]
    #[arg(short, long, value_name = "FILE", help_heading = "Training")]
    config: Option<PathBuf>,
    /// Resume a run folder or checkpoint; without PATH the newest run in --output [default: begin
    /// a new run]
    #[arg(long, value_name = "PATH", num_args = 0..=1, default_missing_value = "auto")]
    #[arg(help_heading = "Checkpoints")]
    resume: Option<PathBuf>,
    /// Show burn-train's dashboard with plots; `q` stops and saves [default: a progress bar]
    #[arg(long, help_heading = "Output", hide_short_help = true)]
    tui: bool,
    /// Resume weights and position with a fresh optimizer [default: the saved optimizer]
    #[arg(long, requires = "resume", help_heading = "Checkpoints", hide_short_help = true)]
    no_resume_opt: bool,
    /// Print the cost of a run from 20 real batches [default: train]
    #[arg(long, conflicts_with_all = ["resume", "tui"], help_heading = "Output")]
    dry_run: bool,
    /// SVG file for the learning-rate curve of the dry run [default: none]
    #[arg(long, value_name = "FILE", requires = "dry_run")]
    #[arg(help_heading = "Output", hide_short_help = true)]
    dry_run_plot: Option<PathBuf>,
    /// Write no report at the end [default: report.html and its files in the run folder]
    #[arg(long, help_heading = "Output", hide_short_help = true)]
    no_report: bool,
    /// Print the result alone on standard output, as JSON, and every other line on standard error
    /// [default: all lines on standard output]
    #[arg(long, help_heading = "Output", hide_short_help = true)]
    result: bool,
    /// Seconds without a sign of life from a rank after which the job ends [default: 30] [range: 1
    /// to 86400]
    #[arg(long, value_name = "SECONDS", default_value_t = 30, hide_default_value = true)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    #[arg(help_heading = "Machine", hide_short_help = true)]
    comm_timeout: u64,
    /// Print the dry run as JSON [default: text]
    #[arg(long, requires = "dry_run", help_heading = "Output", hide_short_help = true)]
    json: bool,
}

/// A run that is about to begin or to go on.
struct Opening {
    plan: Plan,
    folder: PathBuf,
    /// The checkpoint to go on from.
    from: Option<Checkpoint>,
    /// The lock of a folder that is there already.
    lock: Option<RunLock>,
    logger: Logger,
    /// What was chosen for the data.
    notes: Vec<String>,
}

/// Runs the subcommand; the exit code of a run that ended well or was saved.
///
/// # Errors
/// Faulty flags, data, checkpoint, backend or disk.
pub fn train(args: &TrainArgs) -> Result<u8, Error> {
    if args.dry_run {
        launch::refuse_ranks("--dry-run")?;
    }
    let communicator: Arc<dyn Communicator> =
        launch::open(Duration::from_secs(args.comm_timeout))?.into();
    match communicator.is_root() {
        true => lead(args, communicator),
        false => follow(communicator),
    }
}

/// What rank 0 tells the others of the run.
#[derive(Serialize, Deserialize)]
struct Orders {
    plan: Plan,
    folder: PathBuf,
}

/// The work of every rank but the first one: trains what rank 0 has begun, and writes nothing.
fn follow(communicator: Arc<dyn Communicator>) -> Result<u8, Error> {
    /// Hears of everything, and says nothing.
    struct Silent;
    impl Observer for Silent {}

    let Some(Orders { plan, folder }) = communicator.value_of_root(None)? else {
        communicator.finish()?;
        return Ok(0);
    };
    let opened = open_device(&plan)?;
    let run = Run {
        log_interval: plan.logging.log_interval,
        plan,
        folder,
        from: None,
        fresh_optimizer: false,
        device: opened.device,
        backend: opened.name,
        stop: listen()?,
        communicator: Arc::clone(&communicator),
    };
    let outcome = fit(run, &Silent)?;
    communicator.finish()?;
    Ok(outcome.code.unwrap_or(0))
}

/// The device of this rank.
fn open_device(plan: &Plan) -> Result<OpenedDevice, Error> {
    let opened = match launch::local_rank() {
        Some(local) => plan.machine.backend.open_for_rank(local),
        None => plan.machine.backend.open(),
    };
    opened?.with_maps(plan.machine.amp)
}

fn listen() -> Result<Stop, Error> {
    Stop::listen().map_err(|e| Error::file(format!("signals: {e}")))
}

/// The work of rank 0, or of the only process: begins or resumes the run, trains, writes, prints.
fn lead(args: &TrainArgs, communicator: Arc<dyn Communicator>) -> Result<u8, Error> {
    args.dry_run_plot.as_deref().map_or(Ok(()), |path| refuse_other_extension(path, "svg"))?;
    let options = plan_args::merge(&args.options, args.config.as_deref())?;
    let opening = match &args.resume {
        Some(path) => match resume(path, &options, args)? {
            Some(opening) => opening,
            None => {
                communicator.value_of_root(None::<Orders>)?;
                communicator.finish()?;
                return Ok(0);
            }
        },
        None => {
            let (plan, notes) = run::begin::complete(options)?;
            if args.dry_run {
                notes.iter().for_each(|note| err!("note: {note}"));
                let json = args.json || plan.logging.log_format == LogFormat::Json;
                return dry_run(
                    &plan,
                    plan.machine.backend.open_for(plan.machine.amp)?,
                    json,
                    args.dry_run_plot.as_deref(),
                );
            }
            let (folder, logger) = (new_folder(&plan)?, logger_of(&plan, args.result));
            Opening { plan, folder, from: None, lock: None, logger, notes }
        }
    };
    let Opening { plan, folder, from, lock, mut logger, notes } = opening;
    // The device comes first: a missing adapter is reported before anything is written.
    let opened = open_device(&plan)?;
    // The lock is held until the run has ended, however it ends.
    let (folder, _lock) = match (&from, lock) {
        (Some(_), Some(lock)) => (folder, lock),
        (_, lock) => begin(&plan, &folder, lock, &opened, (&logger, &notes))?,
    };
    let stop = listen()?;
    let orders = Orders { plan: plan.clone(), folder: folder.clone() };
    communicator.value_of_root(Some(orders))?;
    if from.is_some() {
        logger.log_to(&folder.join("train.log"))?;
    }
    let first_epoch = from.as_ref().map_or(0, |c| c.manifest.position.epoch);
    let dashboard = args.tui.then(|| open_dashboard(&plan, first_epoch)).transpose()?;
    if dashboard.is_some() {
        logger = logger.buffered();
    }
    let board = plan
        .logging
        .tensorboard
        .then(|| TensorBoard::open(&folder, plan.logging.log_interval, from.is_some()))
        .transpose()?;
    let (device, listening) = (opened.device.clone(), stop.clone());
    let run = Run {
        log_interval: plan.logging.log_interval,
        plan,
        folder: folder.clone(),
        from,
        fresh_optimizer: args.no_resume_opt,
        device: opened.device,
        backend: opened.name.clone(),
        stop,
        communicator: Arc::clone(&communicator),
    };
    let mut observers: Vec<&dyn Observer> = vec![&logger];
    observers.extend(board.iter().map(|board| board as &dyn Observer));
    observers.extend(dashboard.iter().map(|dashboard| dashboard as &dyn Observer));
    let outcome = fit(run, &Observers(observers));
    drop(dashboard);
    logger.finish();
    let outcome = outcome?;
    communicator.finish()?;
    let page = match outcome.code.is_some() || args.no_report {
        true => None,
        false => {
            let opened = OpenedDevice { device, name: opened.name };
            written_report(&folder, &opened, &listening, &logger)
        }
    };
    Ok(report(&outcome, &folder, page.as_deref(), &logger))
}

/// Writes the report of a run that ended. The run is done and saved: whatever goes wrong here is a
/// note.
fn written_report(
    folder: &Path,
    opened: &OpenedDevice,
    stop: &Stop,
    logger: &Logger,
) -> Option<PathBuf> {
    let began = std::time::Instant::now();
    let write = || crate::report::write(folder, opened, stop);
    // The run is done: not even a panic may take its result away.
    let written =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(write)).unwrap_or_else(|_| {
            Err(Error::file("the report ended in a panic; please report this as a bug"))
        });
    match written {
        Ok(written) => {
            let seconds = began.elapsed().as_secs();
            if seconds >= 2 {
                logger
                    .note(&format!("note: the report took {seconds} s; --no-report leaves it out"));
            }
            Some(written.page)
        }
        Err(error) => {
            logger.note(&format!(
                "note: no report: {error}; `kindling report {}` writes it later",
                folder.display()
            ));
            None
        }
    }
}

fn logger_of(plan: &Plan, result_alone: bool) -> Logger {
    Logger::new(plan.logging.log_interval, plan.logging.log_format).result_alone(result_alone)
}

/// The run that `--resume path` means; none if it has ended.
fn resume(path: &Path, options: &Options, args: &TrainArgs) -> Result<Option<Opening>, Error> {
    let fresh = args.no_resume_opt;
    let output = options.logging.output.clone().unwrap_or_else(|| "checkpoints".into());
    let found = find(path, &output)?;
    let folder = found.folder();
    let lock = RunLock::acquire(&folder)?;
    deploy::files::remove_leftovers(&folder);
    let from = match &found {
        Found::Checkpoint(file) => Some(Checkpoint::read(file)?),
        Found::Begun(_) => None,
    };
    let (plan, changes) = match &from {
        Some(checkpoint) => changed(&checkpoint.manifest.plan, options, fresh)?,
        None => changed(&Options::read(&folder.join(PLAN))?.plan()?, options, fresh)?,
    };
    let logger = logger_of(&plan, args.result);
    lock.note.iter().for_each(|note| logger.note(&format!("note: {note}")));
    if let Some(checkpoint) = &from {
        refuse_within_epoch(&checkpoint.manifest, &plan)?;
    }
    changes.iter().for_each(|change| logger.note(change));
    match (&found, &from) {
        (Found::Checkpoint(file), Some(checkpoint)) => {
            let position = checkpoint.manifest.position;
            logger.note(&format!(
                "resuming {} at epoch {}, batch {}, step {}",
                file.display(),
                position.epoch + 1,
                position.batch,
                position.step
            ));
            if let Some(why) = ended(&checkpoint.manifest, &plan) {
                logger.note(&why);
                return Ok(None);
            }
        }
        _ => logger.note(&format!(
            "{}: the run ended before its first checkpoint: it begins again",
            folder.display()
        )),
    }
    Ok(Some(Opening { plan, folder, from, lock: Some(lock), logger, notes: Vec::new() }))
}

/// Refuses another batch size in the middle of an epoch, whose batches are counted.
fn refuse_within_epoch(manifest: &Manifest, plan: &Plan) -> Result<(), Error> {
    let images = |plan: &Plan| (plan.training.batch_size, plan.training.grad_accum_steps);
    if manifest.position.batch == 0 || images(&manifest.plan) == images(plan) {
        return Ok(());
    }
    Err(Error::usage(format!(
        "--batch-size {}: the run stopped at batch {} of an epoch, and batches of another size would miss images; \
         resume checkpoint-{}.ckpt, the end of the epoch before",
        plan.training.batch_size,
        manifest.position.batch,
        manifest.position.epoch.saturating_sub(1)
    )))
}

/// Begins a new run and says what will be trained. Returns the folder and its lock.
fn begin(
    plan: &Plan,
    folder: &Path,
    lock: Option<RunLock>,
    opened: &OpenedDevice,
    (logger, chosen): (&Logger, &[String]),
) -> Result<(PathBuf, RunLock), Error> {
    let Begun { folder, lock, train, val, set_aside } =
        run::begin::begin(plan, folder, lock, &opened.device)?;
    logger.log_to(&folder.join("train.log"))?;
    console::head(plan, (&train, &val), &opened.name, launch::announced_ranks().max(1))
        .iter()
        .for_each(|line| logger.note(line));
    logger.note(&format!("run folder: {}", folder.display()));
    chosen
        .iter()
        .chain(&set_aside)
        .chain(&plan.notes())
        .for_each(|note| logger.note(&format!("note: {note}")));
    // A GPU out of memory is an error that the loop handles; a machine out of memory ends the run.
    if let (true, Some(available)) = (opened.is_host(), system_memory::available_mb()) {
        let batch = plan.training.batch_size.min(train.items.len());
        let windows = window_mb(&train, plan.data.shard_window);
        let needs = |images| windows + computed_mb(plan, train.classes.len(), images);
        let note = system_memory::note(batch, plan.training.grad_accum_steps, available, needs);
        note.iter().for_each(|note| logger.note(note));
    }
    Ok((folder, lock))
}

fn open_dashboard(plan: &Plan, first_epoch: u64) -> Result<Dashboard, Error> {
    match std::io::stdout().is_terminal() {
        true => Ok(Dashboard::open(plan.total_epochs(), first_epoch)),
        false => Err(Error::usage("--tui: standard output is no terminal; omit it")),
    }
}

/// Prints the result of a run, or how to resume it; returns the exit code.
fn report(outcome: &RunOutcome, folder: &Path, page: Option<&Path>, logger: &Logger) -> u8 {
    if let Some(code) = outcome.code {
        let why = if code == OUT_OF_TIME { "out of time" } else { "interrupted" };
        logger.note(&format!(
            "{why} and saved at step {}; go on with --resume {}",
            outcome.steps,
            folder.display()
        ));
        return code;
    }
    let (result, closing) = console::closing(outcome, folder, page);
    logger.result(&result, &closing);
    0
}
