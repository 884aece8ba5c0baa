//! LIFO: the block freed last that is large enough, with a check of what is freed.

use heapwright_core::{Broken, FreeBlock, Indexed, LinkCode, New, Plain, Policy, Request};

use crate::list::List;

/// The most recently freed block that is large enough, as in the classic teaching allocators, and the
/// check that glibc's malloc made of its fast bins: a block that is freed while it is the last one
/// freed already is refused, and the heap reports a double free.
///
/// * **Cost:** find O(n), O(1) where blocks are of one size; insert and remove O(1); the check is one
///   comparison.
/// * **Good at:** programs that free what they ask for next: the block is in the cache still.
/// * **Bad at:** fragmentation (Wilson et al. 1995, §3.6). The check finds only the double free in
///   a row that needs no memory of its own; a mechanism with
///   [`FreeChecks`](heapwright_core::FreeChecks) finds them all.
///
/// Invariant: the list holds the blocks that were inserted and not removed, the youngest first.
#[derive(Debug)]
pub struct Lifo<C = Plain> {
    list: List<C>,
}

impl<C> New for Lifo<C> {
    const NEW: Self = Self { list: List::NEW };
}

// SAFETY: the list holds what was inserted and not removed; `find` returns what fits.
unsafe impl<C: LinkCode> Policy for Lifo<C> {
    const CHECKS_FREES: bool = true;

    #[inline]
    unsafe fn insert(&mut self, block: FreeBlock) {
        // SAFETY: the caller promises the same.
        unsafe { self.list.push(block) };
    }

    #[inline]
    unsafe fn remove(&mut self, block: FreeBlock) {
        // SAFETY: the caller promises the same.
        unsafe { self.list.remove(block) };
    }

    #[inline]
    fn find(&mut self, request: Request) -> Option<FreeBlock> {
        self.list.iter().find(|&block| request.fits(block))
    }

    #[inline]
    fn rejects(&self, block: FreeBlock) -> bool {
        self.list.head() == block.as_link()
    }

    unsafe fn next_free(&self, block: FreeBlock) -> Option<FreeBlock> {
        // SAFETY: the caller promises a block in the list.
        unsafe { self.list.after(block) }
    }

    fn check(&self) -> Result<Indexed, Broken> {
        self.list.check(false)
    }
}
