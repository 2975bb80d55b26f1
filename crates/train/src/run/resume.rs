//! Resuming: which run is meant, what a resumed run may change of its plan, and whether there is
//! anything left to do.

use std::path::{Path, PathBuf};

use nn::models::variants::Variant;

use crate::config::options::Options;
use crate::config::plan::Plan;
use crate::error::Error;
use crate::run::manifest::Manifest;
use crate::run::progress::Best;
use crate::run::retention::LAST;

/// The resolved configuration of a run, in its folder.
pub const PLAN: &str = "args.toml";

/// Options that a resumed run may change where it begins with a fresh optimizer: its state belongs
/// to the old ones.
const OF_THE_OPTIMIZER: [&str; 14] = [
    "lr",
    "batch_size",
    "grad_accum_steps",
    "weight_decay",
    "momentum",
    "clip_grad",
    "sched",
    "warmup_epochs",
    "warmup_lr",
    "min_lr",
    "decay_epochs",
    "decay_rate",
    "decay_milestones",
    "patience_epochs",
];

/// The plan of a resumed run: `old` with the given options changed, and a note for each of them.
///
/// # Errors
/// [`crate::error::ErrorKind::Usage`]: an option that a resumed run may not change, or only with a
/// fresh optimizer.
pub fn changed(
    old_plan: &Plan,
    options: &Options,
    fresh_optimizer: bool,
) -> Result<(Plan, Vec<String>), Error> {
    let old = serde_json::to_value(old_plan).expect("a plan is plain data");
    let (mut new, mut notes) = (old.clone(), Vec::new());
    for (key, value) in options.given() {
        if key == "output" || key == "experiment" || old[&key] == value {
            continue;
        }
        let flag = key.replace('_', "-");
        if key == "model" && value.as_str().and_then(Variant::parse) == Some(old_plan.variant()) {
            continue;
        }
        let of_the_optimizer = OF_THE_OPTIMIZER.contains(&key.as_str());
        let may_change = Options::is_resumable(&key) || of_the_optimizer && fresh_optimizer;
        if !may_change {
            let with =
                if of_the_optimizer { "add --no-resume-opt to change it" } else { "omit the flag" };
            return Err(Error::usage(format!(
                "--{flag} {value}: the run to resume has {}; {with}, or begin a new run \
                 from its weights with --pretrained-path",
                old[&key]
            )));
        }
        notes.push(format!("changed on resume: {flag} {} -> {value}", old[&key]));
        new[&key] = value;
    }
    let merged: Options = serde_json::from_value(new).expect("a plan holds only options");
    Ok((merged.plan()?, notes))
}

/// What `--resume` goes on from.
pub enum Found {
    /// A checkpoint.
    Checkpoint(PathBuf),
    /// The folder of a run that ended before its first checkpoint.
    Begun(PathBuf),
}

impl Found {
    /// The folder of the run.
    pub fn folder(&self) -> PathBuf {
        match self {
            Self::Begun(folder) => folder.clone(),
            Self::Checkpoint(file) => match file.parent() {
                Some(folder) if !folder.as_os_str().is_empty() => folder.to_path_buf(),
                _ => ".".into(),
            },
        }
    }

    /// What a run folder has.
    fn of(folder: &Path) -> Option<Self> {
        let (last, plan) = (folder.join(LAST), folder.join(PLAN));
        match (last.is_file(), plan.is_file()) {
            (true, _) => Some(Self::Checkpoint(last)),
            (false, true) => Some(Self::Begun(folder.to_path_buf())),
            (false, false) => None,
        }
    }

    fn file(&self) -> PathBuf {
        match self {
            Self::Checkpoint(file) => file.clone(),
            Self::Begun(folder) => folder.join(PLAN),
        }
    }
}

/// What `--resume path` means: a checkpoint, a run folder, or for `auto` the newest run below
/// `output`.
///
/// # Errors
/// [`crate::error::ErrorKind::Checkpoint`]: there is none.
pub fn find(path: &Path, output: &Path) -> Result<Found, Error> {
    if path.is_file() {
        return Ok(Found::Checkpoint(path.to_path_buf()));
    }
    if path != Path::new("auto") {
        return Found::of(path).ok_or_else(|| {
            Error::checkpoint(format!(
                "{}: no checkpoint there; give a .ckpt file or a run folder with last.ckpt",
                path.display()
            ))
        });
    }
    let runs = output.join("train");
    let modified = |found: &Found| std::fs::metadata(found.file()).and_then(|m| m.modified()).ok();
    std::fs::read_dir(&runs)
        .into_iter()
        .flatten()
        .filter_map(|entry| Found::of(&entry.ok()?.path()))
        .max_by_key(modified)
        .ok_or_else(|| {
            Error::checkpoint(format!(
                "{}: no run to resume; omit --resume to begin one",
                runs.display()
            ))
        })
}

/// Whether an epoch that is not the last one is evaluated.
pub(super) fn evaluation_due(epoch: u64, interval: u64) -> bool {
    (epoch + 1).is_multiple_of(interval)
}

/// Epochs without improvement after the evaluation of `epoch`, if they are as many as `--patience`
/// allows.
pub(super) fn epochs_waited(plan: &Plan, best: Option<Best>, epoch: u64) -> Option<u64> {
    let waited = best.map_or(0, |best| epoch.saturating_sub(best.epoch));
    let patience = plan.training.patience;
    (patience > 0 && waited >= patience).then_some(waited)
}

/// Why a run has nothing left to do by `plan`, in a sentence; none if it goes on.
pub fn ended(manifest: &Manifest, plan: &Plan) -> Option<String> {
    let (position, old, epochs) = (manifest.position, &manifest.plan, plan.total_epochs());
    if position.epoch >= epochs {
        return Some(format!("the run is finished ({epochs} epochs); --epochs N goes on"));
    }
    let epoch = position.epoch.checked_sub(1).filter(|_| position.batch == 0)?;
    let was_last = position.epoch == old.total_epochs();
    if !was_last && !evaluation_due(epoch, old.training.val_interval) {
        return None;
    }
    let patience = plan.training.patience;
    // The equal average is made at the end of a run alone, and then it may be the best epoch.
    let averaged = manifest.best.is_some_and(|best| best.swa && best.epoch == epoch);
    let averaged = averaged && !was_last && (1..=old.training.patience).contains(&patience);
    let waited = epochs_waited(plan, manifest.best, epoch);
    (averaged || waited.is_some()).then(|| {
        let waited = waited.unwrap_or(old.training.patience);
        format!(
            "the run has ended early after {} epochs: no better accuracy for {waited} epochs; \
             --patience 0 goes on",
            position.epoch
        )
    })
}
