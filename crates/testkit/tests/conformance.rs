//! An engine that is right passes, as it is, and with all that it may lack by its nature.

mod toy;

heapwright_testkit::conformance!(toy::Toy);

mod small {
    use heapwright_core::{FutexMutex, Limits};

    use crate::toy::{Kind, Mistake, Toy};

    struct Small;
    impl Kind for Small {
        const MISTAKE: Mistake = Mistake::None;
        const LIMITS: Limits = Limits { max_size: 64, max_align: 16 };
    }

    type SmallToy<B = heapwright_backends::Mmap, L = FutexMutex> = Toy<B, L, Small>;
    heapwright_testkit::conformance!(SmallToy);
}

mod modest {
    use heapwright_core::FutexMutex;

    use crate::toy::{Kind, Mistake, Toy};

    struct Modest;
    impl Kind for Modest {
        const MISTAKE: Mistake = Mistake::DoesNotMerge;
    }

    type ModestToy<B = heapwright_backends::Mmap, L = FutexMutex> = Toy<B, L, Modest>;
    heapwright_testkit::conformance!(
        ModestToy,
        never_merges: "the toy was told not to",
        never_trims: "a region in two pieces does not go back",
        moves: "what a block leaves behind is not merged with what is free behind it",
    );
}

mod never_frees {
    use heapwright_core::FutexMutex;

    use crate::toy::{Kind, Mistake, Toy};

    struct Never;
    impl Kind for Never {
        const MISTAKE: Mistake = Mistake::MissesDoubleFree;
        const FREES: bool = false;
    }

    type NeverToy<B = heapwright_backends::Mmap, L = FutexMutex> = Toy<B, L, Never>;
    heapwright_testkit::conformance!(
        NeverToy,
        never_frees: "the toy was told not to",
        unchecked: "nothing is marked when it is freed",
        moves: "the rest of a block that shrank is not merged",
    );
}
