//! Two-level segregated fit: every request and every free in constant time, over mappings or an arena.
//!
//! * **Good at:** real time and embedded use: no search, no loop over blocks, a good fit; also simply
//!   fast.
//! * **Bad at:** taking the lowest or the tightest block: a little more fragmentation than best fit.
//!
//! Over mappings a request that makes the heap grow costs a system call, and merging a block that fills
//! a region may unmap it; over an [`Arena`](heapwright_backends::Arena) neither happens, and the bound
//! is a bound.
//!
//! ```
//! use core::mem::MaybeUninit;
//! use heapwright_backends::Arena;
//! use heapwright_core::{Engine, Heap, NoLock};
//! use heapwright_tlsf::{Tlsf, TlsfHeap};
//!
//! // As the program's allocator:
//! #[global_allocator]
//! static HEAP: Tlsf = Tlsf::new();
//!
//! // Over sixteen kilobytes of one's own:
//! let mut memory = [MaybeUninit::uninit(); 16 << 10];
//! let mut heap: TlsfHeap<Arena> = Heap::over(Arena::new(&mut memory));
//! assert!(heap.allocate(core::alloc::Layout::new::<[u64; 100]>()).is_some());
//! ```
#![no_std]

use heapwright_backends::{HugePages, Mmap};
use heapwright_core::{AtOnce, FutexMutex, Heap, Locked, Mechanism, NoChecks, OneWord, OwnMapping};

/// TLSF over the backend `B`, under the lock `L`, with the mechanism `M`.
pub type Tlsf<B = HugePages<Mmap>, L = FutexMutex, M = Bounded> = Locked<L, TlsfHeap<B, M>>;

/// The heap without a lock.
pub type TlsfHeap<B = HugePages<Mmap>, M = Bounded> = Heap<B, heapwright_policies::Tlsf, M>;

/// Splitting, merging at once, mappings from 32 MiB on where the backend has such, and nothing that takes
/// more than constant time.
#[derive(Debug)]
pub enum Bounded {}

impl Mechanism for Bounded {
    type Header = OneWord;
    type Coalescing = AtOnce;
    type Large = OwnMapping<{ 32 << 20 }>;
    type Checks = NoChecks;
    const TRIM: usize = 2 << 20;
    const PREFAULT: bool = true;
}
