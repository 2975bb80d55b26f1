//! Files that a run or a command writes: whole or not at all.

use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use deploy::files::{StagedFile, WriteError};
use signal_hook::consts::{SIGKILL, SIGTERM};

use crate::error::Error;

/// Writes `bytes` to `path` so that either the old or the new content is there, whatever happens.
///
/// # Errors
/// [`crate::error::ErrorKind::File`]; an older file at `path` is untouched then.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    deploy::files::write_atomically(path, bytes).map_err(failed)
}

/// Writes `bytes` beside `path`, without the name yet.
///
/// # Errors
/// [`crate::error::ErrorKind::File`].
pub(crate) fn stage(path: &Path, bytes: &[u8]) -> Result<StagedFile, Error> {
    StagedFile::new(path, bytes).map_err(failed)
}

/// Makes a folder and those above it.
///
/// # Errors
/// [`crate::error::ErrorKind::File`].
pub(crate) fn create_folders(folder: &Path) -> Result<(), Error> {
    deploy::files::create_folders(folder)
        .map_err(|e| Error::file(format!("{}: cannot make the folder: {e}", folder.display())))
}

/// A file that could not be written.
pub(crate) fn failed(error: WriteError) -> Error {
    Error::file(error.to_string())
}

/// `KINDLING_TEST_CRASH`, for tests: `kill@7` ends the process at its seventh point as SIGKILL does,
/// `term@7` sends SIGTERM there. A point is a change of a file, or a batch of an evaluation.
static CRASH: LazyLock<Option<(i32, u64)>> = LazyLock::new(|| {
    let variable = std::env::var("KINDLING_TEST_CRASH").ok()?;
    let (signal, number) = variable.split_once('@')?;
    let signal = match signal {
        "kill" => SIGKILL,
        "term" => SIGTERM,
        _ => return None,
    };
    Some((signal, number.parse().ok()?))
});

/// Arms what `KINDLING_TEST_CRASH` says.
pub fn inject_crash() {
    if CRASH.is_some() {
        deploy::files::before_each_operation(crash);
    }
}

/// A point at which a test may end the process.
pub(crate) fn crash_point() {
    if CRASH.is_some() {
        crash();
    }
}

fn crash() {
    static POINTS: AtomicU64 = AtomicU64::new(0);
    let number = 1 + POINTS.fetch_add(1, Ordering::Relaxed);
    if let Some((signal, _)) = CRASH.filter(|(_, at)| *at == number) {
        let _ = signal_hook::low_level::raise(signal);
    }
}
