//! A word that a program's stray writes, or an attacker, cannot guess. Keys the checks.

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

static SECRET: AtomicUsize = AtomicUsize::new(0);

/// Draws the secret if there is none yet. A heap calls it before it writes its first header, so
/// that the secret never changes under a heap's feet.
#[cold]
pub(crate) fn draw(entropy: u64) {
    // Odd, hence never zero, and a fit multiplier. Without entropy the checks still find errors,
    // though not attacks.
    let secret = (entropy as usize).wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as usize)
        ^ (entropy >> 32) as usize;
    let _ = SECRET.compare_exchange(0, secret ^ 0x5DEE_CE66 | 1, Relaxed, Relaxed);
}

#[inline(always)]
pub(crate) fn get() -> usize {
    SECRET.load(Relaxed)
}
