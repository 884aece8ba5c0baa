//! A doubly linked free list with splitting and coalescing, large requests in mappings of their own. It
//! stands for a C allocator with split and merge.
//!
//! * **Good at:** a plain allocator's whole set of mechanisms in their simplest form: boundary tags of
//!   one word, `realloc` in place both ways, checked frees.
//! * **Bad at:** first fit over a LIFO list fragments more than address order, and its searches grow
//!   with the number of free blocks.
//!
//! [`duplicate`] and [`fill`] are that allocator's helpers for copying and filling memory; they serve
//! every strategy.
//!
//! ```
//! use heapwright_coalescing::{Coalescing, duplicate};
//!
//! static HEAP: Coalescing = Coalescing::new();
//!
//! let copy = duplicate(&HEAP, b"twice").unwrap();
//! # use heapwright_core::Strategy;
//! // SAFETY: the copy is as long as what it was made from, and is freed once.
//! unsafe {
//!     assert_eq!(core::slice::from_raw_parts(copy.as_ptr(), 5), b"twice");
//!     HEAP.deallocate(copy).unwrap();
//! }
//! ```
#![no_std]

use core::alloc::Layout;
use core::ptr::{self, NonNull};

use heapwright_backends::{Fallback, Mmap, Sbrk};
use heapwright_core::{
    AtOnce, FreeChecks, FutexMutex, GRANULE, Heap, Locked, Mechanism, OneWord, OwnMapping, Strategy,
};
use heapwright_policies::{FirstFit, LifoOrder};

/// First fit over a LIFO list on the break, and mappings, under the lock `L`, with the mechanism `M`.
pub type Coalescing<B = Fallback<Sbrk, Mmap>, L = FutexMutex, M = SplitAndMerge> =
    Locked<L, Heap<B, FirstFit<LifoOrder>, M>>;

/// Splitting, merging at once, mappings from 128 KiB on, and frees that are checked.
#[derive(Debug)]
pub enum SplitAndMerge {}

impl Mechanism for SplitAndMerge {
    type Header = OneWord;
    type Coalescing = AtOnce;
    type Large = OwnMapping<{ 128 << 10 }>;
    type Checks = FreeChecks;
    const TRIM: usize = 128 << 10;
}

/// A new block with a copy of `bytes`, or `None` when there is no memory for it.
pub fn duplicate<S: Strategy>(heap: &S, bytes: &[u8]) -> Option<NonNull<u8>> {
    let layout = Layout::from_size_align(bytes.len(), GRANULE).ok()?;
    let copy = heap.allocate(layout)?;
    // SAFETY: the new block is at least that long, and nobody else's.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), copy.as_ptr(), bytes.len()) };
    Some(copy)
}

/// A new block of `size` bytes, each of them `byte`, or `None` when there is no memory for it.
pub fn fill<S: Strategy>(heap: &S, size: usize, byte: u8) -> Option<NonNull<u8>> {
    let layout = Layout::from_size_align(size, GRANULE).ok()?;
    if byte == 0 {
        return heap.allocate_zeroed(layout);
    }
    let filled = heap.allocate(layout)?;
    // SAFETY: the new block is at least that long, and nobody else's.
    unsafe { ptr::write_bytes(filled.as_ptr(), byte, size) };
    Some(filled)
}
