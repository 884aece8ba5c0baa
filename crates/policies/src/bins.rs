//! An array of doubly linked lists of free blocks, one a bin. Which bin a block belongs to, and which
//! bins are not empty, is for the policy to know.
//!
//! Word 0 of a node leads to the next block of the bin, word 1 to the previous one.
//!
//! Invariants, verified by [`Bins::check`]: the two links between neighbours agree.

use core::marker::PhantomData;

use heapwright_core::{Broken, FreeBlock, Indexed, Link, LinkCode, New, ensure};

const NEXT: usize = 0;
const PREVIOUS: usize = 1;

/// `N` is a power of two, so that masking keeps a bin's number within bounds at no cost.
#[derive(Debug)]
pub(crate) struct Bins<const N: usize, C> {
    heads: [Link; N],
    code: PhantomData<fn() -> C>,
}

impl<const N: usize, C> New for Bins<N, C> {
    const NEW: Self = {
        assert!(N.is_power_of_two());
        Self { heads: [Link::NONE; N], code: PhantomData }
    };
}

impl<const N: usize, C: LinkCode> Bins<N, C> {
    /// The first block of a bin.
    #[inline(always)]
    pub(crate) fn first(&self, bin: usize) -> Option<FreeBlock> {
        // SAFETY: a head is none or leads to a free block in the bin.
        unsafe { self.heads[bin & (N - 1)].get() }
    }

    /// The block after `block` in its bin.
    ///
    /// # Safety
    ///
    /// The block is in a bin.
    #[inline(always)]
    pub(crate) unsafe fn after(&self, block: FreeBlock) -> Option<FreeBlock> {
        // SAFETY: the links of a block in a bin lead to its neighbours.
        unsafe { block.link(NEXT).coded::<C>(block).get() }
    }

    /// Adds a block in front.
    ///
    /// # Safety
    ///
    /// The block is free and in no bin.
    #[inline(always)]
    pub(crate) unsafe fn push(&mut self, bin: usize, block: FreeBlock) {
        let head = self.heads[bin & (N - 1)];
        // SAFETY: the block is the caller's to link; the head is in the bin.
        unsafe {
            block.set_link(NEXT, head.coded::<C>(block));
            block.set_link(PREVIOUS, Link::NONE.coded::<C>(block));
            if let Some(head) = head.get() {
                head.set_link(PREVIOUS, block.as_link().coded::<C>(head));
            }
        }
        self.heads[bin & (N - 1)] = block.as_link();
    }

    /// Takes a block out, and says whether the bin is empty now.
    ///
    /// # Safety
    ///
    /// The block is in this bin.
    #[inline(always)]
    pub(crate) unsafe fn remove(&mut self, bin: usize, block: FreeBlock) -> bool {
        // SAFETY: the links of a block in a bin lead to its neighbours.
        unsafe {
            let next = block.link(NEXT).coded::<C>(block);
            let previous = block.link(PREVIOUS).coded::<C>(block);
            if let Some(next) = next.get() {
                next.set_link(PREVIOUS, previous.coded::<C>(next));
            }
            match previous.get() {
                Some(previous) => {
                    previous.set_link(NEXT, next.coded::<C>(previous));
                    false
                }
                None => {
                    self.heads[bin & (N - 1)] = next;
                    next.is_none()
                }
            }
        }
    }

    /// Verifies that each block is in the bin where `bin_of` wants it, and sums them up.
    pub(crate) fn check(
        &self,
        bin: usize,
        bin_of: impl Fn(usize) -> usize,
    ) -> Result<Indexed, Broken> {
        let mut indexed = Indexed::default();
        let mut previous = Link::NONE;
        let mut at = self.first(bin);
        while let Some(block) = at {
            ensure(bin_of(block.size()) == bin, "each block is in its size's bin", block.addr())?;
            // SAFETY: the block is in a bin.
            unsafe {
                ensure(
                    block.link(PREVIOUS).coded::<C>(block) == previous,
                    "the links between neighbours in a bin agree",
                    block.addr(),
                )?;
                indexed.count(block);
                previous = block.as_link();
                at = self.after(block);
            }
        }
        Ok(indexed)
    }
}
