//! A bin, as one word.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::classes::{Class, TABLE};
use crate::shown::Word;

/// The objects of a class that are at hand: the index of the topmost one in the slots, and above it, how many more it may
/// hold. The fast paths load and store both at once.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Bin(u32);

impl Bin {
    /// It may hold one more.
    const LEFT: u32 = 1 << 16;
    /// An object less on top, and it may hold one more.
    const ONE_LESS: u32 = Self::LEFT - 1;

    /// A bin of a class with so many objects, and room for so many. Room for more than few has other slots.
    pub(super) fn of(class: usize, held: u16, room: u16) -> Self {
        let Class { few, few_are, many, .. } = TABLE[class];
        let bottom = if room > few_are { many } else { few };
        Self::new(bottom + held, room - held)
    }

    /// A bin of this topmost index that may hold so many more objects.
    fn new(top: u16, left: u16) -> Self {
        Self(u32::from(left) * Self::LEFT + u32::from(top))
    }

    /// The index of the topmost object, or of the sentinel.
    #[inline(always)]
    pub(super) fn top(self) -> u16 {
        self.0 as u16
    }

    /// How many more objects it may hold.
    pub(super) fn left(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Whether that is none.
    #[inline(always)]
    pub(super) fn is_full(self) -> bool {
        self.0 < Self::LEFT
    }

    /// This bin without so many objects that it holds.
    #[inline(always)]
    pub(super) fn without(self, count: u16) -> Self {
        Self(self.0 + Self::ONE_LESS * u32::from(count))
    }

    /// This bin with so many objects more, which it may hold.
    #[inline(always)]
    pub(super) fn with(self, count: u16) -> Self {
        Self(self.0 - Self::ONE_LESS * u32::from(count))
    }

    /// The index of the sentinel, and how many slots are above it: a bin that may hold more than a few objects has others.
    fn slots(self, class: usize) -> (u16, u16) {
        let Class { few, few_are, many, most, .. } = TABLE[class];
        if self.end() > u32::from(few + few_are) { (many, most) } else { (few, few_are) }
    }

    /// The index of the sentinel.
    pub(super) fn bottom(self, class: usize) -> u16 {
        self.slots(class).0
    }

    /// How many objects are at hand.
    pub(super) fn held(self, class: usize) -> u16 {
        self.top() - self.bottom(class)
    }

    /// For how many objects it has room.
    pub(super) fn room(self, class: usize) -> u16 {
        self.held(class) + self.left()
    }

    /// Whether its objects, and those that it may hold besides, have slots of its class.
    pub(super) fn is_in_its_slots(self, class: usize) -> bool {
        let (bottom, slots) = self.slots(class);
        bottom <= self.top() && self.end() <= u32::from(bottom + slots)
    }

    /// The index on top when it is full.
    fn end(self) -> u32 {
        u32::from(self.top()) + u32::from(self.left())
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

    #[test]
    fn a_bin_of_any_room_is_as_it_was_when_what_was_pushed_is_popped() {
        for (class, &Class { few, few_are, many, most, .. }) in TABLE.iter().enumerate() {
            for room in 0..=most {
                let bottom = if room > few_are { many } else { few };
                let empty = Bin::of(class, 0, room);
                let mut bin = empty;
                for held in 0..room {
                    assert_eq!((bin.held(class), bin.left()), (held, room - held));
                    assert_eq!((bin.bottom(class), bin.room(class)), (bottom, room));
                    assert!(bin.is_in_its_slots(class) && !bin.is_full());
                    assert_eq!(bin.0, Bin::of(class, held, room).0);
                    bin = bin.with(1);
                }
                assert!(bin.is_in_its_slots(class) && bin.is_full() && bin.held(class) == room);
                assert_eq!(bin.0, empty.with(room).0);
                (0..room).for_each(|_| bin = bin.without(1));
                assert_eq!((bin.0, empty.with(room).without(room).0), (empty.0, empty.0));
            }
            assert!(!Bin::new(many, most + 1).is_in_its_slots(class));
            assert!(!Bin::new(many.wrapping_sub(1), most + 2).is_in_its_slots(class));
        }
    }
}
