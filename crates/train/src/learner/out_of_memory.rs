//! A device or a machine whose memory is too small: told from other panics, tried for by tests, foreseen where that is
//! possible.
//!
//! On a CPU a map that has no memory is a panic of `kernels`, which can be caught; any other failed allocation ends the
//! process, and so does Linux where it promised more than there is: for that a note at the start is all there is. Burn and
//! wgpu have no error for missing memory either, but a panic.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind, set_hook, take_hook};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Once};

/// What `work` gives, or the first line of its panic for want of memory. Other panics go on.
///
/// # Errors
/// The device had no memory left.
pub fn catch_oom<R>(work: impl FnOnce() -> R) -> Result<R, String> {
    static QUIET: Once = Once::new();
    // A panic that is answered is not printed as a fault of the program.
    QUIET.call_once(|| {
        let loud = take_hook();
        set_hook(Box::new(move |info| {
            if exhausted(info.payload()).is_none() {
                loud(info);
            }
        }));
    });
    // Nothing that is changed inside is used again after a panic but the running statistics, which the loop takes back.
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| match exhausted(&*panic) {
        Some(why) => why,
        None => resume_unwind(panic),
    })
}

/// What backends say where they got no memory. The last is all that wgpu's runtime tells, when a value is read that a
/// kernel without memory was to write.
const WORDS: [&str; 6] = [
    "out of memory",
    "outofmemory",
    "out_of_memory",
    "memory allocation",
    "max_buffer_size",
    "memory location was never initialized",
];

/// The line of a panic that tells of missing memory.
fn exhausted(panic: &(dyn Any + Send)) -> Option<String> {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())?;
    let tells = |line: &&str| {
        let small = line.to_lowercase();
        WORDS.iter().any(|word| small.contains(word))
    };
    text.lines().find(tells).map(|line| line.trim().to_owned())
}

/// `KINDLING_TEST_MEMORY`, for tests: `4@1,2@5` has no room for more than 4 images from the first backward pass of the
/// process on, and for 2 from the fifth.
static ROOFS: LazyLock<Vec<(usize, u64)>> = LazyLock::new(|| {
    let given = std::env::var("KINDLING_TEST_MEMORY").unwrap_or_default();
    let pair = |text: &str| {
        let (images, from) = text.split_once('@')?;
        Some((images.parse().ok()?, from.parse().ok()?))
    };
    given.split(',').filter_map(pair).collect()
});

/// Stands for the device in tests: panics as it would where so many images have no room.
pub(crate) fn inject_oom(images: usize) {
    static PASSES: AtomicU64 = AtomicU64::new(0);
    if ROOFS.is_empty() {
        return;
    }
    let pass = 1 + PASSES.fetch_add(1, Ordering::Relaxed);
    if let Some((roof, _)) = ROOFS.iter().rev().find(|(_, from)| *from <= pass) {
        assert!(images <= *roof, "Out of Memory: {images} images, {roof} in a test");
    }
}

/// Bytes that this process may still take, of the machine and of its control group (cgroup v2); `None` where Linux does
/// not say.
pub fn available() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = machine.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let free = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10;
    let number = |name: &str| -> Option<u64> {
        let path = Path::new("/sys/fs/cgroup").join(name);
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    let own = number("memory.max").zip(number("memory.current"));
    Some(own.map_or(free, |(most, now)| free.min(most.saturating_sub(now))))
}

/// [`available`] in megabytes.
pub fn available_mb() -> Option<f64> {
    available().map(|bytes| bytes as f64 / f64::from(1 << 20))
}

/// What to say where a batch needs more than there is; `needs` gives the megabytes of so many images.
pub fn note(
    batch: usize,
    accumulate: usize,
    available: f64,
    needs: impl Fn(usize) -> f64,
) -> Option<String> {
    let whole = needs(batch);
    if whole <= available {
        return None;
    }
    let have = format!(
        "note: a batch of {batch} images takes about {whole:.0} MB and this machine has \
         {available:.0} MB free, so the system may end the run"
    );
    let halves = (1..).map_while(|power| {
        let parts = 1_usize << power;
        (batch / parts > 0).then_some(parts)
    });
    let fits = halves.into_iter().find(|parts| needs(batch.div_ceil(*parts)) <= available);
    Some(match fits {
        Some(parts) => format!(
            "{have}; --batch-size {} --grad-accum-steps {} keeps the step the same but for batch \
             norm",
            batch.div_ceil(parts),
            accumulate * parts
        ),
        None => format!("{have}, with a batch of one image too; lower --img-size or --width"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seen to fail with all lines of a panic, with its first line, and with every panic taken for one.
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

    /// Seen to fail with the accumulation not multiplied, and with the first half that is too large still.
    #[test]
    fn a_batch_that_cannot_fit_is_told_with_one_that_does() {
        let needs = |images: usize| 100.0 + 10.0 * images as f64;
        assert_eq!(note(64, 3, 740.0, needs), None);
        let text = note(64, 3, 300.0, needs).unwrap();
        assert!(text.contains("64 images takes about 740 MB"), "{text}");
        assert!(text.contains("--batch-size 16 --grad-accum-steps 12"), "{text}");
        let text = note(64, 1, 105.0, needs).unwrap();
        assert!(text.contains("one image too") && !text.contains("--batch-size"), "{text}");
        assert!(available_mb().is_none_or(|mb| mb > 1.0));
    }
}
