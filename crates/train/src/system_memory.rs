//! The memory of the machine: how much is free, how much this process has used, and a note for a
//! batch that needs more than there is.

use std::path::Path;

/// Bytes that this process may still allocate, limited by the machine and by its control group
/// (cgroup v2); `None` where Linux does not say.
pub fn available() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = machine.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let free = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10;
    let number = |name: &str| -> Option<u64> {
        let path = Path::new("/sys/fs/cgroup").join(name);
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    let group = number("memory.max").zip(number("memory.current"));
    Some(group.map_or(free, |(max, now)| free.min(max.saturating_sub(now))))
}

/// [`available`] in megabytes.
pub fn available_mb() -> Option<f64> {
    available().map(|bytes| bytes as f64 / f64::from(1 << 20))
}

/// The largest resident memory of this process so far, in megabytes; `None` where the system does
/// not say.
pub fn peak_rss_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes / 1024.0)
}

/// The note for a batch that needs more than the `available` megabytes, with a smaller batch that
/// fits; `None` if the batch fits. `needs` gives the megabytes of a number of images.
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

    /// Mutations caught: the accumulation not multiplied; the first half chosen although it is
    /// still too large.
    #[test]
    fn the_note_names_a_batch_that_fits() {
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
