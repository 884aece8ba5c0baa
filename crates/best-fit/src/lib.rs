//! Best fit over a balanced tree: the smallest block that is large enough, of several the lowest.
//!
//! * **Good at:** memory. Of the classic policies it fragments least on real programs (Johnstone and
//!   Wilson 1998).
//! * **Bad at:** speed, moderately: each free block that comes or goes costs a walk down a tree.
//!
//! ```
//! use heapwright_best_fit::BestFit;
//!
//! #[global_allocator]
//! static HEAP: BestFit = BestFit::new();
//!
//! assert_eq!(vec![7; 3].len(), 3);
//! ```
#![no_std]

use heapwright_backends::Mmap;
use heapwright_core::{AtOnce, FutexMutex, Heap, Locked, Mechanism, NoChecks, OneWord, OwnMapping};
use heapwright_policies::BestFitTree;

/// Best fit over the backend `B`, under the lock `L`, with the mechanism `M`.
pub type BestFit<B = Mmap, L = FutexMutex, M = Lean> = Locked<L, Heap<B, BestFitTree, M>>;

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
