//! The vocabulary of Heapwright: where a heap's memory comes from ([`HeapBackend`]), which free block
//! serves a request ([`Policy`]), how blocks are kept ([`Mechanism`]), the block engine made of the three
//! ([`Heap`]), and what every allocator of the workspace is ([`Strategy`]).
//!
//! The crate is `no_std`. Nothing in it allocates, and nothing panics on what a caller asks for.
//!
//! # Write your own policy in three steps
//!
//! **1. Keep the free blocks.** A policy is told of each block that becomes free and of each that ceases
//! to be, and links them through the two words that every free block lends it.
//!
//! **2. Choose one.** `find` returns a block that fits.
//!
//! **3. Put it into a heap.** In the type of a heap, one word changes.
//!
//! Here is the whole of a policy that takes the first block that fits *closely*, within an eighth, and
//! the last that it saw if there is none:
//!
//! ```
//! use heapwright_core::{Broken, FreeBlock, Indexed, Link, New, Policy, Request};
//!
//! /// Free blocks, the youngest first. Word 0 leads to the next one, word 1 to the previous one.
//! struct CloseFit {
//!     head: Link,
//! }
//!
//! impl New for CloseFit {
//!     const NEW: Self = Self { head: Link::NONE };
//! }
//!
//! impl CloseFit {
//!     fn blocks(&self) -> impl Iterator<Item = FreeBlock> + use<> {
//!         // SAFETY: the links of the list lead from free block to free block.
//!         unsafe { core::iter::successors(self.head.get(), |block| block.link(0).get()) }
//!     }
//! }
//!
//! // SAFETY: `find` returns a block of the list that fits; only nodes of the list are written.
//! unsafe impl Policy for CloseFit {
//!     unsafe fn insert(&mut self, block: FreeBlock) {
//!         unsafe {
//!             block.set_link(0, self.head);
//!             block.set_link(1, Link::NONE);
//!             if let Some(next) = self.head.get() {
//!                 next.set_link(1, block.as_link());
//!             }
//!         }
//!         self.head = block.as_link();
//!     }
//!
//!     unsafe fn remove(&mut self, block: FreeBlock) {
//!         unsafe {
//!             let (next, previous) = (block.link(0), block.link(1));
//!             match previous.get() {
//!                 Some(previous) => previous.set_link(0, next),
//!                 None => self.head = next,
//!             }
//!             if let Some(next) = next.get() {
//!                 next.set_link(1, previous);
//!             }
//!         }
//!     }
//!
//!     fn find(&mut self, request: Request) -> Option<FreeBlock> {
//!         let close = request.size() + request.size() / 8;
//!         let mut fitting = self.blocks().filter(|&block| request.fits(block));
//!         let mut last = None;
//!         fitting.find(|&block| { last = Some(block); block.size() <= close }).or(last)
//!     }
//!
//!     fn check(&self) -> Result<Indexed, Broken> {
//!         let mut indexed = Indexed::default();
//!         self.blocks().for_each(|block| indexed.count(block));
//!         Ok(indexed)
//!     }
//! }
//!
//! use core::alloc::Layout;
//! use heapwright_backends::Mmap;
//! use heapwright_core::{BoundaryTags, FutexMutex, Heap, Locked, Strategy};
//! use heapwright_policies::FirstFit;
//!
//! // A heap of ready-made parts, and the same with the new policy: one word changes.
//! type Before = Locked<FutexMutex, Heap<Mmap, FirstFit, BoundaryTags>>;
//! type After = Locked<FutexMutex, Heap<Mmap, CloseFit, BoundaryTags>>;
//!
//! static HEAP: After = After::new();
//!
//! let layout = Layout::from_size_align(100, 16).unwrap();
//! let blocks: Vec<_> = (0..100).map(|_| HEAP.allocate(layout).unwrap()).collect();
//! for block in blocks.into_iter().step_by(2) {
//!     // SAFETY: each block is in use and freed once.
//!     unsafe { HEAP.deallocate(block) }.unwrap();
//! }
//! HEAP.check().unwrap();
//! assert_eq!(HEAP.stats().live_blocks, 50);
//! assert_eq!(HEAP.stats().free_blocks, 51); // and the wilderness
//! # let _: Option<Before> = None;
//! ```
//!
//! To measure it against the others, put it into a file of the `policies` crate and add a line to the
//! harness's registry: the workspace's README shows how.
//!
//! # What is where
//!
//! | part | trait | ready-made |
//! |---|---|---|
//! | backend | [`HeapBackend`] | the `heapwright-backends` crate |
//! | policy | [`Policy`] | the `heapwright-policies` crate |
//! | mechanism | [`Mechanism`] | [`Simple`], [`BoundaryTags`]; [`Checked`] adds every check |
//! | lock | `lock_api::RawMutex` | [`FutexMutex`], [`NoLock`], `parking_lot::RawMutex` |
//! | engine | [`Engine`] | [`Heap`]; the strategies that do not fit it bring their own |
//! | strategy | [`Strategy`] | [`Locked`], an engine under a lock |
//!
//! A [`Locked`] engine is a `GlobalAlloc`, and a reference to it an `Allocator` of `allocator-api2`.
#![no_std]

mod backend;
mod barrier;
mod block;
mod error;
#[doc(hidden)]
pub mod face;
mod heap;
mod large;
mod lock;
pub mod map;
pub mod mechanism;
pub mod misuse;
mod policy;
mod secret;
mod stats;
mod strategy;

pub use backend::{HeapBackend, Region};
pub use barrier::{barrier_for_all, prepare_barriers};
pub use block::{Encoded, FreeBlock, GRANULE, Link, LinkCode, Plain, Request};
pub use error::{Broken, HeapError, OutOfMemory, ensure};
pub use heap::Heap;
pub use large::{Large, NoLarge, OwnMapping};
pub use lock::{FutexMutex, Locked, NoLock, Parts};
pub use mechanism::{
    AtOnce, BoundaryTags, Checked, Checks, Coalescing, Deferred, FreeChecks, FullChecks, Header,
    Mechanism, Never, NoChecks, OneWord, Simple, TwoWords,
};
pub use policy::{Indexed, Policy};
pub use stats::{BlockInfo, BlockState, Stats};
pub use strategy::{Engine, Limits, Strategy, reallocate_by_moving};

/// A part with a first state that is known at compile time, so that a composition of such parts
/// can be a `static`.
pub trait New {
    /// The first state: empty, owning nothing.
    const NEW: Self;
}
