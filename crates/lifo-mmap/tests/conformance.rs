//! The promises that every strategy keeps, as it is and with every check.

heapwright_testkit::conformance!(heapwright_lifo_mmap::LifoMmap);

mod checked {
    use heapwright_core::{Checked, FutexMutex};

    type All<B = heapwright_backends::Mmap, L = FutexMutex> =
        heapwright_lifo_mmap::LifoMmap<B, L, Checked<heapwright_lifo_mmap::Protected>>;
    heapwright_testkit::conformance!(All);
}
