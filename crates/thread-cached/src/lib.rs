//! The flagship: per-thread caches over slabs of one size class, over runs of pages that a policy chooses.
//!
//! * **Good at:** nearly everything: threads that allocate and free at the same time do so without a lock or an atomic
//!   operation; small objects have no header; freed memory goes back by and by.
//! * **Bad at:** being small. It takes address space by chunks, and every thread that allocates takes 48 KiB
//!   of it, of which it touches what it uses: 8 KiB if it does little.
//!
//! ```
//! use heapwright_thread_cached::ThreadCached;
//!
//! #[global_allocator]
//! static HEAP: ThreadCached = ThreadCached::new();
//!
//! let threads: Vec<_> = (1..=4).map(|n| std::thread::spawn(move || vec![n; n])).collect();
//! let lengths = threads.into_iter().map(|thread| thread.join().unwrap().len());
//! assert_eq!(lengths.collect::<Vec<_>>(), [1, 2, 3, 4]);
//! ```
//!
//! # How it is put together
//!
//! | part | is | module |
//! |---|---|---|
//! | size classes | sixteens up to 256 bytes, then eight to a doubling, up to 32 KiB; whole pages up to 128 KiB | `classes` |
//! | a thread's part | a bin of pointers for each class, and the slabs that the thread owns | `local` |
//! | slabs | runs of pages divided into objects, one bit each, kept beside the pages | `local::slabs`, `chunk` |
//! | the page heap | free runs of pages of 8 KiB in two indexes of a [`Policy`] of this workspace | `pages` |
//! | growth | whether pages become present one by one, some at a time, or as huge ones | `pages::growth` |
//! | the backend | any [`HeapBackend`]; chunks of it, and mappings for blocks from 1.8 MiB on | `chunk`, `pages::mapped` |
//! | mailboxes | where threads leave what they freed for its owner | `mailbox` |
//! | turns | who is at a thread's part: its owner, or who looks after it while that sleeps | `turn` |
//!
//! A block in use is an object of a slab, a run of pages, or a mapping. Which one an address is, and whether it is one
//! at all, is told by two loads: whether its unit of the address space is a chunk, and what the page in it serves.
//!
//! Threads meet in mailboxes, in turns, and under the lock of the page heap, when a part changes hands there:
//! `tests/loom.rs` tries every order of that.
//!
//! # Bounds
//!
//! A thread keeps at most 8 KiB of each class at hand, 16 KiB of those up to 1 KiB, and one object of those above
//! 8 KiB: together less than 1 MiB; 64 KiB on their way home to others; and runs of sixteen pages, or of an eighth of its
//! share of those that served when it last took one if that is more, 4 MiB at most, of which half of those go back that were
//! not needed for a tenth of a second; of who sleeps, others give back all, if it has more than sixteen pages. Where that
//! eighth is more than sixteen pages, it keeps up to eight objects of each class above 1 KiB, of those above 32 KiB too,
//! together at most twice as many bytes as that is more. So *t* threads keep back less than *t* × 1.25 MiB, and three eighths
//! of what served or *t* × 12 MiB, whichever is less; and of a class that a thread does not need, half goes back each time
//! that it is looked at: one class at each look at the time, and one or more whenever the heap grows. What it kept of a class
//! for a tenth of a second, and needed no more of, goes then, too. A thread looks at the time every 512 allocations, or 32 if
//! those before took long; a run that is taken or freed, and objects that bins have no room for, make it sooner.
//!
//! Freed pages that are still present, those of mappings that large blocks left for the next included, are at most 64 MiB
//! and a quarter of those in use, or twice as much where they lie in runs of less than 64 KiB. To these come as many as were
//! needed again, within a tenth of a second or so, when such were discarded before; an eighth of that is forgotten every
//! tenth. Of what is not needed, half is discarded every tenth of a second in which anything is done, as whole huge pages,
//! and all after four tenths; and chunks go that serve nothing and of which nothing else is present. A heap that a single
//! thread fills has small pages made present ahead of need, at a time at most 64 KiB and a sixteenth of it; those that longer
//! runs leave over wait for shorter ones, or decay. An object of 1 to 32 KiB that is shrunk to no less than half keeps its
//! size.
//!
//! Huge pages are asked for where memory is seen to be used as a whole, for a huge page that is touched at one place is
//! present as a whole: where most of what was taken before are objects of at most 8 KiB, or blocks that are seen to be
//! present far from where they begin. A heap that reaches 2 MiB of its chunk, of which it uses 1.5 or so, asks for one if
//! seven tenths of what it drew from slabs and as longer blocks, while it grew by the last MiB, stayed: it is being built up.
//! From 4 MiB on it asks for one at a time, by what the last 2 MiB serve, while it keeps its pace: while it took no more
//! objects for each of these two than for each MiB before, or a third more (up to 2.3 times as many, the larger it is). At
//! 16 MiB it asks for as many as it may need up to 32 MiB, and from then on for 32 MiB at a time, by what the last ones
//! serve. So does a block from 1.8 MiB to 1 GiB (32 MiB, if it is to be zero), if the last such block was filled and not much
//! shorter, or if it grows and is. A heap that does so holds up to 2 MiB of a huge page that nothing has used yet, until
//! there is a trim, and where it guesses wrongly, 2 MiB for each place that is touched. Where a part of one is discarded,
//! in a chunk, it asks for none any more until all of it was, or all is in use again: otherwise the kernel would make all
//! of it present by and by (`khugepaged`).
//!
//! A huge page should cost less than its small ones, a fraction of a millisecond. It does not where the kernel must move
//! what is in its way first, or where a hypervisor took the memory back while it was free. So they are timed as they begin
//! to be used: in a chunk each, in a mapping one whenever it is made or grows; where there are several threads, one in
//! 32 MiB. After one of two milliseconds or more of processor time, what is untouched of its chunk, or its mapping, has
//! small pages, and so have the next 32 MiB that would have had huge ones; 64 after another one, and so on up to a GiB,
//! until one is cheap again. That takes Linux 5.14; before, none is found dear.
//!
//! A kernel that is set up to give huge pages to all (`always`), or a backend that asks for them, has them for the rest too:
//! who chose that has time for memory. What is kept from them even so is the first 2 MiB of a heap, as most processes need
//! less and 1 MiB shall not take two; for good, each 2 MiB of which a part was discarded, unless the heap itself asked for
//! them before; what has small pages as huge ones were dear; and all but mapped blocks, where [`Design::HUGE_FROM`] is
//! `usize::MAX`.
//!
//! What a thread frees of another's slabs goes home, and is looked at there when its owner looks for objects, or at the
//! time. An object above 4 KiB stays and serves the thread that freed it, if that takes such ones and as far as it
//! has room at hand: what the object holds is in its processor's caches. So does a smaller one where something waits at
//! home already: with many threads to a processor, each waits long for its turn at one. For an owner that does nothing at
//! all others do it: a thread that looks at the time, a tenth of a second or more after the owner looked for anything,
//! gives back what that keeps in runs, and takes in about a quarter of a million objects, and as many again each 20
//! milliseconds while more waits; [`trim`](heapwright_core::Strategy::trim) takes in all there are. What the sleeper keeps
//! at hand stays there. That needs `membarrier(2)`, of which the first call takes some ten milliseconds in a process that
//! has several threads by then: what is preloaded [prepares](heapwright_core::Strategy::prepare) it before, and others may.
//! Where there is none, what came home waits for the owner.
//!
//! When a thread ends, others take its slabs over, and a new one its part, of which all but 8 KiB goes back after four
//! tenths of a second, or at a trim. A thread has slabs of its own: of each class that it uses, a page at least is present.
//!
//! # Misuse
//!
//! Frees of the same object twice in a row, and of anything that is no block of the heap, are found at once, or when the
//! object comes home from another thread, unless that kept it; but while no other thread uses the heap, a size that is
//! told (by C++'s sized `delete`, or [`GlobalAlloc`](core::alloc::GlobalAlloc)) is believed without a look. A double free
//! of an object otherwise, and a pointer into one, are found when it goes back to its slab, if it has not been given out
//! again. Links that a program could corrupt there are none: no freed object is read or written, unless there is no memory
//! left to send it home in, or it came home to one who has its slab no more. [`Checked`] finds every double and every
//! invalid free at once.
//!
//! # What the choices cost
//!
//! Each part exchanged for another, all else as it is: time and peak footprint, geometric means over the sixteen
//! workloads of `cargo xtask bench --matrix --strategies best-fit-tree,…`, both relative to glibc of the same run, on two
//! cores of a virtual machine; the footprint without `producer-consumer`, where it depends on when its threads run.
//!
//! | part | is | instead | time | footprint |
//! |---|---|---|--:|--:|
//! | all as it is | | | 0.53 | 1.12 |
//! | runs of pages | the smallest that serves | the lowest ([`FirstFitTree`](heapwright_policies::FirstFitTree)) | 0.54 | 1.12 |
//! | | | bins ([`Segregated`](heapwright_policies::Segregated)) | 0.53 | 1.12 |
//! | | | two levels of bins ([`Tlsf`](heapwright_policies::Tlsf)) | 0.54 | 1.16 |
//! | huge pages | from 2 MiB on while the heap grows on, up to 64 KiB of small ones at a time otherwise | always from there on | 0.52 | 1.25 |
//! | | | never, and small ones one by one | 0.61 | 1.08 |
//! | kept at hand | 16 KiB of a small class | 4 KiB | 0.56 | 1.11 |
//! | | | one object | 1.09 | 1.11 |
//! | backend | mappings | the program break, which has no huge pages | 0.61 | 1.10 |
//! | lock | [`FutexMutex`](heapwright_core::FutexMutex) | `parking_lot` | 0.54 | 1.12 |
//! | checks | those that cost nothing | all ([`Checked`]) | 1.37 | 1.09 |
//!
//! The heaps of these workloads are small, 1 to 11 MiB at their peaks, so that page faults are much of the time. Huge pages
//! need few of them, and a heap then holds up to 2 MiB more, which is much of so little: those that are asked for where a
//! heap is likely to grow on take an eighth off the time for a thirtieth more memory, and all others from 2 MiB on another
//! thirtieth for an eighth ([`Design::HUGE_FROM`] is 1 MiB there). Large heaps have them either way; who wants small ones
//! fast sets [`Design::HUGE_FROM`] lower. Which run serves matters little, since most are of one page: means of such a run
//! differ by some 4 per cent from one time to the next. What threads keep at hand is half of the speed and little memory,
//! for what lies idle there goes back.
#![no_std]

mod ahead;
mod chunk;
mod classes;
mod heap;
mod inspect;
mod local;
mod mailbox;
mod meeting;
mod pages;
mod registry;
mod shown;
mod slot;
mod turn;

#[allow(unused_imports, reason = "named in the documentation")]
use heapwright_core::HeapBackend;
use heapwright_core::Policy;
use heapwright_policies::BestFitTree;

pub use crate::heap::{Source, ThreadCached};

/// The choices that make a thread-cached heap, other than backend and lock.
pub trait Design: 'static {
    /// Which run of pages serves a request: any policy that keeps its nodes in order of size or address.
    type Runs: Policy;
    /// Whether every free is verified, before anything else is done with it.
    const CHECKED: bool = false;
    /// Bytes of each class that a thread keeps at hand: at most 16 KiB up to 1 KiB, 8 KiB above, and one object of those
    /// above 8 KiB. Less than 16 KiB takes from what a thread keeps beyond that, in a large heap, in proportion.
    const KEPT: usize = 16 << 10;
    /// From how many bytes on the heap grows by huge pages, where the kernel has any and memory is used as a whole: a heap
    /// that large holds up to 2 MiB more by that, an eighth of these 16 MiB, and grows several times faster. From a quarter
    /// of it on, it has them for each whole 2 MiB by which it grows at its pace; from an eighth on, if it keeps most of what
    /// it takes. Where time counts more than memory, 1 MiB makes heaps of a few MiB faster; `usize::MAX` is for never, and
    /// for pages that become present one by one. More than 32 MiB are as 32 MiB.
    const HUGE_FROM: usize = 16 << 20;
}

/// What [`ThreadCached`] is by itself: the smallest run of pages that serves, of several the lowest.
#[derive(Debug)]
pub enum General {}

impl Design for General {
    type Runs = BestFitTree;
}

/// Every free is verified at once: an object freed twice, and a pointer that is no block, are refused whatever was
/// done in between; an object of another thread's slab that is freed twice, when it comes home. Threads keep nothing at
/// hand for that, so it is slower.
#[derive(Debug)]
pub enum Checked {}

impl Design for Checked {
    type Runs = BestFitTree;
    const CHECKED: bool = true;
}
