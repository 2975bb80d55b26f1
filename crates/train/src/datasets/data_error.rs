//! The faults of a data set, and the program's error that they become.

use std::io;
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

    /// A folder that the system does not read, for a reason of its own.
    pub(crate) fn unreadable(path: &Path, error: &io::Error) -> Self {
        Self::no_memory(path, error).unwrap_or_else(|| Self::folder(path, error.to_string()))
    }

    /// A file that the system cannot read now.
    pub(crate) fn storage(path: &Path, error: &io::Error) -> Self {
        let storage = || Self::Storage { path: path.to_path_buf(), why: error.to_string() };
        Self::no_memory(path, error).unwrap_or_else(storage)
    }

    /// The fault of a system that has no memory for reading, which says nothing of the data.
    fn no_memory(path: &Path, error: &io::Error) -> Option<Self> {
        (error.kind() == io::ErrorKind::OutOfMemory).then(|| Self::Exhausted {
            why: format!(
                "{}: no memory to read it ({error}); close other programs, or raise `ulimit -v`",
                path.display()
            ),
        })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    /// Mutations caught: missing memory taken for a fault of the data.
    #[test]
    fn a_system_without_memory_is_no_fault_of_the_data() {
        let code = |fault: DataError| Error::from(fault).kind;
        let path = Path::new("photos");
        for (raw, kind) in [(12, ErrorKind::Memory), (2, ErrorKind::Data)] {
            let error = io::Error::from_raw_os_error(raw);
            assert_eq!(code(DataError::unreadable(path, &error)), kind);
            assert_eq!(code(DataError::storage(path, &error)), kind);
        }
    }
}
