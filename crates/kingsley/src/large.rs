//! Large blocks: each a region of its own.
//!
//! ```text
//! region: | front (for alignment) | Large | header | payload ………………… |
//! ```
//!
//! Invariants: all of them, those in use and those kept, form a doubly linked list from `larges`; those
//! kept are in the free lists of the largest power of two within their regions, and their regions' sizes
//! add up to `kept`.

use core::alloc::Layout;
use core::ptr::{self, NonNull};

use heapwright_backends::{Pile, grow_between};
use heapwright_core::{GRANULE, HeapBackend, HeapError, Region, reallocate_by_moving};

use crate::header::{Header, KEPT, Key, LARGE, WORD};
use crate::{FIRST, KingsleyHeap, LARGE_CLASS, MAX, SMALL_MAX};

/// Stands in front of the header of a large block.
#[derive(Debug)]
pub(crate) struct Large {
    pub(crate) next: *mut Large,
    pub(crate) previous: *mut Large,
    /// The region, as the backend gave it.
    start: NonNull<u8>,
    size: usize,
    /// From the start of the region to the payload.
    offset: usize,
}

/// From the start of a region to a payload that needs no alignment.
const FRONT: usize = (size_of::<Large>() + WORD).next_multiple_of(GRANULE);

/// So many bytes of freed regions may be kept in any case; beyond it, up to a quarter of the heap.
const KEPT_LEAST: usize = 4 << 20;

/// Requests from here on fail anyhow, and not a kept region is given back for them.
const HOPELESS: usize = if usize::BITS == 64 { 1 << 40 } else { 1 << 30 };

impl Large {
    /// The bookkeeping in front of a payload.
    #[inline]
    pub(crate) fn of(payload: NonNull<u8>) -> *mut Self {
        payload.as_ptr().wrapping_sub(WORD + size_of::<Self>()).cast()
    }

    /// The payload behind the bookkeeping.
    pub(crate) fn payload(&self) -> NonNull<u8> {
        // SAFETY: the payload lies within the region.
        unsafe { self.start.add(self.offset) }
    }

    /// Bytes of payload.
    pub(crate) fn usable(&self) -> usize {
        self.size - self.offset
    }

    pub(crate) fn region(&self) -> Region {
        Region { start: self.start, size: self.size, zeroed: false }
    }
}

/// The largest power of two within a region: the list that it is kept in.
fn class_within(size: usize) -> usize {
    size.ilog2() as usize
}

impl<B: HeapBackend> KingsleyHeap<B> {
    /// Links in a region whose payload starts at `offset`.
    ///
    /// # Safety
    ///
    /// The region is ours, in no list, and long enough; the payload is aligned to 16 bytes.
    unsafe fn link(&mut self, region: Region, offset: usize, state: usize) -> NonNull<u8> {
        // SAFETY: the caller promises room for bookkeeping and header in front of the payload.
        unsafe {
            let payload = region.start.add(offset);
            let large = Large::of(payload);
            let (start, size) = (region.start, region.size);
            let (next, previous) = (self.larges, ptr::null_mut());
            large.write(Large { next, previous, start, size, offset });
            if let Some(next) = self.larges.as_mut() {
                next.previous = large;
            }
            self.larges = large;
            Header::write(payload, self.key, class_within(size), state);
            payload
        }
    }

    /// Takes a large block out of the list of all.
    ///
    /// # Safety
    ///
    /// It is in the list.
    unsafe fn unlink(&mut self, payload: NonNull<u8>) -> Region {
        // SAFETY: what is in the list has neighbours in the list.
        unsafe {
            let Large { next, previous, start, size, .. } = Large::of(payload).read();
            match previous.as_mut() {
                Some(previous) => previous.next = next,
                None => self.larges = next,
            }
            if let Some(next) = next.as_mut() {
                next.previous = previous;
            }
            Region { start, size, zeroed: false }
        }
    }

    /// A region of its own for a request, and whether its payload is zero.
    #[cold]
    #[inline(never)]
    pub(crate) fn allocate_large(&mut self, layout: Layout) -> Option<(NonNull<u8>, bool)> {
        let (size, align) = (layout.size(), layout.align().max(GRANULE));
        if size > MAX {
            return None;
        }
        let slack = if align > GRANULE { align } else { 0 };
        let need = (FRONT + size + slack).max(1 << LARGE_CLASS);
        let class = need.next_power_of_two().ilog2() as usize;
        let mut region = self.take_region(need, class)?;
        // SAFETY: the region is ours, in no list, and has room for front, slack and payload. What lies
        // behind the payload of an aligned one is not needed.
        unsafe {
            let offset = (region.addr() + FRONT).next_multiple_of(align) - region.addr();
            if slack > 0 {
                let page = self.source.page_size();
                let end = (offset + size).max(1 << LARGE_CLASS).next_multiple_of(page);
                if end < region.size {
                    let start = region.start.add(end);
                    let behind = Region { start, size: region.size - end, zeroed: false };
                    region.size -= self.source.shrink(behind);
                }
            }
            Some((self.link(region, offset, LARGE), region.zeroed))
        }
    }

    /// A region of at least `need` bytes, preferably of `2^class`: one that was kept, or a new one.
    fn take_region(&mut self, need: usize, class: usize) -> Option<Region> {
        if let Some(kept) = self.take_kept(class) {
            return Some(kept);
        }
        // One that stands alone, if the backend has such: it leaves room behind the small blocks.
        let source = &mut self.source;
        let region = source
            .map(1 << class, GRANULE)
            .or_else(|_| source.map(need, GRANULE))
            .or_else(|_| grow_between(source, need, 1 << class, GRANULE));
        if let Ok(region) = region {
            return Some(region);
        }
        (class..self.free.len()).find_map(|class| self.take_kept(class)).or_else(|| {
            if need >= HOPELESS || self.release_unused() == 0 {
                return None;
            }
            self.source.map(need, GRANULE).or_else(|_| self.source.grow(need, GRANULE)).ok()
        })
    }

    /// Makes a kept region one of small blocks, when there is no other memory left.
    pub(crate) fn adopt_kept(&mut self) -> Option<()> {
        let region = (LARGE_CLASS..self.free.len()).find_map(|class| self.take_kept(class))?;
        // SAFETY: a region that was kept is ours and used by nobody.
        unsafe { self.adopt(region) };
        Some(())
    }

    fn take_kept(&mut self, class: usize) -> Option<Region> {
        let list = self.free.get_mut(class)?;
        let payload = NonNull::new(*list)?;
        // SAFETY: what is in the list of a large class is a kept region, whose payload holds the link.
        unsafe {
            *list = payload.cast::<*mut u8>().read();
            let region = self.unlink(payload);
            self.kept -= region.size;
            Some(region)
        }
    }

    /// Keeps a region for another request.
    ///
    /// # Safety
    ///
    /// The region is ours, in no list, used by nobody, and of a large class.
    unsafe fn keep(&mut self, region: Region) {
        // SAFETY: the caller promises the region; its payload has room for the link.
        unsafe {
            let payload = self.link(region, FRONT, KEPT);
            if let Some(list) = self.free.get_mut(class_within(region.size)) {
                payload.cast::<*mut u8>().write(*list);
                *list = payload.as_ptr();
                self.kept += region.size;
            }
        }
    }

    /// Gives back a region that is in no list; what the backend does not take is kept, or carved up.
    ///
    /// # Safety
    ///
    /// The region is ours and used by nobody.
    pub(crate) unsafe fn give_back(&mut self, mut region: Region) -> usize {
        // SAFETY: the caller promises the region; what is not taken of it stays ours.
        unsafe {
            let taken = self.source.shrink(region);
            region.size -= taken;
            if region.size >= 1 << LARGE_CLASS {
                self.keep(region);
            } else if region.size >= FIRST + 2 * GRANULE {
                self.adopt(region);
            } else {
                self.lost += region.size;
            }
            taken
        }
    }

    /// Frees a large block: keeps its region, up to a part of the heap, or gives it back.
    ///
    /// # Safety
    ///
    /// The block is a large one in use.
    #[cold]
    pub(crate) unsafe fn deallocate_large(&mut self, payload: NonNull<u8>) {
        let limit = (self.source.held() / 4).max(KEPT_LEAST);
        // SAFETY: the caller promises a large block; once unlinked, nobody uses its region.
        unsafe {
            let region = self.unlink(payload);
            // Where it is aligned, the block that it is kept as has its header elsewhere.
            Header::write(payload, self.key, 0, KEPT);
            if self.kept + region.size <= limit {
                self.keep(region);
            } else {
                self.give_back(region);
            }
        }
    }

    /// Resizes a large block: its region where it stands, or, for more, by remapping.
    ///
    /// # Safety
    ///
    /// The block is a large one in use, and was asked for with the layout's alignment.
    #[cold]
    pub(crate) unsafe fn reallocate_large(
        &mut self,
        payload: NonNull<u8>,
        layout: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, HeapError> {
        if new_size > MAX {
            return Err(HeapError::OutOfMemory);
        }
        // SAFETY: the caller promises a large block, which has bookkeeping in front.
        unsafe {
            let large = Large::of(payload);
            let (offset, usable) = ((*large).offset, (*large).usable());
            if new_size <= usable && new_size + layout.align() <= SMALL_MAX {
                // Worth a copy; should there be no memory for it, the block serves as it is.
                let moved = reallocate_by_moving(self, payload, layout, new_size);
                return moved.or(Ok(payload));
            }
            let target = (offset + new_size).next_power_of_two().max(1 << LARGE_CLASS);
            if new_size <= usable {
                if target < (*large).size
                    && let Some(resized) = self.source.resize((*large).region(), target, false)
                {
                    (*large).size = resized.size;
                    Header::write(payload, self.key, class_within(resized.size), LARGE);
                }
                return Ok(payload);
            }
            let may_move = layout.align() <= self.source.page_size().min(4096);
            let region = self.unlink(payload);
            let resized = self
                .source
                .resize(region, target, may_move)
                .or_else(|| self.source.resize(region, offset + new_size, may_move));
            let linked = self.link(resized.unwrap_or(region), offset, LARGE);
            if resized.is_some() {
                return Ok(linked);
            }
            reallocate_by_moving(self, payload, layout, new_size)
        }
    }

    /// Whether an address that lies in no region of small blocks is the payload of a large block, in use
    /// or kept: the state that its header says. Tolerates any address.
    pub(crate) fn large_state(&self, payload: NonNull<u8>) -> Option<usize> {
        let front = Large::of(payload).addr();
        if payload.addr().get() <= FRONT
            || self.key == Key::NONE
            || !self.source.is_readable(front)
            || !self.source.is_readable(payload.addr().get() - 1)
        {
            return None;
        }
        // SAFETY: both ends of the bookkeeping are readable, and it spans less than a page.
        let state = unsafe { Header::read(payload, self.key) }.state();
        (state == LARGE || state == KEPT).then_some(state)
    }

    /// Gives back all that is kept, and says how many bytes were taken.
    #[cold]
    pub(crate) fn release_kept(&mut self) -> usize {
        let mut pile = Pile::new();
        let mut at = self.larges;
        for list in self.free.iter_mut().skip(LARGE_CLASS) {
            *list = ptr::null_mut();
        }
        self.kept = 0;
        let mut taken = 0;
        // SAFETY: the list holds large blocks; those kept are used by nobody, and are not in the lists of
        // their classes any more.
        unsafe {
            while let Some(large) = at.as_ref() {
                at = large.next;
                if Header::read(large.payload(), self.key).state() == KEPT {
                    pile.push(self.unlink(large.payload()));
                }
            }
            pile.sort();
            while let Some(region) = pile.pop() {
                taken += self.give_back(region);
            }
        }
        taken
    }
}
