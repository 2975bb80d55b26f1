//! An allocator that recycles large blocks. A training step asks for the same large blocks every
//! time, and a fresh page costs far more than a pass over it: writing fresh memory was measured at
//! 0.7 GB/s, writing recycled memory at 17 GB/s.
//!
//! The library only offers [`Recycler`]; a binary makes it its global allocator.
//!
//! # Missing memory
//! Rust ends the process where an allocation fails, unless the caller asked with `try_reserve`.
//! Maps do (`written`), and a caller can catch their panic and ask for less. What is allocated
//! beside the maps (gradients, lists, the message of the panic) cannot. A program that calls
//! [`Recycler::guard`] therefore keeps a reserve: an allocation that finds no memory gets it, and
//! the next map is refused in its place, until the reserve is whole again. Where the reserve too is
//! used up, the process ends with a sentence and an exit code instead of Rust's message and
//! SIGABRT.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

/// Fewest bytes of a block that is recycled.
const LARGE: usize = 64 * 1024;
/// Fewest bytes of a block that is requested on huge pages.
const HUGE: usize = 2 * 1024 * 1024;
/// Most blocks that are kept.
const SLOTS: usize = 1024;
/// Bytes of the reserve: more than the weights of the largest network, whose gradients are made
/// when the graph of a failed pass is freed. No page of it is written: it takes addresses, no
/// memory. A block of more than 32 MB does not move the size from which glibc maps blocks of their
/// own.
const RESERVE: usize = 128 << 20;

/// Bytes from which a request that fails is left to the caller, who may have asked with
/// `try_reserve`, as `std::fs::read` and decoders do for a file that claims to be huge. Less is
/// missing only where nothing can be done any more.
const ODD: usize = 256 << 20;

/// Address of the reserve; 0 while there is none.
static RESERVED: AtomicUsize = AtomicUsize::new(0);

/// The allocator of the program, once it is guarded, and how the program ends without memory.
static GUARDED: OnceLock<Guarded> = OnceLock::new();

struct Guarded {
    allocator: &'static Recycler,
    #[cfg_attr(not(unix), expect(dead_code, reason = "there is no SIGABRT"))]
    last_words: &'static str,
    #[cfg_attr(not(unix), expect(dead_code, reason = "there is no SIGABRT"))]
    exit_code: i32,
}

thread_local! {
    /// Whether the caller can do without what it asks for.
    static FALLIBLE: Cell<bool> = const { Cell::new(false) };
    /// Whether the last request that had to be repeated failed.
    static EXHAUSTED: Cell<bool> = const { Cell::new(false) };
}

/// An allocator that keeps freed large blocks for the next request of about their size; every other
/// request goes to the system's allocator.
///
/// ```
/// #[global_allocator]
/// static MEMORY: kernels::allocator::Recycler = kernels::allocator::Recycler::new();
///
/// let first = vec![1.0_f32; 1 << 20];
/// let address = first.as_ptr();
/// drop(first);
/// assert_eq!(Vec::<f32>::with_capacity(1 << 20).as_ptr(), address);
/// ```
pub struct Recycler {
    kept: Mutex<Kept>,
}

struct Kept {
    /// Address and bytes of each kept block.
    blocks: [(usize, usize); SLOTS],
    count: usize,
    /// Bytes of all kept blocks.
    bytes: usize,
    /// Bytes of the large blocks in use.
    used: usize,
    /// The largest value of `used` so far.
    peak: usize,
}

impl Default for Recycler {
    fn default() -> Self {
        Self::new()
    }
}

/// The bytes of the block for a request; at most an eighth is wasted.
fn rounded(bytes: usize) -> usize {
    let step = (bytes.next_power_of_two() / 16).max(4096);
    bytes.next_multiple_of(step)
}

fn alignment(bytes: usize) -> usize {
    if bytes >= HUGE { HUGE } else { 4096 }
}

fn layout_of(bytes: usize) -> Layout {
    // SAFETY: the alignments are powers of two, and `rounded` sizes stay far below `isize::MAX`.
    unsafe { Layout::from_size_align_unchecked(bytes, alignment(bytes)) }
}

/// Returns a block that [`Recycler::obtain`] made of so many bytes.
fn give_back(address: usize, bytes: usize) {
    // SAFETY: made with the layout that belongs to its bytes, and owned by nobody else.
    unsafe { System.dealloc(address as *mut u8, layout_of(bytes)) }
}

fn large(layout: Layout) -> bool {
    layout.size() >= LARGE && layout.align() <= 4096
}

impl Recycler {
    /// An allocator without kept blocks.
    pub const fn new() -> Self {
        let kept = Kept { blocks: [(0, 0); SLOTS], count: 0, bytes: 0, used: 0, peak: 0 };
        Self { kept: Mutex::new(kept) }
    }

    /// A kept block of exactly so many bytes. If none fits, the oldest blocks are freed until kept
    /// and used blocks together are at most one and a half times the peak of the used ones.
    fn take(&self, bytes: usize) -> Option<*mut u8> {
        let Ok(mut kept) = self.kept.lock() else { return None };
        kept.used += bytes;
        kept.peak = kept.peak.max(kept.used);
        let count = kept.count;
        // The newest first: it is the most likely to be in a cache.
        if let Some(i) = kept.blocks[..count].iter().rposition(|block| block.1 == bytes) {
            let (address, _) = kept.blocks[i];
            kept.blocks.copy_within(i + 1..count, i);
            kept.count -= 1;
            kept.bytes -= bytes;
            return Some(address as *mut u8);
        }
        while kept.count > 0 && kept.bytes + kept.used > kept.peak + kept.peak / 2 {
            let (address, bytes) = kept.blocks[0];
            let count = kept.count;
            kept.blocks.copy_within(1..count, 0);
            kept.count -= 1;
            kept.bytes -= bytes;
            give_back(address, bytes);
        }
        None
    }

    /// Frees all kept blocks.
    fn give_back_all(&self) {
        let Ok(mut kept) = self.kept.lock() else { return };
        for i in 0..std::mem::take(&mut kept.count) {
            let (address, bytes) = kept.blocks[i];
            give_back(address, bytes);
        }
        kept.bytes = 0;
    }

    /// Uncounts a block whose allocation failed.
    fn not_in_use(&self, bytes: usize) {
        if let Ok(mut kept) = self.kept.lock() {
            if kept.peak == kept.used {
                kept.peak -= bytes;
            }
            kept.used -= bytes;
        }
    }

    /// Keeps a block, unless all slots are taken; whether it did.
    fn keep(&self, address: usize, bytes: usize) -> bool {
        let Ok(mut kept) = self.kept.lock() else { return false };
        kept.used -= bytes;
        let count = kept.count;
        if count == SLOTS {
            return false;
        }
        kept.blocks[count] = (address, bytes);
        kept.count += 1;
        kept.bytes += bytes;
        true
    }

    /// Keeps a reserve for allocations beside the maps from the first map on. Where that is used up
    /// too, the process writes `last_words` to standard error and ends with `exit_code`.
    ///
    /// `self` is the program's global allocator. A second call has no effect.
    pub fn guard(&'static self, last_words: &'static str, exit_code: i32) {
        if GUARDED.set(Guarded { allocator: self, last_words, exit_code }).is_err() {
            return;
        }
        #[cfg(unix)]
        // SAFETY: the handler reads constants and a thread's own cells, and calls only `write` and
        // `_exit`, which are safe in a handler.
        unsafe {
            let handler = on_abort as extern "C" fn(libc::c_int);
            libc::signal(libc::SIGABRT, handler as libc::sighandler_t);
        }
    }

    /// Asks the system. Where it has nothing left, gives the kept blocks and then the reserve back
    /// first.
    fn ask(&self, bytes: usize, ask: impl Fn() -> *mut u8) -> *mut u8 {
        let block = ask();
        match block.is_null() {
            false => block,
            true => self.ask_again(bytes, ask),
        }
    }

    #[cold]
    fn ask_again(&self, bytes: usize, ask: impl Fn() -> *mut u8) -> *mut u8 {
        self.give_back_all();
        let mut block = ask();
        if !block.is_null() || FALLIBLE.get() {
            return block;
        }
        if spend_reserve() {
            block = ask();
        }
        EXHAUSTED.set(block.is_null());
        if block.is_null() && bytes < ODD {
            end_without_memory();
        }
        block
    }

    fn obtain(&self, bytes: usize, zeroed: bool) -> *mut u8 {
        if bytes > isize::MAX as usize / 2 {
            EXHAUSTED.set(true);
            return std::ptr::null_mut();
        }
        let bytes = rounded(bytes);
        if let Some(block) = self.take(bytes) {
            if zeroed {
                // SAFETY: the block has so many bytes, and nobody else has it.
                unsafe { block.write_bytes(0, bytes) };
            }
            return block;
        }
        // SAFETY: `rounded` never gives zero.
        let block = self.ask(bytes, || unsafe {
            match zeroed {
                // Fresh pages are zero already; they need no pass that writes zeros.
                true => System.alloc_zeroed(layout_of(bytes)),
                false => System.alloc(layout_of(bytes)),
            }
        });
        if block.is_null() {
            self.not_in_use(bytes);
            return block;
        }
        EXHAUSTED.set(false);
        #[cfg(target_os = "linux")]
        if bytes >= HUGE {
            // SAFETY: the range is the block's. Advice only; a system may ignore it.
            unsafe { libc::madvise(block.cast(), bytes, libc::MADV_HUGEPAGE) };
        }
        block
    }
}

/// Gives the reserve back to the system; whether there was one.
fn spend_reserve() -> bool {
    let address = RESERVED.swap(0, Ordering::AcqRel);
    if address != 0 {
        // SAFETY: made by `reserve_is_whole` with this layout, and taken by this thread alone.
        unsafe { System.dealloc(address as *mut u8, reserve_layout()) };
    }
    address != 0
}

fn reserve_layout() -> Layout {
    Layout::from_size_align(RESERVE, 4096).expect("a power of two")
}

/// Whether nothing of the reserve is in use. A reserve that was spent is made anew if there is
/// memory for it again.
fn reserve_is_whole() -> bool {
    let Some(guarded) = GUARDED.get() else { return true };
    if RESERVED.load(Ordering::Relaxed) != 0 {
        return true;
    }
    // SAFETY: the size is not zero.
    let ask = || unsafe { System.alloc(reserve_layout()) };
    let mut block = ask();
    if block.is_null() {
        guarded.allocator.give_back_all();
        block = ask();
    }
    if block.is_null() {
        return false;
    }
    let made = RESERVED.compare_exchange(0, block as usize, Ordering::AcqRel, Ordering::Relaxed);
    if made.is_err() {
        // SAFETY: another thread was faster; this block is nobody's.
        unsafe { System.dealloc(block, reserve_layout()) };
    }
    true
}

/// Whether the system would give this process `bytes` of addresses now; they are given back at
/// once. Rust ends the process where a new thread finds no room for its signal stack, so a thread
/// is started only where there is room. Always true where addresses are not limited.
#[must_use]
pub fn has_room(bytes: usize) -> bool {
    #[cfg(target_os = "linux")]
    // SAFETY: the map is new, at an address of the system's choice, is not touched, and is given
    // back whole.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let map = libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0);
        map != libc::MAP_FAILED && libc::munmap(map, bytes) == 0
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = bytes;
        true
    }
}

/// Writes the last words of a guarded program and ends it with its code; returns where there is
/// none.
fn end_without_memory() {
    #[cfg(unix)]
    if let Some(Guarded { last_words, exit_code, .. }) = GUARDED.get() {
        // SAFETY: the range is the string's. Nothing can be done where it cannot be written. Both
        // calls allocate nothing and may be made in a signal's handler.
        unsafe {
            let _ = libc::write(2, last_words.as_ptr().cast(), last_words.len());
            libc::_exit(*exit_code);
        }
    }
}

/// Ends a process that Rust aborts because an allocation failed. Any other abort takes its course.
#[cfg(unix)]
extern "C" fn on_abort(_signal: libc::c_int) {
    if EXHAUSTED.get() {
        end_without_memory();
    }
}

// SAFETY: a block has one owner at a time, and at least the requested bytes and alignment; all else
// is the system's.
unsafe impl GlobalAlloc for Recycler {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match large(layout) {
            true => self.obtain(layout.size(), false),
            // SAFETY: the caller's.
            false => self.ask(layout.size(), || unsafe { System.alloc(layout) }),
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match large(layout) {
            true => self.obtain(layout.size(), true),
            // SAFETY: the caller's.
            false => self.ask(layout.size(), || unsafe { System.alloc_zeroed(layout) }),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if large(layout) {
            let bytes = rounded(layout.size());
            if !self.keep(block as usize, bytes) {
                give_back(block as usize, bytes);
            }
            return;
        }
        // SAFETY: the caller's.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's; both blocks have at least the bytes that are copied. A block that
        // could not be grown is still there to be asked for again.
        unsafe {
            let wanted = Layout::from_size_align_unchecked(size, layout.align());
            if !large(layout) && !large(wanted) {
                return self.ask(size, || System.realloc(block, layout, size));
            }
            if large(layout) && large(wanted) && rounded(size) == rounded(layout.size()) {
                return block;
            }
            let new = self.alloc(wanted);
            if !new.is_null() {
                new.copy_from_nonoverlapping(block, size.min(layout.size()));
                self.dealloc(block, layout);
            }
            new
        }
    }
}

/// An empty vector with room for `count` values; none where there is no memory for them. The
/// reserve is left alone.
pub fn try_with_capacity<T>(count: usize) -> Option<Vec<T>> {
    let mut values = Vec::new();
    let before = FALLIBLE.replace(true);
    let reserved = values.try_reserve_exact(count);
    FALLIBLE.set(before);
    reserved.ok().map(|()| values)
}

/// A vector of `count` values that `write` writes, without writing zeros first.
///
/// # Panics
/// When there is no memory for it, or when an allocation beside the maps has used up the reserve. A
/// caller can catch the panic and ask for less.
///
/// # Safety
/// `write` writes every value.
pub(crate) unsafe fn written(
    count: usize,
    write: impl FnOnce(&mut [MaybeUninit<f32>]),
) -> Vec<f32> {
    assert!(reserve_is_whole(), "out of memory: nothing left beside the maps");
    let Some(mut values) = try_with_capacity::<f32>(count) else {
        panic!("out of memory: no {} MB for a map", (4 * count).div_ceil(1 << 20));
    };
    write(&mut values.spare_capacity_mut()[..count]);
    // SAFETY: the caller's.
    unsafe { values.set_len(count) };
    values
}
