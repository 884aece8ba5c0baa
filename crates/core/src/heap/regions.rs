//! The regions of a heap: how it grows, and how memory goes back to the backend.

use core::ptr::{self, NonNull};

use super::Heap;
use crate::block::{Block, GRANULE, PREV_USED, USED, WORD, round_up};
use crate::large::Large;
use crate::mechanism::{Coalescing, Mechanism};
use crate::{FreeBlock, HeapBackend, Policy, Region, secret};

/// Stands at the start of each region.
pub(super) struct RegionHead {
    pub(super) next: *mut RegionHead,
    /// Where the epilogue stands.
    pub(super) epilogue: NonNull<u8>,
    /// Of the whole region.
    pub(super) size: usize,
}

/// From the start of a region to the payload of its first block.
pub(super) const FIRST_PAYLOAD: usize = round_up(size_of::<RegionHead>() + 2 * WORD, GRANULE);

impl RegionHead {
    pub(super) fn start(&self) -> usize {
        ptr::from_ref(self) as usize
    }

    pub(super) fn end(&self) -> usize {
        self.start() + self.size
    }
}

impl<B: HeapBackend, P: Policy, M: Mechanism> Heap<B, P, M> {
    /// Makes the wilderness at least `size` bytes long.
    pub(super) fn grow(&mut self, size: usize) -> Option<()> {
        if self.grows == 0 {
            secret::draw(self.backend.entropy());
        }
        let page = self.backend.page_size();
        // A region of its own needs room for head and epilogue, and for odd ends.
        let needed = round_up(size + FIRST_PAYLOAD + 2 * GRANULE, page);
        let step = round_up((self.footprint / 32).max(M::GROWTH), page);
        let region = self
            .backend
            .grow(needed.max(step), GRANULE)
            .or_else(|_| self.backend.grow(needed, GRANULE))
            .or_else(|_| self.backend.grow(size - self.top_size, GRANULE))
            .ok()?;
        if M::PREFAULT {
            let size = region.size.min(step);
            // SAFETY: a part of the region just given.
            unsafe { self.backend.populate(Region { size, ..region }) };
        }
        // SAFETY: the backend just gave the region.
        unsafe { self.adopt(region, size) }
    }

    /// Makes a region of the backend part of the heap, if that helps to serve `size` bytes.
    pub(super) unsafe fn adopt(&mut self, region: Region, size: usize) -> Option<()> {
        // SAFETY: the region is ours; the first in the list is the one in use.
        unsafe {
            let continues = self.regions.as_mut().filter(|current| current.end() == region.addr());
            if let Some(current) = continues {
                let old_end = current.end();
                let old_epilogue = current.epilogue;
                current.size += region.size;
                current.epilogue = Self::epilogue_of(current);
                let epilogue = current.epilogue;
                if !region.zeroed {
                    self.fresh = region.end();
                } else if self.fresh <= old_end {
                    // The old epilogue is the only thing in the way of zeros.
                    let length = old_end - old_epilogue.as_ptr() as usize;
                    ptr::write_bytes(old_epilogue.as_ptr(), 0, length);
                }
                let top_size = epilogue.as_ptr() as usize - self.top.as_ptr() as usize;
                self.account_grown(region.size);
                self.set_top(Block(self.top), top_size);
                self.set_end(Block(epilogue));
                self.fresh = self.fresh.max(self.top.as_ptr() as usize + WORD);
                return (size <= top_size).then_some(());
            }
            let overhead = FIRST_PAYLOAD + GRANULE + region.addr() % GRANULE;
            if region.size < size + overhead {
                // Too small to stand alone.
                self.backend.shrink(region);
                return None;
            }
            self.retire_top();
            let head = region.start.cast::<RegionHead>();
            head.write(RegionHead {
                next: self.regions,
                epilogue: region.start,
                size: region.size,
            });
            let head = &mut *head.as_ptr();
            head.epilogue = Self::epilogue_of(head);
            self.regions = head;
            self.account_grown(region.size);
            let top = Block(region.start.add(FIRST_PAYLOAD - Self::HEADER));
            let epilogue = Block(head.epilogue);
            self.set_top(top, epilogue.addr() - top.addr());
            self.set_end(epilogue);
            self.fresh = if region.zeroed { top.addr() + WORD } else { region.end() };
            Some(())
        }
    }

    /// Writes the epilogue of the region in use.
    pub(super) unsafe fn set_end(&mut self, epilogue: Block) {
        // SAFETY: the caller promises the epilogue's place.
        unsafe { Self::set_header(epilogue, 0, USED | PREV_USED) };
    }

    /// Where the epilogue of a region stands.
    pub(super) unsafe fn epilogue_of(head: &mut RegionHead) -> NonNull<u8> {
        let end = head.end() & !(GRANULE - 1);
        let start = NonNull::from(head).cast::<u8>();
        // SAFETY: a region is longer than an epilogue.
        unsafe { start.add(end - Self::HEADER - start.as_ptr() as usize) }
    }

    pub(super) fn account_grown(&mut self, size: usize) {
        self.footprint += size;
        self.grows += 1;
        self.note_peak();
    }

    pub(super) fn note_peak(&mut self) {
        let held = self.footprint + self.large.footprint();
        self.peak_footprint = self.peak_footprint.max(held);
    }

    /// The region in use becomes an old one: its wilderness becomes a free block.
    pub(super) unsafe fn retire_top(&mut self) {
        let (block, size) = (Block(self.top), self.top_size);
        if size > 0 {
            // SAFETY: the wilderness is free and ends at the epilogue.
            unsafe {
                Self::set_free(block, size, PREV_USED);
                self.index(block, size);
            }
        }
    }

    /// The newest region left comes into use: a free block at its end becomes the wilderness.
    pub(super) unsafe fn readopt(&mut self) {
        self.fresh = usize::MAX;
        // SAFETY: the list holds regions of ours, each with an epilogue.
        unsafe {
            match self.regions.as_ref() {
                None => {
                    self.top = NonNull::dangling();
                    self.top_size = 0;
                }
                Some(head) => {
                    let epilogue = Block(head.epilogue);
                    self.fresh = head.end();
                    let mut top = epilogue;
                    while top.word() & PREV_USED == 0 {
                        top = top.free_before();
                        self.unindex(top, top.size());
                        if M::Coalescing::MERGES {
                            break;
                        }
                    }
                    self.set_top(top, epilogue.addr() - top.addr());
                    self.set_end(epilogue);
                }
            }
        }
    }

    #[inline(always)]
    pub(super) fn is_worth_giving_back(&self, size: usize) -> bool {
        size >= M::TRIM && size >= self.footprint / M::TRIM_SHARE
    }

    /// Gives back the wilderness but for `keep` bytes.
    #[cold]
    pub(super) fn trim_top(&mut self, keep: usize) -> usize {
        // SAFETY: the first region is the one in use, and the wilderness at its end is free.
        unsafe {
            let Some(head) = self.regions.as_mut() else { return 0 };
            let whole = self.top.as_ptr() as usize == head.start() + FIRST_PAYLOAD - Self::HEADER;
            let page = self.backend.page_size();
            let start = NonNull::from(&mut *head).cast::<u8>();
            if whole && keep == 0 {
                let region = Region { start, size: head.size, zeroed: false };
                let next = head.next;
                let taken = self.backend.shrink(region);
                if taken == region.size {
                    self.regions = next;
                    self.account_shrunk(taken);
                    self.readopt();
                    return taken;
                }
                return self.cut_end(taken);
            }
            let needed = round_up(self.top.as_ptr() as usize + Self::HEADER + GRANULE + keep, page);
            let Some(spare) = head.end().checked_sub(needed).filter(|&spare| spare > 0) else {
                return 0;
            };
            let part = Region { start: start.add(head.size - spare), size: spare, zeroed: false };
            let taken = self.backend.shrink(part);
            self.cut_end(taken)
        }
    }

    /// The backend took the last `taken` bytes of the region in use.
    pub(super) unsafe fn cut_end(&mut self, taken: usize) -> usize {
        // SAFETY: the caller promises that the end was taken, and that the wilderness reaches in
        // front of it by more than an epilogue.
        unsafe {
            if let Some(head) = self.regions.as_mut()
                && taken > 0
            {
                head.size -= taken;
                head.epilogue = Self::epilogue_of(head);
                let (end, epilogue) = (head.end(), Block(head.epilogue));
                self.account_shrunk(taken);
                self.set_top(Block(self.top), epilogue.addr() - self.top.as_ptr() as usize);
                self.set_end(epilogue);
                self.fresh = self.fresh.min(end);
            }
        }
        taken
    }

    pub(super) fn account_shrunk(&mut self, size: usize) {
        self.footprint -= size;
        self.shrinks += 1;
    }

    /// Gives back an old region that has become one free block.
    #[cold]
    pub(super) unsafe fn release_region(&mut self, block: FreeBlock) {
        // SAFETY: the list holds regions of ours. The one that the free block fills is unused.
        unsafe {
            let mut link = ptr::from_mut(&mut self.regions);
            while let Some(head) = (*link).as_mut() {
                if block.addr() == head.start() + FIRST_PAYLOAD - Self::HEADER {
                    if block.end() == head.epilogue.as_ptr() as usize
                        && block.end() != self.top.as_ptr() as usize
                    {
                        let (next, size) = (head.next, head.size);
                        let start = NonNull::from(head).cast();
                        // Out of the index first: what is shrunk is gone.
                        self.policy.remove(block);
                        let taken = self.backend.shrink(Region { start, size, zeroed: false });
                        if taken == size {
                            *link = next;
                            self.account_shrunk(taken);
                        } else {
                            self.policy.insert(block);
                        }
                    }
                    return;
                }
                link = &mut head.next;
            }
        }
    }

    /// The region in which an address is payload.
    pub(super) fn region_of(&self, addr: usize) -> Option<&RegionHead> {
        let mut at = self.regions;
        // SAFETY: the list holds regions of ours.
        while let Some(head) = unsafe { at.as_ref() } {
            if addr >= head.start() + FIRST_PAYLOAD && addr < head.end() {
                return Some(head);
            }
            at = head.next;
        }
        None
    }

    /// Gives back old regions that are free, and discards the pages inside free blocks.
    pub(super) fn trim_inside(&mut self) -> usize {
        let mut given = 0;
        let page = self.backend.page_size();
        let mut at = self.regions;
        // SAFETY: the list holds regions of ours; the pages between a free block's node and its
        // footer hold nothing. A region may be gone once its only block has been released.
        unsafe {
            while let Some(head) = at.as_ref() {
                at = head.next;
                let mut block =
                    Block(NonNull::from(head).cast::<u8>().add(FIRST_PAYLOAD - Self::HEADER));
                if block.word() & USED == 0 && block.after(block.size()).0 == head.epilogue {
                    let footprint = self.footprint;
                    self.release_region(FreeBlock::new(block, block.size()));
                    given += footprint - self.footprint;
                    if footprint != self.footprint {
                        continue;
                    }
                }
                while block.size() != 0 {
                    let (word, size) = (block.word(), block.size());
                    let from = round_up(block.addr() + 3 * WORD, page);
                    let to = (block.addr() + size - WORD) & !(page - 1);
                    if word & USED == 0 && to > from {
                        let start = block.0.add(from - block.addr());
                        let region = Region { start, size: to - from, zeroed: false };
                        if self.backend.discard(region) {
                            given += to - from;
                        }
                    }
                    block = block.after(size);
                }
            }
        }
        given
    }
}

impl<B: HeapBackend, P, M: Mechanism> Drop for Heap<B, P, M> {
    fn drop(&mut self) {
        // SAFETY: nobody uses a block of a heap that is dropped, so no region is in use.
        unsafe {
            self.large.release(&mut self.backend);
            while let Some(head) = self.regions.as_mut() {
                self.regions = head.next;
                let size = head.size;
                let start = NonNull::from(head).cast();
                self.backend.shrink(Region { start, size, zeroed: false });
            }
        }
    }
}
