//! Powers of two, one list each, nothing ever merged: the allocator of 4.2BSD.
//!
//! Written by Chris Kingsley in 1982 (`malloc.c` of 4.2BSD; described in Wilson, Johnstone, Neely and
//! Boles, 1995, §3.6, as *simple segregated storage* with powers of two, and the speed champion in
//! most comparisons of its time).
//!
//! * **Good at:** speed. A request is rounded up to a power of two and served from the list of that size;
//!   freeing pushes the block there. No search, no neighbours, a dozen instructions each.
//! * **Bad at:** space. A quarter of each block is unused on average, nearly half of it in the worst
//!   case: a request of just a power of two, because of the header. A page that was once carved into one
//!   size serves that size for ever.
//!
//! Costs: 8 bytes a block on 64-bit machines; allocating and freeing are O(1), carving a page O(blocks in
//! it); where the backend has no more, larger free blocks are split, and at the very last all blocks are
//! looked at, O(blocks), for a region without a block in use. Blocks of 128 KiB and more are regions of their own: kept in the lists when they are freed as long
//! as these hold no more than a quarter of the heap, or 4 MiB; beyond that given back; resized by
//! remapping. Alignments of more than 16 bytes are served inside a larger block.
//!
//! Every header carries a seal of its address and the block's state, so double frees and frees of what was
//! never allocated are found in O(1), O(regions) where the backend is not contiguous, and at the cost of
//! two system calls for a large block. Any address at all may be handed in. A large block that was given
//! back to the system and is freed again is an invalid free.
//!
//! ```
//! use heapwright_kingsley::Kingsley;
//!
//! #[global_allocator]
//! static HEAP: Kingsley = Kingsley::new();
//!
//! let squares: Vec<u64> = (1..=5).map(|number| number * number).collect();
//! assert_eq!(squares, [1, 4, 9, 16, 25]);
//! ```
//!
//! # Invariants
//!
//! ```text
//! region: | head | header | payload … | header | payload … | wilderness
//!                                                          ^ mark      ^ end
//! ```
//!
//! * from the first header of a region on, classes lead from header to header, up to the mark in the newest
//!   region, to where the mark was left in an older one;
//! * the list of a class holds the free blocks of that class, each once, and nothing else;
//! * memory at or above both `mark` and `dirty_to` is zero;
//! * and those of large blocks, which the module `large` states.
#![no_std]

mod header;
mod large;

use core::alloc::Layout;
use core::ptr::{self, NonNull};

#[cfg(not(target_os = "linux"))]
use heapwright_backends::Arena;
#[cfg(target_os = "linux")]
use heapwright_backends::Mmap;
use heapwright_backends::{Counting, Pile, grow_between};
use heapwright_core::{
    BlockInfo, BlockState, Broken, Engine, FutexMutex, GRANULE, HeapBackend, HeapError, Locked,
    New, Region, Stats, ensure, reallocate_by_moving,
};

use crate::header::{FREE, Header, INNER, KEPT, Key, LARGE, OUTER, STALE, USED, WORD};
use crate::large::Large;

/// The Kingsley allocator over the backend `B`, under the lock `L`.
#[cfg(target_os = "linux")]
pub type Kingsley<B = Mmap, L = FutexMutex> = Locked<L, KingsleyHeap<B>>;

/// The Kingsley allocator over the backend `B`, under the lock `L`.
#[cfg(not(target_os = "linux"))]
pub type Kingsley<B = Arena<'static>, L = FutexMutex> = Locked<L, KingsleyHeap<B>>;

/// The heap without a lock.
#[derive(Debug)]
pub struct KingsleyHeap<B: HeapBackend> {
    /// The first payload of the newest region, and how far the region reaches from there.
    first: usize,
    span: usize,
    /// The lists of free blocks, by class: payloads, each of which begins with the link to the next.
    free: [*mut u8; 64],
    /// Where the next header goes.
    mark: *mut u8,
    /// Where the newest region ends.
    end: usize,
    /// Fresh memory below this address may be other than zero.
    dirty_to: usize,
    /// The newest region; the others hang on it.
    newest: *mut Head,
    /// All large blocks.
    larges: *mut Large,
    /// Bytes of large blocks that were freed and are kept.
    kept: usize,
    key: Key,
    /// Bytes that the backend left of a region, too few for anything.
    lost: usize,
    misuses: usize,
    /// The bytes of all regions are what it holds.
    source: Counting<B>,
}

/// Stands at the start of a region of small blocks.
#[derive(Debug)]
struct Head {
    older: *mut Head,
    /// Of the whole region, as the backend gave it.
    start: NonNull<u8>,
    size: usize,
    /// Where the mark was left, once there is a newer region.
    mark: usize,
}

/// From the start of a region to its first header.
const FIRST: usize = (size_of::<Head>() + WORD).next_multiple_of(GRANULE) - WORD;

/// The smallest class: a block of 16 bytes.
const LEAST_CLASS: usize = GRANULE.ilog2() as usize;

/// The smallest class whose blocks are regions of their own: 128 KiB.
const LARGE_CLASS: usize = 17;

/// The largest payload of a small block.
const SMALL_MAX: usize = (1 << (LARGE_CLASS - 1)) - WORD;

/// The least that is carved at a time, if there is that much.
const PAGE: usize = 4096;

/// The least that is asked of the backend for small blocks at a time, if there is that much.
const GROWTH: usize = 64 << 10;

/// Larger blocks do not fit the address space; a bound that keeps sums from overflowing.
const MAX: usize = isize::MAX as usize / 4;

/// The class of the smallest block whose payload has `size` bytes, which are at most [`MAX`].
#[inline(always)]
fn class_of(size: usize) -> usize {
    let least = (size + WORD - 1) | (GRANULE - 1);
    (usize::BITS - least.leading_zeros()) as usize
}

// SAFETY: all pointers lead into regions that belong to the heap alone and go where it goes.
unsafe impl<B: HeapBackend + Send> Send for KingsleyHeap<B> {}

impl<B: HeapBackend + New> New for KingsleyHeap<B> {
    const NEW: Self = Self::over(B::NEW);
}

impl Head {
    fn start(&self) -> usize {
        self.start.addr().get()
    }

    fn region(&self) -> Region {
        Region { start: self.start, size: self.size, zeroed: false }
    }

    fn end(&self) -> usize {
        self.start() + self.size
    }

    /// The payload of the first block.
    fn first(&self) -> NonNull<u8> {
        // SAFETY: a region is longer than its head and a header.
        unsafe { self.start.add(FIRST + WORD) }
    }
}

impl<B: HeapBackend> KingsleyHeap<B> {
    /// An empty heap over a backend, which is first asked for memory by the first request.
    pub const fn over(backend: B) -> Self {
        Self {
            first: 0,
            span: 0,
            free: [ptr::null_mut(); 64],
            mark: ptr::null_mut(),
            end: 0,
            dirty_to: 0,
            newest: ptr::null_mut(),
            larges: ptr::null_mut(),
            kept: 0,
            key: Key::NONE,
            lost: 0,
            misuses: 0,
            source: Counting::over(backend),
        }
    }

    /// The backend, to look at.
    pub const fn backend(&self) -> &B {
        self.source.inner()
    }

    // ---- Taking blocks ------------------------------------------------------------------------

    /// Takes a block out of the list of its class, a small one.
    #[inline(always)]
    fn pop(&mut self, class: usize) -> Option<NonNull<u8>> {
        let list = &mut self.free[class & 63];
        let block = NonNull::new(*list)?;
        // SAFETY: a block in the list is ours, and its payload begins with the link to the next.
        unsafe {
            *list = block.cast::<*mut u8>().read();
            Header::write(block, self.key, class, USED);
        }
        Some(block)
    }

    /// Puts a block into the list of its class.
    ///
    /// # Safety
    ///
    /// It is ours, in no list, used by nobody, and of this class.
    #[inline(always)]
    unsafe fn push(&mut self, block: NonNull<u8>, class: usize) {
        let list = &mut self.free[class & 63];
        // SAFETY: the caller promises a block that is ours to write.
        unsafe {
            Header::write(block, self.key, class, FREE);
            block.cast::<*mut u8>().write(*list);
        }
        *list = block.as_ptr();
    }

    /// A block, when its list is empty, it is aligned to more than 16 bytes or a large one; and whether
    /// its payload is known to be zero.
    #[cold]
    #[inline(never)]
    fn allocate_slowly(&mut self, layout: Layout) -> Option<(NonNull<u8>, bool)> {
        let (size, align) = (layout.size(), layout.align());
        if align > Self::LIMITS.max_align {
            return None;
        }
        if self.key == Key::NONE {
            self.key = Key::draw(self.source.entropy());
        }
        if align <= GRANULE {
            if size > SMALL_MAX {
                return self.allocate_large(layout);
            }
            return self.carve(class_of(size));
        }
        // Room to move the payload up to the alignment.
        let room = size.checked_add(align - GRANULE).filter(|&room| room <= SMALL_MAX);
        let Some(room) = room else { return self.allocate_large(layout) };
        let class = class_of(room);
        let (outer, zeroed) = match self.pop(class) {
            Some(block) => (block, false),
            None => self.carve(class)?,
        };
        let offset = outer.addr().get().wrapping_neg() & (align - 1);
        if offset == 0 {
            return Some((outer, zeroed));
        }
        // SAFETY: the outer block has room for the inner one and, in front of it, for two words, since the
        // offset is a multiple of 16. The outer payload and the word in front of the inner header both
        // hold the offset; where it is 16 they are the same word.
        unsafe {
            let inner = outer.add(offset);
            outer.cast::<usize>().write(offset);
            inner.sub(2 * WORD).cast::<usize>().write(offset);
            Header::write(outer, self.key, class, OUTER);
            Header::write(inner, self.key, class, INNER);
            Some((inner, zeroed))
        }
    }

    #[inline(always)]
    fn room(&self) -> usize {
        self.end - self.mark.addr()
    }

    /// Carves a page, or a single block if it is larger, off the wilderness into blocks of a class; the
    /// first is returned, the others go into the list.
    fn carve(&mut self, class: usize) -> Option<(NonNull<u8>, bool)> {
        let size = 1 << class;
        let unit = size.max(PAGE);
        if self.room() < unit && self.grow(unit).is_none() && self.room() < size {
            // At the end of memory a single block will do.
            if self.grow(size).is_none()
                && (self.release_kept() == 0 || self.grow(size).is_none())
                && self.adopt_kept().is_none()
            {
                return self.carve_last(class);
            }
        }
        let count = unit.min(self.room()) >> class;
        let zeroed = self.mark.addr() >= self.dirty_to;
        // SAFETY: there is room for so many blocks, and nobody uses it.
        unsafe {
            let first = NonNull::new_unchecked(self.mark.add(WORD));
            let mut link = self.free[class & 63];
            for index in (1..count).rev() {
                let block = first.add(index << class);
                Header::write(block, self.key, class, FREE);
                block.cast::<*mut u8>().write(link);
                link = block.as_ptr();
            }
            self.free[class & 63] = link;
            self.mark = self.mark.add(count << class);
            Header::write(first, self.key, class, USED);
            Some((first, zeroed))
        }
    }

    /// The last resort: splits a free block of a larger class, or starts anew where nothing is in use.
    fn carve_last(&mut self, class: usize) -> Option<(NonNull<u8>, bool)> {
        let larger = (class + 1..LARGE_CLASS).find(|&larger| !self.free[larger].is_null());
        if let Some(larger) = larger {
            let block = self.pop(larger)?;
            // SAFETY: the block is ours and in no list; its halves follow each other within it.
            unsafe {
                for half in (class..larger).rev() {
                    self.push(block.add(1 << half), half);
                }
                Header::write(block, self.key, class, USED);
            }
            return Some((block, false));
        }
        if self.release_regions() == 0 {
            return None;
        }
        self.grow(1 << class)?;
        self.carve(class)
    }

    // ---- Regions of small blocks ----------------------------------------------------------------

    /// Makes room for a block of `size` bytes.
    fn grow(&mut self, size: usize) -> Option<()> {
        let least = FIRST + size;
        let wished = (self.source.held() / 32).max(GROWTH);
        let region = grow_between(&mut self.source, least, wished, GRANULE)
            .or_else(|error| {
                // At its very end a contiguous source may have just what is missing.
                if self.newest.is_null() || self.room() >= size {
                    return Err(error);
                }
                self.source.grow(size - self.room(), GRANULE)
            })
            .ok()?;
        // SAFETY: the backend just gave the region. The newest head, if any, is ours.
        unsafe {
            // It will be used before long, and page faults cost more one by one.
            self.source.populate(region);
            if let Some(newest) = self.newest.as_mut()
                && region.addr() == self.end
            {
                if !region.zeroed {
                    self.dirty_to = region.end();
                }
                newest.size += region.size;
                self.end = region.end();
                self.span += region.size;
            } else if region.size >= least {
                self.adopt(region);
            } else {
                // Meant to continue the newest region, but given elsewhere.
                self.source.shrink(region);
            }
        }
        (self.room() >= size).then_some(())
    }

    /// Makes a region the newest.
    ///
    /// # Safety
    ///
    /// It is ours, in no list, used by nobody, aligned to 16 bytes and longer than [`FIRST`].
    unsafe fn adopt(&mut self, region: Region) {
        self.retire();
        // SAFETY: the caller promises the region.
        unsafe {
            let head = region.start.cast::<Head>();
            let mark = region.start.as_ptr().add(FIRST);
            let Region { start, size, .. } = region;
            head.write(Head { older: self.newest, start, size, mark: mark.addr() });
            self.newest = head.as_ptr();
            self.mark = mark;
        }
        self.enter(if region.zeroed { 0 } else { region.end() });
    }

    /// What is left of the newest region becomes free blocks, the largest that fit, so that nothing is
    /// lost.
    fn retire(&mut self) {
        while self.room() >= 1 << LEAST_CLASS {
            let class = (self.room().ilog2() as usize).min(LARGE_CLASS - 1);
            // SAFETY: there is room for the block, and nobody uses it.
            unsafe {
                let block = NonNull::new_unchecked(self.mark.add(WORD));
                self.mark = self.mark.add(1 << class);
                self.push(block, class);
            }
        }
        // SAFETY: the newest head, if any, is ours.
        if let Some(newest) = unsafe { self.newest.as_mut() } {
            newest.mark = self.mark.addr();
        }
    }

    /// Takes over the bounds of the region that is the newest now.
    fn enter(&mut self, dirty_to: usize) {
        // SAFETY: the newest head, if any, is ours.
        match unsafe { self.newest.as_ref() } {
            Some(head) => {
                self.first = head.first().addr().get();
                self.end = head.end();
                self.span = self.end - self.first;
                self.dirty_to = dirty_to;
            }
            None => {
                self.mark = ptr::null_mut();
                (self.first, self.span, self.end, self.dirty_to) = (0, 0, 0, 0);
            }
        }
    }

    /// The regions of small blocks, each with the address where its blocks end.
    fn regions(&self) -> impl Iterator<Item = (&Head, usize)> {
        let mut at = self.newest;
        core::iter::from_fn(move || {
            // SAFETY: the list holds the heads of regions of ours.
            let head = unsafe { at.as_ref()? };
            let end = if at == self.newest { self.mark.addr() } else { head.mark };
            at = head.older;
            Some((head, end))
        })
    }

    /// The blocks of a region, as their payloads.
    fn blocks(key: Key, head: &Head, end: usize) -> impl Iterator<Item = (NonNull<u8>, Header)> {
        let mut at = head.first();
        core::iter::from_fn(move || {
            if at.addr().get() >= end {
                return None;
            }
            // SAFETY: from the first header on, classes lead to the next one, or to the end.
            unsafe {
                let (block, header) = (at, Header::read(at, key));
                // Of a header that is none, `check` hears before this leads anywhere.
                at = NonNull::new(at.as_ptr().wrapping_add(1 << header.class()))?;
                Some((block, header))
            }
        })
    }

    /// The region in which an address is a payload or part of one.
    #[inline]
    fn region_of(&self, addr: usize) -> Option<&Head> {
        let held = |head: &&Head| addr >= head.first().addr().get() && addr < head.end();
        self.regions().map(|(head, _)| head).find(held)
    }

    // ---- Giving blocks back ---------------------------------------------------------------------

    /// Whether a payload is in the newest region, aligned as payloads are.
    #[inline(always)]
    fn is_near(&self, block: NonNull<u8>) -> bool {
        let addr = block.addr().get();
        addr & (GRANULE - 1) == 0 && addr.wrapping_sub(self.first) < self.span
    }

    /// What a pointer that is given back leads to. Tolerates any address.
    fn find(&self, block: NonNull<u8>) -> Result<Found, HeapError> {
        let addr = block.addr().get();
        let invalid = Err(HeapError::InvalidFree(addr));
        if addr & (GRANULE - 1) != 0 {
            return invalid;
        }
        let Some(region) = self.region_of(addr) else {
            return match self.large_state(block) {
                Some(LARGE) => Ok(Found::Large),
                Some(_) => Err(HeapError::DoubleFree(addr)),
                None => invalid,
            };
        };
        // SAFETY: within a region, behind its first header, hence readable.
        let header = unsafe { Header::read(block, self.key) };
        match header.state() {
            USED => Ok(Found::Small(header.class())),
            FREE | STALE => Err(HeapError::DoubleFree(addr)),
            INNER => {
                // SAFETY: an inner header has the offset in front of it; where that was overwritten, the
                // outer payload is sought within the region only, and must be one.
                unsafe {
                    let offset = block.sub(2 * WORD).cast::<usize>().read();
                    let most = addr - region.first().addr().get();
                    if offset > most || offset & (GRANULE - 1) != 0 {
                        return Err(HeapError::Corrupted(addr));
                    }
                    let outer = block.sub(offset);
                    let header = Header::read(outer, self.key);
                    if header.state() != OUTER || offset >= 1 << header.class() {
                        return Err(HeapError::Corrupted(addr));
                    }
                    Ok(Found::Inner(outer, header.class()))
                }
            }
            _ => invalid,
        }
    }

    /// Frees what is not a block of the newest region.
    #[cold]
    #[inline(never)]
    unsafe fn deallocate_slowly(&mut self, block: NonNull<u8>) -> Result<(), HeapError> {
        match self.find(block) {
            // SAFETY: found to be a block in use.
            Ok(found) => unsafe {
                match found {
                    Found::Small(class) => self.push(block, class),
                    Found::Inner(outer, class) => {
                        Header::write(block, self.key, class, STALE);
                        self.push(outer, class);
                    }
                    Found::Large => self.deallocate_large(block),
                }
                Ok(())
            },
            Err(error) => {
                self.misuses += 1;
                Err(error)
            }
        }
    }

    /// Gives back all regions in which nothing is in use.
    #[cold]
    fn release_unused(&mut self) -> usize {
        self.release_kept() + self.release_regions()
    }

    /// Gives back the regions of small blocks in which no block is in use.
    fn release_regions(&mut self) -> usize {
        let mut pile = Pile::new();
        let (mark, dirty_to, was_newest) = (self.mark, self.dirty_to, self.newest);
        // SAFETY: the list holds the heads of regions of ours. Those on the pile are in no list, nor are
        // their blocks, since all lists are made anew.
        unsafe {
            let Some(newest) = self.newest.as_mut() else { return 0 };
            newest.mark = mark.addr();
            let mut link = &raw mut self.newest;
            let mut unused = false;
            while let Some(head) = (*link).as_mut() {
                let used = |(_, header): (_, Header)| matches!(header.state(), USED | OUTER);
                if Self::blocks(self.key, head, head.mark).any(used) {
                    link = &raw mut head.older;
                    continue;
                }
                *link = head.older;
                pile.push(head.region());
                unused = true;
            }
            if !unused {
                return 0;
            }
            if self.newest != was_newest
                && let Some(newest) = self.newest.as_ref()
            {
                // What was left of it is free blocks.
                let start = newest.start.as_ptr();
                self.mark = start.add(newest.mark - start.addr());
                self.enter(newest.end());
            } else {
                self.enter(dirty_to);
            }
            self.list_anew();
            pile.sort();
            let mut taken = 0;
            while let Some(region) = pile.pop() {
                taken += self.give_back(region);
            }
            taken
        }
    }

    /// Makes the lists of small blocks anew from what the headers say.
    fn list_anew(&mut self) {
        self.free[..LARGE_CLASS].fill(ptr::null_mut());
        let mut at = self.newest;
        // SAFETY: the list holds the heads of regions of ours; free blocks are ours to write.
        unsafe {
            while let Some(head) = at.as_ref() {
                let end = if at == self.newest { self.mark.addr() } else { head.mark };
                for (block, header) in Self::blocks(self.key, head, end) {
                    if header.state() == FREE {
                        self.push(block, header.class());
                    }
                }
                at = head.older;
            }
        }
    }

    /// Gives back whole pages of the wilderness.
    fn trim_end(&mut self) -> usize {
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
            self.span -= taken;
            taken
        }
    }

    /// What `walk` shows of a small block.
    fn describe(block: NonNull<u8>, header: Header) -> BlockInfo {
        let (address, whole) = (block.addr().get(), 1 << header.class());
        let size = whole - WORD;
        let used = |address, size| BlockInfo {
            address,
            size,
            overhead: whole - size,
            state: BlockState::Used,
            next_free: None,
        };
        // SAFETY: the payload of an outer block begins with the offset of the inner one, that of a free
        // block with the link to the next.
        unsafe {
            match header.state() {
                OUTER => {
                    let offset = block.cast::<usize>().read();
                    used(address + offset, size - offset)
                }
                FREE => {
                    let next = block.cast::<*mut u8>().read();
                    let next_free = NonNull::new(next).map(|next| next.addr().get());
                    BlockInfo { state: BlockState::Free, next_free, ..used(address, size) }
                }
                _ => used(address, size),
            }
        }
    }

    fn larges(&self) -> impl Iterator<Item = &Large> {
        let mut at = self.larges;
        core::iter::from_fn(move || {
            // SAFETY: the list holds large blocks of ours.
            let large = unsafe { at.as_ref()? };
            at = large.next;
            Some(large)
        })
    }

    fn check_lists(&self, mut counts: [usize; LARGE_CLASS]) -> Result<(), Broken> {
        for (class, count) in counts.iter_mut().enumerate() {
            let mut at = self.free[class];
            while let Some(block) = NonNull::new(at) {
                let addr = at.addr();
                ensure(*count > 0, "a list holds each free block of its class once", addr)?;
                *count -= 1;
                ensure(self.region_of(addr).is_some(), "what is in a list is in a region", addr)?;
                // SAFETY: within a region; free blocks begin with the link.
                unsafe {
                    let header = Header::read(block, self.key);
                    ensure(
                        header.state() == FREE && header.class() == class,
                        "what is in a list is a free block of its class",
                        addr,
                    )?;
                    at = block.cast::<*mut u8>().read();
                }
            }
            ensure(*count == 0, "every free block is in the list of its class", class)?;
        }
        Ok(())
    }

    fn check_larges(&self) -> Result<(), Broken> {
        let (mut kept, mut count, mut previous) = (0, 0_usize, ptr::null());
        for large in self.larges() {
            let addr = large.payload().addr().get();
            ensure(
                large.previous.cast_const() == previous,
                "large blocks are doubly linked",
                addr,
            )?;
            previous = ptr::from_ref(large);
            // SAFETY: a large block has a header.
            let state = unsafe { Header::read(large.payload(), self.key) }.state();
            ensure(state == LARGE || state == KEPT, "a large block's header says so", addr)?;
            if state == KEPT {
                kept += large.region().size;
                count += 1;
            }
        }
        ensure(kept == self.kept, "the sizes of what is kept add up", kept)?;
        for class in LARGE_CLASS..self.free.len() {
            let mut at = self.free[class];
            while let Some(block) = NonNull::new(at) {
                ensure(count > 0, "what is kept is in one list", at.addr())?;
                count -= 1;
                // SAFETY: what is in the list of a large class is a kept region.
                unsafe {
                    let size = (*Large::of(block)).region().size;
                    ensure(
                        Header::read(block, self.key).state() == KEPT && size >> class == 1,
                        "what is kept is in the list of its size",
                        at.addr(),
                    )?;
                    at = block.cast::<*mut u8>().read();
                }
            }
        }
        ensure(count == 0, "what is kept is in a list", count)
    }
}

/// What a pointer leads to that is given back rightly.
enum Found {
    /// A small block, of this class.
    Small(usize),
    /// The aligned address in an outer block, of this class.
    Inner(NonNull<u8>, usize),
    /// A large block.
    Large,
}

// SAFETY: small blocks are carved one behind the other from regions that belong to the heap, large ones are
// such regions; a block is in use or in the list of its class, never both. Payloads are aligned to 16 bytes,
// or moved up within their block to more.
unsafe impl<B: HeapBackend> Engine for KingsleyHeap<B> {
    #[inline]
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        if layout.align() <= GRANULE
            && layout.size() <= SMALL_MAX
            && let Some(block) = self.pop(class_of(layout.size()))
        {
            return Some(block);
        }
        self.allocate_slowly(layout).map(|(block, _)| block)
    }

    #[inline]
    fn allocate_zeroed(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        if layout.align() <= GRANULE
            && layout.size() <= SMALL_MAX
            && let Some(block) = self.pop(class_of(layout.size()))
        {
            // SAFETY: the block is that long.
            unsafe { block.write_bytes(0, layout.size()) };
            return Some(block);
        }
        let (block, zeroed) = self.allocate_slowly(layout)?;
        if !zeroed {
            // SAFETY: the block is that long.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        Some(block)
    }

    #[inline]
    unsafe fn deallocate(&mut self, block: NonNull<u8>) -> Result<(), HeapError> {
        // SAFETY: within a region, behind its first header, there is a word in front to be read. A header
        // that says so is that of a block in use.
        unsafe {
            if self.is_near(block) {
                let header = Header::read(block, self.key);
                if header.state() == USED {
                    self.push(block, header.class());
                    return Ok(());
                }
            }
            self.deallocate_slowly(block)
        }
    }

    /// Stays where the block is long enough, also for much less; a large block lets go of its end.
    #[inline]
    unsafe fn reallocate(
        &mut self,
        block: NonNull<u8>,
        layout: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, HeapError> {
        let usable = match self.find(block) {
            Ok(Found::Small(class)) => (1 << class) - WORD,
            Ok(Found::Inner(outer, class)) => {
                (1 << class) - WORD - (block.addr().get() - outer.addr().get())
            }
            // SAFETY: found to be a large block in use; the caller promises the rest.
            Ok(Found::Large) => unsafe {
                return self.reallocate_large(block, layout, new_size);
            },
            Err(error) => {
                self.misuses += 1;
                return Err(error);
            }
        };
        if new_size <= usable {
            return Ok(block);
        }
        // SAFETY: found to be a block in use; the caller promises the rest.
        unsafe { reallocate_by_moving(self, block, layout, new_size) }
    }

    unsafe fn resize(
        &mut self,
        block: NonNull<u8>,
        new_size: usize,
    ) -> Result<NonNull<u8>, HeapError> {
        if let Err(error) = self.find(block) {
            self.misuses += 1;
            return Err(error);
        }
        // SAFETY: found to be a block in use, hence its size can be read; the caller promises the rest.
        unsafe {
            let layout = Layout::from_size_align_unchecked(self.usable_size(block), GRANULE);
            self.reallocate(block, layout, new_size)
        }
    }

    #[inline]
    unsafe fn usable_size(&self, block: NonNull<u8>) -> usize {
        // SAFETY: the caller promises a block of ours, in front of which its header stands.
        unsafe {
            let header = Header::read(block, self.key);
            let whole = 1 << header.class();
            match header.state() {
                LARGE => (*Large::of(block)).usable(),
                INNER => whole - WORD - block.sub(2 * WORD).cast::<usize>().read(),
                _ => whole - WORD,
            }
        }
    }

    /// Gives back what is kept, regions without a block in use, and the end of the newest region. Costs a
    /// walk over all small blocks.
    fn trim(&mut self) -> usize {
        self.release_unused() + self.trim_end()
    }

    fn stats(&self) -> Stats {
        let counts = self.source.counts();
        let mut stats = Stats {
            footprint: counts.held(),
            peak_footprint: counts.high_water,
            regions: self.regions().count(),
            grows: counts.grows,
            shrinks: counts.shrinks,
            misuses: self.misuses,
            ..Stats::default()
        };
        self.walk(&mut |block| stats.count(block));
        // Headers, heads, and what alignment and the ends of regions leave.
        stats.overhead = stats.footprint - stats.live_bytes - stats.free_bytes - stats.cached_bytes;
        stats
    }

    fn walk(&self, visit: &mut dyn FnMut(BlockInfo)) {
        for (head, end) in self.regions() {
            for (block, header) in Self::blocks(self.key, head, end) {
                visit(Self::describe(block, header));
            }
            let room = self.room();
            if ptr::from_ref(head) == self.newest.cast_const() && room > WORD {
                visit(BlockInfo {
                    address: end + WORD,
                    size: room - WORD,
                    overhead: WORD,
                    state: BlockState::Wilderness,
                    next_free: None,
                });
            }
        }
        for large in self.larges() {
            let size = large.usable();
            let info = BlockInfo {
                address: large.payload().addr().get(),
                size,
                overhead: large.region().size - size,
                state: BlockState::Mapped,
                next_free: None,
            };
            // SAFETY: a large block has a header; the payload of one that is kept begins with the link.
            visit(unsafe {
                if Header::read(large.payload(), self.key).state() == KEPT {
                    let next = large.payload().cast::<*mut u8>().read();
                    let next_free = NonNull::new(next).map(|next| next.addr().get());
                    BlockInfo { state: BlockState::Cached, next_free, ..info }
                } else {
                    info
                }
            });
        }
    }

    fn check(&self) -> Result<(), Broken> {
        let (mut held, mut counts) = (0, [0; LARGE_CLASS]);
        for (head, end) in self.regions() {
            held += head.size;
            ensure(
                end >= head.start() + FIRST && end <= head.end(),
                "the mark is within its region",
                head.start(),
            )?;
            let mut reached = head.start() + FIRST;
            for (block, header) in Self::blocks(self.key, head, end) {
                let (addr, class) = (block.addr().get(), header.class());
                ensure(
                    matches!(header.state(), USED | FREE | OUTER),
                    "a block begins with its header",
                    addr,
                )?;
                ensure(
                    (LEAST_CLASS..LARGE_CLASS).contains(&class) && 1 << class <= end - reached,
                    "classes lead from header to header",
                    addr,
                )?;
                if header.state() == FREE {
                    counts[class] += 1;
                }
                if header.state() == OUTER {
                    // SAFETY: the payload of an outer block begins with the offset of the inner one.
                    let found = unsafe {
                        let offset = block.cast::<usize>().read();
                        offset < 1 << class
                            && offset & (GRANULE - 1) == 0
                            && Header::read(block.add(offset), self.key).state() == INNER
                    };
                    ensure(found, "an outer block holds an inner one", addr)?;
                }
                reached += 1 << class;
            }
            ensure(reached == end, "the last block of a region ends at its mark", end)?;
        }
        held += self.larges().map(|large| large.region().size).sum::<usize>();
        ensure(held + self.lost == self.source.held(), "the regions' sizes add up", held)?;
        self.check_lists(counts)?;
        self.check_larges()
    }
}

impl<B: HeapBackend> Drop for KingsleyHeap<B> {
    fn drop(&mut self) {
        let mut pile = Pile::new();
        // SAFETY: nobody uses a block of a heap that is dropped, so no region is in use.
        unsafe {
            while let Some(head) = self.newest.as_ref() {
                self.newest = head.older;
                pile.push(head.region());
            }
            while let Some(large) = self.larges.as_ref() {
                self.larges = large.next;
                pile.push(large.region());
            }
            pile.sort();
            while let Some(region) = pile.pop() {
                self.source.shrink(region);
            }
        }
    }
}
