//! Files that a run or a command writes: whole or not at all.

use std::path::Path;

use crate::error::Error;

/// Writes `bytes` to `path` so that either the old or the new content is there, whatever happens.
///
/// # Errors
/// [`crate::error::ErrorKind::File`]; an older file at `path` is untouched then.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    deploy::files::write_atomically(path, bytes).map_err(|error| Error::file(error.to_string()))
}
