//! Counts what is asked of a backend.

use heapwright_core::{HeapBackend, New, OutOfMemory, Region, hand_on};

use crate::fallback::{Owns, Stretch};

/// A backend, and what was asked of it. Inspected with [`counts`](Self::counts), through the heap's
/// `backend()` too.
#[derive(Debug, Default)]
pub struct Counting<B> {
    inner: B,
    counts: Counts,
}

/// What a [`Counting`] backend counted. All sizes are in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls of `grow` that gave a region.
    pub grows: usize,
    /// The bytes that these gave.
    pub grown: usize,
    /// Calls of `grow` that failed.
    pub failed_grows: usize,
    /// Calls of `shrink` that took something.
    pub shrinks: usize,
    /// The bytes that these took.
    pub shrunk: usize,
    /// Calls of `shrink` that took nothing.
    pub failed_shrinks: usize,
    /// Calls of `resize` that were carried out.
    pub resizes: usize,
    /// Of these, how many moved the region.
    pub moves: usize,
    /// The bytes that `resize` added.
    pub resized_up: usize,
    /// The bytes that `resize` took away.
    pub resized_down: usize,
    /// Calls of `resize` that failed.
    pub failed_resizes: usize,
    /// Calls of `discard`.
    pub discards: usize,
    /// The bytes that these were given.
    pub discarded: usize,
    /// The most that was held at once.
    pub high_water: usize,
}

impl Counts {
    /// What a counter starts with.
    pub const ZERO: Self = Self {
        grows: 0,
        grown: 0,
        failed_grows: 0,
        shrinks: 0,
        shrunk: 0,
        failed_shrinks: 0,
        resizes: 0,
        moves: 0,
        resized_up: 0,
        resized_down: 0,
        failed_resizes: 0,
        discards: 0,
        discarded: 0,
        high_water: 0,
    };

    /// The bytes that are held now: given and not taken back.
    pub const fn held(&self) -> usize {
        (self.grown + self.resized_up) - (self.shrunk + self.resized_down)
    }

    fn note_high_water(&mut self) {
        self.high_water = self.high_water.max(self.held());
    }

    /// Counts what a source gave, or that it did not.
    fn note_grown(&mut self, given: Result<Region, OutOfMemory>) -> Result<Region, OutOfMemory> {
        match given {
            Ok(region) => {
                self.grows += 1;
                self.grown += region.size;
                self.note_high_water();
            }
            Err(OutOfMemory) => self.failed_grows += 1,
        }
        given
    }
}

impl<B: New> New for Counting<B> {
    const NEW: Self = Self::over(B::NEW);
}

impl<B> Counting<B> {
    /// Counts what is asked of `inner`.
    pub const fn over(inner: B) -> Self {
        Self { inner, counts: Counts::ZERO }
    }

    /// What was counted so far.
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// The bytes that are held now: given and not taken back.
    pub const fn held(&self) -> usize {
        self.counts.held()
    }

    /// The backend inside.
    pub const fn inner(&self) -> &B {
        &self.inner
    }

    /// Takes the backend out.
    pub fn into_inner(self) -> B {
        self.inner
    }
}

// SAFETY: everything is left to the backend inside.
unsafe impl<B: HeapBackend> HeapBackend for Counting<B> {
    fn grow(&mut self, size: usize, align: usize) -> Result<Region, OutOfMemory> {
        let given = self.inner.grow(size, align);
        self.counts.note_grown(given)
    }

    fn map(&mut self, size: usize, align: usize) -> Result<Region, OutOfMemory> {
        let given = self.inner.map(size, align);
        self.counts.note_grown(given)
    }

    unsafe fn shrink(&mut self, region: Region) -> usize {
        // SAFETY: the caller promises the same.
        let taken = unsafe { self.inner.shrink(region) };
        if taken > 0 {
            self.counts.shrinks += 1;
            self.counts.shrunk += taken;
        } else {
            self.counts.failed_shrinks += 1;
        }
        taken
    }

    unsafe fn resize(&mut self, region: Region, new_size: usize, may_move: bool) -> Option<Region> {
        // SAFETY: the caller promises the same.
        let resized = unsafe { self.inner.resize(region, new_size, may_move) };
        match resized {
            Some(new) => {
                self.counts.resizes += 1;
                self.counts.moves += usize::from(new.start != region.start);
                self.counts.resized_up += new.size.saturating_sub(region.size);
                self.counts.resized_down += region.size.saturating_sub(new.size);
                self.counts.note_high_water();
            }
            None => self.counts.failed_resizes += 1,
        }
        resized
    }

    unsafe fn relocate(&mut self, from: Region, to: Region) -> bool {
        // SAFETY: the caller promises the same.
        let moved = unsafe { self.inner.relocate(from, to) };
        if moved {
            self.counts.moves += 1;
            self.counts.shrinks += 1;
            self.counts.shrunk += from.size;
        }
        moved
    }

    unsafe fn discard(&mut self, region: Region) -> bool {
        self.counts.discards += 1;
        self.counts.discarded += region.size;
        // SAFETY: the caller promises the same.
        unsafe { self.inner.discard(region) }
    }

    hand_on! {
        inner:
            page_size, populate, offer_huge_pages, withdraw_huge_pages, is_readable,
            is_present, entropy,
    }
}

impl<B: Owns> Owns for Counting<B> {
    fn stretch_below(&self, end: usize) -> Stretch {
        self.inner.stretch_below(end)
    }
}
