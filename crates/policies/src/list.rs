//! A doubly linked list through the nodes of free blocks, in one of three orders.
//!
//! Word 0 of a node leads to the next block, word 1 to the previous one.
//!
//! Invariants, verified by [`List::check`]: `head` and `tail` are the ends; the two links between
//! neighbours agree; in address order addresses rise; `recent` is a block of the list or none.

use core::marker::PhantomData;

use heapwright_core::{Broken, FreeBlock, Indexed, Link, LinkCode, New, ensure};

const NEXT: usize = 0;
const PREVIOUS: usize = 1;

/// How many blocks in memory are looked at for a free one near by before the list is searched.
const NEAR: usize = 24;

/// Where a freed block enters the list.
pub trait Order: 'static {
    /// Whether a block that is split or merged keeps its place in the list.
    const KEEPS_PLACE: bool;

    /// Links `block` into the list.
    ///
    /// # Safety
    ///
    /// The block is free and not in the list.
    unsafe fn insert<C: LinkCode>(list: &mut List<C>, block: FreeBlock);

    /// Puts `new` into the list in exchange for `old`.
    ///
    /// # Safety
    ///
    /// As [`Policy::replace`](heapwright_core::Policy::replace).
    #[inline]
    unsafe fn replace<C: LinkCode>(list: &mut List<C>, old: FreeBlock, new: FreeBlock) {
        // SAFETY: the caller promises what either needs.
        unsafe {
            if Self::KEEPS_PLACE {
                list.replace(old, new);
            } else {
                list.remove(old);
                Self::insert(list, new);
            }
        }
    }
}

/// Last in, first out: O(1).
#[derive(Debug)]
pub enum LifoOrder {}

impl Order for LifoOrder {
    const KEEPS_PLACE: bool = false;

    #[inline]
    unsafe fn insert<C: LinkCode>(list: &mut List<C>, block: FreeBlock) {
        // SAFETY: the caller promises a block that may be linked; the head is in the list.
        unsafe { list.link_between(Link::NONE, block, list.head) };
    }
}

/// First in, first out: O(1).
#[derive(Debug)]
pub enum FifoOrder {}

impl Order for FifoOrder {
    const KEEPS_PLACE: bool = false;

    #[inline]
    unsafe fn insert<C: LinkCode>(list: &mut List<C>, block: FreeBlock) {
        // SAFETY: the caller promises a block that may be linked; the tail is in the list.
        unsafe { list.link_between(list.tail, block, Link::NONE) };
    }
}

/// By rising address: O(1) where a free block follows near by in memory, O(n) else.
#[derive(Debug)]
pub enum AddressOrder {}

impl Order for AddressOrder {
    const KEEPS_PLACE: bool = true;

    unsafe fn insert<C: LinkCode>(list: &mut List<C>, block: FreeBlock) {
        // SAFETY: the caller promises a block that may be linked; what is linked to is in the list.
        // Every free block in memory of at least node size is in the list but for `block`.
        unsafe {
            let next = match block.free_block_behind(NEAR) {
                Some(behind) => behind.as_link(),
                None => list.first_above(block.addr()),
            };
            let previous = match next.get() {
                Some(next) => list.previous(next),
                None => list.tail,
            };
            list.link_between(previous, block, next);
        }
        list.recent = block.as_link();
    }
}

/// A doubly linked list of free blocks. Copies of links are all that it holds.
#[derive(Debug)]
pub struct List<C> {
    head: Link,
    tail: Link,
    /// The block linked in last: where a search by address begins.
    recent: Link,
    code: PhantomData<fn() -> C>,
}

impl<C> New for List<C> {
    const NEW: Self =
        Self { head: Link::NONE, tail: Link::NONE, recent: Link::NONE, code: PhantomData };
}

impl<C: LinkCode> List<C> {
    /// The first block.
    #[inline(always)]
    pub(crate) fn first(&self) -> Option<FreeBlock> {
        // SAFETY: the head is none or in the list, hence free.
        unsafe { self.head.get() }
    }

    /// All blocks, from the first on.
    #[inline(always)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = FreeBlock> + '_ {
        // SAFETY: the first block is in the list.
        unsafe { self.iter_from(self.first()) }
    }

    /// The blocks from `start` on.
    ///
    /// # Safety
    ///
    /// The block is in the list.
    #[inline(always)]
    pub(crate) unsafe fn iter_from(
        &self,
        start: Option<FreeBlock>,
    ) -> impl Iterator<Item = FreeBlock> + '_ {
        // SAFETY: the start is in the list, hence so are its successors.
        core::iter::successors(start, |&block| unsafe { self.after(block) })
    }

    #[inline(always)]
    pub(crate) fn head(&self) -> Link {
        self.head
    }

    /// The block after `block`.
    ///
    /// # Safety
    ///
    /// The block is in the list.
    #[inline(always)]
    pub(crate) unsafe fn after(&self, block: FreeBlock) -> Option<FreeBlock> {
        // SAFETY: links of blocks in the list lead to blocks in the list.
        unsafe { self.next(block).get() }
    }

    #[inline(always)]
    unsafe fn next(&self, block: FreeBlock) -> Link {
        // SAFETY: the caller promises a block in the list, so its links are set.
        unsafe { block.link(NEXT).coded::<C>(block) }
    }

    #[inline(always)]
    unsafe fn previous(&self, block: FreeBlock) -> Link {
        // SAFETY: as for `next`.
        unsafe { block.link(PREVIOUS).coded::<C>(block) }
    }

    #[inline(always)]
    unsafe fn set_next(&mut self, block: FreeBlock, next: Link) {
        // SAFETY: the caller promises a block in the list, or on its way.
        unsafe { block.set_link(NEXT, next.coded::<C>(block)) };
    }

    #[inline(always)]
    unsafe fn set_previous(&mut self, block: FreeBlock, previous: Link) {
        // SAFETY: as for `set_next`.
        unsafe { block.set_link(PREVIOUS, previous.coded::<C>(block)) };
    }

    #[inline(always)]
    unsafe fn link_between(&mut self, previous: Link, block: FreeBlock, next: Link) {
        // SAFETY: the caller promises neighbours in the list, or none, and a block that is not.
        unsafe {
            self.set_next(block, next);
            self.set_previous(block, previous);
            match previous.get() {
                Some(previous) => self.set_next(previous, block.as_link()),
                None => self.head = block.as_link(),
            }
            match next.get() {
                Some(next) => self.set_previous(next, block.as_link()),
                None => self.tail = block.as_link(),
            }
        }
    }

    /// Links `block` in front of all others.
    ///
    /// # Safety
    ///
    /// The block is free and not in the list.
    #[inline(always)]
    pub(crate) unsafe fn push(&mut self, block: FreeBlock) {
        // SAFETY: the caller promises the same.
        unsafe { self.link_between(Link::NONE, block, self.head) };
    }

    /// Takes a block out of the list: O(1).
    ///
    /// # Safety
    ///
    /// The block is in the list.
    #[inline(always)]
    pub(crate) unsafe fn remove(&mut self, block: FreeBlock) {
        // SAFETY: the links of a block in the list lead to its neighbours.
        unsafe {
            let (next, previous) = (self.next(block), self.previous(block));
            match previous.get() {
                Some(previous) => self.set_next(previous, next),
                None => self.head = next,
            }
            match next.get() {
                Some(next) => self.set_previous(next, previous),
                None => self.tail = previous,
            }
            if self.recent == block.as_link() {
                self.recent = previous;
            }
        }
    }

    /// Puts `new` where `old` is.
    ///
    /// # Safety
    ///
    /// As [`Policy::replace`](heapwright_core::Policy::replace).
    #[inline]
    pub(crate) unsafe fn replace(&mut self, old: FreeBlock, new: FreeBlock) {
        if old.addr() == new.addr() {
            return;
        }
        // SAFETY: the links of a block in the list lead to its neighbours; the node of `old` is
        // intact, and read before `new` is written.
        unsafe {
            let (next, previous) = (self.next(old), self.previous(old));
            self.link_between(previous, new, next);
        }
        if self.recent == old.as_link() {
            self.recent = new.as_link();
        }
    }

    /// In a list in address order, the first block above an address, from the recent one on
    /// forwards or backwards.
    unsafe fn first_above(&self, addr: usize) -> Link {
        // SAFETY: links of blocks in the list lead to blocks in the list.
        unsafe {
            let start = if self.recent.is_none() { self.head } else { self.recent };
            let mut at = start;
            if start.addr() < addr {
                while let Some(block) = at.get().filter(|block| block.addr() < addr) {
                    at = self.next(block);
                }
                return at;
            }
            let mut above = Link::NONE;
            while let Some(block) = at.get().filter(|block| block.addr() > addr) {
                above = at;
                at = self.previous(block);
            }
            above
        }
    }

    /// Verifies the list and sums it up; `rising` asks for rising addresses.
    pub(crate) fn check(&self, rising: bool) -> Result<Indexed, Broken> {
        let mut indexed = Indexed::default();
        let (mut previous, mut at, mut recent) = (Link::NONE, self.head, self.recent.is_none());
        // SAFETY: each link is read from a block in the list; the links back are verified.
        unsafe {
            while let Some(block) = at.get() {
                ensure(
                    self.previous(block) == previous,
                    "the links between neighbours in a list agree",
                    block.addr(),
                )?;
                ensure(
                    !rising || previous.addr() < block.addr(),
                    "addresses rise in a list in address order",
                    block.addr(),
                )?;
                recent |= self.recent == at;
                indexed.count(block);
                previous = at;
                at = self.next(block);
            }
        }
        ensure(self.tail == previous, "the tail is the last block of the list", previous.addr())?;
        ensure(recent, "the recent block of a list is in it", self.recent.addr())?;
        Ok(indexed)
    }
}
