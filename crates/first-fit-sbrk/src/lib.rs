//! First fit over the program break: how most first allocators are written.
//!
//! One list in address order, searched from the lowest address on; no splitting and no merging; one
//! lock; a header of sixteen bytes with size, free flag and next; the end of the heap goes back to
//! the kernel. It stands for three teaching allocators in C over `sbrk`.
//!
//! * **Good at:** being read, and being a measure of what every mechanism beyond it brings.
//! * **Bad at:** most things. A free block serves any smaller request whole, so memory is wasted
//!   inside blocks, and searches get long.
//!
//! What those allocators name as their limits is one parameter away, or gone:
//!
//! | limit | here |
//! |---|---|
//! | no alignment beyond the word | 16 bytes always, any power of two on request |
//! | breaks when other code moves the break | a new region is begun |
//! | no splitting, no merging | `FirstFitSbrk<Sbrk, FutexMutex, BoundaryTags>` |
//! | linear search | the `first-fit` crate makes the same choices with a tree |
//! | no double-free check | `FirstFitSbrk<Sbrk, FutexMutex, Checked<Simple>>` |
//! | sizes overflow | checked everywhere |
//!
//! ```
//! use heapwright_first_fit_sbrk::FirstFitSbrk;
//!
//! #[global_allocator]
//! static HEAP: FirstFitSbrk = FirstFitSbrk::new();
//!
//! assert_eq!((1..=4).collect::<Vec<u8>>(), [1, 2, 3, 4]);
//! ```
#![no_std]

use heapwright_backends::Sbrk;
use heapwright_core::{FutexMutex, Heap, Locked, Simple};
use heapwright_policies::{AddressOrder, FirstFit};

/// First fit in address order over the break `B`, under the lock `L`, with the mechanism `M`.
pub type FirstFitSbrk<B = Sbrk, L = FutexMutex, M = Simple> =
    Locked<L, Heap<B, FirstFit<AddressOrder>, M>>;
