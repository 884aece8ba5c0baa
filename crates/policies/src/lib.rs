//! Placement policies: which free block serves a request, and how free blocks are indexed.
//!
//! Each implements [`Policy`](heapwright_core::Policy), one file a policy. *n* is the number of
//! free blocks.
//!
//! | policy | index | find | insert | remove | known for |
//! |---|---|---|---|---|---|
//! | [`FirstFit`]`<`[`LifoOrder`]`>` | list | O(n) | O(1) | O(1) | fast frees, fragments |
//! | [`FirstFit`]`<`[`FifoOrder`]`>` | list | O(n) | O(1) | O(1) | as address order, nearly |
//! | [`FirstFit`]`<`[`AddressOrder`]`>` | list | O(n) | O(n) | O(1) | little fragmentation |
//! | [`FirstFitTree`] | Cartesian tree | O(depth) | O(depth) | O(depth) | the same, faster |
//! | [`NextFit`] | list, roving pointer | O(n) | as its order | O(1) | fast, fragments |
//! | [`BestFit`] over each order | list | O(n) | as its order | O(1) | little fragmentation |
//! | [`BestFitTree`] | treap by size and address | O(log n) | O(log n) | O(log n) | the same, faster |
//! | [`WorstFit`] | list | O(n) | as its order | O(1) | a warning |
//! | [`Lifo`] | list | O(n) | O(1) | O(1) | finds a double free in a row |
//! | [`Segregated`] | bins, bitmap, treaps | O(1), O(log n) | O(1), O(log n) | O(1), O(log n) | dlmalloc's kind |
//! | [`Tlsf`] | two levels of bins, bitmaps | O(1) | O(1) | O(1) | bounded worst case |
//!
//! The policies over lists take the way in which links are written as their last parameter:
//! [`Plain`](heapwright_core::Plain), or [`Encoded`](heapwright_core::Encoded) for heaps that check
//! everything.
#![no_std]

mod best_fit;
mod best_fit_tree;
mod bins;
mod first_fit;
mod first_fit_tree;
mod lifo;
mod list;
mod list_fit;
mod next_fit;
mod segregated;
mod tlsf;
mod treap;
mod worst_fit;

pub use best_fit::BestFit;
pub use best_fit_tree::BestFitTree;
pub use first_fit::FirstFit;
pub use first_fit_tree::FirstFitTree;
pub use lifo::Lifo;
pub use list::{AddressOrder, FifoOrder, LifoOrder, List, Order};
pub use list_fit::{ListFit, Search};
pub use next_fit::NextFit;
pub use segregated::Segregated;
pub use tlsf::Tlsf;
pub use worst_fit::WorstFit;
