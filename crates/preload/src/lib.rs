//! The C face: any strategy as a shared library that replaces `malloc` in a program, unchanged.
//!
//! [`export!`] makes one out of a composition. A crate of its own, of type `cdylib`, with this in it is all:
//!
//! ```ignore
//! #![cfg_attr(panic = "abort", no_std)]
//! heapwright_preload::export!("mine", heapwright_core::Locked<FutexMutex, Heap<Mmap, NextFit, BoundaryTags>>);
//! ```
//!
//! The libraries of this workspace stand in `libraries`, one line each; `cargo xtask preload` builds them, and
//! `LD_PRELOAD=…/libheapwright_tlsf.so program` uses one.
//!
//! * `family`: the C functions with glibc's semantics, generic over the strategy, inlined into the exported names.
//! * `operators`: C++'s `new` and `delete` (x86-64; elsewhere libstdc++'s own, which call `malloc`).
//! * `process`: what a process goes through: start, fork, exit.
//! * `settings`, `report`: the environment variables, and what they print.
//!
//! # What it keeps to
//!
//! * It runs from the first call of the dynamic linker on, before constructors, and needs no thread-local storage but
//!   `errno`, which it sets as C demands and otherwise leaves alone.
//! * A release build does not contain Rust's `std` and needs the C library alone.
//! * The exported function is the only call: the strategy's own code is inlined into it (`cargo xtask asm` shows it).
//! * While a process forks, its heap is frozen: no other thread is in the middle of anything, and the child's heap is
//!   whole. Our handlers run last before the fork and first after it, so that those of others may allocate.
//!
//! # Environment variables
//!
//! | variable | values | meaning |
//! |---|---|---|
//! | `HEAPWRIGHT_STATS` | `1` | print the statistics at exit, one `name value` a line, sizes in bytes |
//! | `HEAPWRIGHT_MAP` | `text`, `json` | print every block at exit |
//! | `HEAPWRIGHT_CHECK` | `1` | verify every invariant at exit, and abort with a message if one is broken |
//! | `HEAPWRIGHT_SIGNAL` | a number, or `USR1`, `USR2`, `HUP`, `WINCH`, … | do these at each such signal in place of at exit; the statistics if nothing else is asked for |
//! | `HEAPWRIGHT_OUTPUT` | a file, to which is appended; `%p` in it is the process | print there, in place of standard error |
//! | `HEAPWRIGHT_ON_MISUSE` | `abort`, `report`, `count` | what a double or invalid free does that a strategy with checks finds: message and abort (as is), message and go on, go on silently; the statistics have the number |
//!
//! They are read once, before the program's first constructor, without allocating. A process that ends by `_exit`, by
//! `exec` or by a signal prints nothing at exit. The heap is locked while its map is printed, so a reader of the
//! output must not wait for the program.
#![no_std]

#[doc(hidden)]
pub mod export;
#[doc(hidden)]
pub mod family;
#[doc(hidden)]
#[cfg(target_arch = "x86_64")]
pub mod operators;
#[doc(hidden)]
pub mod process;
mod report;
mod settings;
