//! What can go wrong through the user's hands or the machine, each with its own exit code.

use std::fmt;

/// The kind of a failure; its number is the exit code of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A flag or a configuration file (exit code 2).
    Usage,
    /// A data set or a picture (3).
    Data,
    /// Loss or gradient no longer finite (5).
    Diverged,
    /// A checkpoint or weight file (6).
    Checkpoint,
    /// A backend that this machine cannot run (7).
    Backend,
    /// The device's memory is too small for one picture (7, too).
    Memory,
    /// Reading or writing a file failed, a full disk included (8).
    File,
}

impl Kind {
    /// The exit code that a shell sees.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Usage => 2,
            Kind::Data => 3,
            Kind::Diverged => 5,
            Kind::Checkpoint => 6,
            Kind::Backend | Kind::Memory => 7,
            Kind::File => 8,
        }
    }
}

/// One clear sentence: what, where, and the way out.
#[derive(Debug)]
pub struct Failure {
    /// Decides the exit code.
    pub kind: Kind,
    /// Lower case, no full stop.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

macro_rules! constructors {
    ($($name:ident => $kind:ident),+) => {
        impl Failure {$(
            #[doc = concat!("A failure of [`Kind::", stringify!($kind), "`].")]
            pub fn $name(message: impl Into<String>) -> Self {
                Self { kind: Kind::$kind, message: message.into() }
            }
        )+}
    };
}
constructors!(usage => Usage, data => Data, diverged => Diverged, checkpoint => Checkpoint,
              backend => Backend, memory => Memory, file => File);

impl From<crate::folder::DataError> for Failure {
    fn from(error: crate::folder::DataError) -> Self {
        Failure::data(error.to_string())
    }
}
