//! A wrapper that asks for huge pages.

use heapwright_core::{HeapBackend, New, OutOfMemory, Region, hand_on};

use crate::sys;

/// From this size on a region is offered for huge pages: less would seldom hold one.
const LEAST: usize = 4 << 20;

/// Memory from `B`, of which the kernel may back regions of at least 4 MiB by huge pages (2 MiB on most
/// machines; `MADV_HUGEPAGE`).
///
/// One page fault then makes 2 MiB present instead of 4 KiB, and the processor needs fewer entries for
/// the same memory: large heaps fill several times faster. In exchange a program that touches a large
/// block here and there holds more of it, and what is discarded of a huge page may become present again, as
/// the kernel collects small pages that are near each other (`khugepaged`). It is a wish: where the kernel is
/// set to `never`, nothing changes.
#[derive(Debug, Default)]
pub struct HugePages<B> {
    inner: B,
}

impl<B: New> New for HugePages<B> {
    const NEW: Self = Self { inner: B::NEW };
}

impl<B> HugePages<B> {
    /// Memory from `inner`, in huge pages where they fit.
    pub const fn over(inner: B) -> Self {
        Self { inner }
    }

    /// The source.
    pub fn inner(&self) -> &B {
        &self.inner
    }
}

/// Offers a region that was just given.
fn offer(region: Region) -> Region {
    if region.size >= LEAST {
        // SAFETY: just given by a source of private anonymous memory, or of memory to which the
        // advice does not apply, which the kernel then refuses.
        unsafe { sys::offer_huge_pages(region.addr(), region.end()) };
    }
    region
}

// SAFETY: regions are the source's, and advice changes no contents.
unsafe impl<B: HeapBackend> HeapBackend for HugePages<B> {
    fn grow(&mut self, size: usize, align: usize) -> Result<Region, OutOfMemory> {
        self.inner.grow(size, align).map(offer)
    }

    fn map(&mut self, size: usize, align: usize) -> Result<Region, OutOfMemory> {
        self.inner.map(size, align).map(offer)
    }

    unsafe fn resize(&mut self, region: Region, new_size: usize, may_move: bool) -> Option<Region> {
        // SAFETY: the caller promises the same.
        unsafe { self.inner.resize(region, new_size, may_move) }.map(offer)
    }

    unsafe fn withdraw_huge_pages(&mut self, region: Region) {
        // SAFETY: the caller promises pages of a region; what was offered here is withdrawn here.
        unsafe { sys::withdraw_huge_pages(region.addr(), region.end()) };
    }

    hand_on! {
        inner:
            page_size, shrink, relocate, discard, populate, offer_huge_pages,
            is_readable, is_present, entropy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Mmap;

    #[test]
    fn large_regions_serve_and_go_back() {
        let mut source = HugePages::over(Mmap::new());
        let region = source.grow(9 << 20, 4096).unwrap();
        assert!(region.zeroed);
        // SAFETY: the region is ours, and unused once it is given back.
        unsafe {
            for offset in (0..region.size).step_by(4096) {
                assert_eq!(region.start.add(offset).read(), 0);
                region.start.add(offset).write(1);
            }
            assert_eq!(source.shrink(region), region.size);
        }
    }
}
