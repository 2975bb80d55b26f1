//! Standard output for results.

/// Prints a line like `println!`, but ends quietly when nobody reads any more (`kindling models | head`),
/// where `println!` would panic.
#[macro_export]
macro_rules! out {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let mut stdout = std::io::stdout().lock();
        if writeln!(stdout, $($words)*).is_err() {
            std::process::exit(0);
        }
    }};
}
