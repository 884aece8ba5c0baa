//! What huge pages cost, and when none are asked for because of that.
//!
//! A kernel that has a huge page free clears it in a fraction of a millisecond, which is less than faults for all its small
//! pages take. It may take several, though: where others' pages are moved out of the way first (compaction), or where a
//! hypervisor was told that the memory is free and has to find each part of it anew (free page reporting). So the first use
//! of a huge page is timed, and the heap does without for a while where one was dear: the longer, the more were in a row.

use crate::chunk::HUGE;

/// Nanoseconds from which on a huge page is dear. Its small pages take a tenth to one million.
const DEAR: u64 = 2_000_000;
/// For so many bytes at least none are asked for then.
const LEAST_PAUSE: usize = 16 * HUGE;
const MOST_PAUSE: usize = 512 * HUGE;

/// Whether huge pages are worth their price.
pub(super) struct Price {
    /// For so many bytes to come none are asked for.
    left_out: usize,
    /// For so many it was after the last one, if that was dear.
    pause: usize,
}

impl Price {
    pub(super) const NEW: Self = Self { left_out: 0, pause: 0 };

    /// Whether huge pages may be asked for, for so many bytes.
    pub(super) fn admits(&mut self, bytes: usize) -> bool {
        let admitted = self.left_out == 0;
        self.left_out = self.left_out.saturating_sub(bytes);
        admitted
    }

    /// One took so many nanoseconds: whether that was dear.
    pub(super) fn note(&mut self, nanoseconds: u64) -> bool {
        let dear = nanoseconds >= DEAR;
        self.pause = if dear { (2 * self.pause).clamp(LEAST_PAUSE, MOST_PAUSE) } else { 0 };
        self.left_out = self.pause;
        dear
    }
}

/// Nanoseconds of a processor that this thread took so far: others that run meanwhile make nothing dear.
pub(super) fn time_taken() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

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
