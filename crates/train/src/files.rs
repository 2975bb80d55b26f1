//! Files that a run or a command reads and writes, and the endings of their names.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use deploy::files::{StagedFile, WriteError};
use signal_hook::consts::{SIGKILL, SIGTERM};

pub use deploy::files::{read, read_text, refuse_device};

use crate::error::Error;
use crate::suggest::did_you_mean;

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

/// `KINDLING_TEST_CRASH`, for tests: `kill@7` ends the process at its seventh point as SIGKILL
/// does, `term@7` sends SIGTERM there. A point is a change of a file, or a batch of an evaluation.
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

/// The ending of a file's name, one of the `known` ones.
///
/// # Errors
/// [`crate::error::ErrorKind::Usage`] for another ending or none, with the nearest known one.
pub fn extension<'a>(path: &Path, known: &[&'a str]) -> Result<&'a str, Error> {
    let own = path.extension().map(|own| own.to_string_lossy()).unwrap_or_default();
    known.iter().find(|known| own == **known).copied().ok_or_else(|| {
        Error::usage(format!(
            "{}: expected a name ending in .{}{}",
            path.display(),
            known.join(" or ."),
            did_you_mean(&own, known)
        ))
    })
}

/// Refuses a name that promises another format than the one that is written. A name without an
/// ending promises none.
///
/// # Errors
/// [`crate::error::ErrorKind::Usage`].
pub fn refuse_other_extension(path: &Path, format: &str) -> Result<(), Error> {
    match path.extension() {
        None => Ok(()),
        Some(_) => extension(path, &[format]).map(|_| ()),
    }
}

/// `kindling` in the user's cache folder, or in the temporary folder if there is none.
pub fn user_cache_folder() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let home = || variable("HOME").map(PathBuf::from);
    let usual = if cfg!(windows) {
        variable("LOCALAPPDATA").map(PathBuf::from)
    } else if cfg!(target_os = "macos") {
        home().map(|home| home.join("Library/Caches"))
    } else {
        let named = variable("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        named.or_else(|| home().map(|home| home.join(".cache")))
    };
    usual.unwrap_or_else(std::env::temp_dir).join("kindling")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{extension, refuse_other_extension};

    /// Mutations caught: no suggestion.
    #[test]
    fn the_ending_of_a_name_is_a_known_one_or_the_nearest_is_suggested() {
        let known = ["safetensors", "ckpt"];
        assert_eq!(extension(Path::new("a.b.ckpt"), &known).unwrap(), "ckpt");
        for (name, words) in [
            (
                "a.cpkt",
                "a.cpkt: expected a name ending in .safetensors or .ckpt (did you mean `ckpt`?)",
            ),
            ("a", "a: expected a name ending in .safetensors or .ckpt"),
        ] {
            assert_eq!(extension(Path::new(name), &known).unwrap_err().message, words);
        }
        refuse_other_extension(Path::new("/dev/stdout"), "svg").unwrap();
        refuse_other_extension(Path::new("a.svg"), "svg").unwrap();
        refuse_other_extension(Path::new("a.png"), "svg").unwrap_err();
    }
}
