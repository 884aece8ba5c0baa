//! Worst fit: the largest block in the list.

use heapwright_core::{FreeBlock, LinkCode, New, Plain, Request};

use crate::list::{AddressOrder, List};
use crate::list_fit::{ListFit, Search};

/// The largest free block, the first of several in the order of the list (Wilson, Johnstone, Neely and
/// Boles, *Dynamic Storage Allocation: A Survey and Critical Review*, 1995, §3.5).
///
/// * **Cost:** find O(n), always all of the list; insert O(1), in [`AddressOrder`] O(n) where no free
///   block is near; remove O(1).
/// * **Good at:** being compared with: it keeps remainders large, and shows that this is not what
///   matters.
/// * **Bad at:** large blocks are soon used up, so that large requests make the heap grow.
pub type WorstFit<O = AddressOrder, C = Plain> = ListFit<Worst, O, C>;

/// The search of [`WorstFit`].
#[derive(Debug)]
pub struct Worst;

impl New for Worst {
    const NEW: Self = Self;
}

// SAFETY: what is returned is in the list and fits.
unsafe impl Search for Worst {
    #[inline]
    fn find<C: LinkCode>(&mut self, list: &List<C>, request: Request) -> Option<FreeBlock> {
        // Of equals, `max_by_key` would give the last.
        let largest = list.iter().reduce(|a, b| if b.size() > a.size() { b } else { a });
        largest.filter(|&block| request.fits(block))
    }
}
