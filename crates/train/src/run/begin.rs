//! The beginning of a run: its folder, its lock, and the files that say what it is; and [`train`],
//! a whole run for programs that use Kindling as a library.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;

use crate::config::options::Options;
use crate::config::plan::Plan;
use crate::config::recipe;
use crate::datasets::image_folder::ImageFolder;
use crate::distributed::communicator::Alone;
use crate::error::Error;
use crate::files::{create_folders, write_atomically};
use crate::optimizers::param_groups;
use crate::run::build_objective::build_objective;
use crate::run::fit::fit;
use crate::run::observer::Observer;
use crate::run::open_data;
use crate::run::pretrained::follow_weights;
use crate::run::resume::PLAN;
use crate::run::retention::{BEST, LAST};
use crate::run::run_lock::RunLock;
use crate::run::split_list;
use crate::run::task::follow_data;
use crate::run::trainer::{Run, RunOutcome};
use crate::signal::Stop;

/// A run whose folder is made.
pub struct Begun {
    /// Folder of the run.
    pub folder: PathBuf,
    /// Its lock, to be held until the run has ended.
    pub lock: RunLock,
    /// The training images.
    pub train: ImageFolder,
    /// The validation images.
    pub val: ImageFolder,
    /// Notes on validation images that were set aside from the training images.
    pub set_aside: Vec<String>,
}

/// A run that ended.
pub struct Trained {
    /// Folder of the run.
    pub folder: PathBuf,
    /// The best checkpoint, for `deploy::classifier::Classifier::load`.
    pub checkpoint: PathBuf,
    /// Evaluations and steps.
    pub outcome: RunOutcome,
}

/// The plan of a new run with these options, and what was chosen for its data, in sentences.
///
/// # Errors
/// Pretrained weights that do not fit, a faulty data set, options that contradict each other.
pub fn complete(options: Options) -> Result<(Plan, Vec<String>), Error> {
    let (options, weights) = follow_weights(options)?;
    let (options, notes) = follow_data(options, weights.as_ref())?;
    Ok((options.plan()?, notes))
}

/// Trains a new run as `kindling train` does, with the same defaults and the same files. The
/// observer hears of every epoch, and may end the run.
///
/// `crates/train/examples/train_in_rust.rs` is a program around it.
///
/// # Errors
/// As [`complete`] and [`fit`].
pub fn train(options: Options, observer: &dyn Observer) -> Result<Trained, Error> {
    let (plan, notes) = complete(recipe::under(options.over(&Options::default()))?)?;
    notes.iter().for_each(|note| observer.note(note));
    let opened = plan.machine.backend.open_for(plan.machine.amp)?;
    let Begun { folder, lock: _lock, .. } =
        begin(&plan, &new_folder(&plan)?, None, &opened.device)?;
    let run = Run {
        log_interval: plan.logging.log_interval,
        plan,
        folder: folder.clone(),
        from: None,
        fresh_optimizer: false,
        device: opened.device,
        backend: opened.name,
        stop: Stop::default(),
        communicator: Arc::new(Alone),
    };
    let outcome = fit(run, observer)?;
    let best = folder.join(BEST);
    let checkpoint = if best.is_file() { best } else { folder.join(LAST) };
    Ok(Trained { folder, checkpoint, outcome })
}

/// The folder of a new run, which no run has used yet.
///
/// # Errors
/// [`crate::error::ErrorKind::Usage`]: there is a run in the folder of `--experiment`.
pub fn new_folder(plan: &Plan) -> Result<PathBuf, Error> {
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
/// held already, and writes what the run is.
///
/// # Errors
/// Faulty data, weights and options; a folder that holds a run; a file that cannot be written.
pub fn begin(
    plan: &Plan,
    folder: &Path,
    lock: Option<RunLock>,
    device: &Device,
) -> Result<Begun, Error> {
    // Faulty data too is reported before the folder is made.
    let raw = open_data::splits(plan, None)?;
    let (train, val) = open_data::usable(plan, raw.clone())?;
    let network = plan.network(train.classes.len());
    plan.network.refuse_random_trunk()?;
    param_groups::frozen(&network, &plan.network.frozen())?;
    build_objective(plan, &train, device)?;
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
    write_atomically(&folder.join("classes.txt"), (train.classes.join("\n") + "\n").as_bytes())?;
    if plan.data.val_fraction.is_some() {
        split_list::write(&folder, &raw.0, &raw.1)?;
    }
    open_data::keep_quarantine(plan, &folder)?;
    let set_aside = if plan.data.val_fraction.is_some() { raw.1.notes } else { Vec::new() };
    Ok(Begun { folder, lock, train, val, set_aside })
}
