//! The promises that every strategy keeps, as it is and with every check.

heapwright_testkit::conformance!(heapwright_first_fit_sbrk::FirstFitSbrk, unchecked: "freeing looks at nothing", moves: "nothing is split or merged");

mod checked {
    use heapwright_core::{Checked, FutexMutex};

    type All<B = heapwright_backends::Sbrk, L = FutexMutex> =
        heapwright_first_fit_sbrk::FirstFitSbrk<B, L, Checked<heapwright_core::Simple>>;
    heapwright_testkit::conformance!(All, moves: "nothing is split or merged");
}
