//! Runs that a part keeps.

use crate::pages::Run;

/// How many pages a part keeps, so that classes that come and go do not take and give runs all the time.
const STASH: usize = 16;

/// Runs that no slab needs any more, for the next one that does.
pub(super) struct Stash {
    runs: [Option<Run>; STASH],
    /// How many runs there are, and their pages.
    count: usize,
    pages: usize,
}

impl Stash {
    pub(super) const EMPTY: Self = Self { runs: [None; STASH], count: 0, pages: 0 };

    pub(super) fn has_room_for(&self, pages: usize) -> bool {
        self.pages + pages <= STASH
    }

    /// Puts a run here, for which there is room.
    pub(super) fn put(&mut self, run: Run) {
        self.runs[self.count] = Some(run);
        self.count += 1;
        self.pages += run.pages;
    }

    /// The run that was put here last, of those that serve.
    pub(super) fn take(&mut self, serves: impl Fn(&Run) -> bool) -> Option<Run> {
        let kept = self.runs.get_mut(..self.count)?;
        let at = kept.iter().rposition(|run| run.as_ref().is_some_and(&serves))?;
        kept[at..].rotate_left(1);
        self.count -= 1;
        let run = self.runs[self.count].take()?;
        self.pages -= run.pages;
        Some(run)
    }
}
