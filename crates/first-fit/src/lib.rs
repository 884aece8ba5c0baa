//! First fit in address order, found in a Cartesian tree instead of a list.
//!
//! * **Good at:** memory: nearly as little fragmentation as best fit (Johnstone and Wilson 1998), and
//!   the high end of the heap tends to become free and go back.
//! * **Bad at:** speed, moderately, and no bound on the worst case.
//!
//! ```
//! use heapwright_first_fit::FirstFit;
//!
//! #[global_allocator]
//! static HEAP: FirstFit = FirstFit::new();
//!
//! assert_eq!(vec![7; 3].len(), 3);
//! ```
#![no_std]

use heapwright_backends::Mmap;
use heapwright_core::{AtOnce, FutexMutex, Heap, Locked, Mechanism, NoChecks, OneWord, OwnMapping};
use heapwright_policies::FirstFitTree;

/// First fit over the backend `B`, under the lock `L`, with the mechanism `M`.
pub type FirstFit<B = Mmap, L = FutexMutex, M = Lean> = Locked<L, Heap<B, FirstFitTree, M>>;

/// Splitting, merging at once, and mappings from 512 KiB on, which leave no holes behind.
#[derive(Debug)]
pub enum Lean {}

impl Mechanism for Lean {
    type Header = OneWord;
    type Coalescing = AtOnce;
    type Large = OwnMapping<{ 512 << 10 }>;
    type Checks = NoChecks;
    const TRIM: usize = 1 << 20;
}
