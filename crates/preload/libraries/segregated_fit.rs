//! `libheapwright_segregated_fit.so`: the strategy `segregated-fit` in place of `malloc`.
#![cfg_attr(panic = "abort", no_std)]

heapwright_preload::export!("segregated-fit", heapwright_segregated_fit::SegregatedFit);
