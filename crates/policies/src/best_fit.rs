//! Best fit: the smallest block in the list that is large enough.

use heapwright_core::{FreeBlock, LinkCode, New, Plain, Request};

use crate::list::{AddressOrder, List};
use crate::list_fit::{ListFit, Search};

/// The smallest free block that is large enough, the first of several in the order of the list; the
/// search ends early at a block of the exact size (Knuth, *The Art of Computer Programming* 1, §2.5,
/// 1968).
///
/// * **Cost:** find O(n), all of the list where no block fits exactly; insert O(1), in
///   [`AddressOrder`] O(n) where no free block is near; remove O(1).
/// * **Good at:** the least fragmentation on real programs, in any order (Johnstone and Wilson, *The
///   Memory Fragmentation Problem: Solved?*, 1998).
/// * **Bad at:** time. [`BestFitTree`](crate::BestFitTree) makes the choice of address order in
///   O(log n).
pub type BestFit<O = AddressOrder, C = Plain> = ListFit<Best, O, C>;

/// The search of [`BestFit`].
#[derive(Debug)]
pub struct Best;

impl New for Best {
    const NEW: Self = Self;
}

// SAFETY: what is returned is in the list and fits.
unsafe impl Search for Best {
    #[inline]
    fn find<C: LinkCode>(&mut self, list: &List<C>, request: Request) -> Option<FreeBlock> {
        let mut best: Option<FreeBlock> = None;
        for block in list.iter().filter(|&block| request.fits(block)) {
            if block.size() == request.size() {
                return Some(block);
            }
            if best.is_none_or(|best| block.size() < best.size()) {
                best = Some(block);
            }
        }
        best
    }
}
