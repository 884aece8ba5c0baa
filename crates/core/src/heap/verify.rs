//! What the checks say of a pointer that is given back.

use core::ptr::NonNull;

use super::Heap;
use crate::block::{Block, CACHED, GRANULE, MAPPED, PREV_USED, SEAL_BITS, SIZE_BITS, USED, WORD};
use crate::large::Large;
use crate::mechanism::{Checks, Mechanism};
use crate::{HeapBackend, HeapError, Policy};

impl<B: HeapBackend, P: Policy, M: Mechanism> Heap<B, P, M> {
    /// What the checks say of a pointer that is given back: its block, if it is one in use.
    #[inline(always)]
    pub(super) unsafe fn verify(&self, payload: NonNull<u8>) -> Result<(Block, usize), HeapError> {
        // SAFETY: without checks, the caller promises a block in use; with checks, nothing is read
        // that is not in a region of ours.
        unsafe {
            if M::Checks::ON {
                return self.verify_checked(payload);
            }
            let block = Self::block_of(payload);
            Ok((block, block.word()))
        }
    }

    /// The order matters: a block that was freed has no canary any more.
    pub(super) unsafe fn verify_checked(
        &self,
        payload: NonNull<u8>,
    ) -> Result<(Block, usize), HeapError> {
        let addr = payload.as_ptr() as usize;
        let invalid = Err(HeapError::InvalidFree(addr));
        if !addr.is_multiple_of(GRANULE) {
            return invalid;
        }
        let held = self.region_of(addr).is_some();
        if !held && !self.large.owns::<M::Checks>(&self.backend, payload, Self::HEADER) {
            return invalid;
        }
        // SAFETY: the address lies behind the first payload of a region, so that a header's place
        // is in front of it; blocks that the seal vouches for lead to headers.
        unsafe {
            let block = Self::block_of(payload);
            let word = block.word();
            if word & SEAL_BITS != M::Checks::seal(block.addr()) || (word & MAPPED == 0) != held {
                return invalid;
            }
            let size = word & SIZE_BITS;
            if word & USED == 0 || word & CACHED != 0 {
                return Err(HeapError::DoubleFree(addr));
            }
            if M::Checks::CANARIES && block.after(WORD).word() != M::Checks::canary(block.addr()) {
                return Err(HeapError::Corrupted(addr));
            }
            if word & MAPPED == 0 {
                if size == 0 {
                    return invalid;
                }
                if size < 2 * WORD || !self.holds_header(block.addr(), size) {
                    return Err(HeapError::Corrupted(addr));
                }
                let behind = block.after(size);
                let behind_word = behind.word();
                if behind_word & SEAL_BITS != M::Checks::seal(behind.addr())
                    || behind_word & PREV_USED == 0
                {
                    return Err(HeapError::Corrupted(addr));
                }
            }
            Ok((block, word))
        }
    }

    /// Whether a block of this size at this place ends at or before its region's epilogue.
    pub(super) fn holds_header(&self, block: usize, size: usize) -> bool {
        self.region_of(block + Self::HEADER)
            .is_some_and(|head| size <= head.epilogue.as_ptr() as usize - block)
    }
}
