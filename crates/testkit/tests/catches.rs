//! The suite finds out every engine that is wrong: each mistake breaks the promise that it should, and in
//! the words that it should.

mod toy;

use core::cell::Cell;

use heapwright_core::{FutexMutex, HeapBackend, Limits, Locked, New};
use heapwright_testkit::{Family, Kept, Nature, Subject, promises};
use lock_api::RawMutex;
use toy::{Kind, Mistake, Toy, ToyHeap};

/// A family of engines with a mistake. Promises that ask for a process of their own are tested in this
/// one, which is what an empty module says.
struct Wrong<K>(Cell<K>);

impl<K: Kind> Family for Wrong<K> {
    type Over<B: HeapBackend, L: RawMutex> = Toy<B, L, K>;
    type Default = Toy<heapwright_backends::Mmap, FutexMutex, K>;

    const NAME: &'static str = "a wrong engine";
    const MODULE: &'static str = "";
    const NATURE: Nature = Nature::NONE;

    fn over<B: HeapBackend, L: RawMutex>(backend: B) -> Self::Over<B, L> {
        Locked::with(ToyHeap::over(backend))
    }

    fn new() -> Self::Default {
        Self::Default::NEW
    }

    fn shared() -> &'static Self::Default {
        Box::leak(Box::new(Self::new()))
    }
}

#[track_caller]
fn caught(kept: Kept, words: &str) {
    let complaint = kept.expect_err("the mistake was not found");
    assert!(complaint.what().contains(words), "found in other words: {complaint}");
}

/// What comes of a promise of the engine `It`. Those that ask for the type are in brackets.
macro_rules! kept {
    ([$promise:ident]) => {
        promises::$promise::<Wrong<It>>()
    };
    ($promise:ident) => {
        promises::$promise(&Subject::of::<Wrong<It>>())
    };
}

/// One test for each mistake: the promises that it breaks, and the words in which each says so.
macro_rules! mistakes {
    ($($test:ident: $mistake:ident {
        $($promise:tt: $words:literal,)+
    })+) => {$(
        #[test]
        fn $test() {
            struct It;
            impl Kind for It {
                const MISTAKE: Mistake = Mistake::$mistake;
            }
            $(caught(kept!($promise), $words);)+
        }
    )+};
}

mistakes! {
    overlapping_blocks: Overlaps {
        all_sizes_are_served: "overlaps",
        blocks_are_disjoint_and_keep_their_contents: "overlaps",
        random_sequences_agree_with_the_model: "Step::Allocate",
    }
    ignored_alignment: IgnoresAlignment {
        alignments_are_kept: "is not aligned to",
        random_sequences_agree_with_the_model: "is not aligned to",
    }
    ignored_large_alignment: IgnoresLargeAlignment {
        alignments_are_kept: "is not aligned to",
        [it_is_a_global_alloc]: "is not aligned to",
    }
    memory_that_is_not_zeroed: DoesNotZero {
        zeroed_memory_is_zero_after_reuse: "zeroed memory is not zero",
        [it_is_an_allocator]: "allocate_zeroed",
        random_sequences_agree_with_the_model: "zeroed memory is not zero",
    }
    fresh_memory_that_is_not_zeroed: TrustsFreshMemory {
        zeroed_memory_is_zero: "over Dirty: [",
        random_sequences_agree_with_the_model: "zeroed memory is not zero",
    }
    memory_that_is_not_all_zeroed: ZeroesTooLittle {
        zeroed_memory_is_zero: "zeroed memory is not zero",
        zeroed_memory_is_zero_after_reuse: "zeroed memory is not zero",
    }
    lost_blocks: LosesFreedBlocks {
        exhaustion_loses_nothing: "at first, and",
        free_neighbours_are_merged: "after use, with all freed, it does not",
    }
    blocks_lost_between_threads: LosesForeignFrees {
        [threads_share_a_heap]: "are in use, and stats say",
        [threads_share_a_heap_under_parking_lot]: "are in use, and stats say",
        [threads_share_a_static_heap]: "are in use, and stats say",
    }
    neighbours_that_are_not_merged: DoesNotMerge {
        free_neighbours_are_merged: "after use, with all freed, it does not",
    }
    double_frees_that_are_missed: MissesDoubleFree {
        a_double_free_is_found: "Deallocate of a block that was just freed",
        a_double_free_after_other_work_is_found: "should be refused (Double), and gave Ok(())",
    }
    merged_double_frees_that_are_missed: MissesMergedDoubleFree {
        a_double_free_of_a_merged_block_is_found: "Deallocate of a block that was freed and merged",
    }
    invalid_frees_that_are_missed: MissesInvalidFree {
        foreign_memory_is_refused: "Deallocate of the stack",
        blocks_of_another_heap_are_refused: "Deallocate of a block of 40 bytes of another heap",
        wild_addresses_are_refused: "Deallocate of close to null",
        a_misaligned_pointer_is_refused: "Deallocate of a misaligned pointer into a block",
    }
    inner_frees_that_are_missed: MissesInnerFree {
        a_pointer_inside_a_block_is_refused: "and in 15 more of 16 heaps",
    }
    misuse_that_a_resize_misses: MissesMisuseInReallocate {
        a_double_free_is_found: "Shrink of a block that was just freed",
        foreign_memory_is_refused: "Shrink of the stack",
        wild_addresses_are_refused: "Shrink of close to null",
    }
    confused_errors: ConfusesErrors {
        a_double_free_is_found: "and gave Err(InvalidFree",
    }
    misuse_that_is_not_counted: DoesNotCountMisuse {
        a_double_free_is_found: "stats count 0 misuses after 0",
    }
    misuse_that_does_harm: FreesAnotherOnMisuse {
        a_double_free_is_found: "was refused and changed the heap",
        foreign_memory_is_refused: "was refused and changed the heap",
    }
    contents_that_stay_behind: DoesNotCopy {
        resizing_keeps_contents_in_every_direction: "resizing lost contents",
        [it_is_a_global_alloc]: "lost contents",
        random_sequences_agree_with_the_model: "resizing lost contents",
    }
    last_bytes_that_stay_behind: CopiesTooLittle {
        resizing_keeps_contents_in_every_direction: "resizing lost contents",
        resizing_back_and_forth_keeps_contents: "resizing lost contents",
    }
    alignment_lost_in_a_resize: ResizesUnaligned {
        resizing_keeps_contents_in_every_direction: "is not aligned to",
    }
    blocks_freed_by_a_failed_resize: FreesOnFailedResize {
        a_failed_resize_leaves_the_block_as_it_was: "after a failed resize",
    }
    blocks_that_always_move: AlwaysMoves {
        resizing_stays_in_place_where_it_can: "moved it",
    }
    blocks_forgotten_when_the_backend_fails: ForgetsOnFailure {
        a_failed_request_takes_nothing: "after a larger request failed",
    }
    giving_up_when_the_backend_fails: GivesUpOnFailure {
        every_failing_call_for_memory_is_survived: "though it is within the limits and the backend refused nothing",
    }
    memory_forgotten_when_it_is_not_taken: ForgetsRefusedMemory {
        every_failing_call_to_the_backend_is_survived: "with call ",
    }
    sizes_cut_to_32_bits: TruncatesSizes {
        impossible_requests_fail_and_change_nothing: "usable, and 140737488355328 were asked for",
    }
    empty_blocks_that_are_shared: SharesEmptyBlocks {
        empty_requests_get_blocks_of_their_own: "overlaps",
    }
    blocks_of_no_byte: ResizesToNothing {
        empty_requests_get_blocks_of_their_own: "has no usable byte",
        resizing_keeps_contents_in_every_direction: "has no usable byte",
    }
    usable_bytes_that_are_not: OverstatesUsable {
        all_usable_bytes_are_the_programs: "overlaps",
    }
    writing_into_neighbours: ScribblesOnFree {
        blocks_are_disjoint_and_keep_their_contents: "something wrote into a block in use",
        hostile_sequences_are_survived: "something wrote into a block in use",
        // It may be that of a block that is being resized.
        random_sequences_agree_with_the_model: "and is 0xee",
    }
    failing_without_a_reason: FailsAtTimes {
        blocks_are_disjoint_and_keep_their_contents: "the backend refused nothing",
    }
    lies_about_live_bytes: LiesAboutLive {
        stats_are_the_sums_of_the_walk: "stats say live_bytes is",
    }
    lies_about_the_footprint: LiesAboutFootprint {
        the_footprint_is_what_the_backend_gave: "and what the backend gave is",
        stats_are_the_sums_of_the_walk: "the footprint is not the sum of its parts",
    }
    lies_about_the_peak: LiesAboutPeak {
        the_footprint_is_what_the_backend_gave: "peak_footprint is",
    }
    overstated_peaks: OverstatesPeak {
        the_footprint_is_what_the_backend_gave: "and the backend gave",
    }
    lies_about_overhead: LiesAboutOverhead {
        odd_memory_serves: "the footprint is not the sum of its parts",
    }
    lies_about_the_largest_block: LiesAboutLargest {
        stats_are_the_sums_of_the_walk: "stats say largest_free is",
    }
    walking_past_a_block: WalksPast {
        walk_shows_every_block_in_use_once: "walk does not show",
    }
    walking_twice: WalksTwice {
        walk_shows_every_block_in_use_once: "walk shows",
    }
    walking_backwards: WalksBackwards {
        walk_shows_every_block_in_use_once: " in one region",
    }
    walking_free_blocks_as_used: WalksFreeAsUsed {
        stats_are_the_sums_of_the_walk: "are in use, and stats say",
    }
    memory_leaked_on_drop: LeaksOnDrop {
        dropping_the_heap_gives_everything_back: "never went back",
        [threads_share_a_heap]: "never went back",
    }
    memory_given_back_twice: ShrinksTwice {
        the_backends_contract_is_kept: "of what is not held",
        trimming_leaves_the_heap_usable: "of what is not held",
    }
    trims_that_give_nothing: DoesNotTrim {
        trimming_gives_memory_back: "with all freed, trim gave back 0 of",
    }
    trims_that_say_too_little: UnderstatesTrim {
        trimming_leaves_the_heap_usable: "trim says it gave back",
    }
    trims_of_live_memory: TrimsLiveMemory {
        trimming_leaves_the_heap_usable: "something wrote into a block in use",
        random_sequences_agree_with_the_model: "Step::Trim",
    }
    heaps_that_cannot_move: CannotMove {
        [moving_the_heap_moves_no_block]: "are in use, and stats say",
    }
    checks_that_find_too_much: ChecksTooMuch {
        check_finds_no_fault: "there were not too many requests",
    }
}

/// Limits are kept, and are what sizes are taken from.
#[test]
fn serving_beyond_the_limits() {
    struct Small;
    impl Kind for Small {
        const MISTAKE: Mistake = Mistake::None;
        const LIMITS: Limits = Limits { max_size: 100, max_align: 32 };
    }
    promises::all_sizes_are_served(&Subject::of::<Wrong<Small>>()).unwrap();
    promises::impossible_requests_fail_and_change_nothing(&Subject::of::<Wrong<Small>>()).unwrap();

    struct Careless;
    impl Kind for Careless {
        const MISTAKE: Mistake = Mistake::IgnoresLimits;
        const LIMITS: Limits = Limits { max_size: 100, max_align: 32 };
    }
    let kept =
        promises::impossible_requests_fail_and_change_nothing(&Subject::of::<Wrong<Careless>>());
    caught(kept, "was served, though it is beyond Limits");
}

/// A failing sequence is shrunk to its core, and printed as code.
#[test]
fn a_failing_sequence_is_short() {
    struct It;
    impl Kind for It {
        const MISTAKE: Mistake = Mistake::DoesNotZero;
    }
    let complaint =
        promises::random_sequences_agree_with_the_model(&Subject::of::<Wrong<It>>()).unwrap_err();
    let steps = complaint.what().matches("\n    Step::").count();
    // Three would do: allocate, free, allocate zeroed. Shrinking may end at another short one, in which a
    // block before them keeps what is freed apart.
    assert!((1..=6).contains(&steps), "{steps} steps: {complaint}");
    assert!(complaint.what().contains("zeroed: true },"), "{complaint}");
}

/// What is given up and kept all the same is found out too.
mod given_up {
    use super::*;

    struct Right;
    impl Kind for Right {
        const MISTAKE: Mistake = Mistake::None;
    }

    #[test]
    fn for_nothing() {
        let right = Subject::of::<Wrong<Right>>();
        let words = "is given up for nothing";
        caught(promises::never_frees(&right, ""), words);
        caught(promises::never_merges(&right, ""), words);
        caught(promises::never_trims(&right, ""), words);
        caught(promises::moves(&right, ""), words);
        caught(promises::unchecked(&right, ""), words);
    }
}

/// Other code's memory above the break: the engine that takes it for its own is found out, in a process
/// of its own, which it may well crash.
mod assumed_contiguity {
    use super::*;

    struct It;
    impl Kind for It {
        const MISTAKE: Mistake = Mistake::AssumesContiguity;
    }

    struct Contiguous;
    impl Family for Contiguous {
        type Over<B: HeapBackend, L: RawMutex> = Toy<B, L, It>;
        type Default = Toy<heapwright_backends::Sbrk, FutexMutex, It>;

        const NAME: &'static str = "a wrong engine";
        const MODULE: &'static str = module_path!();
        const NATURE: Nature = Nature::NONE;

        fn over<B: HeapBackend, L: RawMutex>(backend: B) -> Self::Over<B, L> {
            Locked::with(ToyHeap::over(backend))
        }

        fn new() -> Self::Default {
            Self::Default::NEW
        }

        fn shared() -> &'static Self::Default {
            Box::leak(Box::new(Self::new()))
        }
    }

    #[test]
    fn foreign_moves_of_the_break_are_survived() -> Kept {
        let kept = promises::foreign_moves_of_the_break_are_survived::<Contiguous>();
        if std::env::var_os("HEAPWRIGHT_TESTKIT_CHILD").is_some() {
            return kept;
        }
        caught(kept, "in a process of its own");
        Ok(())
    }
}
