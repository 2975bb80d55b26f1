//! Files that a run or a command reads and writes, and the endings of their names.

use std::path::Path;

pub use deploy::files::{read, read_text, refuse_device};

use crate::error::Error;
use crate::suggest::did_you_mean;

/// Writes `bytes` to `path` so that either the old or the new content is there, whatever happens.
///
/// # Errors
/// [`crate::error::ErrorKind::File`]; an older file at `path` is untouched then.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    deploy::files::write_atomically(path, bytes).map_err(|error| Error::file(error.to_string()))
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{extension, refuse_other_extension};

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
