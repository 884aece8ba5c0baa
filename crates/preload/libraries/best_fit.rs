//! `libheapwright_best_fit.so`: the strategy `best-fit` in place of `malloc`.
#![cfg_attr(panic = "abort", no_std)]

heapwright_preload::export!("best-fit", heapwright_best_fit::BestFit);
