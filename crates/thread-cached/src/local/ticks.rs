//! When a thread looks at the time: after so many objects, for it must not look at the time to know.
//!
//! Invariant: what was taken since it was counted last is as many objects as ticks are left fewer than then.

use crate::pages::DECAY;

/// So many objects are taken before time is looked at: the look takes as long as a dozen of them.
const TICKS: i32 = 512;
/// The same for who was slow to take those before: the look is nothing beside that, and what goes by time should go in time.
const TICKS_OF_THE_SLOW: i32 = 32;
/// So many milliseconds are slow. The clock moves by up to ten at once, so others are found slow now and then.
const SLOW: u32 = 4;
const _: () = assert!(
    TICKS as u64 * (SLOW as u64) < DECAY * TICKS_OF_THE_SLOW as u64,
    "who is not slow looks more often than others ask whether it is asleep"
);
/// Taking a run, or giving one back, counts as so many objects.
const TICKS_OF_A_RUN: i32 = 16;

/// How many objects are taken before time is looked at.
#[repr(C)]
pub(super) struct Ticks {
    /// Below zero if it should have been.
    left: i32,
    /// How many were left when what was taken was counted last, less those that went for something else.
    counted: i32,
    /// When time was looked at: the low bits of milliseconds.
    looked: u32,
}

impl Ticks {
    pub(super) const NEW: Self = Self { left: TICKS, counted: TICKS, looked: 0 };

    /// An object is to be taken, unless it is time.
    #[inline(always)]
    pub(super) fn tick(&mut self) -> bool {
        self.left -= 1;
        self.left >= 0
    }

    /// Whether it is time.
    pub(super) fn are_over(&self) -> bool {
        self.left < 0
    }

    /// Whether a run may be taken before that.
    pub(super) fn allow_a_run(&self) -> bool {
        self.left >= TICKS_OF_A_RUN
    }

    /// A run is taken.
    pub(super) fn count_run(&mut self) {
        self.left -= TICKS_OF_A_RUN;
    }

    /// So many objects, or more, or a run, are given back: it is time sooner, though nothing is taken.
    pub(super) fn hasten(&mut self, objects: u16) {
        // Sooner than with the next object it cannot be.
        if self.left >= 0 {
            let ticks = i32::from(objects).min(TICKS_OF_A_RUN);
            self.left -= ticks;
            self.counted -= ticks;
        }
    }

    /// How many objects were taken since this was asked before.
    pub(super) fn count(&mut self) -> usize {
        let before = self.counted;
        self.counted = self.left;
        (before - self.left) as usize
    }

    /// It was time. How many objects were taken since they were [counted](Self::count) before.
    pub(super) fn restart(&mut self) -> usize {
        let taken = self.count();
        (self.left, self.counted) = (TICKS, TICKS);
        taken
    }

    /// Time is looked at, right after a [restart](Self::restart): who is slow looks sooner again.
    pub(super) fn look(&mut self, now: u64) {
        let before = self.looked;
        self.looked = now as u32;
        if self.looked.wrapping_sub(before) >= SLOW {
            (self.left, self.counted) = (TICKS_OF_THE_SLOW, TICKS_OF_THE_SLOW);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many objects are taken before it is time.
    fn taken(ticks: &mut Ticks) -> usize {
        let taken = (0..).take_while(|_| ticks.tick()).count();
        assert!(ticks.are_over());
        taken
    }

    #[test]
    fn the_slow_look_sooner() {
        let mut ticks = Ticks::NEW;
        assert_eq!(taken(&mut ticks), 512);
        let start = u64::from(u32::MAX) - 1;
        let mut look = |now| {
            ticks.restart();
            ticks.look(start + now);
            taken(&mut ticks)
        };
        assert_eq!(look(0), 32, "long after the start of the machine");
        assert_eq!(look(1), 512);
        assert_eq!(look(5), 32, "when the low bits are zero again, too");
        assert_eq!(look(6), 512);
    }

    #[test]
    fn what_is_given_back_makes_it_time_sooner_and_is_not_taken() {
        let mut ticks = Ticks::NEW;
        assert!((0..100).all(|_| ticks.tick()));
        ticks.hasten(3);
        ticks.hasten(1000);
        assert_eq!(ticks.count(), 100);
        ticks.count_run();
        assert_eq!(ticks.count(), 16);
        assert_eq!(taken(&mut ticks), 512 - 100 - 3 - 16 - 16);
    }

    #[test]
    fn who_only_gives_back_is_not_ahead_of_time() {
        let mut ticks = Ticks::NEW;
        (0..1_000_000).for_each(|_| ticks.hasten(512));
        assert!(ticks.are_over() && ticks.left >= -16 && !ticks.allow_a_run());
        assert_eq!(ticks.count(), 0);
    }
}
