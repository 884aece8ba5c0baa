//! `libheapwright_kingsley.so`: the strategy `kingsley` in place of `malloc`.
#![cfg_attr(panic = "abort", no_std)]

heapwright_preload::export!("kingsley", heapwright_kingsley::Kingsley);
