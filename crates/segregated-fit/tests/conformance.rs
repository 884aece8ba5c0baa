//! The promises that every strategy keeps, as it is and with every check.

heapwright_testkit::conformance!(heapwright_segregated_fit::SegregatedFit, unchecked: "freeing looks at nothing");

mod checked {
    use heapwright_core::{Checked, FutexMutex};

    type All<
        B = heapwright_backends::Fallback<heapwright_backends::Sbrk, heapwright_backends::Mmap>,
        L = FutexMutex,
    > = heapwright_segregated_fit::SegregatedFit<
        B,
        L,
        Checked<heapwright_segregated_fit::QuickLists>,
    >;
    heapwright_testkit::conformance!(All);
}
