//! A shared library that is preloaded into a program and writes down each call of the C `malloc` family.
//!
//! It defines the family (`family`), forwards every call to the functions that would have been called without it
//! (`real`), and writes a record of the call into a file that it has mapped (`tape`), with a little state for each
//! thread (`thread`). `heapwright_trace::record` starts a program with it and makes traces of the files.
//!
//! What it keeps to, because it runs inside other people's programs:
//!
//! - It never allocates, and never changes `errno`.
//! - It keeps no file descriptor. Once a process has made its first allocation, it asks two things of the system: to
//!   prepare the next quarter of a megabyte of its file at once (`madvise`), and to let others go first where a lock is
//!   taken (`sched_yield`).
//! - What it has written is in the file from that moment on, also if the process ends by `_exit`, by `exec` or by a
//!   signal that nothing can catch.
//! - Without the environment variable `HEAPWRIGHT_RECORD_DIR` it does nothing but forward.
//!
//! A program that does nothing but allocate and free takes about twice its time when it is recorded, and programs that
//! do something with their memory up to a quarter more; `examples/cost.rs` measures it.
//!
//! Where it cannot look: programs that are linked statically, those that gain privileges by being started (the loader
//! ignores preloading for them), and allocators that a program has built in under other names.

pub mod family;
mod real;
mod tape;
mod thread;
