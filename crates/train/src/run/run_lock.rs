//! The lock of a run folder: one process at a time writes to a run.
//!
//! `run.lock` names the process that holds it. Two things say whether it is held.
//!
//! * An advisory lock of the operating system on the file. It ends with the process, whatever ends
//!   the process, and with it nothing is stale on one machine.
//! * The content of the file, for file systems without such locks and for folders that machines
//!   share, where some mounts lock on each machine alone. On the same machine a process counts as
//!   gone when its number is free, or was given to a process that began at another time. Of another
//!   machine nothing can be seen but its sign of life: the holder writes the file anew every
//!   `HEARTBEAT`, and after `SILENCE` without it the lock is taken over. Both times are by the
//!   clock of the file system.

use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Name of the lock in its folder.
const FILE: &str = "run.lock";

/// Time between two signs of life.
const HEARTBEAT: Duration = Duration::from_secs(20);

/// Time without a sign of life after which a process of another machine counts as gone. Network
/// storage may show a time that is a minute old.
const SILENCE: Duration = Duration::from_mins(2);

/// How long two machines wait for each other's claim where nothing but the content decides.
const SETTLING: Duration = Duration::from_millis(500);

/// The process that holds a lock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Holder {
    /// Number of the process.
    pid: u32,
    /// Name of the machine.
    host: String,
    /// Begin of the process, in ticks since the machine was started; 0 where that is not known.
    started: u64,
    /// What the start of the machine is called; empty where that is not known.
    boot: String,
    /// Local time at which the lock was taken, for people.
    since: String,
}

/// A held lock. Dropped, it is released.
pub struct RunLock {
    path: PathBuf,
    file: Arc<File>,
    own: Holder,
    heart: Option<(Sender<()>, JoinHandle<()>)>,
    /// What a user may want to know about how the lock was taken.
    pub note: Option<String>,
}

impl RunLock {
    /// Takes the lock of a run folder.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Usage`]: another process holds it, which the sentence names.
    /// [`crate::error::ErrorKind::File`]: the file cannot be written.
    pub fn acquire(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(FILE);
        let fault = |e: io::Error| {
            Error::file(format!(
                "{}: cannot write: {e}; make room, or see that the folder can be written to",
                path.display()
            ))
        };
        let own = Holder::this_process();
        loop {
            deploy::files::announce_operation();
            let (file, is_new) = open(&path).map_err(fault)?;
            let locks = match file.try_lock() {
                Ok(()) => true,
                Err(TryLockError::WouldBlock) => return Err(held(folder, &path, &own)),
                Err(TryLockError::Error(_)) => false,
            };
            // The holder before may have removed the file after it was opened here.
            if !is_at(&file, &path) {
                continue;
            }
            let (mut doubtful, mut note) = (!locks, None);
            if let Some(before) = (!is_new).then(|| holder_of(&path, locks)).flatten() {
                doubtful |= before.host != own.host;
                note = before.gone(&own, folder, &file, locks)?;
            }
            deploy::files::announce_operation();
            let written = write_holder(&file, &own).inspect_err(|_| {
                if is_new {
                    let _ = std::fs::remove_file(&path);
                }
            });
            written.map_err(fault)?;
            if doubtful {
                std::thread::sleep(SETTLING);
                if read_holder(&path).is_some_and(|other| other != own) {
                    return Err(held(folder, &path, &own));
                }
            }
            let file = Arc::new(file);
            let heart = beat(Arc::clone(&file), own.clone());
            return Ok(Self { path, file, own, heart, note });
        }
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.heart.take() {
            drop(end);
            let _ = thread.join();
        }
        // Whoever was told to remove the file may have made another one.
        if read_holder(&self.path).is_some_and(|holder| holder == self.own) {
            let _ = deploy::files::remove(&self.path);
        }
        let _ = self.file.unlock();
    }
}

impl Holder {
    fn this_process() -> Self {
        let pid = std::process::id();
        Self {
            pid,
            host: host(),
            started: begin_of(pid).unwrap_or(0),
            boot: boot(),
            since: chrono::Local::now().format("%Y-%m-%d %H:%M:%S").to_string(),
        }
    }

    /// Whether it is a process that runs on the machine of `own`.
    fn runs(&self, own: &Self) -> bool {
        self.host == own.host
            && self.boot == own.boot
            && self.started > 0
            && begin_of(self.pid) == Some(self.started)
    }

    /// Makes sure that this holder is gone; `file` is the lock, which the operating system gives to
    /// the caller where it `locks`. Returns what to say about it.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Usage`]: it may still be there.
    fn gone(
        &self,
        own: &Self,
        folder: &Path,
        file: &File,
        locks: bool,
    ) -> Result<Option<String>, Error> {
        if self.host == own.host && (locks || own.started > 0) {
            return if self.runs(own) { Err(self.refusal(folder, "")) } else { Ok(None) };
        }
        let silent = deploy::files::time_at(folder)
            .and_then(|now| Ok(now.duration_since(file.metadata()?.modified()?)));
        let silent = silent.ok().and_then(Result::ok).unwrap_or_default();
        if silent >= SILENCE {
            return Ok(Some(format!(
                "process {} on {} has given no sign of life for {} s: its lock is taken over",
                self.pid,
                self.host,
                silent.as_secs()
            )));
        }
        let left = SILENCE.saturating_sub(silent).as_secs() + 1;
        let way_out = format!(
            ", and gave a sign of life {} s ago; if it is gone, try again in {left} s or remove {}",
            silent.as_secs(),
            folder.join(FILE).display()
        );
        Err(self.refusal(folder, &way_out))
    }

    fn refusal(&self, folder: &Path, more: &str) -> Error {
        let way_out = match more {
            "" => "; wait until it ends or stop it, or begin another run with --experiment",
            more => more,
        };
        Error::usage(format!(
            "{}: process {} on {} has been training in it since {}{way_out}",
            folder.display(),
            self.pid,
            self.host,
            self.since
        ))
    }
}

/// The refusal where the operating system says that the lock is held. A holder that has only just
/// taken it is given a moment to write its name over that of its predecessor.
fn held(folder: &Path, path: &Path, own: &Holder) -> Error {
    let named = |holder: &Holder| holder.host != own.host || holder.runs(own);
    for _ in 0..10 {
        if read_holder(path).as_ref().is_some_and(named) {
            break;
        }
        std::thread::sleep(SETTLING / 10);
    }
    match read_holder(path) {
        Some(holder) => holder.refusal(folder, ""),
        None => Error::usage(format!(
            "{}: another process is training in it; wait until it ends or stop it, or begin another \
             run with --experiment",
            folder.display()
        )),
    }
}

/// Opens the lock, and says whether it is new.
fn open(path: &Path) -> io::Result<(File, bool)> {
    let options = || File::options().read(true).write(true).to_owned();
    loop {
        match options().create_new(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return Ok((made?, true)),
        }
        match options().open(path) {
            // Removed in between.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return Ok((opened?, false)),
        }
    }
}

/// Whether `file` is what has the name `path`.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let named = std::fs::metadata(path).map(|data| (data.dev(), data.ino()));
    let opened = file.metadata().map(|data| (data.dev(), data.ino()));
    matches!((named, opened), (Ok(named), Ok(opened)) if named == opened)
}

/// Other systems do not remove a file that is open.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}

/// The holder that the lock names. Where there is none yet and nothing else decides, the process
/// that made the file is given a moment to write it.
fn holder_of(path: &Path, locks: bool) -> Option<Holder> {
    read_holder(path).or_else(|| {
        if !locks {
            std::thread::sleep(SETTLING);
        }
        read_holder(path)
    })
}

fn read_holder(path: &Path) -> Option<Holder> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(1 << 16).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Writes the holder over what the file has, in one piece.
fn write_holder(file: &File, holder: &Holder) -> io::Result<()> {
    let text = serde_json::to_string(holder).expect("plain data") + "\n";
    let mut writer = file;
    writer.rewind()?;
    writer.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)?;
    file.sync_all()
}

/// Starts the signs of life. A process that cannot have one more thread trains without them.
fn beat(file: Arc<File>, own: Holder) -> Option<(Sender<()>, JoinHandle<()>)> {
    let (end, ended) = channel();
    let work = move || {
        while ended.recv_timeout(HEARTBEAT) == Err(RecvTimeoutError::Timeout) {
            let _ = write_holder(&file, &own);
        }
    };
    let thread = std::thread::Builder::new().name("run lock".into()).spawn(work).ok()?;
    Some((end, thread))
}

/// When a process began, in ticks since the machine was started, by Linux's `/proc`; none if there
/// is no such process, or it has ended and its parent does not know yet.
fn begin_of(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program, in brackets, may hold anything; the state follows it.
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    let begin = fields.nth(18)?.parse().ok()?;
    (!["Z", "X", "x"].contains(&state)).then_some(begin)
}

/// What Linux calls the start of this machine.
fn boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// The name of this machine.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = name.or_else(|| std::env::var("HOSTNAME").ok());
    let name = name.or_else(|| std::env::var("COMPUTERNAME").ok()).unwrap_or_default();
    match name.trim() {
        "" => "this machine".to_owned(),
        name => name.to_owned(),
    }
}
