//! Large requests: each in a mapping of its own, or like any other.

use core::alloc::Layout;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::block::{Block, GRANULE, MAPPED, MAX_BLOCK, PREV_USED, USED, WORD, round_up};
use crate::mechanism::Checks;
use crate::{Broken, HeapBackend, New, Region, ensure};

/// What a heap does with large requests.
///
/// Block addresses here are those of the payload's header of one or two words, as everywhere.
pub trait Large: New + 'static {
    /// From which request size in bytes on this serves instead of the heap.
    const THRESHOLD: usize;

    /// A block of its own for `layout`, fresh from the backend. The flag says whether it is zero.
    fn allocate<C: Checks>(
        &mut self,
        backend: &mut impl HeapBackend,
        layout: Layout,
        header: usize,
    ) -> Option<(NonNull<u8>, bool)>;
    /// Gives a block back.
    ///
    /// # Safety
    ///
    /// The payload is of a block of this.
    unsafe fn deallocate(
        &mut self,
        backend: &mut impl HeapBackend,
        payload: NonNull<u8>,
        header: usize,
    );
    /// Resizes a block, by moving its pages where `align` allows, and keeps its contents.
    ///
    /// # Safety
    ///
    /// As [`deallocate`](Self::deallocate).
    unsafe fn reallocate<C: Checks>(
        &mut self,
        backend: &mut impl HeapBackend,
        payload: NonNull<u8>,
        header: usize,
        new_size: usize,
        align: usize,
    ) -> Option<NonNull<u8>>;
    /// Bytes of payload.
    ///
    /// # Safety
    ///
    /// As [`deallocate`](Self::deallocate).
    unsafe fn usable_size(&self, payload: NonNull<u8>, header: usize) -> usize;
    /// Whether the payload is that of a block of this, for any address at all.
    fn owns<C: Checks>(
        &self,
        backend: &impl HeapBackend,
        payload: NonNull<u8>,
        header: usize,
    ) -> bool;
    /// Bytes held from the backend.
    fn footprint(&self) -> usize;
    /// Shows address and size of the payload of every block, and the bytes held for it.
    fn walk(&self, header: usize, visit: &mut dyn FnMut(usize, usize, usize));
    /// Gives every block back.
    ///
    /// # Safety
    ///
    /// Nobody uses any of them.
    unsafe fn release(&mut self, backend: &mut impl HeapBackend);
    /// Verifies the invariants.
    ///
    /// # Errors
    ///
    /// The first that is found broken.
    fn check(&self) -> Result<(), Broken>;
}

/// Large requests are served like any other.
#[derive(Debug)]
pub struct NoLarge;

impl New for NoLarge {
    const NEW: Self = Self;
}

impl Large for NoLarge {
    const THRESHOLD: usize = usize::MAX;

    fn allocate<C: Checks>(
        &mut self,
        _: &mut impl HeapBackend,
        _: Layout,
        _: usize,
    ) -> Option<(NonNull<u8>, bool)> {
        None
    }
    unsafe fn deallocate(&mut self, _: &mut impl HeapBackend, _: NonNull<u8>, _: usize) {}
    unsafe fn reallocate<C: Checks>(
        &mut self,
        _: &mut impl HeapBackend,
        _: NonNull<u8>,
        _: usize,
        _: usize,
        _: usize,
    ) -> Option<NonNull<u8>> {
        None
    }
    unsafe fn usable_size(&self, _: NonNull<u8>, _: usize) -> usize {
        0
    }
    fn owns<C: Checks>(&self, _: &impl HeapBackend, _: NonNull<u8>, _: usize) -> bool {
        false
    }
    fn footprint(&self) -> usize {
        0
    }
    fn walk(&self, _: usize, _: &mut dyn FnMut(usize, usize, usize)) {}
    unsafe fn release(&mut self, _: &mut impl HeapBackend) {}
    fn check(&self) -> Result<(), Broken> {
        Ok(())
    }
}

/// Requests of at least `THRESHOLD` bytes get a mapping of their own, where the backend has such: it grows
/// where it stands or by being remapped, and goes back whole when it is freed. Costs a system call
/// each time, up to a page of padding, and no fragmentation.
///
/// ```text
/// region: | front | links, size, heap | header | payload ............. |
/// ```
///
/// Invariants: the mappings form a doubly linked list from `first`; `bytes` is the sum of their sizes.
#[derive(Debug)]
pub struct OwnMapping<const THRESHOLD: usize> {
    /// Tells this heap's mappings from those of others; zero before the first.
    heap: usize,
    first: *mut Mapping,
    bytes: usize,
}

/// Stands right in front of the block's header.
struct Mapping {
    next: *mut Mapping,
    previous: *mut Mapping,
    region: NonNull<u8>,
    size: usize,
    heap: usize,
}

/// How many heaps have mapped blocks so far.
static HEAPS: AtomicUsize = AtomicUsize::new(0);

const MAPPING: usize = size_of::<Mapping>();

// SAFETY: the mappings belong to this value and go where it goes.
unsafe impl<const THRESHOLD: usize> Send for OwnMapping<THRESHOLD> {}

impl<const THRESHOLD: usize> New for OwnMapping<THRESHOLD> {
    const NEW: Self = Self { heap: 0, first: ptr::null_mut(), bytes: 0 };
}

impl<const THRESHOLD: usize> OwnMapping<THRESHOLD> {
    fn mapping(payload: NonNull<u8>, header: usize) -> *mut Mapping {
        payload.as_ptr().wrapping_sub(header + MAPPING).cast()
    }

    /// Writes the bookkeeping of a region whose payload starts at `offset`, and links it in.
    ///
    /// # Safety
    ///
    /// The region is ours, unlinked, and long enough.
    unsafe fn link<C: Checks>(
        &mut self,
        region: Region,
        offset: usize,
        header: usize,
    ) -> NonNull<u8> {
        // SAFETY: the region is ours and `offset` leaves room for the bookkeeping in front.
        unsafe {
            let payload = region.start.add(offset);
            let mapping = Self::mapping(payload, header);
            mapping.write(Mapping {
                next: self.first,
                previous: ptr::null_mut(),
                region: region.start,
                size: region.size,
                heap: self.heap,
            });
            if let Some(next) = self.first.as_mut() {
                next.previous = mapping;
            }
            self.first = mapping;
            self.bytes += region.size;
            let block = Block(payload.sub(header));
            block.set_word(USED | PREV_USED | MAPPED | C::seal(block.addr()));
            if C::CANARIES {
                block.after(WORD).set_word(C::canary(block.addr()));
            }
            payload
        }
    }

    /// Takes a mapping out of the list.
    ///
    /// # Safety
    ///
    /// It is in the list.
    unsafe fn unlink(&mut self, mapping: *mut Mapping) -> Region {
        // SAFETY: a mapping in the list has valid neighbours in the list.
        unsafe {
            let Mapping { next, previous, region, size, .. } = mapping.read();
            match previous.as_mut() {
                Some(previous) => previous.next = next,
                None => self.first = next,
            }
            if let Some(next) = next.as_mut() {
                next.previous = previous;
            }
            self.bytes -= size;
            Region { start: region, size, zeroed: false }
        }
    }
}

impl<const THRESHOLD: usize> Large for OwnMapping<THRESHOLD> {
    const THRESHOLD: usize = THRESHOLD;

    #[cold]
    fn allocate<C: Checks>(
        &mut self,
        backend: &mut impl HeapBackend,
        layout: Layout,
        header: usize,
    ) -> Option<(NonNull<u8>, bool)> {
        let align = layout.align().max(GRANULE);
        if layout.size() > MAX_BLOCK || align > MAX_BLOCK {
            return None;
        }
        if self.heap == 0 {
            self.heap = HEAPS.fetch_add(1, Relaxed) + 1;
        }
        let page = backend.page_size();
        let front = round_up(MAPPING + header, GRANULE);
        // Room for the front and for moving the payload up to the alignment.
        let slack = if align > GRANULE { align } else { 0 };
        let mut region = backend.map(front + layout.size() + slack, GRANULE).ok()?;
        let mut offset = round_up(region.addr() + front, align) - region.addr();
        // SAFETY: the region is ours; of it, the pages wholly in front of the bookkeeping and
        // those wholly behind the payload have no use.
        unsafe {
            if align > page {
                let before = Region { size: (offset - front) & !(page - 1), ..region };
                if before.size > 0 && backend.shrink(before) == before.size {
                    region.start = region.start.add(before.size);
                    region.size -= before.size;
                }
                offset = round_up(region.addr() + front, align) - region.addr();
                let used = round_up(offset + layout.size(), page);
                if used < region.size {
                    let start = region.start.add(used);
                    let behind = Region { start, size: region.size - used, zeroed: false };
                    region.size -= backend.shrink(behind);
                }
            }
            Some((self.link::<C>(region, offset, header), region.zeroed))
        }
    }

    #[cold]
    unsafe fn deallocate(
        &mut self,
        backend: &mut impl HeapBackend,
        payload: NonNull<u8>,
        header: usize,
    ) {
        // SAFETY: the caller promises a block of ours; once unlinked, its region is unused.
        unsafe {
            let region = self.unlink(Self::mapping(payload, header));
            backend.shrink(region);
        }
    }

    #[cold]
    unsafe fn reallocate<C: Checks>(
        &mut self,
        backend: &mut impl HeapBackend,
        payload: NonNull<u8>,
        header: usize,
        new_size: usize,
        align: usize,
    ) -> Option<NonNull<u8>> {
        if new_size > MAX_BLOCK {
            return None;
        }
        // SAFETY: the caller promises a block of ours. It is unlinked while it may move, and linked
        // again, where it was or where it is, whatever came of it.
        unsafe {
            let mapping = Self::mapping(payload, header);
            let region = (*mapping).region;
            let offset = payload.as_ptr() as usize - region.as_ptr() as usize;
            let page = backend.page_size();
            // An empty block still has a byte of its own: its address may begin a page.
            let size = round_up(offset + new_size.max(1), page);
            if size == (*mapping).size {
                return Some(payload);
            }
            let old = self.unlink(mapping);
            let resized = backend.resize(old, size, align <= page);
            let linked = self.link::<C>(resized.unwrap_or(old), offset, header);
            resized.map(|_| linked)
        }
    }

    unsafe fn usable_size(&self, payload: NonNull<u8>, header: usize) -> usize {
        // SAFETY: the caller promises a block of ours.
        unsafe {
            let mapping = Self::mapping(payload, header);
            (*mapping).region.as_ptr() as usize + (*mapping).size - payload.as_ptr() as usize
        }
    }

    fn owns<C: Checks>(
        &self,
        backend: &impl HeapBackend,
        payload: NonNull<u8>,
        header: usize,
    ) -> bool {
        let front = payload.as_ptr().wrapping_sub(header + MAPPING);
        if (payload.as_ptr() as usize) < header + MAPPING
            || !backend.is_readable(front as usize)
            || !backend.is_readable(payload.as_ptr() as usize - 1)
        {
            return false;
        }
        // SAFETY: both ends of the bookkeeping are readable, and it spans less than a page.
        unsafe {
            let block = Block(payload.sub(header));
            block.word() == USED | PREV_USED | MAPPED | C::seal(block.addr())
                && (*Self::mapping(payload, header)).heap == self.heap
        }
    }

    fn footprint(&self) -> usize {
        self.bytes
    }

    fn walk(&self, header: usize, visit: &mut dyn FnMut(usize, usize, usize)) {
        let mut at = self.first;
        // SAFETY: the list holds mappings of ours.
        while let Some(mapping) = unsafe { at.as_ref() } {
            let end = mapping.region.as_ptr() as usize + mapping.size;
            let payload = at as usize + MAPPING + header;
            visit(payload, end - payload, mapping.size);
            at = mapping.next;
        }
    }

    unsafe fn release(&mut self, backend: &mut impl HeapBackend) {
        while !self.first.is_null() {
            // SAFETY: the first of the list is in the list, and nobody uses it.
            unsafe {
                let region = self.unlink(self.first);
                backend.shrink(region);
            }
        }
    }

    fn check(&self) -> Result<(), Broken> {
        let (mut bytes, mut previous, mut at) = (0, ptr::null_mut(), self.first);
        // SAFETY: the list holds mappings of ours.
        while let Some(mapping) = unsafe { at.as_ref() } {
            ensure(
                mapping.previous == previous,
                "the mappings form a doubly linked list",
                at as usize,
            )?;
            bytes += mapping.size;
            previous = at;
            at = mapping.next;
        }
        ensure(bytes == self.bytes, "the mappings' sizes add up", self.first as usize)
    }
}
