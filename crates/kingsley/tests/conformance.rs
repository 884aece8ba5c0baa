//! The promises that every strategy keeps.
heapwright_testkit::conformance!(
    heapwright_kingsley::Kingsley,
    moves: "a block of another size class lies elsewhere",
);
