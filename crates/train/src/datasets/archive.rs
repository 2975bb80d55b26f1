//! A data set as it was downloaded: a .zip, .tar, .tar.gz or .tgz of class folders. Its images are
//! unpacked once, into the user's cache folder.

use std::fs::{File, TryLockError};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read, Seek as _};
use std::path::{Component, Path, PathBuf};

use crate::datasets::listing::has_image_extension;
use crate::err;
use crate::error::Error;
use crate::files::{create_folders, user_cache_folder};
use crate::free_space::free_space;

/// Bytes that an image may have: more is no image, and a small archive can hold any number of
/// zeros.
const LARGEST: u64 = 1 << 30;

/// Unpacked bytes for a byte of the archive, above which an archive is no data set. Images are
/// compressed already: folders of PNG and JPEG are near 1, uniform bitmaps below 100.
const RATIO: u64 = 200;

/// Unpacked bytes that any archive may have.
const ANY_LENGTH: u64 = 256 << 20;

/// Bytes that a file takes however small it is: a header in a tar, a block on the disk.
const LEAST: u64 = 512;

/// Bytes that stay free on the disk.
const RESERVE: u64 = 256 << 20;

/// Free bytes in place of the disk's, for tests.
const FREE_VARIABLE: &str = "KINDLING_TEST_FREE_BYTES";

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Zip,
    Tar,
    TarGz,
}

impl Kind {
    fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_string_lossy().to_lowercase();
        [(".zip", Self::Zip), (".tar", Self::Tar), (".tar.gz", Self::TarGz), (".tgz", Self::TarGz)]
            .into_iter()
            .find(|(end, _)| name.ends_with(end))
            .map(|(_, kind)| kind)
    }
}

/// Whether a path is an archive by its name.
pub fn is_archive(path: &Path) -> bool {
    Kind::of(path).is_some() && path.is_file()
}

/// The folder with the images of an archive, unpacked if it was not before.
///
/// # Errors
/// [`crate::error::ErrorKind::Data`]: a damaged archive, one that grows beyond all images, or one
/// without an image; [`crate::error::ErrorKind::File`]: the cache folder cannot be written to, or
/// its disk has too little room.
pub fn open_archive(path: &Path) -> Result<PathBuf, Error> {
    let data = |why: String| Error::data(format!("{}: {why}", path.display()));
    let kind = Kind::of(path).ok_or_else(|| data("not a .zip, .tar or .tar.gz".into()))?;
    let found = path
        .canonicalize()
        .and_then(|whole| Ok((whole, std::fs::metadata(path)?)))
        .map_err(|e| data(e.to_string()))?;
    let mut hash = DefaultHasher::new();
    (&found.0, found.1.len(), found.1.modified().ok()).hash(&mut hash);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let stem = name.split('.').next().unwrap_or_default().to_owned();
    let root = user_cache_folder().join("data");
    let to = root.join(format!("{stem}-{:016x}", hash.finish()));
    if to.is_dir() {
        return Ok(to);
    }
    create_folders(&root)?;
    // The lock holds until the file is closed, at the latest by the end of the process.
    let lock = lock(&root, path);
    // Another process was faster.
    if to.is_dir() {
        return Ok(to);
    }
    // A name of its own until it is whole: a process that is killed leaves nothing that looks
    // complete.
    let part = match &lock {
        Some(_) => to.with_extension("part"),
        None => to.with_extension(format!("part{}", std::process::id())),
    };
    let room = Room::new(found.1.len(), &root);
    let unpacked = Unpacking { path, kind, to: &part, room: &room }.run();
    let unpacked = unpacked.and_then(|images| match images {
        0 => Err(data("no image in it; expected <class>/*.jpg and the like".into())),
        images => Ok(images),
    });
    let images = match unpacked {
        Ok(images) => images,
        Err(error) => {
            let _ = std::fs::remove_dir_all(&part);
            return Err(error);
        }
    };
    if let Err(error) = std::fs::rename(&part, &to) {
        let _ = std::fs::remove_dir_all(&part);
        return Err(Error::file(format!("{}: cannot write: {error}", to.display())));
    }
    err!("{images} images of {} unpacked to {}", path.display(), to.display());
    Ok(to)
}

/// Waits until no other process unpacks, and removes what killed processes left half unpacked.
/// None where the file system has no locks.
fn lock(root: &Path, path: &Path) -> Option<File> {
    let file = File::create(root.join("unpacking.lock")).ok()?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            err!("note: {}: waiting for another process that unpacks an archive", path.display());
            file.lock().ok()?;
        }
        Err(TryLockError::Error(_)) => return None,
    }
    for entry in std::fs::read_dir(root).ok()?.flatten() {
        // Older versions had the number of the process behind `part`.
        let left = entry.path();
        if left.extension().is_some_and(|ext| ext.as_encoded_bytes().starts_with(b"part")) {
            let _ = std::fs::remove_dir_all(left);
        }
    }
    Some(file)
}

/// How much may be unpacked.
struct Room {
    /// By the archive's length.
    plausible: u64,
    /// By the disk; none where the system does not say.
    free: Option<u64>,
    root: PathBuf,
}

impl Room {
    fn new(length: u64, root: &Path) -> Self {
        let given = std::env::var(FREE_VARIABLE).ok().and_then(|bytes| bytes.parse().ok());
        let free = given.or_else(|| free_space(root)).map(|free| free.saturating_sub(RESERVE));
        Self { plausible: RATIO * length + ANY_LENGTH, free, root: root.to_owned() }
    }

    /// Refuses more `bytes` than may be unpacked.
    fn check(&self, path: &Path, bytes: u64) -> Result<(), Error> {
        let size = |bytes: u64| match bytes {
            0..1_000_000_000 => format!("{} MB", bytes / 1_000_000),
            _ => format!("{:.1} GB", bytes as f64 / 1e9),
        };
        match self.free {
            _ if bytes > self.plausible => Err(Error::data(format!(
                "{}: it unpacks to more than {}, {RATIO} times its length: no archive of images does; \
                 nothing was kept",
                path.display(),
                size(self.plausible)
            ))),
            Some(free) if bytes > free => Err(Error::file(format!(
                "{}: its images take at least {} unpacked, and {} has room for {}; make room, or name a \
                 folder on a larger disk with XDG_CACHE_HOME",
                path.display(),
                size(bytes),
                self.root.display(),
                size(free)
            ))),
            _ => Ok(()),
        }
    }
}

/// One archive on its way to a folder.
struct Unpacking<'a> {
    path: &'a Path,
    kind: Kind,
    to: &'a Path,
    room: &'a Room,
}

impl Unpacking<'_> {
    fn damaged(&self, why: impl std::fmt::Display) -> Error {
        Error::data(format!("{}: a damaged archive ({why}); copy it again", self.path.display()))
    }

    /// Unpacks the images; returns how many.
    fn run(&self) -> Result<usize, Error> {
        let file = File::open(self.path)
            .map_err(|e| Error::data(format!("{}: {e}", self.path.display())))?;
        match self.kind {
            Kind::Zip => self.zip(file),
            Kind::Tar => self.tar(file),
            Kind::TarGz => self.tar_gz(file),
        }
    }

    fn zip(&self, file: File) -> Result<usize, Error> {
        let mut archive = zip::ZipArchive::new(file).map_err(|e| self.damaged(e))?;
        let mut declared = 0_u64;
        for number in 0..archive.len() {
            let entry = archive.by_index_raw(number).map_err(|e| self.damaged(e))?;
            let name = entry.name().map_err(|e| self.damaged(e))?;
            if entry.is_file() && is_image(Path::new(&*name)) {
                declared = declared.saturating_add(entry.size().max(LEAST));
            }
        }
        self.room.check(self.path, declared)?;
        let (mut images, mut bytes) = (0, 0);
        for number in 0..archive.len() {
            let mut entry = archive.by_index(number).map_err(|e| self.damaged(e))?;
            if !entry.is_file() {
                continue;
            }
            let name = entry.name().map_err(|e| self.damaged(e))?;
            let name = PathBuf::from(name.into_owned());
            images += usize::from(self.image(&name, &mut entry, &mut bytes)?);
        }
        Ok(images)
    }

    /// A tar whose headers are read first for the sizes: reading them costs little where the
    /// images are passed over.
    fn tar(&self, mut file: File) -> Result<usize, Error> {
        let mut declared = 0_u64;
        let mut archive = tar::Archive::new(&file);
        for entry in archive.entries_with_seek().map_err(|e| self.damaged(e))? {
            let entry = entry.map_err(|e| self.damaged(e))?;
            if entry.header().entry_type().is_file()
                && is_image(&entry.path().map_err(|e| self.damaged(e))?)
            {
                declared = declared.saturating_add(entry.size().max(LEAST));
            }
        }
        self.room.check(self.path, declared)?;
        file.rewind().map_err(|e| self.damaged(e))?;
        self.members(file)
    }

    /// A compressed tar says its sizes on the way only.
    fn tar_gz(&self, mut file: File) -> Result<usize, Error> {
        let mut start = [0; 2];
        let count = file.read(&mut start).and_then(|count| file.rewind().map(|()| count));
        count.map_err(|e| self.damaged(e))?;
        // Browsers unpack and keep the name.
        if start != [0x1f, 0x8b] {
            return self.tar(file);
        }
        // What is passed over counts too: it has to be decompressed.
        let most = self.room.plausible;
        let mut limited = flate2::read::MultiGzDecoder::new(file).take(most + 1);
        let images = self.members(&mut limited);
        if limited.limit() == 0 {
            self.room.check(self.path, most + 1)?;
        }
        images
    }

    fn members(&self, reader: impl Read) -> Result<usize, Error> {
        let mut archive = tar::Archive::new(reader);
        let (mut images, mut bytes) = (0, 0);
        for entry in archive.entries().map_err(|e| self.damaged(e))? {
            let mut entry = entry.map_err(|e| self.damaged(e))?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let name = entry.path().map_err(|e| self.damaged(e))?.into_owned();
            images += usize::from(self.image(&name, &mut entry, &mut bytes)?);
        }
        Ok(images)
    }

    /// Writes a member if it is an image under a name that leads nowhere else; `bytes` counts what
    /// was written so far.
    fn image(&self, name: &Path, member: &mut impl Read, bytes: &mut u64) -> Result<bool, Error> {
        if !is_image(name) {
            return Ok(false);
        }
        let path = self.to.join(name);
        create_folders(path.parent().unwrap_or(self.to))?;
        let mut file = File::create(&path)
            .map_err(|e| Error::file(format!("{}: cannot write: {e}", path.display())))?;
        let left = self.room.plausible.min(self.room.free.unwrap_or(u64::MAX));
        let most = LARGEST.min(left.saturating_sub(*bytes));
        match io::copy(&mut member.take(most + 1), &mut file) {
            Ok(count) => {
                *bytes += count.max(LEAST);
                self.room.check(self.path, *bytes)?;
                match count {
                    0..=LARGEST => Ok(true),
                    _ => Err(self.damaged(format!("{}: above 1 GB", name.display()))),
                }
            }
            Err(e) if e.kind() == io::ErrorKind::StorageFull => {
                Err(Error::file(format!("{}: cannot write: {e}; make room", path.display())))
            }
            Err(e) => Err(self.damaged(e)),
        }
    }
}

/// Whether a member is an image under a name that leads nowhere else.
fn is_image(name: &Path) -> bool {
    let hidden = |part: &std::ffi::OsStr| part.as_encoded_bytes().starts_with(b".");
    let inside = name.components().all(|part| match part {
        Component::Normal(part) => !hidden(part) && part != "__MACOSX",
        Component::CurDir => true,
        _ => false,
    });
    inside && has_image_extension(name)
}
