//! `libheapwright_buddy.so`: the strategy `buddy` in place of `malloc`.
#![cfg_attr(panic = "abort", no_std)]

heapwright_preload::export!("buddy", heapwright_buddy::Buddy);
