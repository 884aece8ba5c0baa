//! `libheapwright_tlsf.so`: the strategy `tlsf` in place of `malloc`.
#![cfg_attr(panic = "abort", no_std)]

heapwright_preload::export!("tlsf", heapwright_tlsf::Tlsf);
