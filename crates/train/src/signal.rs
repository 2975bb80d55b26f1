//! Signals that end a run: the first one asks the loop to save and stop.
//!
//! SIGINT is Ctrl-C, SIGTERM a shutdown, SIGQUIT Ctrl-\\: a second one of them ends the process at
//! once. SIGHUP is a lost terminal, SIGUSR1, SIGUSR2 and SIGXCPU are the warnings of Slurm and
//! other batch systems before a time limit: they come more than once (a shell passes on the SIGHUP
//! that the kernel sends, too) and never end the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU, SIGXFSZ};

/// Remembers the first signal received.
#[derive(Clone, Default)]
pub struct Stop(Arc<AtomicUsize>);

impl Stop {
    /// Begins to listen. A second signal of a person or a shutdown ends the process with 128 + its
    /// number. SIGHUP stays ignored where `nohup` ignores it.
    pub fn listen() -> std::io::Result<Self> {
        let stop = Self::default();
        let again = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGQUIT] {
            // Order matters: the shutdown sees the flag as it was before this signal set it.
            signal_hook::flag::register_conditional_shutdown(
                signal,
                128 + signal,
                Arc::clone(&again),
            )?;
            signal_hook::flag::register(signal, Arc::clone(&again))?;
            stop.remember(signal)?;
        }
        for signal in [SIGUSR1, SIGUSR2, SIGXCPU] {
            stop.remember(signal)?;
        }
        if !hangup_ignored() {
            stop.remember(SIGHUP)?;
        }
        Ok(stop)
    }

    fn remember(&self, signal: i32) -> std::io::Result<()> {
        signal_hook::flag::register_usize(signal, Arc::clone(&self.0), signal as usize).map(|_| ())
    }

    /// The exit code owed to a signal (130 for SIGINT, 143 for SIGTERM), if one came.
    pub fn requested(&self) -> Option<u8> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(128 + signal as u8),
        }
    }
}

/// From here on SIGTERM ends the process at once, with this exit code.
pub fn end_at_once(code: u8) {
    let now = Arc::new(AtomicBool::new(true));
    let _ = signal_hook::flag::register_conditional_shutdown(SIGTERM, i32::from(code), now);
}

/// Lets a write beyond the limit on file sizes (`ulimit -f`) fail with a reason, where SIGXFSZ
/// would end the process. A system that does not know the signal needs nothing.
pub fn survive_file_size_limit() {
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
}

/// Whether the process was started with SIGHUP ignored, as `nohup` does: bit 0 of Linux's `SigIgn`.
/// Where that cannot be read, the signal is left as it is, so that `nohup` keeps its meaning.
fn hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    mask.is_none_or(|mask| mask & 1 == 1)
}
/// Ends the process after its output is written, without the destructors of libraries. A graphics
/// driver's would run beside its own threads, which may still start: Mesa's software adapter then
/// ends a program with a segmentation fault instead of its exit code.
pub fn exit_without_destructors(code: u8) -> ! {
    use std::io::Write as _;
    let _ = std::io::stdout().flush();
    signal_hook::low_level::exit(i32::from(code))
}
