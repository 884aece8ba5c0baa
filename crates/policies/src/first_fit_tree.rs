//! First fit in address order over a tree.

use heapwright_core::{Broken, FreeBlock, Indexed, LinkCode, New, Plain, Policy, Request};

use crate::treap::{ByAddress, Treap};

/// The free block at the lowest address that is large enough, found in a Cartesian tree: by address from
/// left to right, and no block above a larger one (Stephenson, *Fast Fits: New Methods for Dynamic
/// Storage Allocation*, 1983, "leftmost fit").
///
/// The choices are those of [`FirstFit`](crate::FirstFit) in address order, to the block.
///
/// * **Cost:** find, insert and remove O(depth): about log n where sizes have no order in memory, O(n)
///   where they rise or fall throughout; a node is two words.
/// * **Good at:** the low fragmentation of address order without its searches.
/// * **Bad at:** no bound on the worst case.
#[derive(Debug)]
pub struct FirstFitTree<C = Plain> {
    tree: Treap<ByAddress, C>,
}

impl<C> New for FirstFitTree<C> {
    const NEW: Self = Self { tree: Treap::NEW };
}

// SAFETY: the tree holds what was inserted and not removed; `find` returns what fits.
unsafe impl<C: LinkCode> Policy for FirstFitTree<C> {
    #[inline]
    unsafe fn insert(&mut self, block: FreeBlock) {
        // SAFETY: the caller promises the same.
        unsafe { self.tree.insert(block) };
    }

    #[inline]
    unsafe fn remove(&mut self, block: FreeBlock) {
        // SAFETY: the caller promises the same.
        unsafe { self.tree.remove(block) };
    }

    #[inline]
    fn find(&mut self, request: Request) -> Option<FreeBlock> {
        self.tree.leftmost_fit(request.size())
    }

    unsafe fn next_free(&self, block: FreeBlock) -> Option<FreeBlock> {
        // SAFETY: the caller promises a block in the tree.
        unsafe { self.tree.successor(block) }
    }

    fn check(&self) -> Result<Indexed, Broken> {
        self.tree.check()
    }
}
