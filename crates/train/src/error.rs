//! What can go wrong through the user's hands or the machine, each with its own exit code.

use std::fmt;

/// The kind of a failure; its number is the exit code of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A flag or a configuration file (exit code 2).
    Usage,
    /// A data set or an image (3).
    Data,
    /// Loss or gradient no longer finite (5).
    Diverged,
    /// A checkpoint or weight file (6).
    Checkpoint,
    /// A backend that this machine cannot run (7).
    Backend,
    /// The device's memory is too small for one image (7, too).
    Memory,
    /// Reading or writing a file failed, a full disk included (8).
    File,
    /// Another rank of the job is lost, or differs (9).
    Communication,
}

impl ErrorKind {
    /// The exit code that a shell sees.
    pub fn exit_code(self) -> u8 {
        match self {
            ErrorKind::Usage => 2,
            ErrorKind::Data => 3,
            ErrorKind::Diverged => 5,
            ErrorKind::Checkpoint => 6,
            ErrorKind::Backend | ErrorKind::Memory => 7,
            ErrorKind::File => 8,
            ErrorKind::Communication => 9,
        }
    }
}

/// One clear sentence: what, where, and the way out.
#[derive(Debug)]
pub struct Error {
    /// Decides the exit code.
    pub kind: ErrorKind,
    /// Lower case, no full stop.
    pub message: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

macro_rules! constructors {
    ($($name:ident => $kind:ident),+) => {
        impl Error {$(
            #[doc = concat!("A failure of [`ErrorKind::", stringify!($kind), "`].")]
            pub fn $name(message: impl Into<String>) -> Self {
                Self { kind: ErrorKind::$kind, message: message.into() }
            }
        )+}
    };
}
constructors!(usage => Usage, data => Data, diverged => Diverged, checkpoint => Checkpoint,
              backend => Backend, memory => Memory, file => File,
              communication => Communication);
