//! `libheapwright_thread_cached_checked.so`: the strategy `thread-cached` in place of `malloc`, every free verified.
#![cfg_attr(panic = "abort", no_std)]

use heapwright_backends::Mmap;
use heapwright_core::FutexMutex;
use heapwright_thread_cached::{Checked, ThreadCached};

heapwright_preload::export!("thread-cached-checked", ThreadCached<Mmap, FutexMutex, Checked>);
