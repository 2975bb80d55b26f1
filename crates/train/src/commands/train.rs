//! `kindling train`: begins or resumes a run, trains it, and prints its result.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

use clap::Args;
use nn::cost::cost;

use crate::commands::dry_run::{computed_mb, dry_run};
use crate::commands::plan_args;
use crate::config::options::Options;
use crate::config::output::LogFormat;
use crate::config::plan::Plan;
use crate::datasets::shards::order::window_mb;
use crate::device::OpenedDevice;
use crate::error::Error;
use crate::files::{create_folders, refuse_other_extension, write_atomically};
use crate::optimizers::param_groups;
use crate::run::build_objective::build_objective;
use crate::run::checkpoint::Checkpoint;
use crate::run::dashboard::Dashboard;
use crate::run::fit::fit;
use crate::run::logger::Logger;
use crate::run::observer::{Observer, Observers};
use crate::run::open_data;
use crate::run::pretrained::follow_weights;
use crate::run::resume::{Found, PLAN, changed, ended, find};
use crate::run::retention::LAST;
use crate::run::run_lock::RunLock;
use crate::run::trainer::{OUT_OF_TIME, Run, RunOutcome};
use crate::signal::Stop;
use crate::system_memory;

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
}

/// Runs the subcommand; the exit code of a run that ended well or was saved.
///
/// # Errors
/// Faulty flags, data, checkpoint, backend or disk.
pub fn train(args: &TrainArgs) -> Result<u8, Error> {
    args.dry_run_plot.as_deref().map_or(Ok(()), |path| refuse_other_extension(path, "svg"))?;
    let options = plan_args::merge(&args.options, args.config.as_deref())?;
    let opening = match &args.resume {
        Some(path) => match resume(path, &options)? {
            Some(opening) => opening,
            None => return Ok(0),
        },
        None => {
            let plan = new_plan(options)?;
            if args.dry_run {
                let json = args.json || plan.logging.log_format == LogFormat::Json;
                return dry_run(
                    &plan,
                    plan.machine.backend.open()?,
                    json,
                    args.dry_run_plot.as_deref(),
                );
            }
            let (folder, logger) = (new_folder(&plan)?, logger_of(&plan));
            Opening { plan, folder, from: None, lock: None, logger }
        }
    };
    let Opening { plan, folder, from, lock, mut logger } = opening;
    // The device comes first: a missing adapter is reported before anything is written.
    let opened = plan.machine.backend.open()?;
    // The lock is held until the run has ended, however it ends.
    let (folder, _lock) = match (&from, lock) {
        (Some(_), Some(lock)) => (folder, lock),
        (_, lock) => begin(&plan, &folder, lock, &opened, &logger)?,
    };
    let stop = Stop::listen().map_err(|e| Error::file(format!("signals: {e}")))?;
    if from.is_some() {
        logger.log_to(&folder.join("train.log"))?;
    }
    let first_epoch = from.as_ref().map_or(0, |c| c.manifest.position.epoch);
    let dashboard = args.tui.then(|| open_dashboard(&plan, first_epoch)).transpose()?;
    if dashboard.is_some() {
        logger = logger.buffered();
    }
    let run = Run {
        log_interval: plan.logging.log_interval,
        plan,
        folder: folder.clone(),
        from,
        fresh_optimizer: args.no_resume_opt,
        device: opened.device,
        backend: opened.name,
        stop,
    };
    let mut observers: Vec<&dyn Observer> = vec![&logger];
    observers.extend(dashboard.iter().map(|dashboard| dashboard as &dyn Observer));
    let outcome = fit(run, &Observers(observers));
    drop(dashboard);
    logger.finish();
    Ok(report(&outcome?, &folder, &logger))
}

fn logger_of(plan: &Plan) -> Logger {
    Logger::new(plan.logging.log_interval, plan.logging.log_format)
}

/// The run that `--resume path` means; none if it has ended.
fn resume(path: &Path, options: &Options) -> Result<Option<Opening>, Error> {
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
        Some(checkpoint) => changed(&checkpoint.manifest.plan, options)?,
        None => changed(&Options::read(&folder.join(PLAN))?.plan()?, options)?,
    };
    let logger = logger_of(&plan);
    lock.note.iter().for_each(|note| logger.note(&format!("note: {note}")));
    changes.iter().for_each(|change| logger.note(change));
    match (&found, &from) {
        (Found::Checkpoint(file), Some(checkpoint)) => {
            let position = checkpoint.manifest.position;
            logger.note(&format!(
                "resuming {} at epoch {}, batch {}, step {}",
                file.display(),
                position.epoch,
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
    Ok(Some(Opening { plan, folder, from, lock: Some(lock), logger }))
}

/// The plan of a new run, whose data folder exists.
fn new_plan(options: Options) -> Result<Plan, Error> {
    let plan = follow_weights(options)?.plan()?;
    match plan.data.data_dir.exists() {
        true => Ok(plan),
        false => Err(Error::data(format!(
            "{}: no such folder; give a folder with train/<class>/* and val/<class>/*",
            plan.data.data_dir.display()
        ))),
    }
}

/// The folder of a new run, which no run has used yet.
fn new_folder(plan: &Plan) -> Result<PathBuf, Error> {
    let name = plan.logging.experiment.clone().unwrap_or_else(|| {
        let now = chrono::Local::now().format("%Y%m%d-%H%M%S");
        format!("{now}-{}-{}", plan.network.model, plan.data.img_size)
    });
    let folder = plan.logging.output.join("train").join(name);
    if plan.logging.experiment.is_none() {
        return Ok(folder);
    }
    refuse_another_run(&folder)?;
    Ok(folder)
}

/// Refuses a folder that holds a run already.
fn refuse_another_run(folder: &Path) -> Result<(), Error> {
    match folder.join(LAST).exists() {
        false => Ok(()),
        true => Err(Error::usage(format!(
            "{}: there is a run in it already; --resume {} goes on with it, another --experiment \
             begins a new one",
            folder.display(),
            folder.display()
        ))),
    }
}

/// Makes the folder of a new run. A name that the program chose gets a number where another run has
/// taken it in the same second; making the folder and claiming it are one operation of the file
/// system.
fn make_folder(folder: &Path, named: bool) -> Result<PathBuf, Error> {
    let fault = |path: &Path, e: &io::Error| {
        Error::file(format!("{}: cannot make the folder: {e}", path.display()))
    };
    if named {
        create_folders(folder)?;
        return Ok(folder.to_path_buf());
    }
    create_folders(folder.parent().unwrap_or(Path::new(".")))?;
    let mut claimed = folder.to_path_buf();
    for number in 2.. {
        match std::fs::create_dir(&claimed) {
            Ok(()) => break,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let mut name = folder.as_os_str().to_owned();
                name.push(format!("-{number}"));
                claimed = name.into();
            }
            Err(e) => return Err(fault(&claimed, &e)),
        }
    }
    Ok(claimed)
}

/// Checks data, frozen weights and objective of a new run, makes its folder, unless its `lock` is
/// held already, and reports what will be trained. Returns the folder and its lock.
fn begin(
    plan: &Plan,
    folder: &Path,
    lock: Option<RunLock>,
    opened: &OpenedDevice,
    logger: &Logger,
) -> Result<(PathBuf, RunLock), Error> {
    // Faulty data too is reported before the folder is made.
    let (data, _) = open_data::open(plan)?;
    let classes = data.classes.len();
    let network = plan.network(classes);
    param_groups::frozen(&network, &plan.network.freeze)?;
    build_objective(plan, &data, &opened.device)?;
    let (folder, lock) = match lock {
        Some(lock) => (folder.to_path_buf(), lock),
        None => {
            let folder = make_folder(folder, plan.logging.experiment.is_some())?;
            let lock = RunLock::acquire(&folder)?;
            // Another process may have trained here while this one read its data.
            refuse_another_run(&folder)?;
            (folder, lock)
        }
    };
    let text = toml::to_string(plan).expect("a plan is plain data");
    write_atomically(&folder.join(PLAN), text.as_bytes())?;
    logger.log_to(&folder.join("train.log"))?;
    write_atomically(&folder.join("classes.txt"), (data.classes.join("\n") + "\n").as_bytes())?;
    open_data::keep_quarantine(plan, &folder)?;
    let cost = cost(&network, plan.data.img_size, plan.data.img_size);
    logger.note(&format!(
        "{} on {}: {classes} classes, {} images, {:.2} M parameters, {:.1} M multiply-adds at {}x{}",
        plan.network.model,
        opened.name,
        data.items.len(),
        cost.parameters as f64 / 1e6,
        cost.multiply_adds as f64 / 1e6,
        plan.data.img_size,
        plan.data.img_size
    ));
    logger.note(&format!("run folder: {}", folder.display()));
    plan.notes().iter().for_each(|note| logger.note(&format!("note: {note}")));
    // A GPU out of memory is an error that the loop handles; a machine out of memory ends the run.
    if let (true, Some(available)) = (opened.is_host(), system_memory::available_mb()) {
        let batch = plan.training.batch_size.min(data.items.len());
        let windows = window_mb(&data, plan.data.shard_window);
        let needs = |images| windows + computed_mb(plan, classes, images);
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
fn report(outcome: &RunOutcome, folder: &Path, logger: &Logger) -> u8 {
    if let Some(code) = outcome.code {
        let why = if code == OUT_OF_TIME { "out of time" } else { "interrupted" };
        logger.note(&format!(
            "{why} and saved at step {}; go on with --resume {}",
            outcome.steps,
            folder.display()
        ));
        return code;
    }
    let result = serde_json::json!({
        "run": folder.to_string_lossy(),
        "steps": outcome.steps,
        "best_epoch": outcome.best.map(|b| b.epoch),
        "best_top1": outcome.best.map(|b| 100.0 * b.top1),
        "top1": outcome.report.as_ref().map(|r| 100.0 * r.top1),
        "top5": outcome.report.as_ref().map(|r| 100.0 * r.top5),
    });
    logger.result(&format!("--result\n{result:#}"));
    0
}
