//! The registry: everything that can be compared, one line each.
//!
//! A strategy is added with one line in [`STRATEGIES`]: its name, its type (an alias of the strategy's crate, or a
//! composition written here), and what it is in one sentence; a policy of one's own, with a `policy!` line. The table, `--list`, the conformance of `--verify` and
//! the command line know it from then on.

use std::alloc::System;

use crate::contender::{Contender, Kind};
use crate::matrix::COMPOSITIONS;
#[allow(unused_imports, reason = "only where peers are built")]
use crate::peers;

/// A strategy of ours: any `Locked<…>`, or another type with `const fn new()` that is a `GlobalAlloc` and a `Strategy`.
macro_rules! strategy {
    ($name:literal, $type:ty, $about:literal) => {
        strategy!($name, $type, $about, never_frees = false)
    };
    ($name:literal, $type:ty, $about:literal, never_frees = $never_frees:literal) => {{
        static HEAP: $type = <$type>::new();
        Contender {
            name: $name,
            kind: Kind::Strategy,
            about: $about,
            allocator: Some(&HEAP),
            strategy: Some(&HEAP),
            prepare: || (),
            never_frees: $never_frees,
        }
    }};
}

/// A policy of one's own, in a heap over mappings that splits and merges at once: its name, the file that it is in,
/// relative to this folder, its type, and what it is.
#[allow(unused_macros, reason = "for experiments, of which there are none in the repository")]
macro_rules! policy {
    ($name:literal, $file:literal, $policy:ident, $about:literal) => {{
        #[path = $file]
        mod experiment;
        type Experiment = heapwright_core::Locked<
            heapwright_core::FutexMutex,
            heapwright_core::Heap<
                heapwright_backends::Mmap,
                experiment::$policy,
                heapwright_core::BoundaryTags,
            >,
        >;
        strategy!($name, Experiment, $about)
    }};
}

/// A peer: the feature that builds it, which bears its name, its allocator, and what it is.
macro_rules! peer {
    ($name:literal, $allocator:expr, $about:literal) => {
        peer!($name, $allocator, $about, prepare = || ())
    };
    ($name:literal, $allocator:expr, $about:literal, prepare = $prepare:expr) => {
        Contender {
            name: $name,
            kind: Kind::Peer,
            about: $about,
            #[cfg(feature = $name)]
            allocator: Some($allocator),
            #[cfg(not(feature = $name))]
            allocator: None,
            strategy: None,
            #[cfg(feature = $name)]
            prepare: $prepare,
            #[cfg(not(feature = $name))]
            prepare: || (),
            never_frees: false,
        }
    };
}

/// Our strategies, in the order of the table.
#[rustfmt::skip] // one line a strategy
pub static STRATEGIES: &[Contender] = &[
    strategy!("thread-cached", heapwright_thread_cached::ThreadCached, "the flagship: per-thread caches over slabs, over runs of pages chosen by best fit, on mappings"),
    strategy!("first-fit-sbrk", heapwright_first_fit_sbrk::FirstFitSbrk, "first fit over the break, one list by address, no splitting, no merging"),
    strategy!("lifo-mmap", heapwright_lifo_mmap::LifoMmap, "best fit over a LIFO list on mappings, frees checked"),
    strategy!("coalescing", heapwright_coalescing::Coalescing, "first fit over a LIFO list on the break, split and merged at once, large blocks mapped"),
    strategy!("segregated-fit", heapwright_segregated_fit::SegregatedFit, "bins with best fit inside, quick lists, break and mappings"),
    strategy!("tlsf", heapwright_tlsf::Tlsf, "two-level segregated fit over mappings, constant time"),
    strategy!("best-fit", heapwright_best_fit::BestFit, "best fit over a tree by size and address, on mappings"),
    strategy!("first-fit", heapwright_first_fit::FirstFit, "first fit by address over a tree, on mappings"),
    strategy!("buddy", heapwright_buddy::Buddy, "binary buddy over mappings, a side table in place of headers"),
    strategy!("kingsley", heapwright_kingsley::Kingsley, "powers of two, one list each, never merged, on mappings"),
    strategy!("pool", heapwright_pool::Pool, "objects of one size, 64 bytes, in slabs on mappings"),
    strategy!("bump", heapwright_bump::Bump, "a mark that only goes up, nothing is freed; what fresh memory costs", never_frees = true),
];

/// The allocator that every ratio is relative to.
pub const REFERENCE: &str = "glibc";

/// Well-known allocators, each at its crate's defaults; the `peers` module says what some are given.
#[rustfmt::skip] // one line a peer
pub static PEERS: &[Contender] = &[
    Contender {
        name: REFERENCE,
        kind: Kind::Peer,
        about: "the C library's malloc",
        allocator: Some(&System),
        strategy: None,
        prepare: || (),
        never_frees: false,
    },
    peer!("mimalloc", &mimalloc::MiMalloc, "free lists sharded by page, over huge pages where the kernel grants them"),
    peer!("jemalloc", &tikv_jemallocator::Jemalloc, "size classes in slabs, bounded thread caches, decay"),
    peer!("snmalloc", &snmalloc_rs::SnMalloc, "size classes in slabs, remote frees sent home in batches"),
    peer!("rpmalloc", &rpmalloc::RpMalloc, "spans of one size class, thread caches"),
    peer!("dlmalloc", &dlmalloc::GlobalDlmalloc, "Doug Lea's malloc in Rust: bins and trees under one lock"),
    peer!("talc", &peers::TALC, "bins and boundary tags under a spin lock, blocks of 1 MiB from glibc"),
    peer!("linked_list_allocator", &peers::LINKED_LIST, "first fit over one list of holes by address, a spin lock, a reserved mapping", prepare = peers::prepare_linked_list),
    peer!("rlsf", &peers::RLSF, "TLSF in Rust: mappings, a pthread lock"),
    peer!("buddy_system_allocator", &peers::BUDDY_SYSTEM, "binary buddy under a spin lock, a reserved mapping", prepare = peers::prepare_buddy_system),
    peer!("smmalloc", &peers::SMALLOC, "powers of two in reserved slabs, lock-free, never unmapped"),
];

/// What a replay costs before any allocator does anything; see [`crate::floor`].
pub static FLOOR: Contender = Contender {
    name: "floor",
    kind: Kind::Floor,
    about: "the harness alone: addresses that were computed beforehand",
    allocator: None,
    strategy: None,
    prepare: || (),
    never_frees: false,
};

/// A part that strategies are made of, for `--list`.
pub struct Part {
    /// Its type's name.
    pub name: &'static str,
    /// What it is, in one sentence.
    pub about: &'static str,
}

macro_rules! parts {
    ($($name:literal: $about:literal,)*) => { &[$(Part { name: $name, about: $about }),*] };
}

/// Placement policies.
pub static POLICIES: &[Part] = parts! {
    "FirstFit<order>": "the first block of a list that is large enough; in LIFO, FIFO or address order",
    "FirstFitTree": "the lowest block that is large enough, by a Cartesian tree",
    "NextFit<order>": "first fit that goes on from where it last stopped",
    "BestFit<order>": "the smallest block of a list that is large enough",
    "BestFitTree": "the smallest block that is large enough, of several the lowest, by a treap; O(log n)",
    "WorstFit<order>": "the largest block of a list",
    "Lifo": "the block freed last that is large enough; finds a double free in a row",
    "Segregated": "bins with a bitmap and best fit inside (dlmalloc's kind)",
    "Tlsf": "two levels of bins with bitmaps; O(1)",
};

/// Sources of memory.
pub static BACKENDS: &[Part] = parts! {
    "Sbrk": "the program break; copes with others who move it",
    "Mmap": "anonymous mappings, page by page",
    "Arena": "buffers of the caller",
    "Fallback": "one source, and another when that fails",
    "HugePages": "a wrapper that offers large regions to the kernel for huge pages",
    "Counting": "a wrapper that counts what a heap asks for",
    "Limited": "a wrapper that holds a heap to a number of bytes",
    "Failing": "a wrapper whose n-th call fails, for tests",
};

/// All contenders, ours first.
pub fn contenders() -> impl Iterator<Item = &'static Contender> {
    STRATEGIES.iter().chain(PEERS)
}

/// The contender of this name, a composition of the matrix too.
#[must_use]
pub fn contender(name: &str) -> Option<&'static Contender> {
    let compositions = COMPOSITIONS.iter().copied().flatten();
    contenders().chain(compositions).chain([&FLOOR]).find(|contender| contender.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_sentences_are_one_line() {
        let mut names = BTreeSet::new();
        for Contender { name, about, .. } in contenders() {
            assert!(names.insert(name), "{name} is registered twice");
            assert!(
                !about.is_empty() && !about.contains('\n') && !about.ends_with('.'),
                "{name}: {about}"
            );
        }
    }

    #[test]
    fn strategies_are_what_they_are_to_the_harness() {
        assert!(STRATEGIES.iter().all(|contender| contender.strategy.is_some()));
        assert!(STRATEGIES.iter().all(|contender| contender.allocator.is_some()));
        assert!(contender(REFERENCE).is_some_and(|reference| reference.allocator.is_some()));
    }

    #[test]
    fn each_feature_is_a_peer_and_each_peer_a_feature() {
        let manifest = include_str!("../Cargo.toml");
        let all = manifest.split_once("peers = [").unwrap().1.split_once(']').unwrap().0;
        let features: BTreeSet<_> = all.split('"').skip(1).step_by(2).collect();
        let peers: BTreeSet<_> =
            PEERS.iter().map(|peer| peer.name).filter(|&name| name != REFERENCE).collect();
        assert_eq!(features, peers);
    }
}
