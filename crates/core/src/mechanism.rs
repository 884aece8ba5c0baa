//! How blocks are kept: the choices of a [`Heap`](crate::Heap) other than backend and policy.
//!
//! A mechanism is a type without values; its associated types and constants are read at compile
//! time, so that what a heap does not use costs it nothing. [`Simple`] and [`BoundaryTags`] are
//! ready made; a strategy with other wishes implements [`Mechanism`] in a few lines:
//!
//! ```
//! use heapwright_core::{Checked, Deferred, Mechanism, NoChecks, NoLarge, OneWord};
//!
//! /// Quick lists for blocks up to 512 bytes; the end of the heap goes back from 1 MiB on.
//! enum Quick {}
//! impl Mechanism for Quick {
//!     type Header = OneWord;
//!     type Coalescing = Deferred<32>;
//!     type Large = NoLarge;
//!     type Checks = NoChecks;
//!     const TRIM: usize = 1 << 20;
//! }
//!
//! /// The same with every check there is.
//! type CheckedQuick = Checked<Quick>;
//! ```

use core::marker::PhantomData;
use core::ptr::NonNull;

use crate::block::{GRANULE, MIN_INDEXED, SEAL_BITS, WORD};
use crate::large::Large;
use crate::{New, NoLarge, secret};

/// The choices that make a block engine, as types and constants.
pub trait Mechanism: 'static {
    /// The header of a block: [`OneWord`] or [`TwoWords`].
    type Header: Header;
    /// When free neighbours are merged: [`Never`], [`AtOnce`] or [`Deferred`].
    type Coalescing: Coalescing;
    /// What happens to large requests: [`NoLarge`] or [`OwnMapping`](crate::OwnMapping).
    type Large: Large;
    /// What is checked: [`NoChecks`], [`FreeChecks`] or [`FullChecks`].
    type Checks: Checks;
    /// Whether a free block is split when the rest can be a block of its own.
    const SPLIT: bool = true;
    /// The least number of bytes asked of the backend at a time.
    const GROWTH: usize = 64 << 10;
    /// From how many free bytes at the end of the heap on that end goes back to the backend;
    /// `usize::MAX` for never.
    const TRIM: usize = usize::MAX;
    /// The end goes back only if it is at least one part in so many of the footprint, so that what is
    /// given back does not have to be fetched again soon; `usize::MAX` for always.
    const TRIM_SHARE: usize = 2;
    /// Whether memory by which the heap grows, a small part of what it holds, is made present at
    /// once instead of page fault by page fault.
    const PREFAULT: bool = false;
}

/// No splitting, no merging, two-word headers, and the end of the heap goes back whenever 128 KiB of it
/// are free: what a first allocator does.
#[derive(Debug)]
pub enum Simple {}

impl Mechanism for Simple {
    type Header = TwoWords;
    type Coalescing = Never;
    type Large = NoLarge;
    type Checks = NoChecks;
    const SPLIT: bool = false;
    const TRIM: usize = 128 << 10;
    const TRIM_SHARE: usize = usize::MAX;
}

/// Splitting and immediate merging with one-word boundary tags, nothing else: the mechanism in
/// which policies compare most plainly.
#[derive(Debug)]
pub enum BoundaryTags {}

impl Mechanism for BoundaryTags {
    type Header = OneWord;
    type Coalescing = AtOnce;
    type Large = NoLarge;
    type Checks = NoChecks;
    const TRIM: usize = 2 << 20;
}

/// Another mechanism with [`FullChecks`], and the two-word headers that these need.
#[derive(Debug)]
pub struct Checked<M>(PhantomData<M>);

impl<M: Mechanism> Mechanism for Checked<M> {
    type Header = TwoWords;
    type Coalescing = M::Coalescing;
    type Large = M::Large;
    type Checks = FullChecks;
    const SPLIT: bool = M::SPLIT;
    const GROWTH: usize = M::GROWTH;
    const TRIM: usize = M::TRIM;
    const TRIM_SHARE: usize = M::TRIM_SHARE;
    const PREFAULT: bool = M::PREFAULT;
}

/// How long the header of a block is.
pub trait Header: 'static {
    /// Its length in bytes.
    const SIZE: usize;
}

/// The size word alone: eight bytes a block on 64-bit machines.
#[derive(Debug)]
pub enum OneWord {}

impl Header for OneWord {
    const SIZE: usize = WORD;
}

/// The size word and a spare one: sixteen bytes on 64-bit machines. The spare word of a free block
/// holds the first link of its node, so the program's stray writes into freed payload miss it; that of
/// a used block holds the canary of [`FullChecks`].
#[derive(Debug)]
pub enum TwoWords {}

impl Header for TwoWords {
    const SIZE: usize = 2 * WORD;
}

/// When a freed block is merged with its free neighbours.
pub trait Coalescing: New + 'static {
    /// Whether free neighbours are merged at all.
    const MERGES: bool;
    /// The largest block, in bytes, that goes into a quick list; zero for none.
    const QUICK_MAX: usize;

    /// Puts a freed block of at most [`QUICK_MAX`](Self::QUICK_MAX) bytes into its quick list.
    ///
    /// # Safety
    ///
    /// The block is the heap's and in no list.
    unsafe fn push(&mut self, block: QuickBlock);
    /// Takes a block of just this size out of its quick list.
    fn pop(&mut self, size: usize) -> Option<QuickBlock>;
    /// Takes any block out of the quick lists.
    fn pop_any(&mut self) -> Option<QuickBlock>;
    /// The bytes in all quick lists.
    fn bytes(&self) -> usize;
    /// The block that follows in the same quick list.
    ///
    /// # Safety
    ///
    /// The block is in a quick list.
    unsafe fn next(&self, block: QuickBlock) -> Option<QuickBlock>;
}

/// A block on its way into or out of a quick list.
#[derive(Clone, Copy, Debug)]
pub struct QuickBlock {
    pub(crate) at: NonNull<u8>,
    pub(crate) size: usize,
}

impl QuickBlock {
    fn link(self) -> *mut *mut u8 {
        // Within the block: the first word behind the size word.
        self.at.as_ptr().wrapping_add(WORD).cast()
    }
}

/// Free blocks are never merged.
#[derive(Debug)]
pub struct Never;
/// A freed block is merged with its free neighbours at once.
#[derive(Debug)]
pub struct AtOnce;

macro_rules! without_quick_lists {
    ($name:ty, $value:expr, $merges:expr) => {
        impl New for $name {
            const NEW: Self = $value;
        }

        impl Coalescing for $name {
            const MERGES: bool = $merges;
            const QUICK_MAX: usize = 0;

            #[inline(always)]
            unsafe fn push(&mut self, _block: QuickBlock) {}
            #[inline(always)]
            fn pop(&mut self, _size: usize) -> Option<QuickBlock> {
                None
            }
            #[inline(always)]
            fn pop_any(&mut self) -> Option<QuickBlock> {
                None
            }
            #[inline(always)]
            fn bytes(&self) -> usize {
                0
            }
            #[inline(always)]
            unsafe fn next(&self, _block: QuickBlock) -> Option<QuickBlock> {
                None
            }
        }
    };
}

without_quick_lists!(Never, Never, false);
without_quick_lists!(AtOnce, AtOnce, true);

/// Freed blocks of the `LISTS` smallest sizes are kept as they are in quick lists, one LIFO list a
/// size, and merged only when the heap would have to grow, or when they hold too much of it
/// (Weinstock and Wulf, *Quick Fit*, 1988; deferred coalescing, Wilson et al. 1995, §3.11).
///
/// Invariant: each list holds blocks of one size, marked as cached; `bytes` is the sum of them all.
#[derive(Debug)]
pub struct Deferred<const LISTS: usize> {
    heads: [*mut u8; LISTS],
    bytes: usize,
}

// SAFETY: the heads are blocks of the heap that owns the lists and go where it goes.
unsafe impl<const LISTS: usize> Send for Deferred<LISTS> {}

impl<const LISTS: usize> Deferred<LISTS> {
    /// The list of a block size; within bounds for sizes up to `QUICK_MAX`.
    #[inline(always)]
    fn list(size: usize) -> usize {
        (size - MIN_INDEXED) / GRANULE
    }
}

impl<const LISTS: usize> New for Deferred<LISTS> {
    const NEW: Self = Self { heads: [core::ptr::null_mut(); LISTS], bytes: 0 };
}

impl<const LISTS: usize> Coalescing for Deferred<LISTS> {
    const MERGES: bool = true;
    const QUICK_MAX: usize = MIN_INDEXED + (LISTS - 1) * GRANULE;

    #[inline(always)]
    unsafe fn push(&mut self, block: QuickBlock) {
        if let Some(head) = self.heads.get_mut(Self::list(block.size)) {
            // SAFETY: the block is the heap's, so its first word behind the size is ours to write.
            unsafe { block.link().write(*head) };
            *head = block.at.as_ptr();
            self.bytes += block.size;
        }
    }

    #[inline(always)]
    fn pop(&mut self, size: usize) -> Option<QuickBlock> {
        let head = self.heads.get_mut(Self::list(size))?;
        let block = QuickBlock { at: NonNull::new(*head)?, size };
        // SAFETY: a block in a quick list holds its successor behind its size word.
        *head = unsafe { block.link().read() };
        self.bytes -= size;
        Some(block)
    }

    fn pop_any(&mut self) -> Option<QuickBlock> {
        if self.bytes == 0 {
            return None;
        }
        (0..LISTS).find_map(|list| self.pop(MIN_INDEXED + list * GRANULE))
    }

    #[inline(always)]
    fn bytes(&self) -> usize {
        self.bytes
    }

    unsafe fn next(&self, block: QuickBlock) -> Option<QuickBlock> {
        // SAFETY: the caller promises a block in a list.
        let at = NonNull::new(unsafe { block.link().read() })?;
        Some(QuickBlock { at, size: block.size })
    }
}

/// What a heap verifies of a pointer that is given back, and of its neighbourhood.
///
/// The checks cost O(1), and O(regions) for a heap of many regions. A pointer into memory of the heap
/// that is not a block in use passes by chance once in 65,536 times.
pub trait Checks: 'static {
    /// Whether pointers are verified.
    const ON: bool;
    /// Whether blocks in use carry a canary in the spare word of their header.
    const CANARIES: bool;

    /// The bits that mark the header at `addr` as the heap's own.
    #[inline(always)]
    fn seal(addr: usize) -> usize {
        if Self::ON { addr.wrapping_mul(secret::get()) & SEAL_BITS } else { 0 }
    }

    /// The word that stands in the spare word of a used block's header.
    #[inline(always)]
    fn canary(addr: usize) -> usize {
        (addr ^ secret::get()).wrapping_mul(secret::get()).rotate_left(29)
    }
}

/// Nothing is verified: a misuse is undefined behaviour, as in C.
#[derive(Debug)]
pub enum NoChecks {}

impl Checks for NoChecks {
    const ON: bool = false;
    const CANARIES: bool = false;
}

/// Double frees and invalid frees are found: each header carries a seal made of its address and a
/// secret, and is marked when it is freed.
#[derive(Debug)]
pub enum FreeChecks {}

impl Checks for FreeChecks {
    const ON: bool = true;
    const CANARIES: bool = false;
}

/// [`FreeChecks`], and a canary in front of every block in use, verified when it is given back.
/// Needs [`TwoWords`]. Goes with a policy whose links are [`Encoded`](crate::Encoded).
#[derive(Debug)]
pub enum FullChecks {}

impl Checks for FullChecks {
    const ON: bool = true;
    const CANARIES: bool = true;
}
