//! A bin, as one word.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::classes::{Class, TABLE};
use crate::shown::Word;

/// The objects of a class that are at hand: the index of the topmost one in the slots, and above it, for how many more
/// there is room. The fast paths load and store both at once.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Bin(u32);

impl Bin {
    /// An object less at the top, and room for one more.
    const ONE_LESS: u32 = Self::ROOM - 1;
    /// Room for one more.
    const ROOM: u32 = 1 << 16;

    /// A bin of this topmost index, with room for so many more.
    pub(super) fn new(top: u16, room: u16) -> Self {
        Self(u32::from(room) * Self::ROOM + u32::from(top))
    }

    /// The index of the topmost object, or of the sentinel.
    #[inline(always)]
    pub(super) fn top(self) -> u16 {
        self.0 as u16
    }

    /// For how many more objects there is room.
    pub(super) fn room(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Whether there is room for none.
    #[inline(always)]
    pub(super) fn is_full(self) -> bool {
        self.0 < Self::ROOM
    }

    /// This bin without its topmost object.
    #[inline(always)]
    pub(super) fn popped(self) -> Self {
        Self(self.0 + Self::ONE_LESS)
    }

    /// This bin, which is not full, with another object on top.
    #[inline(always)]
    pub(super) fn pushed(self) -> Self {
        Self(self.0 - Self::ONE_LESS)
    }

    /// This bin without so many of its objects.
    pub(super) fn without(self, count: u16) -> Self {
        Self::new(self.top() - count, self.room() + count)
    }

    /// This bin, which has room for them, with so many objects more.
    pub(super) fn with(self, count: u16) -> Self {
        Self::new(self.top() + count, self.room() - count)
    }

    /// The index of the sentinel: a bin that may hold more than a few objects has other slots.
    pub(super) fn bottom(self, class: usize) -> u16 {
        let Class { few, few_are, many, .. } = TABLE[class];
        if self.top() + self.room() > few + few_are { many } else { few }
    }

    /// How many objects are at hand; no more than there are slots for, whatever is seen.
    pub(super) fn held(self, class: usize) -> u16 {
        self.top().saturating_sub(self.bottom(class)).min(TABLE[class].most)
    }

    /// How many objects it may hold.
    pub(super) fn capacity(self, class: usize) -> u16 {
        self.top() + self.room() - self.bottom(class)
    }
}

impl Word for Bin {
    type Atomic = AtomicU32;

    fn atomic(self) -> AtomicU32 {
        AtomicU32::new(self.0)
    }

    #[inline(always)]
    fn place(atomic: &AtomicU32) -> *mut Self {
        atomic.as_ptr().cast()
    }

    #[inline(always)]
    fn load(atomic: &AtomicU32) -> Self {
        Self(atomic.load(Relaxed))
    }

    #[inline(always)]
    fn store(atomic: &AtomicU32, value: Self) {
        atomic.store(value.0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classes::{ALL, FEW};

    #[test]
    fn a_bin_is_as_it_was_when_what_was_pushed_is_popped() {
        for (class, &Class { few, few_are, many, most, .. }) in TABLE.iter().enumerate().take(ALL) {
            for (bottom, capacity) in [(few, few_are), (many, most)] {
                let mut bin = Bin::new(bottom, capacity);
                for held in 0..capacity {
                    assert_eq!((bin.held(class), bin.room()), (held, capacity - held));
                    assert_eq!((bin.bottom(class), bin.capacity(class)), (bottom, capacity));
                    assert!(!bin.is_full());
                    bin = bin.pushed();
                }
                assert!(bin.is_full() && bin.held(class) == capacity);
                assert_eq!(bin.without(capacity).with(capacity).0, bin.0);
                (0..capacity).for_each(|_| bin = bin.popped());
                assert_eq!(bin.0, Bin::new(bottom, capacity).0);
            }
        }
        assert!(Bin::new(FEW, 0).is_full());
    }
}
