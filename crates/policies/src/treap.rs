//! A treap of free blocks: a tree in the order of keys, and a heap in the order of ranks (Vuillemin's
//! Cartesian tree, 1980). Both are computed from a block's size and address, so that a node is two links
//! and nothing else.
//!
//! | shape | key | rank | what it is |
//! |---|---|---|---|
//! | [`BySize`] | size, address | a hash of the address | a balanced tree (Seidel and Aragon, *Randomized Search Trees*, 1996) |
//! | [`ByAddress`] | address | size, a hash | the tree of fast fits (Stephenson, *Fast Fits*, 1983) |
//!
//! Word 0 of a node leads to the lower keys, word 1 to the higher ones.
//!
//! Invariants, verified by [`Treap::check`]: an in-order walk meets rising keys; no node's rank is
//! above that of its parent.

use core::marker::PhantomData;

use heapwright_core::{Broken, FreeBlock, Indexed, Link, LinkCode, New, Plain, ensure};

const LOWER: usize = 0;
const HIGHER: usize = 1;

/// What orders a treap.
pub(crate) trait Shape {
    /// Differs for any two blocks.
    fn key(block: FreeBlock) -> (usize, usize);
    fn rank(block: FreeBlock) -> (usize, u32);
}

#[derive(Debug)]
pub(crate) enum BySize {}

impl Shape for BySize {
    #[inline(always)]
    fn key(block: FreeBlock) -> (usize, usize) {
        (block.size(), block.addr())
    }

    #[inline(always)]
    fn rank(block: FreeBlock) -> (usize, u32) {
        (0, hash(block))
    }
}

#[derive(Debug)]
pub(crate) enum ByAddress {}

impl Shape for ByAddress {
    #[inline(always)]
    fn key(block: FreeBlock) -> (usize, usize) {
        (block.addr(), 0)
    }

    /// The hash balances blocks of one size among themselves.
    #[inline(always)]
    fn rank(block: FreeBlock) -> (usize, u32) {
        (block.size(), hash(block))
    }
}

/// Fibonacci hashing of the granule's number, the well mixed upper half.
#[inline(always)]
fn hash(block: FreeBlock) -> u32 {
    ((block.addr() as u64 >> 4).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32
}

#[derive(Debug)]
pub(crate) struct Treap<S, C = Plain> {
    root: Link,
    shape: PhantomData<fn() -> (S, C)>,
}

impl<S, C> New for Treap<S, C> {
    const NEW: Self = Self { root: Link::NONE, shape: PhantomData };
}

/// Where a link stands: in a node, or at the root.
#[derive(Clone, Copy)]
enum Place {
    Root,
    Node(FreeBlock, usize),
}

impl<S: Shape, C: LinkCode> Treap<S, C> {
    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    #[inline(always)]
    unsafe fn child(&self, of: FreeBlock, side: usize) -> Option<FreeBlock> {
        // SAFETY: the caller promises a node of the tree; its links lead to nodes.
        unsafe { of.link(side).coded::<C>(of).get() }
    }

    #[inline(always)]
    unsafe fn set(&mut self, place: Place, to: Option<FreeBlock>) {
        let link = to.map_or(Link::NONE, FreeBlock::as_link);
        match place {
            Place::Root => self.root = link,
            // SAFETY: the caller promises a node of the tree, or on its way.
            Place::Node(node, side) => unsafe { node.set_link(side, link.coded::<C>(node)) },
        }
    }

    #[inline(always)]
    unsafe fn root(&self) -> Option<FreeBlock> {
        // SAFETY: the root is none or a node.
        unsafe { self.root.get() }
    }

    /// The block with the lowest key.
    pub(crate) fn first(&self) -> Option<FreeBlock> {
        let mut first = None;
        // SAFETY: links lead from node to node.
        unsafe {
            let mut at = self.root();
            while let Some(block) = at {
                first = at;
                at = self.child(block, LOWER);
            }
        }
        first
    }

    /// Adds a block: O(log n) expected.
    ///
    /// # Safety
    ///
    /// The block is free and not in the tree.
    pub(crate) unsafe fn insert(&mut self, block: FreeBlock) {
        let rank = S::rank(block);
        // SAFETY: links lead from node to node; the new block is the caller's to link.
        unsafe {
            let mut place = Place::Root;
            let mut at = self.root();
            while let Some(node) = at.filter(|&node| S::rank(node) >= rank) {
                let side = if S::key(block) < S::key(node) { LOWER } else { HIGHER };
                place = Place::Node(node, side);
                at = self.child(node, side);
            }
            self.set(place, Some(block));
            // The subtree that stood here is split around the new block.
            let mut lower = Place::Node(block, LOWER);
            let mut higher = Place::Node(block, HIGHER);
            while let Some(node) = at {
                if S::key(node) < S::key(block) {
                    self.set(lower, at);
                    lower = Place::Node(node, HIGHER);
                    at = self.child(node, HIGHER);
                } else {
                    self.set(higher, at);
                    higher = Place::Node(node, LOWER);
                    at = self.child(node, LOWER);
                }
            }
            self.set(lower, None);
            self.set(higher, None);
        }
    }

    /// Takes a block out: O(log n) expected.
    ///
    /// # Safety
    ///
    /// The block is in the tree, with this size.
    pub(crate) unsafe fn remove(&mut self, block: FreeBlock) {
        // SAFETY: links lead from node to node, and the keys lead to the block.
        unsafe {
            let mut place = Place::Root;
            let mut at = self.root();
            while let Some(node) = at.filter(|&node| node != block) {
                let side = if S::key(block) < S::key(node) { LOWER } else { HIGHER };
                place = Place::Node(node, side);
                at = self.child(node, side);
            }
            if at.is_none() {
                return;
            }
            let mut lower = self.child(block, LOWER);
            let mut higher = self.child(block, HIGHER);
            loop {
                match (lower, higher) {
                    (Some(left), Some(right)) => {
                        if S::rank(left) >= S::rank(right) {
                            self.set(place, lower);
                            place = Place::Node(left, HIGHER);
                            lower = self.child(left, HIGHER);
                        } else {
                            self.set(place, higher);
                            place = Place::Node(right, LOWER);
                            higher = self.child(right, LOWER);
                        }
                    }
                    (rest, None) | (None, rest) => return self.set(place, rest),
                }
            }
        }
    }

    /// The block with the next higher key.
    ///
    /// # Safety
    ///
    /// The block is in the tree.
    pub(crate) unsafe fn successor(&self, block: FreeBlock) -> Option<FreeBlock> {
        let mut next = None;
        // SAFETY: links lead from node to node.
        unsafe {
            let mut at = self.root();
            while let Some(node) = at {
                let above = S::key(node) > S::key(block);
                if above {
                    next = at;
                }
                at = self.child(node, if above { LOWER } else { HIGHER });
            }
        }
        next
    }

    /// Verifies the tree and sums it up, without recursion: it goes from each block to its successor.
    pub(crate) fn check(&self) -> Result<Indexed, Broken> {
        let mut indexed = Indexed::default();
        let mut at = self.first();
        while let Some(block) = at {
            indexed.count(block);
            // SAFETY: the block is in the tree, and so are its children.
            unsafe {
                for child in [LOWER, HIGHER].map(|side| self.child(block, side)) {
                    ensure(
                        child.is_none_or(|child| S::rank(child) <= S::rank(block)),
                        "no node of a treap has a rank above its parent's",
                        block.addr(),
                    )?;
                }
                let next = self.successor(block);
                ensure(
                    next.is_none_or(|next| S::key(next) > S::key(block)),
                    "keys rise in a treap",
                    block.addr(),
                )?;
                at = next;
            }
        }
        Ok(indexed)
    }
}

impl<C: LinkCode> Treap<BySize, C> {
    /// The smallest block of at least `size` bytes, of several the one at the lowest address:
    /// O(log n) expected.
    #[inline]
    pub(crate) fn lower_bound(&self, size: usize) -> Option<FreeBlock> {
        let mut best = None;
        // SAFETY: links lead from node to node.
        unsafe {
            let mut at = self.root();
            while let Some(block) = at {
                let fits = block.size() >= size;
                if fits {
                    best = at;
                }
                at = self.child(block, if fits { LOWER } else { HIGHER });
            }
        }
        best
    }
}

impl<C: LinkCode> Treap<ByAddress, C> {
    /// The block of at least `size` bytes at the lowest address. Where a block's left subtree has one
    /// that fits, its root fits, for the root is the largest in it.
    #[inline]
    pub(crate) fn leftmost_fit(&self, size: usize) -> Option<FreeBlock> {
        // SAFETY: links lead from node to node.
        unsafe {
            let mut fit = self.root().filter(|root| root.size() >= size)?;
            while let Some(left) = self.child(fit, LOWER).filter(|left| left.size() >= size) {
                fit = left;
            }
            Some(fit)
        }
    }
}
