//! Best fit over a tree by size, then address.

use heapwright_core::{Broken, FreeBlock, Indexed, LinkCode, New, Plain, Policy, Request};

use crate::treap::{BySize, Treap};

/// The smallest free block that is large enough, of several the one at the lowest address; found in a
/// balanced tree (best fit: Knuth 1968; trees for it: Standish, *Data Structure Techniques*, 1980;
/// here a treap, Seidel and Aragon 1996).
///
/// * **Cost:** O(log n) expected for find, insert and remove; a node is two words.
/// * **Good at:** the least fragmentation on real programs (Johnstone and Wilson 1998) at a cost that
///   hardly grows.
/// * **Bad at:** each step of a search is a cache miss in a large heap, so bins are faster for small
///   blocks.
#[derive(Debug)]
pub struct BestFitTree<C = Plain> {
    tree: Treap<BySize, C>,
}

impl<C> New for BestFitTree<C> {
    const NEW: Self = Self { tree: Treap::NEW };
}

// SAFETY: the tree holds what was inserted and not removed; `find` returns what fits.
unsafe impl<C: LinkCode> Policy for BestFitTree<C> {
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
        self.tree.lower_bound(request.size())
    }

    unsafe fn next_free(&self, block: FreeBlock) -> Option<FreeBlock> {
        // SAFETY: the caller promises a block in the tree.
        unsafe { self.tree.successor(block) }
    }

    fn check(&self) -> Result<Indexed, Broken> {
        self.tree.check()
    }
}
