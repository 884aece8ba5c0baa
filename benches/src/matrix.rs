//! The matrix: backends × policies × mechanisms × locks, every composition that makes sense, made here and nowhere else.
//!
//! One part is varied at a time against all policies or against the policies that are good at something: every policy
//! with every mechanism, over mappings under the futex mutex; and four policies whose costs do not grow
//! with every free block, with every backend and with every lock; and the flagship with one of its parts exchanged at a time. Names say the parts: `mmap/best-fit-tree/at-once/futex`. A part's name alone stands for all compositions
//! with it.
//!
//! They are only built with the feature `matrix`, for a hundred heaps take a while to compile.

/// All compositions, in groups; none in a harness that was built without them.
#[cfg(not(feature = "matrix"))]
pub static COMPOSITIONS: &[&[crate::contender::Contender]] = &[];

#[cfg(feature = "matrix")]
pub use compositions::COMPOSITIONS;

#[cfg(feature = "matrix")]
mod compositions {
    use std::marker::PhantomData;

    use heapwright_backends::{Fallback, HugePages, Mmap, Sbrk};
    use heapwright_core::{
        AtOnce, Checked, Deferred, FutexMutex, Heap, Locked, Mechanism, Never, NoChecks, NoLarge,
        OneWord, OwnMapping, Policy,
    };
    use heapwright_policies::{
        AddressOrder, BestFit, BestFitTree, FifoOrder, FirstFit, FirstFitTree, Lifo, LifoOrder,
        NextFit, Segregated, Tlsf, WorstFit,
    };
    use heapwright_thread_cached::{Design, ThreadCached};
    use parking_lot::RawMutex;

    use crate::contender::{Contender, Kind};

    macro_rules! mechanism {
        ($(#[$doc:meta])* $name:ident: $coalescing:ty, $large:ty) => {
            $(#[$doc])*
            enum $name {}
            impl Mechanism for $name {
                type Header = OneWord;
                type Coalescing = $coalescing;
                type Large = $large;
                type Checks = NoChecks;
                const TRIM: usize = 2 << 20;
            }
        };
    }

    mechanism! {
        /// Splits, and never merges.
        NoMerging: Never, NoLarge
    }
    mechanism! {
        /// Splits, and merges at once.
        Merging: AtOnce, NoLarge
    }
    mechanism! {
        /// Keeps small blocks in quick lists, and merges later.
        QuickLists: Deferred<31>, NoLarge
    }
    mechanism! {
        /// Merges at once, and maps blocks from 128 KiB on.
        OwnMappings: AtOnce, OwnMapping<{ 128 << 10 }>
    }

    /// A type as a contender.
    macro_rules! contender {
        ($name:expr, $about:literal, $type:ty) => {{
            static HEAP: $type = <$type>::new();
            Contender {
                name: $name,
                kind: Kind::Strategy,
                about: $about,
                allocator: Some(&HEAP),
                strategy: Some(&HEAP),
                prepare: || (),
                never_frees: false,
            }
        }};
    }

    /// A block engine under a lock.
    macro_rules! composition {
        ($name:expr, $backend:ty, $policy:ty, $mechanism:ty, $lock:ty) => {
            contender!(
                $name,
                "a composition of the matrix",
                Locked<$lock, Heap<$backend, $policy, $mechanism>>
            )
        };
    }

    /// A policy with every mechanism.
    macro_rules! mechanisms {
        ($($name:literal: $policy:ty,)*) => { &[$(
            composition!(concat!("mmap/", $name, "/never/futex"), Mmap, $policy, NoMerging, FutexMutex),
            composition!(concat!("mmap/", $name, "/at-once/futex"), Mmap, $policy, Merging, FutexMutex),
            composition!(concat!("mmap/", $name, "/deferred/futex"), Mmap, $policy, QuickLists, FutexMutex),
            composition!(concat!("mmap/", $name, "/own-mappings/futex"), Mmap, $policy, OwnMappings, FutexMutex),
            composition!(concat!("mmap/", $name, "/checked/futex"), Mmap, $policy, Checked<Merging>, FutexMutex),
        )*] };
    }

    /// A policy with every other backend, and every other lock.
    macro_rules! backends_and_locks {
        ($($name:literal: $policy:ty,)*) => { &[$(
            composition!(concat!("sbrk/", $name, "/at-once/futex"), Fallback<Sbrk, Mmap>, $policy, Merging, FutexMutex),
            composition!(concat!("huge-pages/", $name, "/at-once/futex"), HugePages<Mmap>, $policy, Merging, FutexMutex),
            composition!(concat!("mmap/", $name, "/at-once/parking-lot"), Mmap, $policy, Merging, RawMutex),
        )*] };
    }

    static MECHANISMS: &[Contender] = mechanisms! {
        "first-fit-lifo": FirstFit<LifoOrder>,
        "first-fit-fifo": FirstFit<FifoOrder>,
        "first-fit-address": FirstFit<AddressOrder>,
        "first-fit-tree": FirstFitTree,
        "next-fit": NextFit<AddressOrder>,
        "best-fit-lifo": BestFit<LifoOrder>,
        "best-fit-fifo": BestFit<FifoOrder>,
        "best-fit-address": BestFit<AddressOrder>,
        "best-fit-tree": BestFitTree,
        "worst-fit": WorstFit<LifoOrder>,
        "lifo": Lifo,
        "segregated": Segregated,
        "tlsf": Tlsf,
    };

    static BACKENDS_AND_LOCKS: &[Contender] = backends_and_locks! {
        "first-fit-tree": FirstFitTree,
        "best-fit-tree": BestFitTree,
        "segregated": Segregated,
        "tlsf": Tlsf,
    };

    macro_rules! design {
        ($(#[$doc:meta])* $name:ident: $($constant:ident: $type:ty = $value:expr),*) => {
            $(#[$doc])*
            struct $name<P>(PhantomData<P>);
            impl<P: Policy + 'static> Design for $name<P> {
                type Runs = P;
                $(const $constant: $type = $value;)*
            }
        };
    }

    design! {
        /// The flagship as it is, with any policy for its runs of pages.
        AsItIs:
    }
    design! {
        /// Only pages of 4 KiB.
        SmallPages: HUGE_FROM: usize = usize::MAX
    }
    design! {
        /// Huge pages in heaps of a few MiB, too.
        EarlyHugePages: HUGE_FROM: usize = 1 << 20
    }
    design! {
        /// A thread keeps an object of each class at hand.
        NothingKept: KEPT: usize = 0
    }
    design! {
        /// A thread keeps a quarter of what it keeps otherwise.
        LittleKept: KEPT: usize = 4 << 10
    }
    design! {
        /// Every free is verified.
        AllChecked: CHECKED: bool = true
    }

    /// The flagship with other parts.
    macro_rules! thread_cached {
        ($($name:literal: $backend:ty, $lock:ty, $design:ident<$policy:ty>;)*) => { &[$(
            contender!($name, "the flagship with other parts", ThreadCached<$backend, $lock, $design<$policy>>),
        )*] };
    }

    static THREAD_CACHED: &[Contender] = thread_cached! {
        "mmap/best-fit-tree/thread-cached/futex": Mmap, FutexMutex, AsItIs<BestFitTree>;
        "mmap/first-fit-tree/thread-cached/futex": Mmap, FutexMutex, AsItIs<FirstFitTree>;
        "mmap/segregated/thread-cached/futex": Mmap, FutexMutex, AsItIs<Segregated>;
        "mmap/tlsf/thread-cached/futex": Mmap, FutexMutex, AsItIs<Tlsf>;
        "mmap/best-fit-tree/thread-cached/parking-lot": Mmap, RawMutex, AsItIs<BestFitTree>;
        "mmap/best-fit-tree/thread-cached-small-pages/futex": Mmap, FutexMutex, SmallPages<BestFitTree>;
        "mmap/best-fit-tree/thread-cached-early-huge-pages/futex": Mmap, FutexMutex, EarlyHugePages<BestFitTree>;
        "mmap/best-fit-tree/thread-cached-nothing-kept/futex": Mmap, FutexMutex, NothingKept<BestFitTree>;
        "mmap/best-fit-tree/thread-cached-little-kept/futex": Mmap, FutexMutex, LittleKept<BestFitTree>;
        "mmap/best-fit-tree/thread-cached-checked/futex": Mmap, FutexMutex, AllChecked<BestFitTree>;
        "sbrk/best-fit-tree/thread-cached/futex": Fallback<Sbrk, Mmap>, FutexMutex, AsItIs<BestFitTree>;
    };

    /// All compositions.
    pub static COMPOSITIONS: &[&[Contender]] = &[MECHANISMS, BACKENDS_AND_LOCKS, THREAD_CACHED];
}

#[cfg(all(test, feature = "matrix"))]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::contender::Contender;

    #[test]
    fn every_composition_has_a_name_of_its_own_with_four_parts() {
        let mut names = BTreeSet::new();
        for Contender { name, .. } in COMPOSITIONS.iter().copied().flatten() {
            assert_eq!(name.split('/').count(), 4, "{name}");
            assert!(names.insert(name), "{name} is there twice");
        }
        assert!(names.len() > 70, "{}", names.len());
    }
}
