//! The program break.

use core::ptr::NonNull;
use core::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Release},
};

use heapwright_core::{HeapBackend, New, OutOfMemory, Region};

use crate::fallback::{Owns, Stretch};
use crate::gap::Gaps;
use crate::round_up;
use crate::sys::{self, keeping_errno};

/// The program break, moved with `sbrk`: the oldest source of heap memory on Unix, contiguous, and
/// given back only from its end.
///
/// Other code may move the break too, and other values of this type may: a region then starts where
/// the break was found, which is not where the last one ended. The break goes down only where it stands
/// at the end of what is given back. Regions start and end at pages (but see below), so all of their
/// memory is fresh from the kernel, also where the break was lowered before, and reads as zero.
///
/// Costs two calls of `sbrk`, one of which is a system call, to grow, and as many to give back.
///
/// # Other threads
///
/// The C library's `sbrk` is not made for threads: two that move the break at once may be given the same
/// memory. Values of this type take turns. Against others what can be done is done: the break that `sbrk`
/// says it found is compared with the expected one, and a region that is not where it was expected is used
/// as it is or undone. A program whose C library's `malloc` moves the break in another thread is better
/// served by [`Mmap`](crate::Mmap). With musl, whose `sbrk` always refuses, there is no memory here at all.
///
/// # Invariants
///
/// Between `low` and `high` lies all that was given and not taken back. In it may be gaps and memory of
/// others, but no mapping, for the kernel maps nothing below the break.
#[derive(Debug)]
pub struct Sbrk {
    low: usize,
    high: usize,
    gaps: Gaps,
}

// SAFETY: the gaps are memory of this source, and go where it goes.
unsafe impl Send for Sbrk {}

impl New for Sbrk {
    const NEW: Self = Self { low: usize::MAX, high: 0, gaps: Gaps::NONE };
}

impl Default for Sbrk {
    fn default() -> Self {
        Self::NEW
    }
}

/// Whether some value is moving the break.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// A turn at moving the break. In a child of a process that forked in the middle of another thread's turn nobody ever
/// gives that back, so one who has waited long takes it over.
struct Turn;

impl Turn {
    /// How often a thread lets others run before: about a millisecond at the least.
    const PATIENCE: usize = 4096;

    fn wait() -> Self {
        for _ in 0..Self::PATIENCE {
            if !TAKEN.swap(true, Acquire) {
                break;
            }
            // SAFETY: a plain call.
            unsafe { libc::sched_yield() };
        }
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        TAKEN.store(false, Release);
    }
}

/// How often a growth is tried again when other threads keep moving the break.
const ATTEMPTS: usize = 16;

/// Moves the break by `by` bytes, and says where it was; `None` when that failed.
fn move_break(by: isize) -> Option<NonNull<u8>> {
    // SAFETY: memory above the old break is nobody's; whoever moves the break down sees to it that
    // nobody uses what lies between.
    let old = keeping_errno(|| unsafe { libc::sbrk(by) });
    if old as isize == -1 { None } else { NonNull::new(old.cast()) }
}

/// Moves the break from `from` down to `to`, if that is where it stands.
///
/// # Safety
///
/// What lies between is the caller's, and nobody uses it.
unsafe fn lower_break(from: usize, to: usize) -> bool {
    let size = (from - to) as isize;
    if move_break(0).is_none_or(|now| now.addr().get() != from) {
        return false;
    }
    match move_break(-size) {
        None => false,
        Some(was) if was.addr().get() == from => true,
        Some(_) => {
            // Another thread moved the break in just this moment: that was its memory.
            move_break(size);
            false
        }
    }
}

impl Sbrk {
    /// The program break.
    pub const fn new() -> Self {
        Self::NEW
    }

    /// Raises the break so that there are `size` bytes at a multiple of `align` above it.
    fn raise(&mut self, size: usize, align: usize) -> Option<Region> {
        let page = sys::page_size();
        let align = align.max(page);
        let _turn = Turn::wait();
        for _ in 0..ATTEMPTS {
            let now = move_break(0)?.addr().get();
            let start = round_up(now, align)?;
            let end = round_up(start.checked_add(size.max(1))?, page)?;
            let by = isize::try_from(end - now).ok()?;
            let was = move_break(by)?;
            let end = was.addr().get().checked_add(end - now)?;
            let start = round_up(was.addr().get(), align)?;
            if end > start && end - start >= size {
                let gap = start - was.addr().get();
                // SAFETY: the break was raised from `was` to `end`, so that is ours; the region and
                // the gap in front of it lie between. The start is at a multiple of a page.
                unsafe {
                    self.gaps.push(was, gap);
                    self.low = self.low.min(start);
                    self.high = self.high.max(end);
                    return Some(Region { start: was.add(gap), size: end - start, zeroed: true });
                }
            }
            // Another thread moved the break in between, and there is no room for the alignment now.
            // SAFETY: what was just obtained is unused.
            unsafe { lower_break(end, was.addr().get()) };
        }
        None
    }
}

// SAFETY: memory between an old break and a higher one is the mover's, readable and writable, until the
// break is lowered, which happens in `shrink` and `resize` only. Whole pages above the page of the old
// break are fresh from the kernel, hence zero, and regions start at a page.
unsafe impl HeapBackend for Sbrk {
    fn page_size(&self) -> usize {
        sys::page_size()
    }

    #[cold]
    fn grow(&mut self, size: usize, align: usize) -> Result<Region, OutOfMemory> {
        self.raise(size, align).ok_or(OutOfMemory)
    }

    #[cold]
    unsafe fn shrink(&mut self, region: Region) -> usize {
        let end = region.end();
        let to = round_up(region.addr(), sys::page_size()).unwrap_or(end);
        if to >= end || to < self.low || end > self.high {
            return 0;
        }
        let _turn = Turn::wait();
        // SAFETY: the caller promises that the region is ours and unused.
        unsafe {
            if !lower_break(end, to) {
                return 0;
            }
            self.high = to;
            if let Some(gap) = self.gaps.ending_at(to)
                && lower_break(to, gap.start.addr().get())
            {
                self.high = gap.start.addr().get();
                gap.forget();
            }
        }
        if self.high <= self.low {
            // Nothing is left.
            (self.low, self.high) = (usize::MAX, 0);
        }
        end - to
    }

    /// Where it stands, at the break. A region that is not there keeps its end when it is to shrink.
    #[cold]
    unsafe fn resize(&mut self, region: Region, new_size: usize, _: bool) -> Option<Region> {
        if new_size <= region.size {
            let keep = round_up(new_size.max(1), sys::page_size())?.min(region.size);
            // SAFETY: the caller promises a whole region of ours, and does not need its end.
            let taken = unsafe {
                let start = region.start.add(keep);
                self.shrink(Region { start, size: region.size - keep, zeroed: false })
            };
            return Some(Region { size: region.size - taken, zeroed: true, ..region });
        }
        if move_break(0)?.addr().get() != region.end() {
            return None;
        }
        let more = self.raise(new_size - region.size, 1)?;
        if more.addr() != region.end() {
            // Another thread moved the break in between.
            // SAFETY: what was just obtained is unused.
            unsafe { self.shrink(more) };
            return None;
        }
        Some(Region { size: region.size + more.size, zeroed: true, ..region })
    }

    #[cold]
    unsafe fn discard(&mut self, region: Region) -> bool {
        // SAFETY: the caller promises a part of a region, which is private anonymous memory.
        unsafe { sys::discard(region.addr(), region.end()) }
    }

    #[cold]
    unsafe fn populate(&mut self, region: Region) {
        // SAFETY: the caller promises a part of a region, which is private anonymous memory.
        unsafe { sys::populate(region.addr(), region.end()) };
    }

    #[cold]
    unsafe fn withdraw_huge_pages(&mut self, region: Region) {
        // SAFETY: the caller promises a part of a region, which is private anonymous memory.
        unsafe { sys::withdraw_huge_pages(region.addr(), region.end()) };
    }

    #[cold]
    fn is_readable(&self, addr: usize) -> bool {
        sys::is_readable(addr)
    }

    #[cold]
    fn is_present(&self, addr: usize) -> bool {
        sys::is_present(addr)
    }

    #[cold]
    fn entropy(&self) -> u64 {
        sys::entropy()
    }
}

impl Owns for Sbrk {
    fn stretch_below(&self, end: usize) -> Stretch {
        if end > self.high {
            Stretch { own: false, start: self.high }
        } else if end > self.low {
            Stretch { own: true, start: self.low }
        } else {
            Stretch { own: false, start: 0 }
        }
    }
}
