//! The strategy as the allocator of a program with threads.
heapwright_testkit::global_program!(heapwright_best_fit::BestFit);
