//! Fetching ahead: what lies in no cache, and will be needed soon, is on its way meanwhile.
//!
//! In a heap of many megabytes neither descriptors nor free objects are in any cache when their turn comes, where a program
//! works at random; several are waited for at once then. (Todd C. Mowry, Monica S. Lam and Anoop Gupta, *Design and Evaluation
//! of a Compiler Algorithm for Prefetching*, 1992, weigh such hints.)

use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

/// Has the processor fetch the line of an address, which may be any.
#[inline(always)]
pub(crate) fn fetch(place: *const u8) {
    // SAFETY: a hint, which reads nothing and never fails.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(place.cast()) };
}
