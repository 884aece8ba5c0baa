//! Next fit: first fit that goes on where the last search ended.

use heapwright_core::{FreeBlock, Link, LinkCode, New, Plain, Request};

use crate::list::{AddressOrder, List};
use crate::list_fit::{ListFit, Search};

/// The first free block that is large enough, from where the last search ended, once around (Knuth's
/// roving pointer, *The Art of Computer Programming* 1, §2.5, exercise 6, 1968).
///
/// * **Cost:** find O(n), often short; insert O(1), in [`AddressOrder`] O(n) where no free block is
///   near; remove O(1).
/// * **Good at:** short searches: small remainders are spread over the list.
/// * **Bad at:** locality and fragmentation, the worst of the classic policies on real programs
///   (Johnstone and Wilson, *The Memory Fragmentation Problem: Solved?*, 1998).
pub type NextFit<O = AddressOrder, C = Plain> = ListFit<Next, O, C>;

/// The search of [`NextFit`].
///
/// Invariant: the rover is none, or leads to a block of the list.
#[derive(Debug)]
pub struct Next {
    rover: Link,
}

impl New for Next {
    const NEW: Self = Self { rover: Link::NONE };
}

// SAFETY: what is returned is in the list and fits.
unsafe impl Search for Next {
    #[inline]
    fn find<C: LinkCode>(&mut self, list: &List<C>, request: Request) -> Option<FreeBlock> {
        // SAFETY: the rover is none or leads to a block of the list, which is free.
        let rover = unsafe { self.rover.get() };
        // SAFETY: as above.
        let onwards = unsafe { list.iter_from(rover) };
        let before = list.iter().take_while(|&block| Some(block) != rover);
        let found = onwards.chain(before).find(|&block| request.fits(block))?;
        self.rover = found.as_link();
        Some(found)
    }

    #[inline]
    fn forget<C: LinkCode>(&mut self, list: &List<C>, block: FreeBlock, next: Option<FreeBlock>) {
        if self.rover == block.as_link() {
            // SAFETY: the block is in the list still.
            let next = next.or_else(|| unsafe { list.after(block) });
            self.rover = next.map_or(Link::NONE, FreeBlock::as_link);
        }
    }
}
