//! Segregated fit: bins by size, a bitmap of those that are not empty, best fit inside.

use heapwright_core::{
    Broken, FreeBlock, GRANULE, Indexed, LinkCode, New, Plain, Policy, Request, ensure,
};

use crate::bins::Bins;
use crate::treap::{BySize, Treap};

/// How many bins of one size each there are.
const SMALL: usize = 64;
/// From here on a bin spans half a doubling, and holds a tree.
const LARGE_FROM: usize = SMALL * GRANULE;
const LARGE: usize = 64;

/// Bins by size, of one size each up to 1008 bytes, above that two to a doubling with a tree inside; a
/// bitmap finds the first bin that can serve, and the best fit in it is taken. The kind of Doug Lea's
/// malloc, from 1987 on (*A Memory Allocator*, 1996; trees since version 2.8, 2005), segregated fits in
/// Wilson et al. 1995, §3.6.
///
/// * **Cost:** small blocks O(1); others O(log n) expected, n the blocks in one bin.
/// * **Good at:** nearly best fit at nearly the cost of simple lists.
/// * **Bad at:** among blocks of one size the youngest is taken, not the lowest.
///
/// Invariant: a bit of a map is set exactly when its bin holds a block.
#[derive(Debug)]
pub struct Segregated<C = Plain> {
    small_map: u64,
    large_map: u64,
    small: Bins<SMALL, C>,
    large: [Treap<BySize, C>; LARGE],
}

impl<C> New for Segregated<C> {
    const NEW: Self =
        Self { small_map: 0, large_map: 0, small: Bins::NEW, large: [const { Treap::NEW }; LARGE] };
}

/// The large bin of a size: two to a doubling, the last for all that is left.
#[inline(always)]
fn large_bin(size: usize) -> usize {
    let log = size.ilog2();
    let half = (size >> (log - 1)) & 1;
    let first = LARGE_FROM.ilog2();
    ((log.saturating_sub(first) as usize) * 2 + half).min(LARGE - 1)
}

impl<C: LinkCode> Segregated<C> {
    #[inline(always)]
    fn tree(&mut self, bin: usize) -> &mut Treap<BySize, C> {
        &mut self.large[bin & (LARGE - 1)]
    }

    /// The best fit among large blocks.
    #[inline]
    fn find_large(&self, size: usize) -> Option<FreeBlock> {
        let bin = large_bin(size.max(LARGE_FROM));
        let here = self.large_map & (1 << bin) != 0;
        if here && let Some(block) = self.large[bin & (LARGE - 1)].lower_bound(size) {
            return Some(block);
        }
        // Every block in a higher bin is large enough.
        let above = self.large_map & (!1 << bin);
        let bin = above.trailing_zeros() as usize;
        if above == 0 { None } else { self.large[bin & (LARGE - 1)].first() }
    }

    #[inline(always)]
    fn find_small(&self, size: usize) -> Option<FreeBlock> {
        let fitting = self.small_map & (!0 << (size / GRANULE));
        if fitting == 0 { None } else { self.small.first(fitting.trailing_zeros() as usize) }
    }
}

// SAFETY: the bins hold what was inserted and not removed; a bin that the maps name holds only blocks
// that are large enough, or is searched for one.
unsafe impl<C: LinkCode> Policy for Segregated<C> {
    #[inline]
    unsafe fn insert(&mut self, block: FreeBlock) {
        // SAFETY: the caller promises a block that may be linked.
        unsafe {
            if block.size() < LARGE_FROM {
                let bin = block.size() / GRANULE;
                self.small_map |= 1 << bin;
                self.small.push(bin, block);
            } else {
                let bin = large_bin(block.size());
                self.large_map |= 1 << bin;
                self.tree(bin).insert(block);
            }
        }
    }

    #[inline]
    unsafe fn remove(&mut self, block: FreeBlock) {
        // SAFETY: the caller promises a block in the index, hence in the bin of its size.
        unsafe {
            if block.size() < LARGE_FROM {
                let bin = block.size() / GRANULE;
                if self.small.remove(bin, block) {
                    self.small_map &= !(1 << bin);
                }
            } else {
                let bin = large_bin(block.size());
                self.tree(bin).remove(block);
                if self.tree(bin).is_empty() {
                    self.large_map &= !(1 << bin);
                }
            }
        }
    }

    #[inline]
    fn find(&mut self, request: Request) -> Option<FreeBlock> {
        if request.size() < LARGE_FROM
            && let Some(block) = self.find_small(request.size())
        {
            return Some(block);
        }
        self.find_large(request.size())
    }

    unsafe fn next_free(&self, block: FreeBlock) -> Option<FreeBlock> {
        // SAFETY: the caller promises a block in the index, hence in the bin of its size.
        unsafe {
            if block.size() < LARGE_FROM {
                self.small.after(block)
            } else {
                self.large[large_bin(block.size()) & (LARGE - 1)].successor(block)
            }
        }
    }

    fn check(&self) -> Result<Indexed, Broken> {
        let mut indexed = Indexed::default();
        let mut add = |sum: Indexed, marked: bool, bin: usize| {
            indexed.blocks += sum.blocks;
            indexed.bytes += sum.bytes;
            ensure(marked == (sum.blocks > 0), "the map marks the bins that hold a block", bin)
        };
        for bin in 0..SMALL {
            let sum = self.small.check(bin, |size| size / GRANULE)?;
            add(sum, self.small_map & (1 << bin) != 0, bin)?;
        }
        for (bin, tree) in self.large.iter().enumerate() {
            add(tree.check()?, self.large_map & (1 << bin) != 0, bin)?;
        }
        Ok(indexed)
    }
}
