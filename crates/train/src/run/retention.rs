//! Which checkpoints of a run stay: last, best, and the newest of past epochs.

use std::path::Path;

use crate::error::Error;

/// The newest checkpoint, from which a run resumes.
pub const LAST: &str = "last.ckpt";
/// The checkpoint of the best evaluation.
pub(super) const BEST: &str = "model_best.ckpt";
/// The checkpoint of the equal average at the end of a run.
pub(super) const SWA: &str = "model_swa.ckpt";

/// After the evaluation of `epoch` was saved: copies the last checkpoint to the best one if it is
/// `better`, and to the epoch's own, of which the newest `keep` stay.
///
/// # Errors
/// [`crate::error::ErrorKind::File`].
pub(super) fn retain(folder: &Path, epoch: u64, better: bool, keep: usize) -> Result<(), Error> {
    if better {
        copy(folder, LAST, BEST)?;
    }
    if keep > 0 {
        copy(folder, LAST, &epoch_file(epoch))?;
        prune(folder, epoch, keep);
    }
    Ok(())
}

/// Gives the checkpoint `from` a second name and replaces the file that had it. The copy is a hard
/// link where the file system has them: checkpoints are only replaced by a rename, never written in
/// place.
///
/// # Errors
/// [`crate::error::ErrorKind::File`].
pub(super) fn copy(folder: &Path, from: &str, to: &str) -> Result<(), Error> {
    let (from, to) = (folder.join(from), folder.join(to));
    let scratch = to.with_extension("tmp");
    let _ = std::fs::remove_file(&scratch);
    std::fs::hard_link(&from, &scratch)
        .or_else(|_| std::fs::copy(&from, &scratch).map(|_| ()))
        .and_then(|()| std::fs::rename(&scratch, &to))
        .map_err(|e| Error::file(format!("{}: cannot write: {e}", to.display())))?;
    // Renaming one link of a file over another link of the same file leaves the scratch link.
    let _ = std::fs::remove_file(&scratch);
    Ok(())
}

/// Removes the checkpoints of all epochs but the newest `keep`.
fn prune(folder: &Path, newest: u64, keep: usize) {
    for epoch in 0..(newest + 1).saturating_sub(keep as u64) {
        let _ = std::fs::remove_file(folder.join(epoch_file(epoch)));
    }
}

fn epoch_file(epoch: u64) -> String {
    format!("checkpoint-{epoch}.ckpt")
}
