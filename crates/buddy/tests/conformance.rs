//! The promises that every strategy keeps.
heapwright_testkit::conformance!(
    heapwright_buddy::Buddy,
    moves: "only its buddy can be joined to a block",
);
