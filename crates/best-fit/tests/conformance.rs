//! The promises that every strategy keeps, as it is and with every check.

heapwright_testkit::conformance!(heapwright_best_fit::BestFit, unchecked: "freeing looks at nothing");

mod checked {
    use heapwright_core::{Checked, FutexMutex};

    type All<B = heapwright_backends::Mmap, L = FutexMutex> =
        heapwright_best_fit::BestFit<B, L, Checked<heapwright_best_fit::Lean>>;
    heapwright_testkit::conformance!(All);
}
