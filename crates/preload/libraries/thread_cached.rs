//! `libheapwright_thread_cached.so`: the strategy `thread-cached` in place of `malloc`.
#![cfg_attr(panic = "abort", no_std)]

heapwright_preload::export!("thread-cached", heapwright_thread_cached::ThreadCached);
