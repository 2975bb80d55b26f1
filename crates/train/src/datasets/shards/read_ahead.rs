//! The images of an epoch, read in windows: a thread reads the files from front to back, a window ahead of the workers,
//! and forgets a window when the last batch of it is made.
//!
//! A thread of its own, because a worker that read would leave its batch waiting for a whole window, while a thread that
//! waits for the disk costs no processor anything. What a window does not have (kept by a cache, not to be read,
//! altered) is read by its place: a window decides when bytes are read, never which.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::datasets::shards::Shards;

/// Bytes of a read, unless an image is larger.
const READ: u64 = 8 << 20;

/// Bytes between two images that are read and not used: headers and labels, and what is left out now and then. A
/// system reads ahead about twice as many.
const GAP: u64 = 64 << 10;

/// The windows of a running epoch.
pub(crate) struct Windows {
    shards: Arc<Shards>,
    /// Where each window begins in the order, and where the last one ends.
    bounds: Vec<usize>,
    /// Of every file: when its turn is.
    turns: Vec<usize>,
    /// Places in the order that each batch needs, from the first batch that is made on.
    batches: Vec<Range<usize>>,
    /// Number of that batch.
    first: usize,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    held: BTreeMap<usize, Window>,
    /// Of each window: batches that need it and are not made.
    users: Vec<usize>,
    /// Of each batch, from the first on: whether it is made.
    made: Vec<bool>,
    /// The first that is not.
    oldest: usize,
    /// Whether nothing more will be read.
    ended: bool,
}

struct Window {
    /// Of each place of it: its bytes, if they are read.
    images: Vec<Option<Stored>>,
    runs: Vec<Read>,
}

#[derive(Clone)]
enum Read {
    Awaited,
    Done(Arc<Vec<u8>>),
    Failed,
}

#[derive(Clone, Copy)]
struct Stored {
    run: usize,
    /// First byte in the run.
    from: usize,
    count: usize,
    crc: u32,
}

/// A part of a file that is read at once.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Run {
    file: usize,
    from: u64,
    to: u64,
}

/// Ends the reading, whatever ends the thread: nobody waits for it then.
struct End<'a>(&'a Windows);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Windows {
    /// Those of an epoch: where windows begin and end in its order, the turns of the files, and the places that each
    /// batch needs from number `first` on.
    pub(crate) fn new(
        shards: Arc<Shards>,
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
        let state = State { held: BTreeMap::new(), users, made, oldest: 0, ended: false };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        Self { shards, bounds, turns, batches, first, state, changed }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads window after window, until the epoch or somebody ends it: the work of a thread. `image` gives the path of
    /// what has a place in the order, or nothing where that need not be read.
    pub(crate) fn read_ahead<'a>(&self, image: impl Fn(usize) -> Option<&'a Path>) {
        let _end = End(self);
        let Some((first, last)) = self.batches.first().zip(self.batches.last()) else { return };
        let needed = first.start..last.end;
        for window in windows_of(&self.bounds, &needed) {
            let mut state = self.lock();
            while !state.ended && !self.is_due(&state, window) {
                state = self.wait(state);
            }
            if state.ended || state.oldest == self.batches.len() {
                return;
            }
            drop(state);
            let (runs, images) = self.planned(window, &needed, &image);
            let mut state = self.lock();
            if state.users[window] > 0 {
                state.held.insert(window, Window { images, runs: vec![Read::Awaited; runs.len()] });
            }
            drop(state);
            self.changed.notify_all();
            for (number, run) in runs.into_iter().enumerate() {
                {
                    let state = self.lock();
                    if state.ended {
                        return;
                    }
                    if !state.held.contains_key(&window) {
                        break;
                    }
                }
                let mut bytes = vec![0; (run.to - run.from) as usize];
                let read = match self.shards.read_run(run.file, run.from, &mut bytes) {
                    Ok(()) => Read::Done(Arc::new(bytes)),
                    Err(_) => Read::Failed,
                };
                if let Some(window) = self.lock().held.get_mut(&window) {
                    window.runs[number] = read;
                }
                self.changed.notify_all();
            }
        }
    }

    /// Whether it may be read: it is the window that the oldest batch is in, the next one, or that batch needs it.
    fn is_due(&self, state: &State, window: usize) -> bool {
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
    ) -> (Vec<Run>, Vec<Option<Stored>>) {
        let (from, to) = (self.bounds[window], self.bounds[window + 1]);
        let mut wanted: Vec<_> = (from.max(needed.start)..to.min(needed.end))
            .filter_map(|place| Some((self.shards.place(image(place)?), place - from)))
            .collect();
        wanted.sort_unstable_by_key(|(there, _)| (self.turns[there.file], there.from));
        let (mut runs, mut images) = (Vec::<Run>::new(), vec![None; to - from]);
        for (there, at) in wanted {
            let end = there.from + there.count as u64;
            match runs.last_mut() {
                Some(run)
                    if run.file == there.file
                        && there.from <= run.to + GAP
                        && end - run.from <= READ =>
                {
                    run.to = run.to.max(end);
                }
                _ => runs.push(Run { file: there.file, from: there.from, to: end }),
            }
            let run = runs.len() - 1;
            let from = (there.from - runs[run].from) as usize;
            images[at] = Some(Stored { run, from, count: there.count, crc: there.crc });
        }
        (runs, images)
    }

    /// Puts the bytes of a place of the order into `bytes`, waiting for them; `false` where they must be read by place.
    pub(crate) fn take(&self, place: usize, bytes: &mut Vec<u8>) -> bool {
        let window = self.bounds.partition_point(|bound| *bound <= place) - 1;
        let mut state = self.lock();
        let (image, run) = loop {
            if let Some(held) = state.held.get(&window) {
                let Some(image) = held.images[place - self.bounds[window]] else {
                    return false;
                };
                match &held.runs[image.run] {
                    Read::Done(run) => break (image, Arc::clone(run)),
                    Read::Failed => return false,
                    Read::Awaited => {}
                }
            }
            if state.ended {
                return false;
            }
            state = self.wait(state);
        };
        drop(state);
        bytes.clear();
        bytes.extend(&run[image.from..image.from + image.count]);
        crc32fast::hash(bytes) == image.crc
    }

    /// A batch is made, or given up: what only it needed is forgotten.
    pub(crate) fn made(&self, batch: usize) {
        let mut state = self.lock();
        let number = batch - self.first;
        // Given back after the lock.
        let mut forgotten = Vec::new();
        for window in windows_of(&self.bounds, &self.batches[number]) {
            state.users[window] -= 1;
            if state.users[window] == 0 {
                forgotten.extend(state.held.remove(&window));
            }
        }
        state.made[number] = true;
        while state.made.get(state.oldest) == Some(&true) {
            state.oldest += 1;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Ends the reading; what is not read yet is read by place from now on.
    pub(crate) fn stop(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }
}

/// The windows that some places lie in.
fn windows_of(bounds: &[usize], places: &Range<usize>) -> Range<usize> {
    if places.is_empty() {
        return 0..0;
    }
    let window = |place: usize| bounds.partition_point(|bound| *bound <= place) - 1;
    window(places.start)..window(places.end - 1) + 1
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::PathBuf;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::datasets::shards::Place;
    use transforms::random::Counter;

    /// Two files of 20 images each of 3000 to 9000 bytes, 2048 bytes apart, the last 100 KB further.
    struct Files {
        root: PathBuf,
        shards: Arc<Shards>,
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
            let (mut files, mut places) = (Vec::new(), HashMap::new());
            let (mut images, mut content) = (Vec::new(), Vec::new());
            for file in 0..2 {
                let mut bytes = Vec::new();
                for number in 0..20 {
                    bytes.resize(bytes.len() + if number == 19 { 100 << 10 } else { 2048 }, 0);
                    let count = 3000 + draw.range(6000);
                    let own: Vec<u8> = (0..count).map(|_| draw.range(256) as u8).collect();
                    let path = PathBuf::from(format!("{file}/{number}"));
                    let (from, crc) = (bytes.len() as u64, crc32fast::hash(&own));
                    places.insert(path.clone(), Place { file, from, count, crc });
                    bytes.extend(&own);
                    images.push(path);
                    content.push(own);
                }
                files.push(root.join(format!("{file}.tar")));
                std::fs::write(&files[file], &bytes).unwrap();
            }
            let shards = Arc::new(Shards { files, places, ..Shards::default() });
            Self { root, shards, images, content }
        }

        /// Windows of 8 in the order of the files, batches of `size` from the first on; file 1 comes first.
        fn windows(&self, size: usize, first: usize) -> (Windows, Vec<usize>) {
            let order: Vec<usize> = (20..40).chain(0..20).collect();
            let bounds = (0..=5).map(|window| window * 8).collect();
            let batches = (first..40_usize.div_ceil(size))
                .map(|b| b * size..((b + 1) * size).min(40))
                .collect();
            (Windows::new(Arc::clone(&self.shards), bounds, vec![1, 0], first, batches), order)
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.root);
        }
    }

    /// Planted and seen red, each alone: an image's place in its window for that in the order; a window forgotten with the
    /// first batch that is made; one never forgotten; three windows ahead; the next window only read when the one before
    /// is done; a batch that is longer than two windows waits for ever.
    #[test]
    fn every_image_comes_out_of_two_windows_at_most() {
        let files = Files::new("all");
        for (size, first, most) in [(3, 0, 2), (8, 1, 2), (5, 3, 2), (20, 0, 4), (40, 0, 5)] {
            let (windows, order) = files.windows(size, first);
            beside(
                &windows,
                |place| Some(&*files.images[order[place]]),
                || {
                    let mut bytes = Vec::new();
                    for (number, batch) in windows.batches.clone().into_iter().enumerate() {
                        for place in batch.clone() {
                            assert!(windows.take(place, &mut bytes), "{size}: {place} is not held");
                            assert!(bytes == files.content[order[place]], "{size}: {place}");
                        }
                        // What may be read ahead is read while nobody asks for it, and no more.
                        let own = windows_of(&windows.bounds, &batch);
                        let ahead = (own.start + 2).max(own.end).min(5);
                        let there = || windows.lock().held.contains_key(&(ahead - 1));
                        assert!(
                            (0..2000).any(|_| there() || pause()),
                            "{size}: {ahead} windows are not read"
                        );
                        pause();
                        let held: Vec<usize> = windows.lock().held.keys().copied().collect();
                        assert!(held.iter().copied().eq(own.start..ahead), "{size}: {held:?}");
                        assert!(held.len() <= most, "{size}: {held:?}");
                        windows.made(first + number);
                    }
                    assert!(windows.lock().held.is_empty(), "{size}: all is forgotten");
                },
            );
        }
    }

    /// The reader at work beside the test; a wait that would have no end is ended, which the test then sees.
    fn beside<'a>(
        windows: &Windows,
        image: impl Fn(usize) -> Option<&'a Path> + Send,
        work: impl FnOnce(),
    ) {
        std::thread::scope(|scope| {
            scope.spawn(|| windows.read_ahead(image));
            scope.spawn(|| {
                let _ = (0..2000).any(|_| windows.lock().ended || pause());
                windows.stop();
            });
            let _end = End(windows);
            work();
        });
    }

    /// Lets other threads go on; `false`, for a search that has found nothing yet.
    fn pause() -> bool {
        std::thread::sleep(Duration::from_millis(5));
        false
    }

    /// Planted and seen red, each alone: no run longer than one image; a run over a gap of 100 KB; runs in the order of
    /// the files' numbers, not of their turns; what comes before the first batch read too.
    #[test]
    fn a_window_is_read_in_few_long_runs_in_the_order_of_the_files() {
        let files = Files::new("runs");
        let (windows, order) = files.windows(8, 0);
        let all = |place: usize| Some(&*files.images[order[place]]);
        let whole = 0..40;
        let run = |first: usize, last: usize| {
            let (first, last) =
                (files.shards.place(&files.images[first]), files.shards.place(&files.images[last]));
            Run { file: first.file, from: first.from, to: last.from + last.count as u64 }
        };
        assert_eq!(windows.planned(0, &whole, &all).0, [run(20, 27)]);
        assert_eq!(windows.planned(2, &whole, &all).0, [run(36, 38), run(39, 39), run(0, 3)]);
        assert_eq!(windows.planned(0, &(5..40), &all).0, [run(25, 27)]);
        assert_eq!(windows.planned(4, &(5..39), &all).0, [run(12, 18)]);
        // Kept elsewhere: not read at the ends, read over in the middle and not held.
        let some = |place: usize| if [0, 3, 7].contains(&place) { None } else { all(place) };
        let (runs, images) = windows.planned(0, &whole, &some);
        assert_eq!(runs, [run(21, 26)]);
        let held: Vec<bool> = images.iter().map(Option::is_some).collect();
        assert_eq!(held, [false, true, true, false, true, true, true, false]);
    }

    /// Nothing hangs, and `false` says what must be read by its place. Planted and seen red, each alone: the checksum not
    /// compared; a failed read held as if it were done; the end of the reader not told.
    #[test]
    fn what_is_not_held_whole_is_told() {
        let files = Files::new("broken");
        // File 1 altered in its second image, file 0 cut in its sixth.
        let (second, sixth) =
            (files.shards.place(&files.images[21]), files.shards.place(&files.images[5]));
        let mut bytes = std::fs::read(&files.shards.files[1]).unwrap();
        bytes[second.from as usize + 7] ^= 1;
        std::fs::write(&files.shards.files[1], bytes).unwrap();
        let cut = std::fs::File::options().write(true).open(&files.shards.files[0]).unwrap();
        cut.set_len(sixth.from + 10).unwrap();
        let (windows, order) = files.windows(4, 0);
        let mut bytes = Vec::new();
        beside(
            &windows,
            |place| Some(&*files.images[order[place]]),
            || {
                for (number, batch) in windows.batches.clone().into_iter().enumerate() {
                    // Places 20 to 23 are the first images of file 0, in a run that is whole.
                    for place in batch {
                        assert_eq!(
                            windows.take(place, &mut bytes),
                            place < 24 && place != 1,
                            "{place}"
                        );
                    }
                    windows.made(number);
                }
            },
        );
        let (windows, order) = files.windows(4, 0);
        let failing = |place: usize| {
            assert!(place < 8, "planted: the reader's panic");
            Some(&*files.images[order[place]])
        };
        let work = || {
            assert!(windows.take(3, &mut bytes));
            let began = Instant::now();
            assert!(!windows.take(9, &mut bytes), "what will never come");
            assert!(began.elapsed() < Duration::from_secs(5), "told by the reader's end");
            assert!(windows.lock().ended);
        };
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            beside(&windows, failing, work);
        }));
        let why = *ended.unwrap_err().downcast::<&str>().unwrap();
        assert_eq!(why, "a scoped thread panicked");
    }
}
