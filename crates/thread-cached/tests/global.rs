//! The strategy as the allocator of a program with threads.
heapwright_testkit::global_program!(heapwright_thread_cached::ThreadCached);
