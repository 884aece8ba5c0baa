//! The promises that every strategy keeps, as it is and with every check.

heapwright_testkit::conformance!(heapwright_first_fit::FirstFit, unchecked: "freeing looks at nothing");

mod checked {
    use heapwright_core::{Checked, FutexMutex};

    type All<B = heapwright_backends::Mmap, L = FutexMutex> =
        heapwright_first_fit::FirstFit<B, L, Checked<heapwright_first_fit::Lean>>;
    heapwright_testkit::conformance!(All);
}
