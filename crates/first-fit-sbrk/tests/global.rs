//! The strategy as the allocator of a program with threads.
heapwright_testkit::global_program!(heapwright_first_fit_sbrk::FirstFitSbrk);
