//! The promises that every strategy keeps.
heapwright_testkit::conformance!(
    heapwright_bump::Bump,
    never_frees: "the mark only goes up",
    unchecked: "freeing looks at nothing",
    moves: "only the last block has room behind it",
);
