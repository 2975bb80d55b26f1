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
    /// The system cannot read a file now, whatever is in it.
    #[error("{}: {why}; that is the storage, not the image: see that the folder can be read", path.display())]
    Storage {
        /// The file, or the folder that is gone.
        path: PathBuf,
        /// The system's reason.
        why: String,
    },
    /// The system has no memory or no thread for the work.
    #[error("{why}")]
    Exhausted {
        /// What was asked for, and the way out.
        why: String,
    },
}

impl DataError {
    /// A folder that cannot be used, with the fault and the way out.
    pub(crate) fn folder(path: &Path, why: impl Into<String>) -> Self {
        Self::Folder { path: path.to_path_buf(), why: why.into() }
    }

    /// A file that the system cannot read now.
    pub(crate) fn storage(path: &Path, error: &std::io::Error) -> Self {
        Self::Storage { path: path.to_path_buf(), why: error.to_string() }
    }

    /// Whether the cause lies outside the data: another attempt may succeed, and a run shall save
    /// what it has.
    pub(crate) fn is_the_systems(&self) -> bool {
        matches!(self, Self::Storage { .. } | Self::Exhausted { .. })
    }
}

impl From<DataError> for Error {
    fn from(error: DataError) -> Self {
        match error {
            DataError::Exhausted { why } => Error::memory(why),
            error => Error::data(error.to_string()),
        }
    }
}
