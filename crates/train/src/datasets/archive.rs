//! A data set as it was downloaded: a .zip, .tar, .tar.gz or .tgz of class folders. Its images are
//! unpacked once, into the user's cache folder.

use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read, Seek as _};
use std::path::{Component, Path, PathBuf};

use crate::datasets::listing::has_image_extension;
use crate::err;
use crate::error::Error;
use crate::files::{create_folders, user_cache_folder};

/// Bytes that an image may have: more is no image, and a small archive can hold any number of
/// zeros.
const LARGEST: u64 = 1 << 30;

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
/// [`crate::error::ErrorKind::Data`]: a damaged archive, or one without an image;
/// [`crate::error::ErrorKind::File`]: the cache folder cannot be written to.
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
    let to = user_cache_folder().join("data").join(format!("{stem}-{:016x}", hash.finish()));
    if to.is_dir() {
        return Ok(to);
    }
    create_folders(to.parent().unwrap_or(Path::new(".")))?;
    // A name of its own until it is whole: a process that is killed leaves nothing that looks
    // complete.
    let part = to.with_extension(format!("part{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&part);
    let unpacked = unpack(path, kind, &part);
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
        // Another process was faster.
        if !to.is_dir() {
            return Err(Error::file(format!("{}: cannot write: {error}", to.display())));
        }
    }
    err!("{images} images of {} unpacked to {}", path.display(), to.display());
    Ok(to)
}

/// Unpacks the images of an archive; returns how many.
fn unpack(path: &Path, kind: Kind, to: &Path) -> Result<usize, Error> {
    let damaged = |why: String| {
        Error::data(format!("{}: a damaged archive ({why}); copy it again", path.display()))
    };
    let file = File::open(path).map_err(|e| Error::data(format!("{}: {e}", path.display())))?;
    let mut images = 0;
    if kind == Kind::Zip {
        let mut archive = zip::ZipArchive::new(file).map_err(|e| damaged(e.to_string()))?;
        for number in 0..archive.len() {
            let mut entry = archive.by_index(number).map_err(|e| damaged(e.to_string()))?;
            if !entry.is_file() {
                continue;
            }
            let name = entry.name().map_err(|e| damaged(e.to_string()))?;
            let name = PathBuf::from(name.into_owned());
            images += usize::from(image(&name, &mut entry, to, &damaged)?);
        }
        return Ok(images);
    }
    let mut file = file;
    let mut start = [0; 2];
    let count = file.read(&mut start).and_then(|count| file.rewind().map(|()| count));
    count.map_err(|e| damaged(e.to_string()))?;
    // Browsers unpack and keep the name.
    let packed = kind == Kind::TarGz && start == [0x1f, 0x8b];
    let reader: Box<dyn Read> =
        if packed { Box::new(flate2::read::MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries().map_err(|e| damaged(e.to_string()))? {
        let mut entry = entry.map_err(|e| damaged(e.to_string()))?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = entry.path().map_err(|e| damaged(e.to_string()))?.into_owned();
        images += usize::from(image(&name, &mut entry, to, &damaged)?);
    }
    Ok(images)
}

/// Writes a member below `to` if it is an image under a name that leads nowhere else.
fn image(
    name: &Path,
    member: &mut impl Read,
    to: &Path,
    damaged: &dyn Fn(String) -> Error,
) -> Result<bool, Error> {
    let hidden = |part: &std::ffi::OsStr| part.as_encoded_bytes().starts_with(b".");
    let inside = name.components().all(|part| match part {
        Component::Normal(part) => !hidden(part) && part != "__MACOSX",
        Component::CurDir => true,
        _ => false,
    });
    if !inside || !has_image_extension(name) {
        return Ok(false);
    }
    let path = to.join(name);
    create_folders(path.parent().unwrap_or(to))?;
    let mut file = File::create(&path)
        .map_err(|e| Error::file(format!("{}: cannot write: {e}", path.display())))?;
    let mut limited = member.take(LARGEST + 1);
    match io::copy(&mut limited, &mut file) {
        Ok(bytes) if bytes > LARGEST => Err(damaged(format!("{}: above 1 GB", name.display()))),
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::StorageFull => {
            Err(Error::file(format!("{}: cannot write: {e}; make room", path.display())))
        }
        Err(e) => Err(damaged(e.to_string())),
    }
}
