//! First fit: the first block in the list that is large enough.

use heapwright_core::{FreeBlock, LinkCode, New, Plain, Request};

use crate::list::{AddressOrder, List};
use crate::list_fit::{ListFit, Search};

/// The first free block in the list that is large enough (Knuth, *The Art of Computer Programming* 1,
/// §2.5, 1968).
///
/// * **Cost:** find O(n); insert O(1), in [`AddressOrder`] O(n) where no free block is near; remove O(1).
/// * **Good at:** in address order, little fragmentation on real programs, next to best fit (Johnstone
///   and Wilson, *The Memory Fragmentation Problem: Solved?*, 1998); large blocks gather at the end.
/// * **Bad at:** small remainders pile up at the front of the list, and each search passes them. In
///   LIFO order it fragments more.
pub type FirstFit<O = AddressOrder, C = Plain> = ListFit<First, O, C>;

/// The search of [`FirstFit`].
#[derive(Debug)]
pub struct First;

impl New for First {
    const NEW: Self = Self;
}

// SAFETY: what is returned is in the list and fits.
unsafe impl Search for First {
    #[inline]
    fn find<C: LinkCode>(&mut self, list: &List<C>, request: Request) -> Option<FreeBlock> {
        list.iter().find(|&block| request.fits(block))
    }
}
