//! Out-of-memory: detects it in panics, and injects it in tests.
//!
//! On a CPU an activation map that gets no memory is a panic of `kernels`, which can be caught. Any
//! other allocation has the reserve of `kernels::allocator`, and the next map panics in its place;
//! beyond that the process ends with a sentence. Linux ends it where it promised more memory than
//! there is; against that a note at the start ([`crate::system_memory::note`]) is the only help.
//! Burn and wgpu report missing memory by a panic too.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind, set_hook, take_hook};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Once};

/// The result of `work`, or the line of its panic that reports missing memory. Other panics go on.
///
/// # Errors
/// The device had no memory left.
pub fn catch_oom<R>(work: impl FnOnce() -> R) -> Result<R, String> {
    static QUIET: Once = Once::new();
    // A panic that is handled is not printed as a bug of the program.
    QUIET.call_once(|| {
        let default_hook = take_hook();
        set_hook(Box::new(move |info| {
            if oom_line(info.payload()).is_none() {
                default_hook(info);
            }
        }));
    });
    // After a panic the caller uses nothing that `work` changes, except the running statistics,
    // which the loop restores.
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| match oom_line(&*panic) {
        Some(why) => why,
        None => resume_unwind(panic),
    })
}

/// Phrases by which backends report missing memory. The last one is all that wgpu's runtime reports
/// when a value is read that a kernel without memory should have written.
const PHRASES: [&str; 6] = [
    "out of memory",
    "outofmemory",
    "out_of_memory",
    "memory allocation",
    "max_buffer_size",
    "memory location was never initialized",
];

/// The line of a panic that reports missing memory.
fn oom_line(panic: &(dyn Any + Send)) -> Option<String> {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())?;
    let reports = |line: &&str| {
        let line = line.to_lowercase();
        PHRASES.iter().any(|phrase| line.contains(phrase))
    };
    text.lines().find(reports).map(|line| line.trim().to_owned())
}

/// `KINDLING_TEST_MEMORY`, for tests: `4@1,2@5` allows at most 4 images from the first backward
/// pass of the process on, and at most 2 from the fifth.
static LIMITS: LazyLock<Vec<(usize, u64)>> = LazyLock::new(|| {
    let variable = std::env::var("KINDLING_TEST_MEMORY").unwrap_or_default();
    let pair = |text: &str| {
        let (images, from) = text.split_once('@')?;
        Some((images.parse().ok()?, from.parse().ok()?))
    };
    variable.split(',').filter_map(pair).collect()
});

/// Simulates the device in tests: panics as a device without memory for `images` images does.
pub(crate) fn inject_oom(images: usize) {
    static PASSES: AtomicU64 = AtomicU64::new(0);
    if LIMITS.is_empty() {
        return;
    }
    let pass = 1 + PASSES.fetch_add(1, Ordering::Relaxed);
    if let Some((limit, _)) = LIMITS.iter().rev().find(|(_, from)| *from <= pass) {
        assert!(images <= *limit, "Out of Memory: {images} images, {limit} in a test");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutations caught: all lines of a panic returned; its first line returned; every panic taken
    /// for missing memory.
    #[test]
    fn missing_memory_is_told_from_other_panics() {
        assert_eq!(catch_oom(|| 7), Ok(7));
        let why = catch_oom(|| panic!("wgpu error: Out of Memory\nmore"));
        assert_eq!(why, Err("wgpu error: Out of Memory".to_owned()));
        let runtime =
            "Error while reading data\nCaused by:\n  Memory location was never initialized\nmore";
        let why = catch_oom(|| panic!("{runtime}"));
        assert_eq!(why, Err("Memory location was never initialized".to_owned()));
        let other = std::panic::catch_unwind(|| catch_oom(|| panic!("index out of bounds")));
        assert!(other.is_err(), "another panic goes on");
    }
}
