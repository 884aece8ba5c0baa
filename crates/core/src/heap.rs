//! The block engine: regions of blocks with boundary tags, put together from a backend, a policy and
//! a mechanism.
//!
//! A region is laid out as
//!
//! ```text
//! | region head | block | block | … | wilderness (region in use only) | epilogue |
//! ```
//!
//! Invariants, which [`check`](Engine::check) verifies, beside those of the blocks themselves:
//!
//! * the wilderness is the free end of the region in use, the first in the list of regions. It is in
//!   no index. A header of size zero stands at its start, so that to the block before it looks like the
//!   epilogue, and the block before it is not free;
//! * every other free block of at least four words is in the policy's index, once; smaller ones
//!   (slivers, at the end of a region) are in none, and go with their neighbour when that is freed;
//! * with a mechanism that merges, no two free blocks are neighbours;
//! * memory in the wilderness from `fresh` on is zero;
//! * `footprint` is the sum of the sizes of all regions.

mod inspect;
mod regions;
mod verify;

use core::alloc::Layout;
use core::marker::PhantomData;
use core::ptr::{self, NonNull};

use self::regions::RegionHead;

use crate::block::{
    Block, CACHED, GRANULE, MAPPED, MAX_BLOCK, MIN_INDEXED, PREV_USED, SIZE_BITS, USED, WORD,
    round_up,
};
use crate::large::Large;
use crate::mechanism::{Checks, Coalescing, Header, Mechanism, QuickBlock};
use crate::strategy::reallocate_by_moving;
use crate::{
    BlockInfo, Broken, Engine, FreeBlock, HeapBackend, HeapError, New, Policy, Request, Stats,
    secret,
};

/// A heap of blocks: memory from a backend `B`, free blocks indexed and chosen by a policy `P`, kept
/// as the mechanism `M` says.
///
/// One owner at a time; [`Locked`](crate::Locked) makes a shared one of it. Dropping a heap gives all
/// its memory back, so no block may be in use any more.
///
/// Costs beyond those of the policy: allocate and free O(1), growing one backend call, freeing into
/// a quick list O(1) with a merge of all of them now and then.
pub struct Heap<B: HeapBackend, P, M: Mechanism> {
    policy: P,
    quick: M::Coalescing,
    /// Where the wilderness begins; where the epilogue stands if there is none; dangling without
    /// any region.
    top: NonNull<u8>,
    top_size: usize,
    /// Memory of the wilderness at or above this address is zero.
    fresh: usize,
    /// The region in use, then the older ones.
    regions: *mut RegionHead,
    large: M::Large,
    backend: B,
    footprint: usize,
    peak_footprint: usize,
    grows: usize,
    shrinks: usize,
    misuses: usize,
    mechanism: PhantomData<M>,
}

/// A block that was just made, and from where on its payload is known to be zero.
struct Made {
    block: Block,
    zero_from: usize,
}

// SAFETY: all pointers lead into regions that belong to the heap alone and go where it goes.
unsafe impl<B: HeapBackend + Send, P: Send, M: Mechanism> Send for Heap<B, P, M>
where
    M::Coalescing: Send,
    M::Large: Send,
{
}

impl<B: HeapBackend + New, P: Policy, M: Mechanism> New for Heap<B, P, M> {
    const NEW: Self = Self::over(B::NEW);
}

impl<B: HeapBackend, P: Policy, M: Mechanism> Heap<B, P, M> {
    const HEADER: usize = {
        let size = <M::Header as Header>::SIZE;
        assert!(!M::Checks::CANARIES || size == 2 * WORD, "canaries need headers of two words");
        size
    };

    /// An empty heap over a backend, which is first asked for memory by the first request.
    pub const fn over(backend: B) -> Self {
        Self {
            policy: P::NEW,
            quick: <M::Coalescing as New>::NEW,
            top: NonNull::dangling(),
            top_size: 0,
            fresh: usize::MAX,
            regions: ptr::null_mut(),
            large: <M::Large as New>::NEW,
            backend,
            footprint: 0,
            peak_footprint: 0,
            grows: 0,
            shrinks: 0,
            misuses: 0,
            mechanism: PhantomData,
        }
    }

    /// The backend, to look at.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// The policy, to look at.
    pub fn policy(&self) -> &P {
        &self.policy
    }

    /// The policy, to ask what it would choose.
    ///
    /// # Safety
    ///
    /// The caller adds nothing to the index and takes nothing out of it.
    pub unsafe fn policy_mut(&mut self) -> &mut P {
        &mut self.policy
    }

    /// The size of the block that serves a request of `size` bytes.
    #[inline(always)]
    fn block_size(size: usize) -> Option<usize> {
        if size > MAX_BLOCK {
            return None;
        }
        Some(round_up(size + Self::HEADER, GRANULE).max(MIN_INDEXED))
    }

    #[inline(always)]
    fn payload(block: Block) -> NonNull<u8> {
        // SAFETY: the payload follows the header within the block.
        unsafe { block.0.add(Self::HEADER) }
    }

    #[inline(always)]
    unsafe fn block_of(payload: NonNull<u8>) -> Block {
        // SAFETY: the caller promises a payload of this heap, in front of which a header stands.
        Block(unsafe { payload.sub(Self::HEADER) })
    }

    /// Writes a header with its seal.
    #[inline(always)]
    unsafe fn set_header(block: Block, size: usize, flags: usize) {
        // SAFETY: the caller promises that the place is a block's start.
        unsafe { block.set_word(size | flags | M::Checks::seal(block.addr())) };
    }

    /// Marks a block as used, with what the checks want.
    #[inline(always)]
    unsafe fn set_used(block: Block, size: usize, flags: usize) {
        // SAFETY: as for `set_header`; the spare word belongs to the header.
        unsafe {
            Self::set_header(block, size, flags | USED);
            Self::set_canary(block);
        }
    }

    #[inline(always)]
    unsafe fn set_canary(block: Block) {
        if M::Checks::CANARIES {
            // SAFETY: with canaries the header has two words.
            unsafe { block.after(WORD).set_word(M::Checks::canary(block.addr())) };
        }
    }

    /// Writes header and footer of a free block, and tells the block behind it.
    #[inline(always)]
    unsafe fn set_free(block: Block, size: usize, flags: usize) {
        // SAFETY: the caller promises a block of this size with a header behind it.
        unsafe {
            block.set_footer(size);
            Self::set_header(block, size, flags);
            let behind = block.after(size);
            behind.set_word(behind.word() & !PREV_USED);
        }
    }

    /// A used block of at least `size` bytes, a valid block size.
    #[inline(always)]
    fn make(&mut self, size: usize) -> Option<Made> {
        if size <= M::Coalescing::QUICK_MAX
            && let Some(quick) = self.quick.pop(size)
        {
            let block = Block(quick.at);
            // SAFETY: a block in a quick list is the heap's and has a header.
            unsafe {
                block.set_word(block.word() & !CACHED);
                Self::set_canary(block);
            }
            return Some(Made { block, zero_from: usize::MAX });
        }
        self.make_indexed(size).or_else(|| self.make_from_top(size))
    }

    /// Takes a block from the index, and splits it.
    #[inline(always)]
    fn make_indexed(&mut self, size: usize) -> Option<Made> {
        let request = Request::new(size);
        let found =
            if P::KEEPS_PLACE { self.policy.find(request)? } else { self.policy.take(request)? };
        let block = found.block();
        let rest = found.size() - size;
        // SAFETY: the policy gives free blocks of the index that are large enough; the rest lies
        // within the block, up to the header behind it, which says already that it is free.
        unsafe {
            if M::SPLIT && rest >= MIN_INDEXED {
                let behind = block.after(size);
                behind.set_footer(rest);
                Self::set_header(behind, rest, PREV_USED);
                let behind = FreeBlock::new(behind, rest);
                if P::KEEPS_PLACE {
                    self.policy.replace(found, behind);
                } else {
                    self.policy.insert(behind);
                }
                Self::set_used(block, size, Self::prev_flag(block));
            } else {
                if P::KEEPS_PLACE {
                    self.policy.remove(found);
                }
                Self::set_used(block, found.size(), Self::prev_flag(block));
                let behind = block.after(found.size());
                behind.set_word(behind.word() | PREV_USED);
            }
        }
        Some(Made { block, zero_from: usize::MAX })
    }

    /// `PREV_USED` of a free block. Where neighbours are merged, the one before is in use.
    #[inline(always)]
    unsafe fn prev_flag(block: Block) -> usize {
        // SAFETY: the caller promises a header.
        if M::Coalescing::MERGES { PREV_USED } else { unsafe { block.word() & PREV_USED } }
    }

    /// Cuts a block off the wilderness.
    #[inline(always)]
    fn make_from_top(&mut self, size: usize) -> Option<Made> {
        if size > self.top_size {
            return self.make_by_growing(size);
        }
        let block = Block(self.top);
        // SAFETY: the wilderness is at least that long, and the epilogue's place lies behind it.
        unsafe {
            self.set_top(block.after(size), self.top_size - size);
            Self::set_used(block, size, PREV_USED);
        }
        let zero_from = self.fresh;
        self.fresh = self.fresh.max(self.top.as_ptr() as usize + WORD);
        Some(Made { block, zero_from })
    }

    /// The wilderness now starts at `top`: puts the header of size zero there. It is marked as
    /// cached, as no epilogue is, for a block that ended up in the wilderness was freed.
    #[inline(always)]
    unsafe fn set_top(&mut self, top: Block, size: usize) {
        self.top = top.0;
        self.top_size = size;
        // SAFETY: the caller promises that the place is the wilderness's or the epilogue's.
        unsafe { Self::set_header(top, 0, USED | PREV_USED | CACHED) };
    }

    /// Merges what waits in quick lists and looks again; then grows.
    #[cold]
    #[inline(never)]
    fn make_by_growing(&mut self, size: usize) -> Option<Made> {
        if self.consolidate() > 0
            && let Some(made) = self.make_indexed(size)
        {
            return Some(made);
        }
        if size > self.top_size {
            self.grow(size)?;
        }
        self.make_from_top(size)
    }

    #[inline(always)]
    unsafe fn index(&mut self, block: Block, size: usize) {
        if size >= MIN_INDEXED {
            // SAFETY: the caller promises a free block that is not in the index.
            unsafe { self.policy.insert(FreeBlock::new(block, size)) };
        }
    }

    #[inline(always)]
    unsafe fn unindex(&mut self, block: Block, size: usize) {
        if size >= MIN_INDEXED {
            // SAFETY: the caller promises a free block; those of this size are in the index.
            unsafe { self.policy.remove(FreeBlock::new(block, size)) };
        }
    }

    /// Makes a used block free, and merges it with its neighbours as the mechanism says.
    #[inline(always)]
    unsafe fn release(&mut self, block: Block) {
        // SAFETY: the caller promises a used block; the tags lead to its neighbours.
        unsafe {
            let word = block.word();
            let size = word & SIZE_BITS;
            let behind = block.after(size);
            if behind.0 == self.top {
                return self.release_into_top(block, word);
            }
            if !M::Coalescing::MERGES {
                Self::set_free(block, size, word & PREV_USED);
                return self.index(block, size);
            }
            if M::Checks::ON {
                // Should the block be merged into the one before, its own header stays behind and
                // must say that it was freed.
                Self::set_header(block, size, word & PREV_USED);
            }
            let behind_word = behind.word();
            let behind_size = behind_word & SIZE_BITS;
            let behind_free = behind_word & USED == 0;
            let before_free = word & PREV_USED == 0;
            let (mut start, mut total) = (block, size);
            let mut place = None;
            if behind_free {
                total += behind_size;
                if P::KEEPS_PLACE && behind_size >= MIN_INDEXED {
                    place = Some(FreeBlock::new(behind, behind_size));
                } else {
                    self.unindex(behind, behind_size);
                }
            }
            if before_free {
                start = block.free_before();
                let before_size = start.size();
                total += before_size;
                if P::KEEPS_PLACE {
                    if let Some(behind) = place {
                        self.policy.remove(behind);
                    }
                    place = Some(FreeBlock::new(start, before_size));
                } else {
                    self.unindex(start, before_size);
                }
            }
            let merged = FreeBlock::new(start, total);
            start.set_footer(total);
            Self::set_header(start, total, PREV_USED);
            match place {
                Some(old) => self.policy.replace(old, merged),
                None => self.policy.insert(merged),
            }
            if !behind_free {
                behind.set_word(behind_word & !PREV_USED);
            }
            // Small regions are kept: what was unmapped would soon be mapped again.
            if self.is_worth_giving_back(total) && start.after(total).size() == 0 {
                self.release_region(merged);
            }
        }
    }

    /// Makes the last block before the wilderness part of it, and gives back what is too much.
    #[inline(never)]
    unsafe fn release_into_top(&mut self, block: Block, word: usize) {
        // SAFETY: the caller promises the used block that ends at the wilderness.
        unsafe {
            if M::Checks::ON {
                Self::set_header(block, word & SIZE_BITS, word & PREV_USED);
            }
            let (mut start, mut word) = (block, word);
            while word & PREV_USED == 0 {
                start = start.free_before();
                word = start.word();
                self.unindex(start, word & SIZE_BITS);
            }
            let size = self.top.as_ptr() as usize - start.addr() + self.top_size;
            self.set_top(start, size);
            if self.is_worth_giving_back(size) {
                let kept = (self.footprint - size) / 8;
                self.trim_top(kept.max(M::GROWTH));
            }
        }
    }

    /// Merges every block in the quick lists with its neighbours, and says how many there were.
    #[cold]
    #[inline(never)]
    fn consolidate(&mut self) -> usize {
        let mut count = 0;
        while let Some(quick) = self.quick.pop_any() {
            // SAFETY: a cached block is marked as used, and nobody uses it.
            unsafe {
                let block = Block(quick.at);
                block.set_word(block.word() & !CACHED);
                self.release(block);
            }
            count += 1;
        }
        count
    }

    /// Makes the end of a used block a free block, if it is long enough to be one.
    #[inline]
    unsafe fn split_end(&mut self, block: Block, size: usize) {
        // SAFETY: the caller promises a used block of at least `size` bytes; its end becomes a used
        // block of its own for a moment.
        unsafe {
            let word = block.word();
            let rest = (word & SIZE_BITS) - size;
            if rest >= MIN_INDEXED {
                let behind = block.after(size);
                Self::set_header(behind, rest, USED | PREV_USED);
                block.set_word(word - rest);
                self.release(behind);
            }
        }
    }

    #[inline(always)]
    fn request(&mut self, layout: Layout) -> Option<(NonNull<u8>, usize)> {
        if layout.size() >= M::Large::THRESHOLD
            && Self::LIMITS.admit(layout)
            && let Some(made) = self.request_large(layout)
        {
            return Some(made);
        }
        let size = Self::block_size(layout.size())?;
        let made = if layout.align() <= GRANULE {
            self.make(size)?
        } else {
            self.make_aligned(size, layout.align())?
        };
        Some((Self::payload(made.block), made.zero_from))
    }

    #[cold]
    fn request_large(&mut self, layout: Layout) -> Option<(NonNull<u8>, usize)> {
        if self.grows == 0 {
            secret::draw(self.backend.entropy());
        }
        let (payload, zeroed) =
            self.large.allocate::<M::Checks>(&mut self.backend, layout, Self::HEADER)?;
        self.note_peak();
        Some((payload, if zeroed { 0 } else { usize::MAX }))
    }

    /// A block whose payload is aligned to more than a granule: a longer block, of which what lies in
    /// front and what lies behind become free blocks again.
    #[cold]
    fn make_aligned(&mut self, size: usize, align: usize) -> Option<Made> {
        if align > Self::LIMITS.max_align {
            return None;
        }
        // The front, if there is one, must be long enough to be a block.
        let made = self
            .make_indexed(size + align + MIN_INDEXED)
            .or_else(|| self.make_from_top(size + align + MIN_INDEXED))?;
        let payload = Self::payload(made.block).as_ptr() as usize;
        let mut front = payload.wrapping_neg() & (align - 1);
        if front > 0 && front < MIN_INDEXED {
            front += align;
        }
        // SAFETY: the block is long enough for both parts.
        unsafe {
            let mut block = made.block;
            if front > 0 {
                let word = block.word();
                block = block.after(front);
                Self::set_used(block, (word & SIZE_BITS) - front, PREV_USED);
                Self::set_header(made.block, front, word & PREV_USED | USED);
                self.release(made.block);
            }
            self.split_end(block, size);
            Some(Made { block, zero_from: made.zero_from })
        }
    }

    /// Counts a misuse on its way out.
    #[cold]
    fn misuse(&mut self, error: HeapError) -> HeapError {
        self.misuses += 1;
        error
    }

    /// How much may wait in quick lists: a little of a large heap.
    #[inline(always)]
    fn quick_limit(&self) -> usize {
        (self.footprint / 32).max(64 << 10)
    }

    /// Tries to give a used block at least `size` bytes where it stands.
    #[inline(always)]
    unsafe fn resize_in_place(&mut self, block: Block, word: usize, size: usize) -> bool {
        let old = word & SIZE_BITS;
        // SAFETY: the caller promises a used block; the tags lead to what is behind it.
        unsafe {
            if size <= old {
                if M::SPLIT {
                    self.split_end(block, size);
                }
                return true;
            }
            let behind = block.after(old);
            if behind.0 == self.top {
                // Should the heap grow elsewhere, there is room for the whole block.
                if size - old > self.top_size && self.grow(size).is_none() {
                    return false;
                }
                if behind.0 != self.top {
                    // The heap grew elsewhere, and the old wilderness is a free block now.
                    return self.resize_in_place(block, block.word(), size);
                }
                let rest = self.top_size - (size - old);
                self.set_top(block.after(size), rest);
                block.set_word(word + (size - old));
                self.fresh = self.fresh.max(self.top.as_ptr() as usize + WORD);
                return true;
            }
            let behind_word = behind.word();
            let behind_size = behind_word & SIZE_BITS;
            if !M::SPLIT || behind_word & USED != 0 || old + behind_size < size {
                return false;
            }
            self.unindex(behind, behind_size);
            let total = old + behind_size;
            let end = block.after(total);
            end.set_word(end.word() | PREV_USED);
            block.set_word(word + behind_size);
            self.split_end(block, size);
            true
        }
    }
}

// SAFETY: blocks are cut from regions that belong to the heap, never overlap (they follow each other,
// each as long as its header says), and are free or in use, never both; alignment is that of the
// granule or made by `make_aligned`.
unsafe impl<B: HeapBackend, P: Policy, M: Mechanism> Engine for Heap<B, P, M> {
    #[inline(always)]
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        self.request(layout).map(|(payload, _)| payload)
    }

    #[inline]
    fn allocate_zeroed(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        let (payload, zero_from) = self.request(layout)?;
        let dirty = zero_from.saturating_sub(payload.as_ptr() as usize).min(layout.size());
        // SAFETY: the block is at least `layout.size()` bytes long.
        unsafe { ptr::write_bytes(payload.as_ptr(), 0, dirty) };
        Some(payload)
    }

    #[inline(always)]
    unsafe fn deallocate(&mut self, payload: NonNull<u8>) -> Result<(), HeapError> {
        // SAFETY: the caller promises a block in use, or the checks see to it.
        unsafe {
            let (block, word) = match self.verify(payload) {
                Ok(verified) => verified,
                Err(error) => return Err(self.misuse(error)),
            };
            if M::Large::THRESHOLD != usize::MAX && word & MAPPED != 0 {
                self.large.deallocate(&mut self.backend, payload, Self::HEADER);
                return Ok(());
            }
            let size = word & SIZE_BITS;
            if P::CHECKS_FREES && self.policy.rejects(FreeBlock::new(block, size)) {
                return Err(self.misuse(HeapError::DoubleFree(payload.as_ptr() as usize)));
            }
            if size <= M::Coalescing::QUICK_MAX && size >= MIN_INDEXED {
                block.set_word(word | CACHED);
                self.quick.push(QuickBlock { at: block.0, size });
                if self.quick.bytes() > self.quick_limit() {
                    self.consolidate();
                }
                return Ok(());
            }
            self.release(block);
        }
        Ok(())
    }

    #[inline]
    unsafe fn reallocate(
        &mut self,
        payload: NonNull<u8>,
        layout: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, HeapError> {
        // SAFETY: the caller promises a block in use, or the checks see to it.
        unsafe {
            let (block, word) = match self.verify(payload) {
                Ok(verified) => verified,
                Err(error) => return Err(self.misuse(error)),
            };
            if M::Large::THRESHOLD != usize::MAX && word & MAPPED != 0 {
                let resized = self.large.reallocate::<M::Checks>(
                    &mut self.backend,
                    payload,
                    Self::HEADER,
                    new_size,
                    layout.align(),
                );
                self.note_peak();
                if let Some(payload) = resized {
                    return Ok(payload);
                }
            } else {
                let size = Self::block_size(new_size).ok_or(HeapError::OutOfMemory)?;
                let grows_large = new_size >= M::Large::THRESHOLD;
                if (!grows_large || size <= word & SIZE_BITS)
                    && self.resize_in_place(block, word, size)
                {
                    return Ok(payload);
                }
            }
            reallocate_by_moving(self, payload, layout, new_size)
        }
    }

    #[inline]
    unsafe fn resize(
        &mut self,
        payload: NonNull<u8>,
        new_size: usize,
    ) -> Result<NonNull<u8>, HeapError> {
        // SAFETY: the caller promises a block in use, or the checks see to it, before its size is read.
        unsafe {
            if let Err(error) = self.verify(payload) {
                return Err(self.misuse(error));
            }
            let layout = Layout::from_size_align_unchecked(self.usable_size(payload), GRANULE);
            self.reallocate(payload, layout, new_size)
        }
    }

    #[inline]
    unsafe fn usable_size(&self, payload: NonNull<u8>) -> usize {
        // SAFETY: the caller promises a block in use.
        unsafe {
            let word = Self::block_of(payload).word();
            if word & MAPPED != 0 {
                return self.large.usable_size(payload, Self::HEADER);
            }
            (word & SIZE_BITS) - Self::HEADER
        }
    }

    /// Merges the quick lists, gives back the end of the heap and regions that are free, and discards the
    /// pages inside free blocks.
    fn trim(&mut self) -> usize {
        self.consolidate();
        self.trim_top(0) + self.trim_inside()
    }

    fn stats(&self) -> Stats {
        self.sum_up()
    }

    fn walk(&self, visit: &mut dyn FnMut(BlockInfo)) {
        self.visit_blocks(visit);
    }

    fn check(&self) -> Result<(), Broken> {
        self.check_all()
    }
}
