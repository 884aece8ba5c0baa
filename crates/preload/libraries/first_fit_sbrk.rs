//! `libheapwright_first_fit_sbrk.so`: the strategy `first-fit-sbrk` in place of `malloc`.
#![cfg_attr(panic = "abort", no_std)]

heapwright_preload::export!("first-fit-sbrk", heapwright_first_fit_sbrk::FirstFitSbrk);
