//! What huge pages cost, and when none are asked for because of that.
//!
//! A kernel that has a huge page free clears it in a fraction of a millisecond, which is less than faults for all its small
//! pages take. It may take several, though: where others' pages are moved out of the way first (compaction), or where a
//! hypervisor was told that the memory is free and has to find each part of it anew (free page reporting). So huge pages are
//! timed as they begin to be used, and after a dear one the heap does without for a while: the longer, the more were in a
//! row. Where the kernel cannot make pages present by wish (before Linux 5.14), none takes any time, and none is dear.

use crate::chunk::HUGE;

/// A huge page that takes so many nanoseconds is dear. All its small pages together take 0.1 to 1 ms.
const DEAR: u64 = 2_000_000;
/// After a dear one, so many bytes have small pages at least.
const LEAST_PAUSE: usize = 16 * HUGE;
const MOST_PAUSE: usize = 512 * HUGE;
/// Where threads may have to wait for it, one is timed for so many bytes that begin to be used.
const TIMED_EACH: usize = 16 * HUGE;

/// Whether huge pages are worth their price.
pub(super) struct Price {
    /// So many bytes to come have small pages.
    left: usize,
    /// So many had them, or have, since the last one that was timed; zero if it was cheap.
    pause: usize,
    /// So many bytes began to be used with huge pages since then.
    untimed: usize,
}

impl Price {
    pub(super) const NEW: Self = Self { left: 0, pause: 0, untimed: TIMED_EACH };

    /// Whether no huge pages are asked for.
    pub(super) fn pauses(&self) -> bool {
        self.left > 0
    }

    /// So many bytes begin to be used: whether they may have huge pages. If not, the pause is so much shorter.
    pub(super) fn admits(&mut self, bytes: usize) -> bool {
        let admitted = !self.pauses();
        self.left = self.left.saturating_sub(bytes);
        admitted
    }

    /// Whether the last one that was timed was dear.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.pause > 0
    }

    /// So many bytes that were admitted begin to be used: whether their first huge page is to be timed, in a heap of several
    /// threads or of one.
    pub(super) fn is_due(&mut self, bytes: usize, several: bool) -> bool {
        self.untimed = self.untimed.saturating_add(bytes);
        !several || self.is_in_doubt() || self.untimed >= TIMED_EACH
    }

    /// One begins to be used, which is timed: whether it was dear.
    pub(super) fn was_dear(&mut self, begin: impl FnOnce()) -> bool {
        let before = time_taken();
        begin();
        self.note(time_taken() - before)
    }

    /// One took so many nanoseconds: whether that was dear.
    fn note(&mut self, nanoseconds: u64) -> bool {
        let dear = nanoseconds >= DEAR;
        self.pause = if dear { (2 * self.pause).clamp(LEAST_PAUSE, MOST_PAUSE) } else { 0 };
        (self.left, self.untimed) = (self.pause, 0);
        dear
    }
}

/// Nanoseconds of a processor that this thread took so far: others that run meanwhile make nothing dear. What the kernel
/// waits for is not counted.
fn time_taken() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_there_are_several_threads_one_in_many_is_timed_until_one_is_dear() {
        let mut price = Price::NEW;
        for _ in 0..3 {
            assert!(price.is_due(HUGE, true), "the first, and one in sixteen");
            assert!(!price.note(0));
            assert!(!(1..16).any(|_| price.is_due(HUGE, true)));
        }
        assert!(price.is_due(HUGE, true) && price.note(DEAR));
        assert!(price.is_due(HUGE, true) && price.is_due(HUGE, true));
        assert!(!price.note(0) && !price.is_due(HUGE, true));
        assert!(price.is_due(HUGE, false));
    }

    #[test]
    fn the_more_dear_ones_in_a_row_the_longer_none_are_asked_for() {
        let mut price = Price::NEW;
        assert!(price.admits(HUGE));
        for pause in [16, 32, 64, 128, 256, 512, 512] {
            assert!(price.note(DEAR));
            let refused = (0..).take_while(|_| !price.admits(HUGE)).count();
            assert_eq!(refused, pause);
        }
        assert!(!price.note(DEAR - 1));
        assert!(price.admits(usize::MAX) && price.admits(HUGE));
        assert!(price.note(u64::MAX));
        assert!(!price.admits(usize::MAX), "much at once is left out as a whole");
        assert!(price.admits(HUGE));
    }
}
