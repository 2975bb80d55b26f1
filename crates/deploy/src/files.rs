//! Files that are read without waiting for ever, and written whole or not at all.
//!
//! Every change that a run makes to its folder goes through this file, so that a test can end the
//! process before any of them ([`before_each_operation`]).

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

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

/// Called before every change of a file; see [`before_each_operation`].
static HOOK: OnceLock<fn()> = OnceLock::new();

/// Lets `hook` be called before every operation that changes a file or folder, for tests of what a
/// process leaves that ends between two of them. The first hook stays.
pub fn before_each_operation(hook: fn()) {
    let _ = HOOK.set(hook);
}

/// Says that a change of a file or folder follows. Public for changes that are not made here.
pub fn announce_operation() {
    if let Some(hook) = HOOK.get() {
        hook();
    }
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
    if std::fs::metadata(path).is_ok_and(|data| !data.is_file() && !data.is_dir()) {
        let written = File::options().write(true).open(path);
        let written = written.and_then(|mut file| file.write_all(bytes));
        return written.map_err(|source| WriteError { path: path.to_path_buf(), source });
    }
    StagedFile::new(path, bytes)?.publish()
}

/// A file that is written and flushed to disk under a temporary name, and does not have its own
/// name yet. Dropped without [`StagedFile::publish`], it is removed.
pub struct StagedFile {
    /// The path as it was named.
    path: PathBuf,
    /// Where it leads through links.
    target: PathBuf,
    temporary: PathBuf,
}

impl StagedFile {
    /// Writes `bytes` beside `path`.
    ///
    /// # Errors
    /// [`WriteError`]; nothing is left.
    pub fn new(path: &Path, bytes: &[u8]) -> Result<Self, WriteError> {
        let fault = |source| WriteError { path: path.to_path_buf(), source };
        let target = behind_links(path).map_err(fault)?;
        announce_operation();
        let options = |temporary: &Path| File::create_new(temporary);
        let (mut file, temporary) = temporary_beside(&target, options).map_err(fault)?;
        let staged = Self { path: path.to_path_buf(), target, temporary };
        announce_operation();
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(fault)?;
        Ok(staged)
    }

    /// Gives the file a further name, and replaces the file that had it. See [`link_atomically`].
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn also(&self, path: &Path) -> Result<(), WriteError> {
        link_atomically(&self.temporary, path)
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// [`WriteError`]; the temporary file is removed.
    pub fn publish(self) -> Result<(), WriteError> {
        announce_operation();
        let named = std::fs::rename(&self.temporary, &self.target);
        let fault = |source| WriteError { path: self.path.clone(), source };
        named.and_then(|()| flush_folder_of(&self.target)).map_err(fault)
    }
}

impl Drop for StagedFile {
    /// After `publish` there is no file of this name any more.
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.temporary);
    }
}

/// Gives the file `from` a second name and replaces the file that had it. The copy is a hard link
/// where the file system has them: files are replaced by a rename, never written in place.
///
/// # Errors
/// [`WriteError`].
pub fn link_atomically(from: &Path, to: &Path) -> Result<(), WriteError> {
    let fault = |source| WriteError { path: to.to_path_buf(), source };
    let to = behind_links(to).map_err(fault)?;
    announce_operation();
    let link = |temporary: &Path| match std::fs::hard_link(from, temporary) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => copy(from, temporary),
        linked => linked,
    };
    let ((), temporary) = temporary_beside(&to, link).map_err(fault)?;
    announce_operation();
    let named = std::fs::rename(&temporary, &to).and_then(|()| flush_folder_of(&to));
    // Renaming one link of a file over another link of the same file leaves both.
    let _ = std::fs::remove_file(&temporary);
    named.map_err(fault)
}

/// Copies a file to a new one, down to the disk.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let (mut source, mut target) = (File::open(from)?, File::create_new(to)?);
    io::copy(&mut source, &mut target).and_then(|_| target.sync_all()).inspect_err(|_| {
        let _ = std::fs::remove_file(to);
    })
}

/// A rename itself is durable once the folder is.
fn flush_folder_of(file: &Path) -> io::Result<()> {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

/// The file that `path` leads to through links, which need not exist.
fn behind_links(path: &Path) -> io::Result<PathBuf> {
    /// As many as Linux follows.
    const MOST: usize = 40;

    let mut target = path.to_path_buf();
    for _ in 0..MOST {
        if !target.is_symlink() {
            return Ok(target);
        }
        let next = std::fs::read_link(&target)?;
        target = target.parent().map_or_else(|| next.clone(), |folder| folder.join(&next));
    }
    Err(io::Error::other("the links lead back to each other"))
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

/// What `make` makes at a new name beside `target`. The name holds the process and a number, and no
/// file of the user's is touched: where the name is taken, the next number is tried.
fn temporary_beside<T>(
    target: &Path,
    make: impl Fn(&Path) -> io::Result<T>,
) -> io::Result<(T, PathBuf)> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}.tmp", std::process::id());
        let temporary = target.with_file_name(name);
        match make(&temporary) {
            Ok(made) => return Ok((made, temporary)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// Makes a folder and those above it.
///
/// # Errors
/// The reason of the operating system.
pub fn create_folders(folder: &Path) -> io::Result<()> {
    if !folder.is_dir() {
        announce_operation();
    }
    std::fs::create_dir_all(folder)
}

/// Removes a file; one that is not there is no failure.
///
/// # Errors
/// The reason of the operating system.
pub fn remove(file: &Path) -> io::Result<()> {
    announce_operation();
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Opens a log of lines to append to. A line that a killed process left half written is ended, so
/// that the next one begins a line.
///
/// # Errors
/// The reason of the operating system.
pub fn open_log(path: &Path) -> io::Result<File> {
    let mut file = File::options().read(true).append(true).create(true).open(path)?;
    if file.metadata()?.is_file() && file.seek(SeekFrom::End(0))? > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

/// Appends a line to a log. A line that does not fit the disk is taken back.
///
/// # Errors
/// [`WriteError`].
pub fn append_line(path: &Path, line: &str) -> Result<(), WriteError> {
    announce_operation();
    let append = || {
        let mut file = open_log(path)?;
        let before = file.metadata()?.len();
        file.write_all(format!("{line}\n").as_bytes()).inspect_err(|_| {
            let _ = file.set_len(before);
        })
    };
    append().map_err(|source| WriteError { path: path.to_path_buf(), source })
}

/// The time by the clock of the file system in which `folder` lies, which is another machine's on
/// network storage.
///
/// # Errors
/// The reason of the operating system.
pub fn time_at(folder: &Path) -> io::Result<SystemTime> {
    let (mut file, temporary) = temporary_beside(&folder.join(PREFIX), |t| File::create_new(t))?;
    let time = file
        .write_all(b"time")
        .and_then(|()| file.sync_all())
        .and_then(|()| file.metadata()?.modified());
    let _ = std::fs::remove_file(&temporary);
    time
}

/// Removes what writers that were killed left in `folder`: temporary files of this module whose
/// process no longer runs. Linux says which runs; elsewhere every one of them counts as left.
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
