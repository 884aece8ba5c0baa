//! `libheapwright_first_fit.so`: the strategy `first-fit` in place of `malloc`.
#![cfg_attr(panic = "abort", no_std)]

heapwright_preload::export!("first-fit", heapwright_first_fit::FirstFit);
