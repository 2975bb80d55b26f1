//! Which checkpoints of a run stay: last, best, and the newest of past epochs.

use std::path::Path;

use deploy::files::{StagedFile, link_atomically, remove};

use crate::error::Error;
use crate::files::failed;

/// The newest checkpoint, from which a run resumes.
pub const LAST: &str = "last.ckpt";
/// The checkpoint of the best evaluation.
pub const BEST: &str = "model_best.ckpt";
/// The checkpoint of the equal average at the end of a run.
pub(super) const SWA: &str = "model_swa.ckpt";

/// Gives the checkpoint of an evaluated epoch its names: the best one if it is `better`, the
/// epoch's own, of which the newest `keep` stay, and the last one.
///
/// The last one comes last. A run that is killed before it resumes from the trained epoch,
/// evaluates it again, and makes the same files again.
///
/// # Errors
/// [`crate::error::ErrorKind::File`].
pub(super) fn publish(
    checkpoint: StagedFile,
    folder: &Path,
    epoch: u64,
    better: bool,
    keep: usize,
) -> Result<(), Error> {
    if better {
        checkpoint.also(&folder.join(BEST)).map_err(failed)?;
    }
    if keep > 0 {
        checkpoint.also(&folder.join(epoch_file(epoch))).map_err(failed)?;
        prune(folder, epoch, keep)?;
    }
    checkpoint.publish().map_err(failed)
}

/// Makes the checkpoint of the equal average the best one.
///
/// # Errors
/// [`crate::error::ErrorKind::File`].
pub(super) fn make_swa_best(folder: &Path) -> Result<(), Error> {
    link_atomically(&folder.join(SWA), &folder.join(BEST)).map_err(failed)
}

/// Removes the checkpoints of all epochs but the newest `keep`.
fn prune(folder: &Path, newest: u64, keep: usize) -> Result<(), Error> {
    for epoch in epochs(folder) {
        if epoch + (keep as u64) <= newest {
            let path = folder.join(epoch_file(epoch));
            remove(&path)
                .map_err(|e| Error::file(format!("{}: cannot remove: {e}", path.display())))?;
        }
    }
    Ok(())
}

/// The epochs that have a checkpoint of their own, the newest first.
pub(super) fn epochs(folder: &Path) -> Vec<u64> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut epochs: Vec<u64> =
        entries.filter_map(|entry| epoch_of(entry.file_name().to_str()?)).collect();
    epochs.sort_unstable();
    epochs.reverse();
    epochs
}

/// Whether a run gives its checkpoints such a name.
pub(super) fn is_of_a_run(name: &str) -> bool {
    [LAST, BEST, SWA].contains(&name) || epoch_of(name).is_some()
}

/// The epoch whose own checkpoint has this name.
fn epoch_of(name: &str) -> Option<u64> {
    let epoch = name.strip_prefix("checkpoint-")?.strip_suffix(".ckpt")?.parse().ok()?;
    (epoch_file(epoch) == name).then_some(epoch)
}

/// The name of an epoch's own checkpoint.
pub(super) fn epoch_file(epoch: u64) -> String {
    format!("checkpoint-{epoch}.ckpt")
}
