//! Runs that a part keeps, so that classes and blocks that come and go do not take and give runs all the time, and where
//! they only come, or only go, do so by several at a time: the lock is taken once for them.

use crate::pages::Run;

/// How many pages a part keeps.
const STASH: usize = 16;
/// The most pages of a block whose run is kept.
pub(crate) const LONGEST_KEPT: usize = STASH / 2;
/// How many pages it takes at a time, at most.
const AHEAD: usize = STASH / 4;

/// Runs that nothing needs, for the next that does.
pub(super) struct Stash {
    runs: [Option<Run>; STASH],
    /// How many runs there are, and their pages.
    count: usize,
    pages: usize,
    /// How many pages are taken when there is no run.
    ahead: usize,
}

impl Stash {
    pub(super) const EMPTY: Self = Self { runs: [None; STASH], count: 0, pages: 0, ahead: 1 };

    pub(super) fn has_room_for(&self, pages: usize) -> bool {
        self.pages + pages <= STASH
    }

    /// Puts a run here, for which there is room.
    pub(super) fn put(&mut self, run: Run) {
        self.runs[self.count] = Some(run);
        self.count += 1;
        self.pages += run.pages;
    }

    /// The run that was put here last, of those of so many pages.
    pub(super) fn take(&mut self, pages: usize) -> Option<Run> {
        let kept = self.runs.get_mut(..self.count)?;
        let at = kept.iter().rposition(|run| run.as_ref().is_some_and(|run| run.pages == pages))?;
        kept[at..].rotate_left(1);
        self.count -= 1;
        let run = self.runs[self.count].take()?;
        self.pages -= run.pages;
        Some(run)
    }

    /// How many runs of so many pages are to be taken, of which one will be used: twice as many pages as the last time.
    pub(super) fn lacking(&mut self, pages: usize) -> usize {
        let ahead = self.ahead.min(STASH - self.pages);
        self.ahead = (self.ahead * 2).min(AHEAD);
        (ahead / pages).max(1)
    }

    /// All runs but the newest, which are half of what there is room for at most.
    pub(super) fn older(&mut self) -> impl Iterator<Item = Run> + use<> {
        self.ahead = 1;
        let mut older = [None; STASH];
        let mut count = 0;
        while self.pages > STASH / 2 {
            older[count] = self.runs[count].take();
            self.pages -= older[count].map_or(0, |run: Run| run.pages);
            count += 1;
        }
        self.runs[..self.count].rotate_left(count);
        self.count -= count;
        older.into_iter().flatten()
    }

    /// All runs.
    pub(super) fn empty(&mut self) -> impl Iterator<Item = Run> + use<> {
        core::mem::replace(self, Self::EMPTY).runs.into_iter().flatten()
    }
}
