//! A plain engine that is right, and engines each of which is wrong in one way: what the suite is tested
//! with.
//!
//! All bookkeeping is kept outside the blocks, in the standard library's collections, so that an engine
//! that is wrong spoils nothing but what it manages.

#![allow(dead_code, unreachable_pub)] // Each test binary uses a part.

use core::alloc::Layout;
use core::marker::PhantomData;
use core::ops::Range;
use core::ptr::{self, NonNull};
use std::collections::{BTreeMap, BTreeSet};
use std::thread::{self, ThreadId};

use heapwright_backends::Mmap;
use heapwright_core::{
    BlockInfo, BlockState, Broken, Engine, FutexMutex, HeapBackend, HeapError, Limits, Locked, New,
    Region, Stats, ensure, reallocate_by_moving,
};

/// What is wrong with an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    None,
    /// A block is as long as its request rounded down.
    Overlaps,
    /// Alignments beyond 16 are ignored.
    IgnoresAlignment,
    /// Alignments from a page on are ignored.
    IgnoresLargeAlignment,
    /// Zeroed memory is not zeroed.
    DoesNotZero,
    /// Memory fresh from the backend is thought to be zero.
    TrustsFreshMemory,
    /// Zeroed memory is zero but for its last bytes.
    ZeroesTooLittle,
    /// Some freed blocks never serve again.
    LosesFreedBlocks,
    /// Blocks that a thread other than their maker frees are not freed.
    LosesForeignFrees,
    /// Free neighbours are not merged.
    DoesNotMerge,
    /// Freeing a free block is fine.
    MissesDoubleFree,
    /// A block that was merged with the one before it may be freed again.
    MissesMergedDoubleFree,
    /// Freeing an address that was never given is fine.
    MissesInvalidFree,
    /// Freeing an address inside a block is fine.
    MissesInnerFree,
    /// Misuse is found by `deallocate` only.
    MissesMisuseInReallocate,
    /// A double free is called invalid.
    ConfusesErrors,
    /// A misuse is not counted.
    DoesNotCountMisuse,
    /// A misuse is refused, and a block is freed.
    FreesAnotherOnMisuse,
    /// A block that moves leaves its contents behind.
    DoesNotCopy,
    /// A block that moves leaves its last bytes behind.
    CopiesTooLittle,
    /// A block that moves in a resize loses its alignment.
    ResizesUnaligned,
    /// A resize that fails frees the block.
    FreesOnFailedResize,
    /// A resize never stays in place.
    AlwaysMoves,
    /// When the backend fails, the free blocks are forgotten.
    ForgetsOnFailure,
    /// When the backend fails once, the heap never asks it again.
    GivesUpOnFailure,
    /// Memory that the backend would not take back is forgotten.
    ForgetsRefusedMemory,
    /// Sizes are cut to 32 bits.
    TruncatesSizes,
    /// Empty requests all get the same block.
    SharesEmptyBlocks,
    /// A block resized to nothing has no byte.
    ResizesToNothing,
    /// More bytes are said to be usable than are.
    OverstatesUsable,
    /// Freeing a block writes into the one behind it.
    ScribblesOnFree,
    /// One request of many is refused without a reason.
    FailsAtTimes,
    /// Live bytes are not counted when a block is resized.
    LiesAboutLive,
    /// What was given back still counts.
    LiesAboutFootprint,
    /// The peak is what is held now.
    LiesAboutPeak,
    /// The peak is more than there ever was.
    OverstatesPeak,
    /// Overhead is left out.
    LiesAboutOverhead,
    /// The largest free block is the first one.
    LiesAboutLargest,
    /// `walk` leaves out a block.
    WalksPast,
    /// `walk` shows a block twice.
    WalksTwice,
    /// `walk` goes by falling address.
    WalksBackwards,
    /// `walk` shows free blocks as in use.
    WalksFreeAsUsed,
    /// One region does not go back when the heap is dropped.
    LeaksOnDrop,
    /// A trim gives the same memory back twice.
    ShrinksTwice,
    /// A trim gives back nothing.
    DoesNotTrim,
    /// A trim says less than it gave.
    UnderstatesTrim,
    /// A trim clears the first block in use.
    TrimsLiveMemory,
    /// A heap that was moved frees nothing.
    CannotMove,
    /// A region is thought to begin where the last one ended.
    AssumesContiguity,
    /// `check` finds fault where there is none.
    ChecksTooMuch,
    /// Limits are said and not kept.
    IgnoresLimits,
}

/// Chooses a mistake, and limits, at compile time.
pub trait Kind: Send + Sync + 'static {
    const MISTAKE: Mistake;
    const LIMITS: Limits = Limits::GENERAL;
    /// Whether freed blocks are used again.
    const FREES: bool = true;
}

/// Nothing is wrong.
pub struct Right;
impl Kind for Right {
    const MISTAKE: Mistake = Mistake::None;
}

/// The engine under a lock.
pub type Toy<B = Mmap, L = FutexMutex, K = Right> = Locked<L, ToyHeap<B, K>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    size: usize,
    used: bool,
    /// Free, and never to be used again: a mistake.
    lost: bool,
    maker: Option<ThreadId>,
}

/// First fit by address over a map of all blocks, which tile the regions.
pub struct ToyHeap<B: HeapBackend, K: Kind> {
    backend: B,
    /// Start and end of what the backend gave; those that touch are one.
    regions: BTreeMap<usize, usize>,
    blocks: BTreeMap<usize, Block>,
    free: BTreeSet<usize>,
    /// Addresses that were freed, and that nothing else was allocated over.
    freed: BTreeSet<usize>,
    stats: Stats,
    requests: usize,
    failed: bool,
    home: usize,
    empty: Option<usize>,
    kind: PhantomData<K>,
}

const GRANULE: usize = 16;
const GROWTH: usize = 64 << 10;

fn round_up(value: usize, to: usize) -> Option<usize> {
    Some(value.checked_add(to - 1)? & !(to - 1))
}

fn to_ptr(addr: usize) -> Option<NonNull<u8>> {
    NonNull::new(ptr::with_exposed_provenance_mut(addr))
}

impl<B: HeapBackend + New, K: Kind> New for ToyHeap<B, K> {
    const NEW: Self = Self::over(B::NEW);
}

impl<B: HeapBackend, K: Kind> ToyHeap<B, K> {
    pub const fn over(backend: B) -> Self {
        Self {
            backend,
            regions: BTreeMap::new(),
            blocks: BTreeMap::new(),
            free: BTreeSet::new(),
            freed: BTreeSet::new(),
            stats: Stats {
                live_bytes: 0,
                live_blocks: 0,
                free_bytes: 0,
                free_blocks: 0,
                largest_free: 0,
                cached_bytes: 0,
                cached_blocks: 0,
                overhead: 0,
                footprint: 0,
                peak_footprint: 0,
                regions: 0,
                mapped_blocks: 0,
                grows: 0,
                shrinks: 0,
                misuses: 0,
            },
            requests: 0,
            failed: false,
            home: 0,
            empty: None,
            kind: PhantomData,
        }
    }

    const fn has(mistake: Mistake) -> bool {
        K::MISTAKE as u8 == mistake as u8
    }

    fn block_size(size: usize) -> Option<usize> {
        let size = if Self::has(Mistake::TruncatesSizes) { size & 0xFFFF_FFFF } else { size };
        if Self::has(Mistake::Overlaps) && size > 2 * GRANULE {
            return Some(size & !(GRANULE - 1));
        }
        round_up(size.max(1), GRANULE)
    }

    /// Enters a free block, merged with its free neighbours.
    fn enter_free(&mut self, mut at: usize, mut size: usize) {
        self.blocks.remove(&at);
        if !Self::has(Mistake::DoesNotMerge) {
            let region_end = |addr| self.regions.range(..=addr).next_back().map(|(_, &end)| end);
            if let Some((&before, block)) = self.blocks.range(..at).next_back()
                && self.free.contains(&before)
                && before + block.size == at
                && region_end(before) == region_end(at)
            {
                size += block.size;
                at = before;
            }
            let behind = at + size;
            if let Some(block) = self.blocks.get(&behind)
                && self.free.contains(&behind)
            {
                size += block.size;
                self.blocks.remove(&behind);
                self.free.remove(&behind);
            }
        }
        self.blocks.insert(at, Block { size, used: false, lost: false, maker: None });
        self.free.insert(at);
    }

    /// Takes `size` bytes at a multiple of `align` out of a free block.
    fn cut(&mut self, size: usize, align: usize) -> Option<usize> {
        let fits = |&at: &usize| {
            let block = self.blocks.get(&at)?;
            let start = round_up(at, align)?;
            (start.checked_add(size)? <= at + block.size).then_some((at, *block, start))
        };
        let (at, block, start) = self.free.iter().find_map(fits)?;
        self.free.remove(&at);
        self.blocks.remove(&at);
        if start > at {
            self.blocks.insert(at, Block { size: start - at, ..block });
            self.free.insert(at);
        }
        let rest = at + block.size - (start + size);
        if rest > 0 {
            self.blocks.insert(start + size, Block { size: rest, ..block });
            self.free.insert(start + size);
        }
        let maker = Some(thread::current().id());
        self.blocks.insert(start, Block { size, used: true, lost: false, maker });
        self.forget_freed(start..start + size);
        Some(start)
    }

    /// Addresses at which something else lies now, or nothing.
    fn forget_freed(&mut self, range: Range<usize>) {
        while let Some(addr) = self.freed.range(range.clone()).next().copied() {
            self.freed.remove(&addr);
        }
    }

    /// Gets more memory, so that `size` bytes at a multiple of `align` can be cut.
    fn grow(&mut self, size: usize, align: usize) -> Option<()> {
        if Self::has(Mistake::GivesUpOnFailure) && self.failed {
            return None;
        }
        let spare = size.checked_add(align)?.checked_add(2 * GRANULE)?;
        // With a backend that continues, as much as is missing behind the last free block is enough.
        let tail = self.blocks.iter().next_back().filter(|&(at, _)| self.free.contains(at));
        let missing = tail.map_or(spare, |(_, block)| size.saturating_sub(block.size).max(1));
        let tries = [(spare.max(GROWTH), GRANULE), (spare, GRANULE), (missing, 1)];
        for (wanted, align_of_region) in tries {
            let Ok(region) = self.backend.grow(wanted, align_of_region) else { continue };
            if !self.adopt(region, size, align) {
                continue;
            }
            return Some(());
        }
        self.failed = true;
        if Self::has(Mistake::ForgetsOnFailure) {
            self.free.clear();
        }
        None
    }

    /// Takes a region in, if it helps; gives it back if not.
    fn adopt(&mut self, region: Region, size: usize, align: usize) -> bool {
        let (mut start, end) = (region.addr(), region.end());
        if Self::has(Mistake::AssumesContiguity)
            && let Some((_, &last)) = self.regions.iter().next_back()
            && last < start
            && start - last < 1 << 20
        {
            start = last;
        }
        let extends = self.regions.iter().find(|&(_, &other)| other == start).map(|(&at, _)| at);
        let before = extends.map_or(start, |at| {
            let last = self.blocks.range(at..start).next_back();
            match last.filter(|&(at, _)| self.free.contains(at)) {
                Some((&at, block)) => at.min(at + block.size),
                None => last.map_or(start, |(&at, block)| at + block.size),
            }
        });
        let serves = || {
            let from = round_up(round_up(before, GRANULE)?, align)?;
            Some(from.checked_add(size)? <= end & !(GRANULE - 1))
        };
        if serves() != Some(true) {
            // SAFETY: the region was just given, and nobody uses it.
            let taken = unsafe { self.backend.shrink(region) };
            if taken == region.size {
                return false;
            }
        }
        self.stats.grows += 1;
        self.stats.footprint += region.size;
        self.stats.peak_footprint = self.stats.peak_footprint.max(self.stats.footprint);
        let from = match extends {
            Some(at) => {
                self.regions.insert(at, end);
                // What alignment left out at the old end is of use now.
                let last = self.blocks.range(at..start).next_back();
                last.map_or(start, |(&at, block)| at + block.size)
            }
            None => {
                self.regions.insert(start, end);
                (start + GRANULE - 1) & !(GRANULE - 1)
            }
        };
        let to = end & !(GRANULE - 1);
        if to > from {
            self.enter_free(from, to - from);
        }
        serves() == Some(true)
    }

    fn misuse(&mut self, error: HeapError) -> HeapError {
        if !Self::has(Mistake::DoesNotCountMisuse) {
            self.stats.misuses += 1;
        }
        if Self::has(Mistake::FreesAnotherOnMisuse)
            && let Some(at) = self.blocks.iter().find(|(_, block)| block.used).map(|(&at, _)| at)
        {
            self.release(at);
        }
        error
    }

    /// The block in use at an address.
    fn verify(&mut self, addr: usize) -> Result<Block, HeapError> {
        match self.blocks.get(&addr).copied() {
            Some(block) if block.used => return Ok(block),
            _ if self.freed.contains(&addr) => {}
            _ => return Err(self.misuse(HeapError::InvalidFree(addr))),
        }
        let error = if Self::has(Mistake::ConfusesErrors) {
            HeapError::InvalidFree(addr)
        } else {
            HeapError::DoubleFree(addr)
        };
        Err(self.misuse(error))
    }

    /// Makes a block in use free.
    fn release(&mut self, at: usize) {
        let Some(block) = self.blocks.get(&at).copied() else { return };
        self.freed.insert(at);
        if !K::FREES || (Self::has(Mistake::LosesFreedBlocks) && at.is_multiple_of(1024)) {
            self.blocks.insert(at, Block { used: false, lost: true, ..block });
            return;
        }
        if Self::has(Mistake::ScribblesOnFree)
            && let Some(behind) = to_ptr(at + block.size)
            && self.blocks.get(&(at + block.size)).is_some_and(|block| block.used)
        {
            // SAFETY: a block lies there.
            unsafe { behind.write(0xEE) };
        }
        self.enter_free(at, block.size);
    }

    fn allocate_at_all(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        self.requests += 1;
        if !K::LIMITS.admit(layout) && !Self::has(Mistake::IgnoresLimits) {
            return None;
        }
        if Self::has(Mistake::FailsAtTimes) && self.requests.is_multiple_of(97) {
            return None;
        }
        if Self::has(Mistake::SharesEmptyBlocks)
            && layout.size() == 0
            && let Some(empty) = self.empty
        {
            return to_ptr(empty);
        }
        if self.home == 0 {
            self.home = ptr::from_ref(self).addr();
        }
        let size = Self::block_size(layout.size())?;
        let align = match layout.align() {
            17.. if Self::has(Mistake::IgnoresAlignment) => GRANULE,
            4096.. if Self::has(Mistake::IgnoresLargeAlignment) => GRANULE,
            align => align.max(GRANULE),
        };
        let at = match self.cut(size, align) {
            Some(at) => at,
            None => {
                self.grow(size, align)?;
                self.cut(size, align)?
            }
        };
        if layout.size() == 0 {
            self.empty = Some(at);
        }
        to_ptr(at)
    }

    /// Resizes without moving, if there is room.
    fn resize_in_place(&mut self, at: usize, block: Block, size: usize) -> bool {
        if Self::has(Mistake::AlwaysMoves) {
            return false;
        }
        let behind = at + block.size;
        let room = match self.blocks.get(&behind) {
            Some(next) if self.free.contains(&behind) => next.size,
            _ => 0,
        };
        if size > block.size + room {
            return false;
        }
        let end = if size > block.size {
            self.blocks.remove(&behind);
            self.free.remove(&behind);
            behind + room
        } else {
            behind
        };
        self.blocks.insert(at, Block { size, ..block });
        self.forget_freed(at + 1..at + size);
        if end > at + size {
            self.enter_free(at + size, end - (at + size));
        }
        true
    }

    /// Gives back the end of a region, from `from` on.
    fn give_back(&mut self, start: usize, from: usize, end: usize) -> usize {
        let Some(pointer) = to_ptr(from) else { return 0 };
        let region = Region { start: pointer, size: end - from, zeroed: false };
        // SAFETY: this end of the region is free.
        let taken = unsafe { self.backend.shrink(region) };
        if Self::has(Mistake::ShrinksTwice) {
            // SAFETY: there is nothing left of the region; a mistake that the rig does not pass on.
            unsafe { self.backend.shrink(region) };
        }
        if taken > 0 {
            self.stats.shrinks += 1;
        }
        if !Self::has(Mistake::LiesAboutFootprint) {
            self.stats.footprint -= taken;
        }
        if taken < end - from && Self::has(Mistake::ForgetsRefusedMemory) {
            self.stats.footprint -= end - from - taken;
            self.cut_off(start, from);
            return taken;
        }
        self.cut_off(start, end - taken);
        taken
    }

    /// A region now ends at `end`.
    fn cut_off(&mut self, start: usize, end: usize) {
        let Some(old_end) = self.regions.get(&start).copied() else { return };
        self.regions.remove(&start);
        if end > start {
            self.regions.insert(start, end);
        }
        let end = if end > start { end & !(GRANULE - 1) } else { start };
        let beyond: Vec<usize> = self.blocks.range(end..old_end).map(|(&at, _)| at).collect();
        for at in beyond {
            self.blocks.remove(&at);
            self.free.remove(&at);
        }
        if let Some((&at, block)) = self.blocks.range_mut(start..end).next_back() {
            block.size = block.size.min(end - at);
        }
        self.forget_freed(end..old_end);
    }
}

// SAFETY: blocks in use are disjoint parts of regions that the backend gave; except by mistake.
unsafe impl<B: HeapBackend, K: Kind> Engine for ToyHeap<B, K> {
    const LIMITS: Limits = K::LIMITS;

    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        self.allocate_at_all(layout)
    }

    fn allocate_zeroed(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        let grows = self.stats.grows;
        let block = self.allocate_at_all(layout)?;
        let fresh = self.stats.grows > grows;
        let size = match K::MISTAKE {
            Mistake::DoesNotZero => 0,
            Mistake::TrustsFreshMemory if fresh => 0,
            Mistake::ZeroesTooLittle => layout.size() & !7,
            _ => layout.size(),
        };
        // SAFETY: the block is at least that long.
        unsafe { ptr::write_bytes(block.as_ptr(), 0, size) };
        Some(block)
    }

    unsafe fn deallocate(&mut self, block: NonNull<u8>) -> Result<(), HeapError> {
        let addr = block.addr().get();
        if Self::has(Mistake::CannotMove) && self.home != ptr::from_ref(self).addr() {
            return Ok(());
        }
        if Self::has(Mistake::SharesEmptyBlocks) && self.empty == Some(addr) {
            return Ok(());
        }
        let known = self.freed.contains(&addr);
        let misses = match K::MISTAKE {
            Mistake::MissesDoubleFree => known,
            Mistake::MissesMergedDoubleFree => known && !self.blocks.contains_key(&addr),
            Mistake::MissesInvalidFree => !known && !self.blocks.contains_key(&addr),
            Mistake::MissesInnerFree => {
                let around = self.blocks.range(..addr).next_back();
                !self.blocks.contains_key(&addr)
                    && around.is_some_and(|(at, block)| block.used && addr < at + block.size)
            }
            _ => false,
        };
        if misses {
            return Ok(());
        }
        let found = self.verify(addr)?;
        if Self::has(Mistake::LosesForeignFrees) && found.maker != Some(thread::current().id()) {
            return Ok(());
        }
        self.release(addr);
        Ok(())
    }

    unsafe fn reallocate(
        &mut self,
        block: NonNull<u8>,
        layout: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, HeapError> {
        let addr = block.addr().get();
        if Self::has(Mistake::MissesMisuseInReallocate)
            && !self.blocks.get(&addr).is_some_and(|block| block.used)
        {
            return Ok(block);
        }
        let found = self.verify(addr)?;
        let new = Layout::from_size_align(new_size, layout.align());
        let new = new.ok().filter(|&new| K::LIMITS.admit(new)).ok_or(HeapError::OutOfMemory)?;
        let size = Self::block_size(new_size).ok_or(HeapError::OutOfMemory)?;
        if self.resize_in_place(addr, found, size) {
            return Ok(block);
        }
        let copied = match K::MISTAKE {
            Mistake::DoesNotCopy => 0,
            Mistake::CopiesTooLittle => layout.size() & !7,
            _ => layout.size(),
        };
        let align = if Self::has(Mistake::ResizesUnaligned) { 1 } else { layout.align() };
        let old = Layout::from_size_align(copied, align).map_err(|_| HeapError::OutOfMemory)?;
        // SAFETY: the caller promises a block in use of this layout, which was verified.
        let moved = unsafe { reallocate_by_moving(self, block, old, new.size()) };
        if moved.is_err() && Self::has(Mistake::FreesOnFailedResize) {
            self.release(addr);
        }
        moved
    }

    unsafe fn usable_size(&self, block: NonNull<u8>) -> usize {
        let found = self.blocks.get(&block.addr().get()).map_or(0, |block| block.size);
        match K::MISTAKE {
            Mistake::OverstatesUsable => found + GRANULE,
            Mistake::ResizesToNothing if found == GRANULE => 0,
            // What was asked for, and then some.
            Mistake::Overlaps => found + GRANULE,
            _ => found,
        }
    }

    fn trim(&mut self) -> usize {
        if Self::has(Mistake::DoesNotTrim) || !K::FREES {
            return 0;
        }
        if Self::has(Mistake::TrimsLiveMemory)
            && let Some((at, block)) = self.blocks.iter().find(|(_, block)| block.used)
            && let Some(at) = to_ptr(*at)
        {
            // SAFETY: a block lies there.
            unsafe { ptr::write_bytes(at.as_ptr(), 0, block.size) };
        }
        let mut given = 0;
        let regions: Vec<(usize, usize)> = self.regions.iter().map(|(&s, &e)| (s, e)).collect();
        for (start, end) in regions {
            let first = self.blocks.range(start..end).next().map(|(&at, _)| at);
            let last = self.blocks.range(start..end).next_back().map(|(&at, _)| at);
            let Some(at) = last.filter(|at| self.free.contains(at)) else { continue };
            // A region that is all free goes whole.
            let from = if first == last { start } else { at };
            let page = self.backend.page_size();
            let from = if from == start { start } else { (from + page - 1) & !(page - 1) };
            if from < end {
                given += self.give_back(start, from, end);
            }
        }
        if Self::has(Mistake::UnderstatesTrim) { given / 2 } else { given }
    }

    fn stats(&self) -> Stats {
        let mut stats = Stats { live_bytes: 0, regions: self.regions.len(), ..self.stats };
        self.walk(&mut |block| stats.count(block));
        let held: usize = self.regions.iter().map(|(start, end)| end - start).sum();
        let tiled: usize = self.blocks.values().map(|block| block.size).sum();
        if !Self::has(Mistake::LiesAboutOverhead) {
            stats.overhead += held.wrapping_sub(tiled);
        }
        match K::MISTAKE {
            Mistake::LiesAboutLive => stats.live_bytes += usize::from(stats.live_blocks > 9),
            Mistake::LiesAboutPeak => stats.peak_footprint = stats.footprint,
            Mistake::OverstatesPeak => stats.peak_footprint += stats.grows,
            Mistake::LiesAboutLargest => {
                let first = self.free.first().and_then(|at| self.blocks.get(at));
                stats.largest_free = first.map_or(0, |block| block.size);
            }
            _ => {}
        }
        stats
    }

    fn walk(&self, visit: &mut dyn FnMut(BlockInfo)) {
        let show = |(&address, block): (&usize, &Block)| BlockInfo {
            address,
            size: block.size,
            overhead: 0,
            state: match block.used {
                false if !Self::has(Mistake::WalksFreeAsUsed) => BlockState::Free,
                _ => BlockState::Used,
            },
            next_free: None,
        };
        let mut blocks: Vec<BlockInfo> = self.blocks.iter().map(show).collect();
        let odd = blocks.len() % 5 == 4;
        match K::MISTAKE {
            Mistake::WalksPast if odd => drop(blocks.pop()),
            Mistake::WalksTwice if odd => blocks.extend(blocks.first().copied()),
            Mistake::WalksBackwards => blocks.reverse(),
            _ => {}
        }
        blocks.into_iter().for_each(visit);
    }

    fn check(&self) -> Result<(), Broken> {
        ensure(
            !Self::has(Mistake::ChecksTooMuch) || self.requests < 20,
            "there were not too many requests",
            0,
        )?;
        for (&start, &end) in &self.regions {
            let mut at = start.next_multiple_of(GRANULE);
            for (&block, &Block { size, used, lost, .. }) in self.blocks.range(start..end) {
                ensure(block == at, "blocks tile their region", block)?;
                ensure(used || lost || self.free.contains(&block), "free blocks are known", block)
                    .or_else(
                        |broken| if K::MISTAKE == Mistake::None { Err(broken) } else { Ok(()) },
                    )?;
                at += size;
            }
        }
        Ok(())
    }
}

impl<B: HeapBackend, K: Kind> Drop for ToyHeap<B, K> {
    fn drop(&mut self) {
        for (&start, &end) in self.regions.iter().skip(usize::from(Self::has(Mistake::LeaksOnDrop)))
        {
            if let Some(pointer) = to_ptr(start) {
                let region = Region { start: pointer, size: end - start, zeroed: false };
                // SAFETY: nobody uses a block of a heap that is dropped.
                unsafe { self.backend.shrink(region) };
            }
        }
    }
}
