//! The faults of a data set, and the program's error that they become.

use std::path::{Path, PathBuf};

use crate::error::Error;

/// A fault of a data set.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The folder cannot be used.
    #[error("{}: {why}", path.display())]
    Folder {
        /// The folder, or a file in it.
        path: PathBuf,
        /// The fault and the way out.
        why: String,
    },
    /// One image cannot be read, and unreadable images may not be skipped.
    #[error("{}: {why}; repair or remove it, or omit --strict-data", path.display())]
    Image {
        /// The image.
        path: PathBuf,
        /// The fault.
        why: String,
    },
}

impl DataError {
    /// A folder that cannot be used, with the fault and the way out.
    pub(crate) fn folder(path: &Path, why: impl Into<String>) -> Self {
        Self::Folder { path: path.to_path_buf(), why: why.into() }
    }
}

impl From<DataError> for Error {
    fn from(error: DataError) -> Self {
        Error::data(error.to_string())
    }
}
