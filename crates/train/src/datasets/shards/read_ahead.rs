//! The images of an epoch, read in windows: a thread reads the files from front to back, a window
//! ahead of the workers, and forgets a window when the last batch of it is made.
//!
//! A thread of its own, because a worker that read would leave its batch waiting for a whole
//! window, while a thread that waits for the disk costs no processor anything. What a window does
//! not have (kept by a cache, not to be read, altered) is read individually: a window decides when
//! bytes are read, never which.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use crate::datasets::sync::{lock, wait};
use crate::datasets::tar_reader::TarReader;

/// Bytes of a read, unless an image is larger.
const READ_BYTES: u64 = 8 << 20;

/// Bytes between two images that are read and not used: headers and labels, and what is left out
/// now and then. A system reads ahead about twice as many.
const MAX_GAP: u64 = 64 << 10;

/// The windows of a running epoch.
pub(crate) struct ReadAhead {
    shards: Arc<TarReader>,
    /// Where each window begins in the order, and where the last one ends.
    bounds: Vec<usize>,
    /// For every file: its turn in the order.
    turns: Vec<usize>,
    /// Places in the order that each batch needs, from the first batch that is made on.
    batches: Vec<Range<usize>>,
    /// Number of that batch.
    first: usize,
    state: Mutex<ReadAheadState>,
    changed: Condvar,
}

struct ReadAheadState {
    loaded: BTreeMap<usize, LoadedWindow>,
    /// For each window: the number of batches that need it and are not made.
    users: Vec<usize>,
    /// For each batch, from the first on: whether it is made.
    made: Vec<bool>,
    /// The first that is not.
    oldest: usize,
    /// Whether the reading is over.
    ended: bool,
}

struct LoadedWindow {
    /// For each position of the window: where its bytes are, if they are read.
    images: Vec<Option<StoredImage>>,
    runs: Vec<RangeState>,
}

#[derive(Clone)]
enum RangeState {
    Awaited,
    Done(Arc<Vec<u8>>),
    Failed,
}

#[derive(Clone, Copy)]
struct StoredImage {
    run: usize,
    /// First byte in the run.
    from: usize,
    count: usize,
    crc: u32,
}

/// A part of a file that is read at once.
#[derive(Clone, Copy, Debug, PartialEq)]
struct ByteRange {
    file: usize,
    from: u64,
    to: u64,
}

/// Ends the reading, whatever ends the thread: nobody waits for it then.
struct StopOnDrop<'a>(&'a ReadAhead);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl ReadAhead {
    /// The reader of an epoch: where windows begin and end in its order, the turns of the files,
    /// and the positions that each batch needs from number `first` on.
    pub(crate) fn new(
        shards: Arc<TarReader>,
        bounds: Vec<usize>,
        turns: Vec<usize>,
        first: usize,
        batches: Vec<Range<usize>>,
    ) -> Self {
        let mut users = vec![0; bounds.len().saturating_sub(1)];
        for batch in &batches {
            users[windows_of(&bounds, batch)].iter_mut().for_each(|count| *count += 1);
        }
        let made = vec![false; batches.len()];
        let state =
            ReadAheadState { loaded: BTreeMap::new(), users, made, oldest: 0, ended: false };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        Self { shards, bounds, turns, batches, first, state, changed }
    }

    /// Reads window after window, until the epoch or somebody ends it: the work of a thread.
    /// `image` gives the path of what has a position in the order, or nothing where that need not
    /// be read.
    pub(crate) fn read_ahead<'a>(&self, image: impl Fn(usize) -> Option<&'a Path>) {
        let _end = StopOnDrop(self);
        let Some((first, last)) = self.batches.first().zip(self.batches.last()) else { return };
        let needed = first.start..last.end;
        for window in windows_of(&self.bounds, &needed) {
            let mut state = lock(&self.state);
            while !state.ended && !self.is_due(&state, window) {
                state = wait(&self.changed, state);
            }
            if state.ended || state.oldest == self.batches.len() {
                return;
            }
            drop(state);
            let (runs, images) = self.planned(window, &needed, &image);
            let mut state = lock(&self.state);
            if state.users[window] > 0 {
                state.loaded.insert(
                    window,
                    LoadedWindow { images, runs: vec![RangeState::Awaited; runs.len()] },
                );
            }
            drop(state);
            self.changed.notify_all();
            for (number, run) in runs.into_iter().enumerate() {
                {
                    let state = lock(&self.state);
                    if state.ended {
                        return;
                    }
                    if !state.loaded.contains_key(&window) {
                        break;
                    }
                }
                let mut bytes = vec![0; (run.to - run.from) as usize];
                let read = match self.shards.read_range(run.file, run.from, &mut bytes) {
                    Ok(()) => RangeState::Done(Arc::new(bytes)),
                    Err(_) => RangeState::Failed,
                };
                if let Some(window) = lock(&self.state).loaded.get_mut(&window) {
                    window.runs[number] = read;
                }
                self.changed.notify_all();
            }
        }
    }

    /// Whether it may be read: it is the window that the oldest batch is in, the next one, or that
    /// batch needs it.
    fn is_due(&self, state: &ReadAheadState, window: usize) -> bool {
        let Some(batch) = self.batches.get(state.oldest) else { return true };
        let own = windows_of(&self.bounds, batch);
        window < (own.start + 2).max(own.end)
    }

    /// The reads of a window in the order of the files, and where in them its images are.
    fn planned<'a>(
        &self,
        window: usize,
        needed: &Range<usize>,
        image: &impl Fn(usize) -> Option<&'a Path>,
    ) -> (Vec<ByteRange>, Vec<Option<StoredImage>>) {
        let (from, to) = (self.bounds[window], self.bounds[window + 1]);
        let mut wanted: Vec<_> = (from.max(needed.start)..to.min(needed.end))
            .filter_map(|position| Some((self.shards.entry(image(position)?), position - from)))
            .collect();
        wanted.sort_unstable_by_key(|(there, _)| (self.turns[there.file], there.from));
        let (mut runs, mut images) = (Vec::<ByteRange>::new(), vec![None; to - from]);
        for (there, at) in wanted {
            let end = there.from + there.count as u64;
            match runs.last_mut() {
                Some(run)
                    if run.file == there.file
                        && there.from <= run.to + MAX_GAP
                        && end - run.from <= READ_BYTES =>
                {
                    run.to = run.to.max(end);
                }
                _ => runs.push(ByteRange { file: there.file, from: there.from, to: end }),
            }
            let run = runs.len() - 1;
            let from = (there.from - runs[run].from) as usize;
            images[at] = Some(StoredImage { run, from, count: there.count, crc: there.crc });
        }
        (runs, images)
    }

    /// Puts the bytes of a position of the order into `bytes`, waiting for them; `false` where they
    /// must be read by position.
    pub(crate) fn take(&self, position: usize, bytes: &mut Vec<u8>) -> bool {
        let window = self.bounds.partition_point(|bound| *bound <= position) - 1;
        let mut state = lock(&self.state);
        let (image, run) = loop {
            if let Some(held) = state.loaded.get(&window) {
                let Some(image) = held.images[position - self.bounds[window]] else {
                    return false;
                };
                match &held.runs[image.run] {
                    RangeState::Done(run) => break (image, Arc::clone(run)),
                    RangeState::Failed => return false,
                    RangeState::Awaited => {}
                }
            }
            if state.ended {
                return false;
            }
            state = wait(&self.changed, state);
        };
        drop(state);
        bytes.clear();
        bytes.extend(&run[image.from..image.from + image.count]);
        crc32fast::hash(bytes) == image.crc
    }

    /// A batch is made, or given up: what only it needed is forgotten.
    pub(crate) fn made(&self, batch: usize) {
        let mut state = lock(&self.state);
        let number = batch - self.first;
        // Given back after the lock.
        let mut forgotten = Vec::new();
        for window in windows_of(&self.bounds, &self.batches[number]) {
            state.users[window] -= 1;
            if state.users[window] == 0 {
                forgotten.extend(state.loaded.remove(&window));
            }
        }
        state.made[number] = true;
        while state.made.get(state.oldest) == Some(&true) {
            state.oldest += 1;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Ends the reading; what is not read yet is read individually from now on.
    pub(crate) fn stop(&self) {
        lock(&self.state).ended = true;
        self.changed.notify_all();
    }
}

/// The windows that contain the positions.
fn windows_of(bounds: &[usize], positions: &Range<usize>) -> Range<usize> {
    if positions.is_empty() {
        return 0..0;
    }
    let window = |position: usize| bounds.partition_point(|bound| *bound <= position) - 1;
    window(positions.start)..window(positions.end - 1) + 1
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::PathBuf;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::datasets::tar_reader::TarEntry;
    use transforms::random::Counter;

    /// Two files of 20 images each of 3000 to 9000 bytes, 2048 bytes apart, the last 100 KB
    /// further.
    struct Files {
        root: PathBuf,
        shards: Arc<TarReader>,
        images: Vec<PathBuf>,
        content: Vec<Vec<u8>>,
    }

    impl Files {
        fn new(name: &str) -> Self {
            let root =
                std::env::temp_dir().join(format!("kindling-window-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&root);
            std::fs::create_dir_all(&root).unwrap();
            let mut draw = Counter::new(1, 2, 3, 4);
            let (mut files, mut positions) = (Vec::new(), HashMap::new());
            let (mut images, mut content) = (Vec::new(), Vec::new());
            for file in 0..2 {
                let mut bytes = Vec::new();
                for number in 0..20 {
                    bytes.resize(bytes.len() + if number == 19 { 100 << 10 } else { 2048 }, 0);
                    let count = 3000 + draw.range(6000);
                    let own: Vec<u8> = (0..count).map(|_| draw.range(256) as u8).collect();
                    let path = PathBuf::from(format!("{file}/{number}"));
                    let (from, crc) = (bytes.len() as u64, crc32fast::hash(&own));
                    positions.insert(path.clone(), TarEntry { file, from, count, crc });
                    bytes.extend(&own);
                    images.push(path);
                    content.push(own);
                }
                files.push(root.join(format!("{file}.tar")));
                std::fs::write(&files[file], &bytes).unwrap();
            }
            let shards = Arc::new(TarReader::new(files, positions));
            Self { root, shards, images, content }
        }

        /// ReadAhead of 8 in the order of the files, batches of `size` from the first on; file 1
        /// comes first.
        fn windows(&self, size: usize, first: usize) -> (ReadAhead, Vec<usize>) {
            let order: Vec<usize> = (20..40).chain(0..20).collect();
            let bounds = (0..=5).map(|window| window * 8).collect();
            let batches = (first..40_usize.div_ceil(size))
                .map(|b| b * size..((b + 1) * size).min(40))
                .collect();
            (ReadAhead::new(Arc::clone(&self.shards), bounds, vec![1, 0], first, batches), order)
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.root);
        }
    }

    /// Mutations caught, each alone: an image's position in its window for that in the order; a
    /// window forgotten with the first batch that is made; one never forgotten; three windows
    /// ahead; the next window only read when the one before is done; a batch that is longer than
    /// two windows waits for ever.
    #[test]
    fn every_image_comes_out_of_two_windows_at_most() {
        let files = Files::new("all");
        for (size, first, most) in [(3, 0, 2), (8, 1, 2), (5, 3, 2), (20, 0, 4), (40, 0, 5)] {
            let (windows, order) = files.windows(size, first);
            beside(
                &windows,
                |position| Some(&*files.images[order[position]]),
                || {
                    let mut bytes = Vec::new();
                    for (number, batch) in windows.batches.clone().into_iter().enumerate() {
                        for position in batch.clone() {
                            assert!(
                                windows.take(position, &mut bytes),
                                "{size}: {position} is not held"
                            );
                            assert!(bytes == files.content[order[position]], "{size}: {position}");
                        }
                        // What may be read ahead is read while nobody asks for it, and no more.
                        let own = windows_of(&windows.bounds, &batch);
                        let ahead = (own.start + 2).max(own.end).min(5);
                        let there = || lock(&windows.state).loaded.contains_key(&(ahead - 1));
                        assert!(
                            (0..2000).any(|_| there() || pause()),
                            "{size}: {ahead} windows are not read"
                        );
                        pause();
                        let held: Vec<usize> =
                            lock(&windows.state).loaded.keys().copied().collect();
                        assert!(held.iter().copied().eq(own.start..ahead), "{size}: {held:?}");
                        assert!(held.len() <= most, "{size}: {held:?}");
                        windows.made(first + number);
                    }
                    assert!(lock(&windows.state).loaded.is_empty(), "{size}: all is forgotten");
                },
            );
        }
    }

    /// The reader at work beside the test; a wait that would have no end is ended, which the test
    /// then sees.
    fn beside<'a>(
        windows: &ReadAhead,
        image: impl Fn(usize) -> Option<&'a Path> + Send,
        work: impl FnOnce(),
    ) {
        std::thread::scope(|scope| {
            scope.spawn(|| windows.read_ahead(image));
            scope.spawn(|| {
                let _ = (0..2000).any(|_| lock(&windows.state).ended || pause());
                windows.stop();
            });
            let _end = StopOnDrop(windows);
            work();
        });
    }

    /// Lets other threads go on; `false`, for a search that has found nothing yet.
    fn pause() -> bool {
        std::thread::sleep(Duration::from_millis(5));
        false
    }

    /// Mutations caught, each alone: no run longer than one image; a run over a gap of 100 KB; runs
    /// in the order of the files' numbers, not of their turns; what comes before the first batch
    /// read too.
    #[test]
    fn a_window_is_read_in_few_long_runs_in_the_order_of_the_files() {
        let files = Files::new("runs");
        let (windows, order) = files.windows(8, 0);
        let all = |position: usize| Some(&*files.images[order[position]]);
        let whole = 0..40;
        let run = |first: usize, last: usize| {
            let (first, last) =
                (files.shards.entry(&files.images[first]), files.shards.entry(&files.images[last]));
            ByteRange { file: first.file, from: first.from, to: last.from + last.count as u64 }
        };
        assert_eq!(windows.planned(0, &whole, &all).0, [run(20, 27)]);
        assert_eq!(windows.planned(2, &whole, &all).0, [run(36, 38), run(39, 39), run(0, 3)]);
        assert_eq!(windows.planned(0, &(5..40), &all).0, [run(25, 27)]);
        assert_eq!(windows.planned(4, &(5..39), &all).0, [run(12, 18)]);
        // Kept elsewhere: not read at the ends, read over in the middle and not held.
        let some =
            |position: usize| if [0, 3, 7].contains(&position) { None } else { all(position) };
        let (runs, images) = windows.planned(0, &whole, &some);
        assert_eq!(runs, [run(21, 26)]);
        let held: Vec<bool> = images.iter().map(Option::is_some).collect();
        assert_eq!(held, [false, true, true, false, true, true, true, false]);
    }

    /// Nothing hangs, and `false` says which images must be read individually. Mutations caught,
    /// each alone: the checksum not compared; a failed read held as if it were done; the end of the
    /// reader not told.
    #[test]
    fn what_is_not_held_whole_is_told() {
        let files = Files::new("broken");
        // File 1 altered in its second image, file 0 cut in its sixth.
        let (second, sixth) =
            (files.shards.entry(&files.images[21]), files.shards.entry(&files.images[5]));
        let mut bytes = std::fs::read(files.shards.path(1)).unwrap();
        bytes[second.from as usize + 7] ^= 1;
        std::fs::write(files.shards.path(1), bytes).unwrap();
        let cut = std::fs::File::options().write(true).open(files.shards.path(0)).unwrap();
        cut.set_len(sixth.from + 10).unwrap();
        let (windows, order) = files.windows(4, 0);
        let mut bytes = Vec::new();
        beside(
            &windows,
            |position| Some(&*files.images[order[position]]),
            || {
                for (number, batch) in windows.batches.clone().into_iter().enumerate() {
                    // Places 20 to 23 are the first images of file 0, in a run that is whole.
                    for position in batch {
                        assert_eq!(
                            windows.take(position, &mut bytes),
                            position < 24 && position != 1,
                            "{position}"
                        );
                    }
                    windows.made(number);
                }
            },
        );
        let (windows, order) = files.windows(4, 0);
        let failing = |position: usize| {
            assert!(position < 8, "planted: the reader's panic");
            Some(&*files.images[order[position]])
        };
        let work = || {
            assert!(windows.take(3, &mut bytes));
            let began = Instant::now();
            assert!(!windows.take(9, &mut bytes), "what will never come");
            assert!(began.elapsed() < Duration::from_secs(5), "told by the reader's end");
            assert!(lock(&windows.state).ended);
        };
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            beside(&windows, failing, work);
        }));
        let why = *ended.unwrap_err().downcast::<&str>().unwrap();
        assert_eq!(why, "a scoped thread panicked");
    }
}
