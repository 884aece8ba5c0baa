//! What is measured beside time and peak footprint. Each is a pass of a worker of its own, so that none disturbs
//! another.
//!
//! | pass | finds | costs |
//! |---|---|---|
//! | [`latency`] | how long single calls take | two readings of the clock an operation |
//! | [`timeline`] | live, resident and held bytes over time, and what the heap is made of | a walk over the heap, at most 200 times |
//! | [`heap_map`] | address against time, in the pass of the timeline | nothing more |
//! | [`counts`] | page faults, system calls, instructions, cache misses | two stops a system call |
//! | [`costs`] | instructions, cache misses, atomic operations, by callgrind | 50 times the replay |
//!
//! [`fragmentation`] is computed of a timeline.

pub mod costs;
pub mod counts;
pub mod fragmentation;
pub mod heap_map;
pub mod latency;
mod room;
pub mod timeline;
