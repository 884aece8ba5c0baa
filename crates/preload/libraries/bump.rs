//! `libheapwright_bump.so`: the strategy `bump` in place of `malloc`.
#![cfg_attr(panic = "abort", no_std)]

heapwright_preload::export!("bump", heapwright_bump::Bump);
