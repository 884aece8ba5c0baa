//! The promises that every strategy keeps.

use heapwright_backends::Mmap;
use heapwright_core::FutexMutex;

type Pool<B = Mmap, L = FutexMutex> = heapwright_pool::Pool<64, B, L>;
heapwright_testkit::conformance!(Pool);
