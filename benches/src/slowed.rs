//! A contender made slower on purpose, by a known time for each call: what the harness must be able to find.

use std::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Instant;

use crate::replay::Allocator;

/// Hands on to another allocator, and works for nothing at every 1024th call.
pub struct Slowed {
    inner: &'static Allocator,
    calls: AtomicU32,
    steps: u32,
}

/// How many calls save up what they are to waste. Less than a nanosecond cannot be wasted at once, and what is short enough
/// to run beside the calls around it is not wasted: of 64 calls' worth, a quarter was lost so.
const EACH: u32 = 1024;

impl Slowed {
    /// Slower by so many nanoseconds for each call, on average.
    #[must_use]
    pub fn by(inner: &'static Allocator, nanoseconds: f64) -> Self {
        const TRIALS: usize = 20;
        const STEPS: u32 = 200_000;
        let trial = || {
            let start = Instant::now();
            waste(STEPS);
            start.elapsed()
        };
        // The shortest is one that nothing interrupted.
        let shortest = (0..TRIALS).map(|_| trial()).min().unwrap_or_default();
        let step = shortest.as_nanos() as f64 / f64::from(STEPS);
        let steps = f64::from(EACH) * nanoseconds / step;
        Self { inner, calls: AtomicU32::new(0), steps: steps.round() as u32 }
    }

    #[inline(always)]
    fn count(&self) {
        // Replays of one stream have one thread; of several, a call more or less does not matter.
        let calls = self.calls.load(Relaxed);
        self.calls.store(calls.wrapping_add(1), Relaxed);
        if calls.is_multiple_of(EACH) {
            waste(self.steps);
        }
    }
}

/// Multiplications each of which waits for the one before.
#[inline(never)]
fn waste(steps: u32) {
    let mut value = black_box(3_u64);
    for _ in 0..steps {
        value = black_box(value.wrapping_mul(6_364_136_223_846_793_005));
    }
    black_box(value);
}

// SAFETY: hands on to an allocator.
unsafe impl GlobalAlloc for Slowed {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.count();
        // SAFETY: the caller promises the same.
        unsafe { self.inner.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.count();
        // SAFETY: the caller promises the same.
        unsafe { self.inner.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        self.count();
        // SAFETY: the caller promises the same.
        unsafe { self.inner.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        self.count();
        // SAFETY: the caller promises the same.
        unsafe { self.inner.realloc(block, layout, new_size) }
    }
}
