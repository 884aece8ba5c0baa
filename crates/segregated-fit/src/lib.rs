//! Segregated fit: bins with best fit inside, deferred coalescing, break and mappings. The family of
//! Doug Lea's malloc, and of glibc's.
//!
//! * **Good at:** general use with one lock: small blocks come back from quick lists in a few
//!   instructions, others are nearly best fits; eight bytes a block.
//! * **Bad at:** many threads at once, which wait for each other.
//!
//! ```
//! use heapwright_segregated_fit::SegregatedFit;
//!
//! #[global_allocator]
//! static HEAP: SegregatedFit = SegregatedFit::new();
//!
//! assert_eq!((1..=4).map(|n| n * n).collect::<Vec<u8>>(), [1, 4, 9, 16]);
//! ```
#![no_std]

use heapwright_backends::{Fallback, HugePages, Mmap, Sbrk};
use heapwright_core::{
    Deferred, FutexMutex, Heap, Locked, Mechanism, NoChecks, OneWord, OwnMapping,
};
use heapwright_policies::Segregated;

/// Bins over the break, or mappings when the break cannot move, under the lock `L`, with the
/// mechanism `M`.
pub type SegregatedFit<B = HugePages<Fallback<Sbrk, Mmap>>, L = FutexMutex, M = QuickLists> =
    Locked<L, Heap<B, Segregated, M>>;

/// Quick lists for blocks up to 512 bytes, mappings from 32 MiB on.
#[derive(Debug)]
pub enum QuickLists {}

impl Mechanism for QuickLists {
    type Header = OneWord;
    type Coalescing = Deferred<31>;
    type Large = OwnMapping<{ 32 << 20 }>;
    type Checks = NoChecks;
    const TRIM: usize = 2 << 20;
    const PREFAULT: bool = true;
}
