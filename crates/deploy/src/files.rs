//! Files that are read without waiting for ever, and written whole or not at all.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

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
/// to a temporary name beside it that no other file has, flushed to disk, then renamed.
///
/// A link stays a link, and the file it leads to gets the content. A device or a pipe
/// (`/dev/stdout`) is written to and never replaced by a file.
///
/// # Errors
/// [`WriteError`]; the temporary file is removed.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    let fault = |source| WriteError { path: path.to_path_buf(), source };
    // A link that leads nowhere yet cannot be resolved: its target is made, through the link.
    let dangling = path.is_symlink() && !path.exists();
    let special = std::fs::metadata(path).is_ok_and(|data| !data.is_file() && !data.is_dir());
    if dangling || special {
        let written = File::options().write(true).create(dangling).truncate(dangling).open(path);
        return written.and_then(|mut file| file.write_all(bytes)).map_err(fault);
    }
    let target = match path.is_symlink() {
        true => path.canonicalize().map_err(fault)?,
        false => path.to_path_buf(),
    };
    let (mut file, temporary) = temporary_beside(&target).map_err(fault)?;
    let mut write = || {
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, &target)?;
        match target.parent() {
            // The rename itself is durable once the folder is.
            Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
            _ => Ok(()),
        }
    };
    write().map_err(|source: io::Error| {
        let _ = std::fs::remove_file(&temporary);
        fault(source)
    })
}

/// Reads a file that was named.
///
/// # Errors
/// Those of [`std::fs::read`] and [`refuse_device`].
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    refuse_device(path)?;
    std::fs::read(path)
}

/// Reads a text file that was named.
///
/// # Errors
/// Those of [`std::fs::read_to_string`] and [`refuse_device`].
pub fn read_text(path: &Path) -> io::Result<String> {
    refuse_device(path)?;
    std::fs::read_to_string(path)
}

/// Refuses a device: `/dev/zero` never ends, and a disk is no file. A pipe is read to its end.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] for a device, [`io::ErrorKind::IsADirectory`] for a folder; the
/// reason of the operating system where nothing is there.
pub fn refuse_device(path: &Path) -> io::Result<()> {
    let kind = std::fs::metadata(path)?.file_type();
    if kind.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "a folder, not a file"));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        if kind.is_char_device() || kind.is_block_device() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a device, not a file"));
        }
    }
    Ok(())
}

/// Begin of the name of a temporary file, `.kindling.<process>-<number>.tmp`.
const PREFIX: &str = ".kindling.";

/// A new file beside `target`. Its name holds the process and a number, and no file of the user's is
/// opened: where the name is taken, the next number is tried.
fn temporary_beside(target: &Path) -> io::Result<(File, PathBuf)> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}.tmp", std::process::id());
        let temporary = target.with_file_name(name);
        match File::options().write(true).create_new(true).open(&temporary) {
            Ok(file) => return Ok((file, temporary)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// Removes what writers that were killed left in `folder`: temporary files of [`write_atomically`]
/// whose process no longer runs. Linux says which runs; elsewhere every one of them counts as left.
pub fn remove_leftovers(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let writer = name.as_deref().and_then(writer_of);
        if writer.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// The process in the name of a temporary file.
fn writer_of(name: &str) -> Option<&str> {
    let (process, number) = name.strip_prefix(PREFIX)?.strip_suffix(".tmp")?.split_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(process) && digits(number)).then_some(process)
}
