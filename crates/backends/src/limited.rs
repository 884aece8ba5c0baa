//! Holds a heap to a number of bytes.

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use heapwright_core::{HeapBackend, New, OutOfMemory, Region, hand_on};

use crate::fallback::{Owns, Stretch};
use crate::round_up;

/// A backend that gives no more than a number of bytes at a time. What it takes back may be given
/// again. A new one has no limit; one can be set at any time, through the heap's `backend()` too, and
/// when it is below what is held already, nothing is given until enough is taken back.
#[derive(Debug)]
pub struct Limited<B> {
    inner: B,
    limit: AtomicUsize,
    held: usize,
}

impl<B: New> New for Limited<B> {
    const NEW: Self = Self::over(B::NEW, usize::MAX);
}

impl<B> Limited<B> {
    /// Holds `inner` to `limit` bytes.
    pub const fn over(inner: B, limit: usize) -> Self {
        Self { inner, limit: AtomicUsize::new(limit), held: 0 }
    }

    /// The most bytes that may be held.
    pub fn limit(&self) -> usize {
        self.limit.load(Relaxed)
    }

    /// Sets the most bytes that may be held from now on.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Relaxed);
    }

    /// The bytes that are held: given and not taken back.
    pub const fn held(&self) -> usize {
        self.held
    }

    /// The backend inside.
    pub const fn inner(&self) -> &B {
        &self.inner
    }

    fn admits(&self, held: usize, more: usize) -> bool {
        held.checked_add(more).is_some_and(|sum| sum <= self.limit())
    }
}

impl<B: Default> Default for Limited<B> {
    fn default() -> Self {
        Self::over(B::default(), usize::MAX)
    }
}

impl<B: HeapBackend> Limited<B> {
    fn within_limit(
        &mut self,
        size: usize,
        ask: impl FnOnce(&mut B) -> Result<Region, OutOfMemory>,
    ) -> Result<Region, OutOfMemory> {
        let least = round_up(size, self.inner.page_size()).ok_or(OutOfMemory)?;
        if !self.admits(self.held, least) {
            return Err(OutOfMemory);
        }
        let region = ask(&mut self.inner)?;
        self.held += region.size;
        if self.held > self.limit() {
            // The backend gave more than was to be expected.
            // SAFETY: just given, and used by nobody.
            self.held -= unsafe { self.inner.shrink(region) };
            return Err(OutOfMemory);
        }
        Ok(region)
    }
}

// SAFETY: everything is left to the backend inside, or refused.
unsafe impl<B: HeapBackend> HeapBackend for Limited<B> {
    fn grow(&mut self, size: usize, align: usize) -> Result<Region, OutOfMemory> {
        self.within_limit(size, |inner| inner.grow(size, align))
    }

    fn map(&mut self, size: usize, align: usize) -> Result<Region, OutOfMemory> {
        self.within_limit(size, |inner| inner.map(size, align))
    }

    unsafe fn shrink(&mut self, region: Region) -> usize {
        // SAFETY: the caller promises the same.
        let taken = unsafe { self.inner.shrink(region) };
        self.held -= taken;
        taken
    }

    unsafe fn resize(&mut self, region: Region, new_size: usize, may_move: bool) -> Option<Region> {
        let least = round_up(new_size, self.inner.page_size())?;
        if least > region.size && !self.admits(self.held, least - region.size) {
            return None;
        }
        // SAFETY: the caller promises the same.
        let resized = unsafe { self.inner.resize(region, new_size, may_move) }?;
        self.held = self.held - region.size + resized.size;
        Some(resized)
    }

    unsafe fn relocate(&mut self, from: Region, to: Region) -> bool {
        // SAFETY: the caller promises the same.
        let moved = unsafe { self.inner.relocate(from, to) };
        self.held -= if moved { from.size } else { 0 };
        moved
    }

    hand_on! {
        inner:
            page_size, discard, populate, offer_huge_pages, withdraw_huge_pages,
            is_readable, is_present, entropy,
    }
}

impl<B: Owns> Owns for Limited<B> {
    fn stretch_below(&self, end: usize) -> Stretch {
        self.inner.stretch_below(end)
    }
}
