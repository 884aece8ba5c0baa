//! `libheapwright_lifo_mmap.so`: the strategy `lifo-mmap` in place of `malloc`.
#![cfg_attr(panic = "abort", no_std)]

heapwright_preload::export!("lifo-mmap", heapwright_lifo_mmap::LifoMmap);
