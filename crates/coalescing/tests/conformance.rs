//! The promises that every strategy keeps, as it is and with every check.

heapwright_testkit::conformance!(heapwright_coalescing::Coalescing);

mod checked {
    use heapwright_core::{Checked, FutexMutex};

    type All<
        B = heapwright_backends::Fallback<heapwright_backends::Sbrk, heapwright_backends::Mmap>,
        L = FutexMutex,
    > = heapwright_coalescing::Coalescing<B, L, Checked<heapwright_coalescing::SplitAndMerge>>;
    heapwright_testkit::conformance!(All);
}
