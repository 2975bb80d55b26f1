//! Standard output for results, and standard error for what is said beside them.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, IsTerminal as _, Write as _};

use crate::terminal;

/// Prints a line on standard error like `eprintln!`, which would panic where standard error is
/// gone: a program without a console still ends with its own exit code.
#[macro_export]
macro_rules! err {
    ($($words:tt)*) => {{
        $crate::stdout::print_error_line(format_args!($($words)*));
    }};
}

/// Writes one line to standard error, on a terminal in lines of its width. A failure is ignored:
/// there is nowhere else to say it.
pub fn print_error_line(line: Arguments) {
    let mut stderr = io::stderr();
    let text = terminal::fitted(&line.to_string(), stderr.is_terminal());
    let _ = writeln!(stderr, "{text}");
}

/// Exit code of a report whose reader has gone: 128 + SIGPIPE, as of a program that the signal
/// ends.
const READER_GONE: i32 = 141;

/// Writes one line to standard output.
///
/// # Errors
/// The reason of the operating system: a reader that has gone, a full disk.
pub fn write_line(line: Arguments) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{line}")
}

/// Prints one line of a report. Ends the program with 141, quietly, when nobody reads any more, and
/// with a sentence and 8 when the line cannot be written, because half a report is not a result.
pub fn print_line(line: Arguments) {
    let Err(error) = write_line(line) else { return };
    if error.kind() == ErrorKind::BrokenPipe {
        std::process::exit(READER_GONE);
    }
    err!("error: standard output: cannot write: {error}; make room, or send the output elsewhere");
    std::process::exit(8);
}

/// Prints a line of a report like `println!`, where `println!` would panic. See [`print_line`].
///
/// [`print_line`]: crate::stdout::print_line
#[macro_export]
macro_rules! out {
    ($($words:tt)*) => {
        $crate::stdout::print_line(format_args!($($words)*))
    };
}
