//! One conformance suite that every strategy passes.
//!
//! A strategy crate has two tests files of one line each:
//!
//! ```text
//! // tests/conformance.rs
//! heapwright_testkit::conformance!(heapwright_tlsf::Tlsf);
//!
//! // tests/global.rs
//! heapwright_testkit::global_program!(heapwright_tlsf::Tlsf);
//! ```
//!
//! [`conformance!`] makes a test of every function in [`promises`], so that the name of a failing test is
//! the name of the broken promise. What it prints is what was asked, what came back, and what had happened
//! before; of random sequences, the shortest one that fails. `PROPTEST_CASES=10000` tries more of those.
//!
//! | part | is |
//! |---|---|
//! | [`Model`] | the disjoint live ranges, with contents, that a heap is compared with |
//! | [`rig`] | a backend that keeps books on what a heap does with it, and fails on demand |
//! | [`Step`] | one request; sequences of them are what generators, fuzzing and the model have in common |
//! | [`hostile`] | generators of sequences that allocators do badly on |
//! | [`program`] | a real program of known result, for a heap that is the global allocator |
//!
//! The kit runs on Linux, and knows no strategy. Its own tests run it on a plain engine that is right, and on engines each of
//! which is wrong in one way, and verify that each is found out.

mod child;
mod family;
pub mod hostile;
mod macros;
mod model;
pub mod pattern;
pub mod program;
pub mod promises;
pub mod rig;
mod rng;
mod steps;

// What the macros name.
#[doc(hidden)]
pub use heapwright_core::{HeapBackend, New, Parts};
#[doc(hidden)]
pub use lock_api::RawMutex;

pub use family::{Family, Nature, Subject};
pub use model::{Complaint, Kept, Live, Model, walked};
pub use rng::Rng;
pub use steps::{Step, decode};
