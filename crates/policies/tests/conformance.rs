//! Every policy that no strategy crate tests already, in a heap that keeps all promises: plain, and with
//! encoded links under every check.

use heapwright_backends::Mmap;
use heapwright_core::{BoundaryTags, Checked, Encoded, FutexMutex, Heap, Locked};
use heapwright_policies::{
    AddressOrder, BestFit, FifoOrder, FirstFit, Lifo, LifoOrder, NextFit, Segregated, WorstFit,
};

macro_rules! plain {
    ($($module:ident: $policy:ty,)*) => {$(
        mod $module {
            use super::*;

            type Subjects<B = Mmap, L = FutexMutex> = Locked<L, Heap<B, $policy, BoundaryTags>>;
            heapwright_testkit::conformance!(Subjects, unchecked: "freeing looks at nothing");
        }
    )*};
}

macro_rules! checked {
    ($($module:ident: $policy:ty,)*) => {$(
        mod $module {
            use super::*;

            type Subjects<B = Mmap, L = FutexMutex> =
                Locked<L, Heap<B, $policy, Checked<BoundaryTags>>>;
            heapwright_testkit::conformance!(Subjects);
        }
    )*};
}

plain! {
    first_fit_fifo: FirstFit<FifoOrder>,
    first_fit_address: FirstFit<AddressOrder>,
    best_fit_address: BestFit<AddressOrder>,
    next_fit: NextFit,
    worst_fit: WorstFit,
}

checked! {
    first_fit_lifo_encoded: FirstFit<LifoOrder, Encoded>,
    best_fit_fifo_encoded: BestFit<FifoOrder, Encoded>,
    next_fit_lifo_encoded: NextFit<LifoOrder, Encoded>,
    segregated_encoded: Segregated<Encoded>,
    lifo_encoded: Lifo<Encoded>,
}
