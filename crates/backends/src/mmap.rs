//! Anonymous mappings.

use core::ptr::{self, NonNull};

use heapwright_core::{HeapBackend, New, OutOfMemory, Region};

use crate::sys::{self, keeping_errno};
use crate::{round_down, round_up};

/// Private anonymous mappings: page by page, each of which can go back on its own.
///
/// A mapping is asked for right behind the last one, and the first of a value of this type at a random
/// place with room behind it, so that regions mostly continue each other. That is a wish: where the
/// place is taken, the kernel chooses another. Alignment costs no memory: what is mapped too much for
/// it is unmapped at once.
///
/// Regions that [stand alone](HeapBackend::map) and are aligned lie likewise one behind the other, 64 GiB
/// further on: each at the next multiple of its alignment, so that mostly there is room to grow behind it.
///
/// Each call costs a system call; an alignment of more than a page up to four.
///
/// [`shrink`](HeapBackend::shrink) takes any whole pages, those at the start or in the middle of a
/// region too. [`resize`](HeapBackend::resize) is `mremap`, which moves page tables instead of bytes.
#[derive(Debug, Default)]
pub struct Mmap {
    /// Where the last region ended; zero for a place not chosen yet.
    next: usize,
    /// Where the last one that stands alone and is aligned ended; zero likewise.
    apart: usize,
}

impl New for Mmap {
    const NEW: Self = Self { next: 0, apart: 0 };
}

/// Maps `size` bytes, a multiple of the page, preferably at `wish`.
fn map(wish: usize, size: usize) -> Option<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let wish = ptr::without_provenance_mut(wish);
    // SAFETY: without MAP_FIXED a new mapping replaces no other.
    let start = keeping_errno(|| unsafe { libc::mmap(wish, size, protection, kind, -1, 0) });
    if start == libc::MAP_FAILED { None } else { NonNull::new(start.cast()) }
}

/// Unmaps pages, and says whether that worked: it fails where the process has too many mappings to
/// cut one in two.
///
/// # Safety
///
/// They are the caller's, and nobody uses them.
unsafe fn unmap(start: NonNull<u8>, size: usize) -> bool {
    // SAFETY: the caller promises unused pages.
    size == 0 || keeping_errno(|| unsafe { libc::munmap(start.as_ptr().cast(), size) == 0 })
}

/// Maps `size` bytes at a place, if nothing lies there.
fn map_there(place: usize, size: usize) -> bool {
    let Some(start) = map(place, size) else { return false };
    let granted = start.addr().get() == place;
    if !granted {
        // SAFETY: just mapped, and used by nobody.
        unsafe { unmap(start, size) };
    }
    granted
}

/// Moves the pages of a region: into another mapping, or to where there is room.
///
/// # Safety
///
/// Both are the caller's. Nobody uses the place, nor the region at its old one.
unsafe fn remap(region: Region, size: usize, to: Option<NonNull<u8>>) -> Option<NonNull<u8>> {
    let old = region.start.as_ptr().cast();
    // SAFETY: the caller promises both. What is mapped at the new place is replaced.
    let start = keeping_errno(|| unsafe {
        match to {
            Some(to) => {
                let how = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
                libc::mremap(old, region.size, size, how, to.as_ptr())
            }
            None => libc::mremap(old, region.size, size, libc::MREMAP_MAYMOVE),
        }
    });
    if start == libc::MAP_FAILED { None } else { NonNull::new(start.cast()) }
}

/// Maps more than is asked for, and unmaps what lies in front of the aligned part and behind it.
#[cold]
pub(crate) fn map_and_cut(size: usize, align: usize) -> Option<NonNull<u8>> {
    let whole = size.checked_add(align - sys::page_size())?;
    if whole > isize::MAX as usize {
        return None;
    }
    let start = map(0, whole)?;
    let front = start.addr().get().wrapping_neg() & (align - 1);
    // SAFETY: just mapped, and used by nobody; front, aligned part and back are disjoint.
    unsafe {
        let aligned = start.add(front);
        if !unmap(aligned.add(size), whole - front - size) {
            unmap(start, whole);
            return None;
        }
        if !unmap(start, front) {
            unmap(start, front + size);
            return None;
        }
        Some(aligned)
    }
}

/// Where the first region of a source may go: one of 2²⁵ places of 2 MiB above 4 TiB, far from where
/// the kernel maps by itself, so that there is room behind it.
fn first_place() -> usize {
    if cfg!(target_pointer_width = "64") {
        let place = (sys::entropy() & ((1 << 25) - 1)) << 21;
        (place + (1 << 42)) as usize
    } else {
        0
    }
}

/// From where regions follow each other to where those do that stand alone.
const APART: usize = if cfg!(target_pointer_width = "64") { (1_u64 << 36) as usize } else { 0 };

/// Where the next one goes when the last one did not get where it was wished.
const NOWHERE: usize = 1;

impl Mmap {
    /// Mappings.
    pub const fn new() -> Self {
        Self::NEW
    }

    /// Where the next region that stands alone and is aligned may go.
    fn place_apart(&mut self) -> usize {
        if self.next == 0 {
            self.next = first_place();
        }
        match self.apart {
            0 => self.next.saturating_add(APART),
            // The last wish was not granted there: somewhere else, not too far away.
            NOWHERE => self.next.saturating_add(APART * (2 + sys::entropy() as usize % 15)),
            place => place,
        }
    }
}

/// Maps `size` bytes at a multiple of `align`, preferably the first one from `next` on; after it is where the next may
/// go.
fn map_aligned(next: &mut usize, size: usize, align: usize) -> Option<Region> {
    let page = sys::page_size();
    let size = round_up(size.max(1), page)?;
    if size > isize::MAX as usize || align > isize::MAX as usize {
        return None;
    }
    let wish = round_up(*next, align).unwrap_or(0);
    let mut start = map(wish, size)?;
    if start.addr().get() & (align - 1) != 0 {
        // SAFETY: just mapped, and used by nobody.
        unsafe { unmap(start, size) };
        start = map_and_cut(size, align)?;
    }
    let end = start.addr().get() + size;
    // Where the wish was not granted, there is no room behind: look for another place.
    *next = if start.addr().get() == wish { end } else { 0 };
    Some(Region { start, size, zeroed: true })
}

// SAFETY: a mapping is readable and writable, is the only one at its addresses, and stays until it is
// unmapped, which `shrink` and `resize` do. The kernel gives anonymous pages zeroed.
unsafe impl HeapBackend for Mmap {
    fn page_size(&self) -> usize {
        sys::page_size()
    }

    #[cold]
    fn grow(&mut self, size: usize, align: usize) -> Result<Region, OutOfMemory> {
        if self.next == 0 {
            self.next = first_place();
        }
        map_aligned(&mut self.next, size, align).ok_or(OutOfMemory)
    }

    #[cold]
    fn map(&mut self, size: usize, align: usize) -> Result<Region, OutOfMemory> {
        if align <= sys::page_size() {
            return map_aligned(&mut 0, size, align).ok_or(OutOfMemory);
        }
        self.apart = self.place_apart();
        let region = map_aligned(&mut self.apart, size, align).ok_or(OutOfMemory)?;
        if self.apart == 0 {
            self.apart = NOWHERE;
        }
        Ok(region)
    }

    #[cold]
    unsafe fn shrink(&mut self, region: Region) -> usize {
        let page = sys::page_size();
        let end = region.end();
        let Some(from) = round_up(region.addr(), page).filter(|&from| from < end) else { return 0 };
        if round_down(end, page) != end {
            // Its last page belongs to others too, so nothing can be taken from its end.
            return 0;
        }
        let size = end - from;
        // SAFETY: the caller promises that nobody uses the region, and these pages lie within it.
        if unsafe { !unmap(region.start.add(region.size - size), size) } {
            return 0;
        }
        for next in [&mut self.next, &mut self.apart] {
            if *next == end {
                *next = from;
            }
        }
        size
    }

    #[cold]
    unsafe fn resize(&mut self, region: Region, new_size: usize, may_move: bool) -> Option<Region> {
        let page = sys::page_size();
        let size = round_up(new_size.max(1), page)?;
        if size > isize::MAX as usize || region.addr() & (page - 1) != 0 {
            return None;
        }
        let start = if size <= region.size {
            // SAFETY: the caller promises a whole region, of which nobody uses the end.
            unsafe { unmap(region.start.add(size), region.size - size) }.then_some(region.start)?
        } else if map_there(region.end(), size - region.size) {
            region.start
        } else if may_move {
            // SAFETY: the caller promises a whole region, which nobody uses at its old place.
            unsafe { remap(region, size, None)? }
        } else {
            return None;
        };
        let resized = Region { start, size, zeroed: true };
        // What goes behind the region goes behind what it has grown by, or right behind what is left of it.
        let grown = region.end()..if start == region.start { resized.end() } else { 0 };
        for next in [&mut self.next, &mut self.apart] {
            if *next == region.end() || grown.contains(next) {
                *next = resized.end();
            }
        }
        Some(resized)
    }

    #[cold]
    unsafe fn relocate(&mut self, from: Region, to: Region) -> bool {
        // SAFETY: the caller promises two whole regions, of which nobody uses the second.
        let moved = unsafe { remap(from, to.size, Some(to.start)).is_some() };
        if !moved {
            // Before Linux 6.17 the second one may be gone already: then nothing is at its place, and it is mapped again.
            // What else lies there is that region itself.
            map_there(to.addr(), to.size);
        }
        moved
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
    unsafe fn offer_huge_pages(&mut self, region: Region) {
        // SAFETY: the caller promises a part of a region, which is private anonymous memory.
        unsafe { sys::offer_huge_pages(region.addr(), region.end()) };
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
