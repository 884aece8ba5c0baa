//! The promises that every strategy keeps, as it is and with every check.

heapwright_testkit::conformance!(heapwright_tlsf::Tlsf, unchecked: "freeing looks at nothing");

mod checked {
    use heapwright_core::{Checked, FutexMutex};

    type All<B = heapwright_backends::Mmap, L = FutexMutex> =
        heapwright_tlsf::Tlsf<B, L, Checked<heapwright_tlsf::Bounded>>;
    heapwright_testkit::conformance!(All);
}
