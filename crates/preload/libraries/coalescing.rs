//! `libheapwright_coalescing.so`: the strategy `coalescing` in place of `malloc`.
#![cfg_attr(panic = "abort", no_std)]

heapwright_preload::export!("coalescing", heapwright_coalescing::Coalescing);
