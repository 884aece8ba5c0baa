//! The strategy as the allocator of a program with threads.
heapwright_testkit::global_program!(heapwright_lifo_mmap::LifoMmap);
