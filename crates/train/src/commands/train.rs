//! `kindling train`: begins a run or goes on with one, and hands it to the loop.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use clap::Args;
use nn::cost::cost;
use nn::models::variants::Variant;

use crate::commands::dry_run::{computed_mb, dry_run};
use crate::commands::model_args;
use crate::config::options::Options;
use crate::config::recipe;
use crate::datasets::shards;
use crate::error::Error;
use crate::learner::objective::Objective;
use crate::learner::out_of_memory;
use crate::optimizers::param_groups;
use crate::out;
use crate::run::checkpoint::{Checkpoint, Manifest, write_atomically};
use crate::run::fit;
use crate::run::fit::Run;
use crate::run::logger::{LogFormat, Logger};
use crate::signal::Stop;

/// The words of `kindling train`.
#[derive(Args)]
pub struct Train {
    #[command(flatten)]
    options: Options,
    /// TOML file with any of the options; `args.toml` of a run is one
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Go on from a checkpoint or run folder; alone: the newest run below --output
    #[arg(long, value_name = "PATH", num_args = 0..=1, default_missing_value = "auto")]
    resume: Option<PathBuf>,
    /// Show burn-train's dashboard with plots (q stops and saves)
    #[arg(long)]
    tui: bool,
    /// Resume with a fresh optimizer: the weights and the position alone
    #[arg(long, requires = "resume")]
    no_resume_opt: bool,
    /// Print what the run would cost (parameters, steps, memory, time, disk) from 20 real batches, and keep nothing
    #[arg(long, conflicts_with_all = ["resume", "tui"])]
    dry_run: bool,
    /// SVG file for the learning-rate curve of the dry run
    #[arg(long, value_name = "FILE", requires = "dry_run")]
    dry_run_plot: Option<PathBuf>,
    /// Print the dry run as JSON
    #[arg(long, requires = "dry_run")]
    json: bool,
}

/// What a resumed run may change; everything else is part of what was computed so far.
const CHANGEABLE: [&str; 17] = [
    "val_batch_size",
    "val_interval",
    "patience",
    "max_hours",
    "checkpoint_interval_minutes",
    "log_format",
    "workers",
    "cache",
    "cache_gb",
    "cache_dir",
    "backend",
    "epochs",
    "checkpoint_hist",
    "checkpoint_interval_steps",
    "log_interval",
    "strict_data",
    "data_dir",
];

/// Runs the subcommand; the exit code of a run that ended well or was saved.
///
/// # Errors
/// Whatever may be wrong with flags, data, checkpoint, backend or disk.
pub fn train(args: &Train) -> Result<u8, Error> {
    let options = match &args.config {
        Some(path) => args.options.over(&Options::read(path)?),
        None => args.options.over(&Options::default()),
    };
    let options = recipe::under(options)?;
    let mut logger = Logger::new(
        options.log_interval.unwrap_or(50).max(1),
        options.log_format.unwrap_or(LogFormat::Text),
    );
    let (plan, folder, from) = match &args.resume {
        Some(path) => {
            let output = options.output.clone().unwrap_or_else(|| "checkpoints".into());
            let file = find_checkpoint(path, &output)?;
            let checkpoint = Checkpoint::read(&file)?;
            let plan = changed(&checkpoint.manifest, &options, &logger)?;
            let folder = file.parent().map_or_else(|| ".".into(), Path::to_path_buf);
            logger.say(&format!(
                "resuming {} at epoch {}, batch {}, step {}",
                file.display(),
                checkpoint.manifest.position.epoch,
                checkpoint.manifest.position.batch,
                checkpoint.manifest.position.step
            ));
            if checkpoint.manifest.position.epoch >= plan.total_epochs() {
                logger.say(&format!(
                    "the run is finished ({} epochs); --epochs N goes on",
                    plan.total_epochs()
                ));
                return Ok(0);
            }
            (plan, folder, Some(checkpoint))
        }
        None => {
            let plan = model_args::follow_weights(options)?.plan()?;
            if !plan.data_dir.exists() {
                return Err(Error::data(format!(
                    "{}: no such folder; give a folder with train/<class>/* and val/<class>/*",
                    plan.data_dir.display()
                )));
            }
            if args.dry_run {
                let json = args.json || plan.log_format == LogFormat::Json;
                return dry_run(&plan, plan.backend.open()?, json, args.dry_run_plot.as_deref());
            }
            let name = plan.experiment.clone().unwrap_or_else(|| {
                let now = chrono::Local::now().format("%Y%m%d-%H%M%S");
                format!("{now}-{}-{}", plan.model, plan.img_size)
            });
            let folder = plan.output.join("train").join(name);
            if folder.join("last.ckpt").exists() {
                return Err(Error::usage(format!(
                    "{}: there is a run in it already; --resume {} goes on with it, another \
                     --experiment begins a new one",
                    folder.display(),
                    folder.display()
                )));
            }
            (plan, folder, None)
        }
    };
    // The device comes first: a missing adapter is told before anything is written.
    let chosen = plan.backend.open()?;
    let fresh = from.is_none();
    if fresh {
        // Data faults too are told before the folder is made.
        let (data, _) = fit::open(&plan)?;
        param_groups::frozen(&plan.network(data.classes.len()), &plan.freeze)?;
        Objective::new(&plan, &data, &chosen.device)?;
        std::fs::create_dir_all(&folder).map_err(|e| {
            Error::file(format!("{}: cannot make the folder: {e}", folder.display()))
        })?;
        let text = toml::to_string(&plan).expect("a plan is plain data");
        write_atomically(&folder.join("args.toml"), text.as_bytes())?;
        logger.log_to(&folder.join("train.log"))?;
        write_atomically(&folder.join("classes.txt"), (data.classes.join("\n") + "\n").as_bytes())?;
        let cost = cost(&plan.network(data.classes.len()), plan.img_size, plan.img_size);
        logger.say(&format!(
            "{} on {}: {} classes, {} images, {:.2} M parameters, {:.1} M multiply-adds at {}x{}",
            plan.model,
            chosen.name,
            data.classes.len(),
            data.items.len(),
            cost.parameters as f64 / 1e6,
            cost.multiply_adds as f64 / 1e6,
            plan.img_size,
            plan.img_size
        ));
        logger.say(&format!("run folder: {}", folder.display()));
        plan.notes().iter().for_each(|note| logger.say(&format!("note: {note}")));
        // A device tells when its memory is out, and the loop answers; a machine ends the run.
        if let (true, Some(available)) = (chosen.is_host(), out_of_memory::available_mb()) {
            let batch = plan.batch_size.min(data.items.len());
            let windows = shards::window_mb(&data, plan.shard_window);
            let needs = |images| windows + computed_mb(&plan, data.classes.len(), images);
            let note = out_of_memory::note(batch, plan.grad_accum_steps, available, needs);
            note.iter().for_each(|note| logger.say(note));
        }
    }
    let stop = Stop::listen().map_err(|e| Error::file(format!("signals: {e}")))?;
    if !fresh {
        logger.log_to(&folder.join("train.log"))?;
    }
    if args.tui {
        if !std::io::stdout().is_terminal() {
            return Err(Error::usage("--tui: standard output is no terminal; leave it away"));
        }
        logger = logger.with_dashboard(
            plan.total_epochs(),
            from.as_ref().map_or(0, |c| c.manifest.position.epoch),
        );
    }
    let run = Run {
        plan,
        folder: folder.clone(),
        from,
        fresh_optimizer: args.no_resume_opt,
        device: chosen.device,
        backend: chosen.name,
        stop,
    };
    let ended = fit::fit(run, &logger);
    logger.finish();
    let ended = ended?;
    if let Some(code) = ended.code {
        let why = if code == fit::OUT_OF_TIME { "out of time" } else { "interrupted" };
        logger.say(&format!(
            "{why} and saved at step {}; go on with --resume {}",
            ended.steps,
            folder.display()
        ));
        return Ok(code);
    }
    let result = serde_json::json!({
        "run": folder,
        "steps": ended.steps,
        "best_epoch": ended.best.map(|b| b.epoch),
        "best_top1": ended.best.map(|b| 100.0 * b.top1),
        "top1": ended.report.as_ref().map(|r| 100.0 * r.top1),
        "top5": ended.report.as_ref().map(|r| 100.0 * r.top5),
    });
    out!("--result\n{result:#}");
    Ok(0)
}

/// The plan of a resumed run: that of the checkpoint, with what may change changed, and said.
fn changed(
    manifest: &Manifest,
    options: &Options,
    logger: &Logger,
) -> Result<crate::config::plan::Plan, Error> {
    let old = serde_json::to_value(&manifest.plan).expect("a plan is plain data");
    let mut new = old.clone();
    for (key, value) in options.given() {
        if key == "output" || key == "experiment" || old[&key] == value {
            continue;
        }
        let flag = key.replace('_', "-");
        if key == "model"
            && value.as_str().and_then(Variant::parse) == Some(manifest.plan.variant())
        {
            continue;
        }
        if !CHANGEABLE.contains(&key.as_str()) {
            return Err(Error::usage(format!(
                "--{flag} {value}: the run to resume has {}; leave the flag away, or begin a new \
                 run from its weights with --pretrained-path",
                old[&key]
            )));
        }
        logger.say(&format!("changed on resume: {flag} {} -> {value}", old[&key]));
        new[&key] = value;
    }
    let merged: Options = serde_json::from_value(new).expect("a plan holds only options");
    merged.plan()
}

fn find_checkpoint(path: &Path, output: &Path) -> Result<PathBuf, Error> {
    if path.is_file() {
        return Ok(path.to_path_buf());
    }
    if path != Path::new("auto") {
        let file = path.join("last.ckpt");
        return match file.is_file() {
            true => Ok(file),
            false => Err(Error::checkpoint(format!(
                "{}: no checkpoint there; give a .ckpt file or a run folder with last.ckpt",
                path.display()
            ))),
        };
    }
    let runs = output.join("train");
    let modified = |p: &PathBuf| std::fs::metadata(p).and_then(|m| m.modified()).ok();
    std::fs::read_dir(&runs)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("last.ckpt")))
        .filter(|file| file.is_file())
        .max_by_key(modified)
        .ok_or_else(|| {
            Error::checkpoint(format!(
                "{}: no run to resume; leave --resume away to begin one",
                runs.display()
            ))
        })
}
