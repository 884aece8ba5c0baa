//! The two lines that a strategy crate writes.

/// Makes a test of every promise, for a strategy.
///
/// A strategy is a type alias whose first two parameters are its backend and its lock, both with defaults:
///
/// ```
/// # use heapwright_backends::Mmap;
/// # use heapwright_core::{FutexMutex, Locked};
/// # struct Heap<B>(B);
/// pub type Tlsf<B = Mmap, L = FutexMutex> = Locked<L, Heap<B>>;
/// ```
///
/// and the engine behind it has a constructor `over(backend)`. In `tests/conformance.rs`:
///
/// ```text
/// heapwright_testkit::conformance!(heapwright_tlsf::Tlsf);
/// ```
///
/// Several compositions are each tested in a module of its own:
///
/// ```text
/// mod checked {
///     type CheckedTlsf<B = Mmap, L = FutexMutex> = Tlsf<B, L, Checked<BoundaryTags>>;
///     heapwright_testkit::conformance!(CheckedTlsf);
/// }
/// ```
///
/// # What a strategy cannot do
///
/// Sizes and alignments are taken from [`Strategy::limits`](heapwright_core::Strategy::limits). What else a
/// strategy cannot do by its nature is given up by name, with the reason:
///
/// | option | given up | tested instead |
/// |---|---|---|
/// | `never_frees` | reuse, merging, trimming | that freed memory does not serve again |
/// | `unchecked` | finding misuse | that some misuse is not found |
/// | `never_merges` | one large block after many small ones | that there is none |
/// | `never_trims` | that a trim gives all back when all is freed | that it does not |
/// | `moves` | resizing in place wherever there is room | that a block moves |
/// | `coarse` | serving many sizes from 128 KiB | that it does not |
///
/// ```text
/// heapwright_testkit::conformance!(
///     heapwright_kingsley::Kingsley,
///     never_merges: "a block keeps its size class for ever",
///     moves: "a block of another size class lies elsewhere",
/// );
/// ```
///
/// What is given up is a test of its own, `gives_up::NAME`, and is said on standard error. Such a test fails
/// where the promise is kept after all.
#[macro_export]
macro_rules! conformance {
    ($($strategy:ident)::+ $(, $option:ident : $reason:literal)* $(,)?) => {
        /// The strategy under test.
        struct Tested;

        /// What promises know of it.
        const SUBJECT: $crate::Subject = $crate::Subject::of::<Tested>();

        impl $crate::Family for Tested {
            type Over<B: $crate::HeapBackend, L: $crate::RawMutex> = $($strategy)::+<B, L>;
            type Default = $($strategy)::+;

            const NAME: &'static str = stringify!($($strategy)::+);
            const MODULE: &'static str = module_path!();
            const NATURE: $crate::Nature = {
                #[allow(unused_mut)]
                let mut nature = $crate::Nature::NONE;
                $(nature.$option = true;)*
                nature
            };

            fn over<B: $crate::HeapBackend, L: $crate::RawMutex>(backend: B) -> Self::Over<B, L> {
                <Self::Over<B, L> as $crate::Parts>::with(
                    <<Self::Over<B, L> as $crate::Parts>::Engine>::over(backend),
                )
            }

            fn new() -> Self::Default {
                <$($strategy)::+ as $crate::New>::NEW
            }

            fn shared() -> &'static Self::Default {
                static SHARED: $($strategy)::+ = <$($strategy)::+ as $crate::New>::NEW;
                &SHARED
            }
        }

        $crate::__promises! {
            all_sizes_are_served,
            alignments_are_kept,
            empty_requests_get_blocks_of_their_own,
            all_usable_bytes_are_the_programs,
            impossible_requests_fail_and_change_nothing,
            odd_memory_serves,
            blocks_are_disjoint_and_keep_their_contents,
            hostile_sequences_are_survived,
            large_and_small_blocks_live_together,
            zeroed_memory_is_zero,
            zeroed_memory_is_zero_after_reuse,
            resizing_keeps_contents_in_every_direction,
            resizing_back_and_forth_keeps_contents,
            a_failed_resize_leaves_the_block_as_it_was,
            exhaustion_fails_cleanly,
            every_failing_call_for_memory_is_survived,
            every_failing_call_to_the_backend_is_survived,
            check_finds_no_fault,
            walk_shows_every_block_in_use_once,
            stats_are_the_sums_of_the_walk,
            the_footprint_is_what_the_backend_gave,
            the_backends_contract_is_kept,
            dropping_the_heap_gives_everything_back,
            trimming_leaves_the_heap_usable,
            random_sequences_agree_with_the_model,
            limits_are_stated,
            [any_backend_serves],
            [one_thread_is_served_without_a_lock],
            [foreign_moves_of_the_break_are_survived],
            [moving_the_heap_moves_no_block],
            [threads_share_a_heap],
            [threads_share_a_heap_under_parking_lot],
            [threads_share_a_static_heap],
            [it_is_a_global_alloc],
            [it_is_an_allocator],
            [collections_live_on_it],
        }

        $crate::__given_up! { [] [] [] [] [] [] $($option $reason)* }
    };
}

/// One test for each promise named. Those that ask for the type of the strategy are in brackets.
#[doc(hidden)]
#[macro_export]
macro_rules! __promises {
    ($($promise:tt),* $(,)?) => {
        $($crate::__promise! { $promise })*
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __promise {
    ([$promise:ident]) => {
        #[test]
        fn $promise() -> $crate::Kept {
            $crate::promises::$promise::<Tested>()
        }
    };
    ($promise:ident) => {
        #[test]
        fn $promise() -> $crate::Kept {
            $crate::promises::$promise(&SUBJECT)
        }
    };
}

/// Goes through the options, and makes the tests of what is promised and of what is given up.
#[doc(hidden)]
#[macro_export]
macro_rules! __given_up {
    ([] [$($c:literal)?] [$($m:literal)?] [$($t:literal)?] [$($r:literal)?] [$($o:literal)?] never_frees $reason:literal $($rest:tt)*) => {
        $crate::__given_up! { [$reason] [$($c)?] [$($m)?] [$($t)?] [$($r)?] [$($o)?] $($rest)* }
    };
    ([$($f:literal)?] [] [$($m:literal)?] [$($t:literal)?] [$($r:literal)?] [$($o:literal)?] unchecked $reason:literal $($rest:tt)*) => {
        $crate::__given_up! { [$($f)?] [$reason] [$($m)?] [$($t)?] [$($r)?] [$($o)?] $($rest)* }
    };
    ([$($f:literal)?] [$($c:literal)?] [] [$($t:literal)?] [$($r:literal)?] [$($o:literal)?] never_merges $reason:literal $($rest:tt)*) => {
        $crate::__given_up! { [$($f)?] [$($c)?] [$reason] [$($t)?] [$($r)?] [$($o)?] $($rest)* }
    };
    ([$($f:literal)?] [$($c:literal)?] [$($m:literal)?] [] [$($r:literal)?] [$($o:literal)?] never_trims $reason:literal $($rest:tt)*) => {
        $crate::__given_up! { [$($f)?] [$($c)?] [$($m)?] [$reason] [$($r)?] [$($o)?] $($rest)* }
    };
    ([$($f:literal)?] [$($c:literal)?] [$($m:literal)?] [$($t:literal)?] [] [$($o:literal)?] moves $reason:literal $($rest:tt)*) => {
        $crate::__given_up! { [$($f)?] [$($c)?] [$($m)?] [$($t)?] [$reason] [$($o)?] $($rest)* }
    };
    ([$($f:literal)?] [$($c:literal)?] [$($m:literal)?] [$($t:literal)?] [$($r:literal)?] [] coarse $reason:literal $($rest:tt)*) => {
        $crate::__given_up! { [$($f)?] [$($c)?] [$($m)?] [$($t)?] [$($r)?] [$reason] $($rest)* }
    };
    ([$($f:literal)?] [$($c:literal)?] [$($m:literal)?] [$($t:literal)?] [$($r:literal)?] [$($o:literal)?]) => {
        $crate::__frees! { [$($f)?] [$($m)?] [$($t)?] }
        $crate::__checks! { $($c)? }
        $crate::__stays! { $($r)? }
        $crate::__names! { $(never_frees $f,)? $(unchecked $c,)? $(never_merges $m,)? $(never_trims $t,)? $(moves $r,)? $(coarse $o,)? }
    };
    ($([$($state:literal)?])* $option:ident $($rest:tt)*) => {
        compile_error!(concat!(
            "no such option, or named twice: `", stringify!($option),
            "`; there are never_frees, unchecked, never_merges, never_trims, moves, coarse"
        ));
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __frees {
    ([$reason:literal] $($rest:tt)*) => {};
    ([] [$($m:literal)?] [$($t:literal)?]) => {
        $crate::__promises! {
            a_freed_block_serves_again,
            a_failed_request_takes_nothing,
            exhaustion_loses_nothing,
            nothing_is_live_when_all_is_freed,
        }
        $crate::__merges! { $($m)? }
        $crate::__trims! { $($t)? }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __merges {
    ($reason:literal) => {};
    () => {
        $crate::__promises! { free_neighbours_are_merged }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __trims {
    ($reason:literal) => {};
    () => {
        $crate::__promises! { trimming_gives_memory_back }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __stays {
    ($reason:literal) => {};
    () => {
        $crate::__promises! { resizing_stays_in_place_where_it_can }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __checks {
    ($reason:literal) => {};
    () => {
        $crate::__promises! {
            a_double_free_is_found,
            a_double_free_after_other_work_is_found,
            a_double_free_of_a_merged_block_is_found,
            a_misaligned_pointer_is_refused,
            a_pointer_inside_a_block_is_refused,
            foreign_memory_is_refused,
            blocks_of_another_heap_are_refused,
            wild_addresses_are_refused,
            [misuse_through_a_face_aborts],
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __names {
    () => {};
    ($($option:ident $reason:literal,)+) => {
        /// What this strategy does not promise.
        mod gives_up {
            $(
                #[test]
                fn $option() -> $crate::Kept {
                    $crate::promises::$option(&super::SUBJECT, $reason)
                }
            )+
        }
    };
}

/// Makes a test binary of its own whose global allocator is a strategy, and which runs a real program on
/// it: threads, channels, trees, maps, recursion, formatted output ([`program`](crate::program)).
///
/// In `tests/global.rs` of a strategy crate:
///
/// ```text
/// heapwright_testkit::global_program!(heapwright_tlsf::Tlsf);
/// ```
#[macro_export]
macro_rules! global_program {
    ($strategy:ty $(,)?) => {
        #[global_allocator]
        static GLOBAL: $strategy = <$strategy as $crate::New>::NEW;

        #[test]
        fn a_real_program_runs_on_it() -> $crate::Kept {
            $crate::program::verify(&GLOBAL)
        }
    };
}
