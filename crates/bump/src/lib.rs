//! A mark that only goes up: blocks follow each other, and none is ever freed.
//!
//! * **Good at:** speed. Allocating is an add and a compare, freeing is nothing at all, neighbours in
//!   time are neighbours in memory. A program that ends soon may be happy with it; in a comparison it is
//!   the limit row, what the other allocators spend their time *on*.
//! * **Bad at:** everything else. The footprint is the sum of all requests ever made.
//!
//! The oldest allocator there is (the `alloc` of K&R's *The C Programming Language*, 1978, §5.4, is one).
//!
//! Costs: 8 bytes a block on 64-bit machines, for its size, without which C's `realloc` and
//! `malloc_usable_size` could not be served; up to 15 bytes of rounding. Allocating is O(1), with a call
//! of the backend each 256 KiB or more. Zeroed memory that is fresh from the kernel is not zeroed again:
//! all memory above the mark is fresh. The last block is resized where it stands. Freeing the last block
//! could lower the mark, but each free would then have to look for that, and memory above the mark would
//! be fresh no more; so it does not. A block that was freed counts as one in use for ever, and misuse is
//! not found.
//!
//! ```
//! use heapwright_bump::Bump;
//!
//! #[global_allocator]
//! static HEAP: Bump = Bump::new();
//!
//! let words: Vec<String> = "never freed".split(' ').map(str::to_owned).collect();
//! assert_eq!(words.concat(), "neverfreed");
//! ```
//!
//! # Invariants
//!
//! ```text
//! region: | head | size | payload … | size | payload … | wilderness
//!                                                       ^ mark       ^ end
//! ```
//!
//! * from the first header of a region on, sizes lead from header to header, up to the mark in the newest
//!   region, to where the mark was left in an older one;
//! * headers stand where payloads are aligned to 16 bytes; padding for more alignment is a block of its own
//!   that is marked as such;
//! * memory at or above both `mark` and `dirty_to` is zero.
#![no_std]

use core::alloc::Layout;
use core::ptr::{self, NonNull};

#[cfg(not(target_os = "linux"))]
use heapwright_backends::Arena;
#[cfg(target_os = "linux")]
use heapwright_backends::Mmap;
use heapwright_backends::{Counting, grow_between};
use heapwright_core::{
    BlockInfo, BlockState, Broken, Engine, FutexMutex, GRANULE, HeapBackend, HeapError, Locked,
    New, Region, Stats, ensure, reallocate_by_moving,
};

/// The bump allocator over the backend `B`, under the lock `L`.
#[cfg(target_os = "linux")]
pub type Bump<B = Mmap, L = FutexMutex> = Locked<L, BumpHeap<B>>;

/// The bump allocator over the backend `B`, under the lock `L`.
#[cfg(not(target_os = "linux"))]
pub type Bump<B = Arena<'static>, L = FutexMutex> = Locked<L, BumpHeap<B>>;

/// The heap without a lock.
#[derive(Debug)]
pub struct BumpHeap<B: HeapBackend> {
    /// Where the next header goes.
    mark: *mut u8,
    /// Where the newest region ends.
    end: usize,
    /// Fresh memory below this address may be other than zero.
    dirty_to: usize,
    /// The newest region; the others hang on it.
    newest: *mut Head,
    /// The bytes of all regions are what it holds.
    source: Counting<B>,
}

/// Stands at the start of a region.
#[derive(Debug)]
struct Head {
    older: *mut Head,
    /// Of the whole region, as the backend gave it.
    start: NonNull<u8>,
    size: usize,
    /// Where the mark was left, once there is a newer region.
    mark: usize,
}

const WORD: usize = size_of::<usize>();

/// From the start of a region to its first header.
const FIRST: usize = (size_of::<Head>() + WORD).next_multiple_of(GRANULE) - WORD;

/// In a size: this block is padding. Sizes of payloads are a word less than a multiple of 16.
const PADDING: usize = 1;

/// The least that is asked of the backend at a time.
const GROWTH: usize = 256 << 10;

/// Larger blocks do not fit the address space; a bound that keeps sums from overflowing.
const MAX: usize = isize::MAX as usize / 2;

// SAFETY: all pointers lead into regions that belong to the heap alone and go where it goes.
unsafe impl<B: HeapBackend + Send> Send for BumpHeap<B> {}

impl<B: HeapBackend + New> New for BumpHeap<B> {
    const NEW: Self = Self::over(B::NEW);
}

/// The bytes that a block takes, header included. `size` is that of a layout, hence no overflow.
#[inline(always)]
const fn block_size(size: usize) -> usize {
    (size + WORD + GRANULE - 1) & !(GRANULE - 1)
}

impl<B: HeapBackend> BumpHeap<B> {
    /// An empty heap over a backend, which is first asked for memory by the first request.
    pub const fn over(backend: B) -> Self {
        Self {
            mark: ptr::null_mut(),
            end: 0,
            dirty_to: 0,
            newest: ptr::null_mut(),
            source: Counting::over(backend),
        }
    }

    /// The backend, to look at.
    pub const fn backend(&self) -> &B {
        self.source.inner()
    }

    #[inline(always)]
    fn room(&self) -> usize {
        self.end - self.mark.addr()
    }

    /// Makes the bytes from the mark on a block.
    ///
    /// # Safety
    ///
    /// `size` is a block size, and there is room for it.
    #[inline(always)]
    unsafe fn take(&mut self, size: usize) -> NonNull<u8> {
        // SAFETY: between mark and end lies memory of the newest region that nobody uses.
        unsafe {
            self.mark.cast::<usize>().write(size - WORD);
            let payload = self.mark.add(WORD);
            self.mark = self.mark.add(size);
            NonNull::new_unchecked(payload)
        }
    }

    /// A block that is aligned to more than 16 bytes, or for which there is no room.
    #[cold]
    #[inline(never)]
    fn take_slowly(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        let align = layout.align().max(GRANULE);
        if layout.size() > MAX || align > Self::LIMITS.max_align {
            return None;
        }
        let size = block_size(layout.size());
        if self.padding(align) + size > self.room() {
            self.grow(size, align)?;
        }
        let padding = self.padding(align);
        // SAFETY: there is room for both now; a padding is a multiple of 16, hence has room for its size.
        unsafe {
            if padding > 0 {
                self.mark.cast::<usize>().write((padding - WORD) | PADDING);
                self.mark = self.mark.add(padding);
            }
            Some(self.take(size))
        }
    }

    /// How many bytes lie between the mark and the header of an aligned block.
    fn padding(&self, align: usize) -> usize {
        (self.mark.addr() + WORD).wrapping_neg() & (align - 1)
    }

    /// Makes room for an aligned block of `size` bytes.
    fn grow(&mut self, size: usize, align: usize) -> Option<()> {
        let least = FIRST + size + align;
        let wished = (self.source.counts().held() / 8).max(GROWTH);
        let region = grow_between(&mut self.source, least, wished, GRANULE)
            .or_else(|error| {
                // At its very end a contiguous source may have just what is missing.
                let missing = (self.padding(align) + size).saturating_sub(self.room());
                if self.newest.is_null() || missing >= least {
                    return Err(error);
                }
                self.source.grow(missing, GRANULE)
            })
            .ok()?;
        // SAFETY: the backend just gave the region. The newest head, if any, is ours.
        unsafe {
            if region.size <= wished {
                // It will be used before long, and page faults cost more one by one.
                self.source.populate(region);
            }
            if let Some(newest) = self.newest.as_mut()
                && region.addr() == self.end
            {
                if !region.zeroed {
                    self.dirty_to = region.end();
                }
                newest.size += region.size;
                self.end = region.end();
            } else if region.size >= least {
                if let Some(newest) = self.newest.as_mut() {
                    newest.mark = self.mark.addr();
                }
                let head = region.start.cast::<Head>();
                let Region { start, size, .. } = region;
                head.write(Head { older: self.newest, start, size, mark: 0 });
                self.newest = head.as_ptr();
                self.mark = region.start.as_ptr().add(FIRST);
                self.end = region.end();
                self.dirty_to = if region.zeroed { 0 } else { region.end() };
            } else {
                // Meant to continue the newest region, but given elsewhere.
                self.source.shrink(region);
                return None;
            }
        }
        (self.padding(align) + size <= self.room()).then_some(())
    }

    /// Shows each region's head, its first header, and the address where its blocks end.
    fn regions(&self) -> impl Iterator<Item = (&Head, *mut u8, usize)> {
        let mut at = self.newest;
        core::iter::from_fn(move || {
            // SAFETY: the list holds the heads of regions of ours, which are longer than a head.
            unsafe {
                let head = at.as_ref()?;
                let end = if at == self.newest { self.mark.addr() } else { head.mark };
                let first = head.start.as_ptr().add(FIRST);
                at = head.older;
                Some((head, first, end))
            }
        })
    }

    /// Shows each block of a region: its payload and its size word.
    ///
    /// # Safety
    ///
    /// From `at` on, sizes lead from header to header up to `end`.
    unsafe fn blocks(mut at: *mut u8, end: usize) -> impl Iterator<Item = (usize, usize)> {
        core::iter::from_fn(move || {
            if at.addr() >= end {
                return None;
            }
            // SAFETY: the caller promises a header here, whose size leads to the next, or to the end.
            unsafe {
                let word = at.cast::<usize>().read();
                let payload = at.addr() + WORD;
                at = at.add(WORD + (word & !PADDING));
                Some((payload, word))
            }
        })
    }
}

// SAFETY: blocks are cut one behind the other from regions that belong to the heap, and are never used
// again; payloads are aligned to 16 bytes, or by padding to more.
unsafe impl<B: HeapBackend> Engine for BumpHeap<B> {
    #[inline]
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        let size = block_size(layout.size());
        if layout.align() <= GRANULE && size <= self.room() {
            // SAFETY: there is room.
            return Some(unsafe { self.take(size) });
        }
        self.take_slowly(layout)
    }

    #[inline]
    fn allocate_zeroed(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        let block = self.allocate(layout)?;
        if block.addr().get() < self.dirty_to {
            // SAFETY: the block is that long.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        Some(block)
    }

    /// Does nothing, and finds no misuse.
    #[inline]
    unsafe fn deallocate(&mut self, _: NonNull<u8>) -> Result<(), HeapError> {
        Ok(())
    }

    #[inline]
    unsafe fn reallocate(
        &mut self,
        block: NonNull<u8>,
        layout: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, HeapError> {
        // SAFETY: the caller promises a block of ours, in front of which its size stands.
        unsafe {
            let header = block.as_ptr().sub(WORD);
            let usable = header.cast::<usize>().read();
            if new_size <= usable {
                return Ok(block);
            }
            if new_size > MAX {
                return Err(HeapError::OutOfMemory);
            }
            if block.as_ptr().add(usable) == self.mark {
                let more = block_size(new_size) - WORD - usable;
                if more <= self.room() {
                    header.cast::<usize>().write(usable + more);
                    self.mark = self.mark.add(more);
                    return Ok(block);
                }
            }
            reallocate_by_moving(self, block, layout, new_size)
        }
    }

    #[inline]
    unsafe fn usable_size(&self, block: NonNull<u8>) -> usize {
        // SAFETY: the caller promises a block of ours, in front of which its size stands.
        unsafe { block.sub(WORD).cast::<usize>().read() }
    }

    /// Gives back whole pages above the mark.
    fn trim(&mut self) -> usize {
        // SAFETY: the newest head is ours; nobody uses what lies between mark and end.
        unsafe {
            let Some(newest) = self.newest.as_mut() else { return 0 };
            let page = self.source.page_size();
            let spare = self.end.saturating_sub(self.mark.addr().next_multiple_of(page));
            if spare == 0 {
                return 0;
            }
            let start = newest.start.add(newest.size - spare);
            let taken = self.source.shrink(Region { start, size: spare, zeroed: false });
            newest.size -= taken;
            self.end -= taken;
            taken
        }
    }

    fn stats(&self) -> Stats {
        let counts = self.source.counts();
        let mut stats = Stats {
            footprint: counts.held(),
            peak_footprint: counts.high_water,
            grows: counts.grows,
            shrinks: counts.shrinks,
            ..Stats::default()
        };
        stats.regions = self.regions().count();
        self.walk(&mut |block| stats.count(block));
        // Heads, padding, and what was left of older regions.
        stats.overhead = stats.footprint - stats.live_bytes - stats.free_bytes;
        stats
    }

    fn walk(&self, visit: &mut dyn FnMut(BlockInfo)) {
        for (_, first, end) in self.regions() {
            // SAFETY: blocks follow each other from the first header of a region on.
            for (address, word) in unsafe { Self::blocks(first, end) } {
                if word & PADDING == 0 {
                    visit(BlockInfo {
                        address,
                        size: word,
                        overhead: WORD,
                        state: BlockState::Used,
                        next_free: None,
                    });
                }
            }
            let room = self.room();
            if end == self.mark.addr() && room > WORD {
                visit(BlockInfo {
                    address: end + WORD,
                    size: room - WORD,
                    overhead: WORD,
                    state: BlockState::Wilderness,
                    next_free: None,
                });
            }
        }
    }

    fn check(&self) -> Result<(), Broken> {
        let mut held = 0;
        for (head, first, end) in self.regions() {
            let start = ptr::from_ref(head).addr();
            held += head.size;
            ensure(
                end >= first.addr() && end <= start + head.size,
                "blocks end before their region does",
                start,
            )?;
            let mut reached = first.addr();
            // SAFETY: each size is verified before it leads on.
            for (payload, word) in unsafe { Self::blocks(first, end) } {
                let size = word & !PADDING;
                ensure(
                    size <= end - payload && (size + WORD).is_multiple_of(GRANULE),
                    "sizes lead from header to header",
                    payload,
                )?;
                reached = payload + size;
            }
            ensure(reached == end, "the last block of a region ends at its mark", end)?;
        }
        let newest = self.newest.addr();
        ensure(held == self.source.counts().held(), "the regions' sizes add up", held)?;
        // SAFETY: the newest head is ours.
        let end = unsafe { self.newest.as_ref() }.map_or(0, |head| newest + head.size);
        ensure(end == self.end, "the newest region ends at the end", newest)
    }
}

impl<B: HeapBackend> Drop for BumpHeap<B> {
    fn drop(&mut self) {
        // SAFETY: nobody uses a block of a heap that is dropped, so no region is in use.
        unsafe {
            while let Some(&Head { older, start, size, .. }) = self.newest.as_ref() {
                self.newest = older;
                self.source.shrink(Region { start, size, zeroed: false });
            }
        }
    }
}
