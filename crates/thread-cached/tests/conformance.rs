//! The promises that every strategy keeps, as it is and with every check.

heapwright_testkit::conformance!(
    heapwright_thread_cached::ThreadCached,
    unchecked: "a double free that is not in a row is found only when the object goes back to its slab",
    never_trims: "what threads share, and their parts, stay in the first chunk",
    moves: "an object of another size class lies elsewhere",
    coarse: "a size class takes a page of 8 KiB at least",
);

mod checked {
    use heapwright_backends::Mmap;
    use heapwright_core::FutexMutex;

    type All<B = Mmap, L = FutexMutex> =
        heapwright_thread_cached::ThreadCached<B, L, heapwright_thread_cached::Checked>;
    heapwright_testkit::conformance!(
        All,
        never_trims: "what threads share, and their parts, stay in the first chunk",
        moves: "an object of another size class lies elsewhere",
        coarse: "a size class takes a page of 8 KiB at least",
    );
}
