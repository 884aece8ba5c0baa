//! A backend on loan.

use heapwright_core::{HeapBackend, OutOfMemory, Region};

use crate::fallback::{Owns, Stretch};

/// A backend that a heap has only for a while: when the heap is gone, its owner has it back, to look at
/// or to put under the next heap.
///
/// ```
/// use core::mem::MaybeUninit;
/// use heapwright_backends::{Arena, Lent};
///
/// let mut buffer = [MaybeUninit::uninit(); 1024];
/// let mut arena = Arena::new(&mut buffer);
/// let heap_backend = Lent(&mut arena);
/// // … a heap over `heap_backend` lives and is dropped …
/// # drop(heap_backend);
/// assert_eq!(arena.given(), 0);
/// ```
#[derive(Debug)]
pub struct Lent<'a, B>(pub &'a mut B);

// SAFETY: everything is left to the backend that is lent.
unsafe impl<B: HeapBackend> HeapBackend for Lent<'_, B> {
    fn page_size(&self) -> usize {
        self.0.page_size()
    }

    fn grow(&mut self, size: usize, align: usize) -> Result<Region, OutOfMemory> {
        self.0.grow(size, align)
    }

    fn map(&mut self, size: usize, align: usize) -> Result<Region, OutOfMemory> {
        self.0.map(size, align)
    }

    unsafe fn shrink(&mut self, region: Region) -> usize {
        // SAFETY: the caller promises the same.
        unsafe { self.0.shrink(region) }
    }

    unsafe fn resize(&mut self, region: Region, new_size: usize, may_move: bool) -> Option<Region> {
        // SAFETY: the caller promises the same.
        unsafe { self.0.resize(region, new_size, may_move) }
    }

    unsafe fn relocate(&mut self, from: Region, to: Region) -> bool {
        // SAFETY: the caller promises the same.
        unsafe { self.0.relocate(from, to) }
    }

    unsafe fn discard(&mut self, region: Region) -> bool {
        // SAFETY: the caller promises the same.
        unsafe { self.0.discard(region) }
    }

    unsafe fn populate(&mut self, region: Region) {
        // SAFETY: the caller promises the same.
        unsafe { self.0.populate(region) };
    }

    unsafe fn offer_huge_pages(&mut self, region: Region) {
        // SAFETY: the caller promises the same.
        unsafe { self.0.offer_huge_pages(region) };
    }

    unsafe fn withdraw_huge_pages(&mut self, region: Region) {
        // SAFETY: the caller promises the same.
        unsafe { self.0.withdraw_huge_pages(region) };
    }

    fn is_readable(&self, addr: usize) -> bool {
        self.0.is_readable(addr)
    }

    fn is_present(&self, addr: usize) -> bool {
        self.0.is_present(addr)
    }

    fn entropy(&self) -> u64 {
        self.0.entropy()
    }
}

impl<B: Owns> Owns for Lent<'_, B> {
    fn stretch_below(&self, end: usize) -> Stretch {
        self.0.stretch_below(end)
    }
}
