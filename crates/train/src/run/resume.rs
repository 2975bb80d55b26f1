//! Resuming: which checkpoint is meant, and what a resumed run may change of its plan.

use std::path::{Path, PathBuf};

use nn::models::variants::Variant;

use crate::config::options::Options;
use crate::config::plan::Plan;
use crate::error::Error;
use crate::run::checkpoint::Manifest;
use crate::run::observer::Observer;

/// The plan of a resumed run: the checkpoint's, with the given options changed and noted.
///
/// # Errors
/// [`crate::error::ErrorKind::Usage`]: an option that a resumed run may not change.
pub fn changed(
    manifest: &Manifest,
    options: &Options,
    observer: &dyn Observer,
) -> Result<Plan, Error> {
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
        if !Options::is_resumable(&key) {
            return Err(Error::usage(format!(
                "--{flag} {value}: the run to resume has {}; omit the flag, or begin a new run \
                 from its weights with --pretrained-path",
                old[&key]
            )));
        }
        observer.note(&format!("changed on resume: {flag} {} -> {value}", old[&key]));
        new[&key] = value;
    }
    let merged: Options = serde_json::from_value(new).expect("a plan holds only options");
    merged.plan()
}

/// The checkpoint that `--resume path` means: a file, the last one of a run folder, or for `auto`
/// the newest run below `output`.
///
/// # Errors
/// [`crate::error::ErrorKind::Checkpoint`]: there is none.
pub fn find_checkpoint(path: &Path, output: &Path) -> Result<PathBuf, Error> {
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
                "{}: no run to resume; omit --resume to begin one",
                runs.display()
            ))
        })
}
