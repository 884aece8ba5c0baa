//! Best fit over a LIFO list, on page-aligned mappings, with double-free protection. It stands for a
//! teaching allocator in C++ over `mmap`.
//!
//! * **Good at:** finding misuse: a double or invalid free is an error, not a broken heap; a block
//!   that shrinks stays where it is; `calloc` checks its multiplication (in the faces) and does
//!   not zero fresh pages.
//! * **Bad at:** long lists: every request that no block fits exactly looks at all free blocks.
//!
//! What that allocator names as its limits is gone or one parameter away: it maps many blocks at a
//! time and not a page for each, splits and merges, unmaps what is wholly free, and serves threads.
//! `LifoMmap<Mmap, FutexMutex, Simple>` has neither splitting nor merging.
//!
//! ```
//! use heapwright_lifo_mmap::LifoMmap;
//!
//! #[global_allocator]
//! static HEAP: LifoMmap = LifoMmap::new();
//!
//! assert_eq!("heap".repeat(2), "heapheap");
//! ```
#![no_std]

use heapwright_backends::Mmap;
use heapwright_core::{AtOnce, FreeChecks, FutexMutex, Heap, Locked, Mechanism, NoLarge, TwoWords};
use heapwright_policies::{BestFit, LifoOrder};

/// Best fit over a LIFO list on the mappings `B`, under the lock `L`, with the mechanism `M`.
pub type LifoMmap<B = Mmap, L = FutexMutex, M = Protected> =
    Locked<L, Heap<B, BestFit<LifoOrder>, M>>;

/// Splitting, merging at once, and frees that are checked.
#[derive(Debug)]
pub enum Protected {}

impl Mechanism for Protected {
    type Header = TwoWords;
    type Coalescing = AtOnce;
    type Large = NoLarge;
    type Checks = FreeChecks;
    const GROWTH: usize = 256 << 10;
    const TRIM: usize = 1 << 20;
}
