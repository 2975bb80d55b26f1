//! Whether a file could not be read because of the file or because of what it lies on. A network
//! file system that is gone for a moment says nothing about its images; a file that was removed
//! does.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use crate::datasets::data_error::DataError;

/// ELOOP, links that lead in a circle, for which the standard library has no stable kind.
const TOO_MANY_LINKS: i32 = if cfg!(target_os = "linux") { 40 } else { 62 };

/// Whether an error is about the file itself: its name, its kind, its content. Every other one
/// (EIO, ESTALE, ETIMEDOUT, EACCES, ENETDOWN, EMFILE, ..) is the system's, and another attempt may
/// succeed.
pub(crate) fn is_about_the_file(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::InvalidFilename
            | ErrorKind::InvalidInput
            | ErrorKind::InvalidData
            | ErrorKind::UnexpectedEof
    ) || error.raw_os_error() == Some(TOO_MANY_LINKS)
}

/// Reads a file that was there when its folder was listed. `bytes` is cleared first.
///
/// # Errors
/// [`DataError::Image`]: the file was removed, or is no file any more. [`DataError::Storage`]: the
/// system cannot read it now, or the folder that it lies in is gone.
pub(crate) fn read_listed(path: &Path, bytes: &mut Vec<u8>) -> Result<(), DataError> {
    bytes.clear();
    let image = |why: String| DataError::Image { path: path.to_path_buf(), why };
    // Opening a pipe would wait for a writer.
    let read = std::fs::metadata(path).and_then(|found| match found.is_file() {
        true => File::open(path)?.read_to_end(bytes).map(Some),
        false => Ok(None),
    });
    match read {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(image("a folder, a pipe or a device where an image was".to_owned())),
        Err(error) if !is_about_the_file(&error) => Err(DataError::storage(path, &error)),
        Err(error) if error.kind() == ErrorKind::NotFound => match missing_folder(path) {
            Some(folder) => Err(DataError::Storage { path: folder, why: "gone".to_owned() }),
            None => Err(image(format!("removed since the folder was listed ({error})"))),
        },
        Err(error) => Err(image(error.to_string())),
    }
}

/// The folder of a missing file if the folder too is missing: that of the path, or of what a link
/// there points to.
fn missing_folder(path: &Path) -> Option<PathBuf> {
    let parent = path.parent()?;
    let target = std::fs::read_link(path).ok().map(|target| parent.join(target));
    let folder = target.as_deref().and_then(Path::parent).unwrap_or(parent);
    (!folder.as_os_str().is_empty() && !folder.is_dir()).then(|| folder.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Linux's numbers. Mutations caught, each alone: an input error taken for a damaged image; a
    /// circle of links taken for an input error.
    #[cfg(target_os = "linux")]
    #[test]
    fn errors_of_the_system_are_told_from_errors_of_a_file() {
        // ENOENT, ENOTDIR, EISDIR, EINVAL, ENAMETOOLONG, ELOOP
        for number in [2, 20, 21, 22, 36, 40] {
            let error = io::Error::from_raw_os_error(number);
            assert!(is_about_the_file(&error), "{number}: {error}");
        }
        // EPERM, EINTR, EIO, ENXIO, EAGAIN, ENOMEM, EACCES, EBUSY, ENODEV, ENFILE, EMFILE, ENOLINK,
        // EPROTO, EBADMSG, ENETDOWN, ENETUNREACH, ECONNABORTED, ECONNRESET, ENOTCONN, ESHUTDOWN,
        // ETIMEDOUT, ECONNREFUSED, EHOSTDOWN, EHOSTUNREACH, ESTALE, EUCLEAN, EREMOTEIO, ENOMEDIUM,
        // ENOKEY, EKEYEXPIRED
        for number in [
            1, 4, 5, 6, 11, 12, 13, 16, 19, 23, 24, 67, 71, 74, 100, 101, 103, 104, 107, 108, 110,
            111, 112, 113, 116, 117, 121, 123, 126, 127,
        ] {
            let error = io::Error::from_raw_os_error(number);
            assert!(!is_about_the_file(&error), "{number}: {error}");
        }
    }

    /// Mutations caught, each alone: a circle of links taken for an input error; a folder that
    /// is gone not told from a removed file; the target of a link not asked for.
    #[cfg(unix)]
    #[test]
    fn a_removed_file_is_told_from_a_folder_that_is_gone() {
        let root = std::env::temp_dir().join(format!("kindling-storage-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        std::fs::create_dir_all(root.join("here")).unwrap();
        let link = |target: &str, name: &str| {
            std::os::unix::fs::symlink(target, root.join("here").join(name)).unwrap();
        };
        link("../gone/1.png", "away.png");
        link("2.png", "near.png");
        link("loop.png", "loop.png");
        let read = |path: &str| read_listed(&root.join(path), &mut Vec::new()).unwrap_err();
        for path in ["gone/1.png", "here/away.png"] {
            let error = read(path);
            assert!(
                matches!(&error, DataError::Storage { path, .. } if path.ends_with("gone")),
                "{error}"
            );
        }
        for path in ["here/1.png", "here/near.png", "here/loop.png", "here"] {
            let error = read(path);
            assert!(matches!(error, DataError::Image { .. }), "{path}: {error}");
        }
        std::fs::remove_dir_all(root).unwrap();
    }

    /// A pipe without a writer: opening it would wait for ever. Linux's `/proc/self/mem` gives EIO
    /// for its first byte, to root too. Mutations caught, each alone: a pipe opened (no end); an
    /// input error taken for a damaged image.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_pipe_does_not_hang_and_an_input_error_is_the_systems() {
        let pipe = std::env::temp_dir().join(format!("kindling-pipe-{}", std::process::id()));
        let _ = std::fs::remove_file(&pipe);
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let error = read_listed(&pipe, &mut Vec::new()).unwrap_err();
        assert!(matches!(error, DataError::Image { .. }), "{error}");
        std::fs::remove_file(pipe).unwrap();
        let error = read_listed(Path::new("/proc/self/mem"), &mut Vec::new()).unwrap_err();
        assert!(matches!(error, DataError::Storage { .. }), "{error}");
        assert!(error.to_string().contains("os error 5"), "{error}");
    }
}
