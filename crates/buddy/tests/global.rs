//! A real program with this strategy as its allocator.
heapwright_testkit::global_program!(heapwright_buddy::Buddy);
