//! Files that are written whole or not at all.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A file could not be written; an older file at this path is untouched.
#[derive(Debug, thiserror::Error)]
#[error(
    "{}: cannot write: {source}; what was there before is untouched, make room or choose another \
     path",
    path.display()
)]
pub struct WriteError {
    /// The file.
    pub path: PathBuf,
    /// Reason of the operating system.
    pub source: std::io::Error,
}

/// Writes `bytes` to `path` so that either the old or the new content is there, whatever happens:
/// to a temporary name beside it, flushed to disk, then renamed.
///
/// # Errors
/// [`WriteError`]; the temporary file is removed.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    let temporary = path.with_extension("tmp");
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        match path.parent() {
            // The rename itself is durable once the folder is.
            Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
            _ => Ok(()),
        }
    };
    write().map_err(|source: std::io::Error| {
        let _ = std::fs::remove_file(&temporary);
        WriteError { path: path.to_path_buf(), source }
    })
}
