//! Memory that is used again. A training step asks for the same large blocks every time, and a fresh page
//! costs far more than a pass over it: where it was measured, writing fresh memory ran at 0.7 GB/s, memory
//! used before at 17.

use std::alloc::{GlobalAlloc, Layout, System};
use std::mem::MaybeUninit;
use std::sync::Mutex;

/// Bytes from which a block is kept.
const LARGE: usize = 64 * 1024;
/// Bytes from which a block is asked of the system on huge pages.
const HUGE: usize = 2 * 1024 * 1024;
/// Blocks that can be kept.
const SLOTS: usize = 1024;

/// An allocator that keeps large blocks for the next request of about their size; everything else goes to
/// the system's.
///
/// ```
/// #[global_allocator]
/// static MEMORY: crate::allocator::Recycler = crate::allocator::Recycler::new();
///
/// let first = vec![1.0_f32; 1 << 20];
/// let place = first.as_ptr();
/// drop(first);
/// assert_eq!(Vec::<f32>::with_capacity(1 << 20).as_ptr(), place);
/// ```
pub struct Recycler {
    kept: Mutex<Kept>,
}

struct Kept {
    /// Address and bytes of each block.
    blocks: [(usize, usize); SLOTS],
    count: usize,
    /// Bytes of all of them.
    bytes: usize,
    /// Bytes of large blocks that are in use.
    used: usize,
    /// The most that were.
    peak: usize,
}

impl Default for Recycler {
    fn default() -> Self {
        Self::new()
    }
}

/// The bytes of the block that serves a request: an eighth of waste at most.
fn rounded(bytes: usize) -> usize {
    let step = (bytes.next_power_of_two() / 16).max(4096);
    bytes.next_multiple_of(step)
}

fn alignment(bytes: usize) -> usize {
    if bytes >= HUGE { HUGE } else { 4096 }
}

fn large(layout: Layout) -> bool {
    layout.size() >= LARGE && layout.align() <= 4096
}

impl Recycler {
    /// Nothing kept yet.
    pub const fn new() -> Self {
        let kept = Kept { blocks: [(0, 0); SLOTS], count: 0, bytes: 0, used: 0, peak: 0 };
        Self { kept: Mutex::new(kept) }
    }

    /// A kept block of exactly so many bytes. Where none fits, old ones are given back until no more is held than
    /// was ever in use and half of it.
    fn take(&self, bytes: usize, mut give_back: impl FnMut(usize, usize)) -> Option<*mut u8> {
        let Ok(mut kept) = self.kept.lock() else { return None };
        kept.used += bytes;
        kept.peak = kept.peak.max(kept.used);
        let count = kept.count;
        // The newest first: it is the likeliest to be in a cache.
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

    /// Gives all that is kept back to the system.
    fn give_back_all(&self, give_back: impl Fn(usize, usize)) {
        let Ok(mut kept) = self.kept.lock() else { return };
        for i in 0..std::mem::take(&mut kept.count) {
            let (address, bytes) = kept.blocks[i];
            give_back(address, bytes);
        }
        kept.bytes = 0;
    }

    /// A block that was counted and is not there after all.
    fn not_in_use(&self, bytes: usize) {
        if let Ok(mut kept) = self.kept.lock() {
            kept.used -= bytes;
        }
    }

    /// Whether the block was kept.
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

    fn obtain(&self, bytes: usize, zeroed: bool) -> *mut u8 {
        let bytes = rounded(bytes);
        // SAFETY: `rounded` never gives zero and the alignments are powers of two; blocks were
        // made with the layout that belongs to their bytes.
        unsafe {
            let layout = |bytes| Layout::from_size_align_unchecked(bytes, alignment(bytes));
            let free = |address, bytes| System.dealloc(address as *mut u8, layout(bytes));
            if let Some(block) = self.take(bytes, free) {
                if zeroed {
                    block.write_bytes(0, bytes);
                }
                return block;
            }
            let ask = || match zeroed {
                // An aligned request would be written with zeros; fresh pages are zero already.
                true => System.alloc_zeroed(layout(bytes)),
                false => System.alloc(layout(bytes)),
            };
            let mut block = ask();
            if block.is_null() {
                // What is kept for later is in the way now.
                self.give_back_all(free);
                block = ask();
            }
            if block.is_null() {
                self.not_in_use(bytes);
            }
            #[cfg(target_os = "linux")]
            if bytes >= HUGE && !block.is_null() {
                // Advice; where the system does not follow it, nothing is lost.
                libc::madvise(block.cast(), bytes, libc::MADV_HUGEPAGE);
            }
            block
        }
    }
}

// SAFETY: a block is handed out to one owner at a time, with at least the bytes and the alignment asked for;
// all else is the system's.
unsafe impl GlobalAlloc for Recycler {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match large(layout) {
            true => self.obtain(layout.size(), false),
            // SAFETY: the caller's.
            false => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match large(layout) {
            true => self.obtain(layout.size(), true),
            // SAFETY: the caller's.
            false => unsafe { System.alloc_zeroed(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if large(layout) {
            let bytes = rounded(layout.size());
            if !self.keep(block as usize, bytes) {
                // SAFETY: made in `obtain` with this layout.
                unsafe {
                    let layout = Layout::from_size_align_unchecked(bytes, alignment(bytes));
                    System.dealloc(block, layout);
                }
            }
            return;
        }
        // SAFETY: the caller's.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's; both blocks have at least the bytes that are copied.
        unsafe {
            let wanted = Layout::from_size_align_unchecked(size, layout.align());
            if !large(layout) && !large(wanted) {
                return System.realloc(block, layout, size);
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

/// A vector of `count` values that `write` writes, without writing zeros first.
///
/// # Panics
/// When there is no memory for it. Any other failed allocation ends the process; here, where the maps are made, a caller
/// can catch it and ask for less.
///
/// # Safety
/// `write` writes every value.
pub(crate) unsafe fn written(
    count: usize,
    write: impl FnOnce(&mut [MaybeUninit<f32>]),
) -> Vec<f32> {
    let mut values: Vec<f32> = Vec::new();
    assert!(
        values.try_reserve_exact(count).is_ok(),
        "out of memory: no {} MB for a map",
        (4 * count).div_ceil(1 << 20)
    );
    write(&mut values.spare_capacity_mut()[..count]);
    // SAFETY: the caller's.
    unsafe { values.set_len(count) };
    values
}
