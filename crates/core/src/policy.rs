//! Which free block serves a request, and how free blocks are indexed.

use crate::{Broken, FreeBlock, New, Request};

/// A placement policy together with its index of free blocks.
///
/// # For callers
///
/// The heap tells the policy of every free block of at least four words, once when it becomes free
/// and once when it ceases to be, and asks it for one that serves a request. The wilderness, the
/// free end of the region in use, is kept out of the index and serves when nothing else does
/// (wilderness preservation: Korn and Vo, 1985).
///
/// # For implementers
///
/// A policy keeps its links in the two words of the free blocks' nodes
/// ([`FreeBlock::set_link`]) and little in itself; it never allocates. Required are
/// [`insert`](Self::insert), [`remove`](Self::remove), [`find`](Self::find) and
/// [`check`](Self::check); the rest has a right if not the fastest default.
/// A policy may be moved in memory, so no node may hold the address of the policy itself.
///
/// # Safety
///
/// `find` and `take` return only blocks that are inserted and not removed, and that fit the request;
/// nothing but the nodes of such blocks is written.
pub unsafe trait Policy: New {
    /// Whether [`replace`](Self::replace) is cheaper than removing one block and inserting the
    /// other. The heap then calls `find` and `replace` where it else calls `take` and `insert`.
    const KEEPS_PLACE: bool = false;

    /// Whether [`rejects`](Self::rejects) looks at blocks that are about to be freed.
    const CHECKS_FREES: bool = false;

    /// Adds a free block to the index.
    ///
    /// # Safety
    ///
    /// The block is free and not in the index, and its header is written.
    unsafe fn insert(&mut self, block: FreeBlock);

    /// Takes a block out of the index.
    ///
    /// # Safety
    ///
    /// The block is in the index, with this size.
    unsafe fn remove(&mut self, block: FreeBlock);

    /// The block that serves a request; it stays in the index. `None` when the policy has none.
    fn find(&mut self, request: Request) -> Option<FreeBlock>;

    /// Finds a block and takes it out of the index, in one step.
    #[inline]
    fn take(&mut self, request: Request) -> Option<FreeBlock> {
        let block = self.find(request)?;
        // SAFETY: `find` returns blocks that are in the index.
        unsafe { self.remove(block) };
        Some(block)
    }

    /// Exchanges a block in the index for another one: the rest after a split, or the sum after a
    /// merge.
    ///
    /// # Safety
    ///
    /// `old` is in the index and `new` is not, except where both are the same address; one of them
    /// lies within the other, so no third free block lies between them. The node of `old` is
    /// intact; the header of `new` is written.
    #[inline]
    unsafe fn replace(&mut self, old: FreeBlock, new: FreeBlock) {
        // SAFETY: the caller promises that `old` is in the index and `new` may enter it.
        unsafe {
            self.remove(old);
            self.insert(new);
        }
    }

    /// The block that follows `block` in its list, for the heap map and for heaps that look beyond the block that was
    /// found; `None` where there is no such order or no successor.
    ///
    /// # Safety
    ///
    /// The block is in the index.
    unsafe fn next_free(&self, block: FreeBlock) -> Option<FreeBlock> {
        let _ = block;
        None
    }

    /// Whether the policy can tell, in O(1), that a block which is about to be freed is in its
    /// index already: a double free. The heap asks where [`CHECKS_FREES`](Self::CHECKS_FREES) says so.
    fn rejects(&self, block: FreeBlock) -> bool {
        let _ = block;
        false
    }

    /// Verifies the index and sums it up. The heap holds the sums to what it counts itself.
    ///
    /// # Errors
    ///
    /// The first invariant of the index that is found broken.
    fn check(&self) -> Result<Indexed, Broken>;
}

/// The sums of an index, as [`Policy::check`] finds them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Indexed {
    /// How many blocks are in it.
    pub blocks: usize,
    /// The sum of their sizes in bytes, headers included.
    pub bytes: usize,
}

impl Indexed {
    /// Counts one more block.
    pub fn count(&mut self, block: FreeBlock) {
        self.blocks += 1;
        self.bytes += block.size();
    }
}
