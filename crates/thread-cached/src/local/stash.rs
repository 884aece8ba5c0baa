//! Runs that a part keeps, so that classes and blocks that come and go do not take and give runs all the time, and where
//! they only come, or only go, do so by several at a time: the lock is taken once for them.
//!
//! Those of each length are linked through their descriptors, by a word that is nobody else's meanwhile. How many pages are
//! kept at most is a part of what the heap has in use, for each thread.
//!
//! Invariant: `pages` is the sum of the runs in the lists, each of which is in the list of its length.

use core::mem;
use core::ptr::{self, NonNull};

use crate::chunk::Desc;

/// So many pages a part may keep in any case, and at most.
pub(super) const LEAST_ROOM: usize = 16;
const MOST_ROOM: usize = 512;
/// One of so many pages in use may be kept, by all threads together.
const SHARE: usize = 8;
/// The most pages of a run that is kept; as long as slabs are, at least.
const LONGEST_KEPT: usize = 16;
/// How many pages are taken at a time, at most.
const AHEAD: usize = LEAST_ROOM / 4;

/// Runs that nothing needs, for the next that does.
pub(super) struct Stash {
    /// Those of each number of pages, the newest first.
    lists: [List; LONGEST_KEPT],
    /// Pages of all of them.
    pages: usize,
    /// How many there may be.
    room: usize,
    /// How many pages are taken when there is no run.
    ahead: usize,
}

/// Runs of one length.
#[derive(Clone, Copy)]
struct List {
    newest: *mut Desc,
    count: u32,
    /// The fewest there were since somebody looked.
    spare: u32,
}

impl Stash {
    pub(super) const EMPTY: Self = Self {
        lists: [List { newest: ptr::null_mut(), count: 0, spare: 0 }; LONGEST_KEPT],
        pages: 0,
        room: LEAST_ROOM,
        ahead: 1,
    };

    /// Lets it have a share of so many pages in use by so many threads.
    pub(super) fn share_in(&mut self, used: usize, threads: usize) {
        self.room = (used / (SHARE * threads)).clamp(LEAST_ROOM, MOST_ROOM);
    }

    /// How many pages are kept.
    pub(super) fn pages(&self) -> usize {
        self.pages
    }

    /// How many pages may be kept beyond those in any case: some from 1 MiB in use on, if the part is the only one.
    pub(super) fn extra_room(&self) -> usize {
        self.room - LEAST_ROOM
    }

    /// Whether a run of so many pages is kept at all.
    pub(super) fn keeps(&self, pages: usize) -> bool {
        pages <= LONGEST_KEPT.min(self.room / 2)
    }

    /// Whether there is room for one that is kept; there is when the older half of all went.
    pub(super) fn has_room_for(&self, pages: usize) -> bool {
        self.pages + pages <= self.room
    }

    /// Puts a run here, for which there is room.
    ///
    /// # Safety
    ///
    /// It has so many pages, and is the caller's.
    pub(super) unsafe fn put(&mut self, run: NonNull<Desc>, pages: usize) {
        let list = &mut self.lists[pages - 1];
        // SAFETY: the caller promises the run.
        unsafe { (*run.as_ptr()).next = list.newest };
        list.newest = run.as_ptr();
        list.count += 1;
        self.pages += pages;
    }

    /// The run that was put here last, of those of so many pages.
    pub(super) fn take(&mut self, pages: usize) -> Option<NonNull<Desc>> {
        let list = self.lists.get_mut(pages.wrapping_sub(1))?;
        let run = NonNull::new(list.newest)?;
        // SAFETY: what is in the list is a run of ours.
        list.newest = unsafe { run.as_ref().next };
        list.count -= 1;
        list.spare = list.spare.min(list.count);
        self.pages -= pages;
        Some(run)
    }

    /// How many runs of so many pages are to be taken, of which one will be used: twice as many pages as the last time.
    pub(super) fn lacking(&mut self, pages: usize) -> usize {
        let ahead = self.ahead.min(self.room.saturating_sub(self.pages));
        self.ahead = (self.ahead * 2).min(AHEAD);
        (ahead / pages).max(1)
    }

    /// Of each length the older half, or all that there are.
    pub(super) fn older(&mut self, all: bool) -> Chain {
        self.without(|list| if all { list.count } else { list.count.div_ceil(2) })
    }

    /// The older half, where more come than there is room for: then nothing is taken ahead of its need.
    pub(super) fn overflowing(&mut self) -> Chain {
        self.ahead = 1;
        self.older(false)
    }

    /// Half of those of each length that were not needed since this was asked for before; half of all, where there is room
    /// for fewer.
    pub(super) fn unneeded(&mut self) -> Chain {
        if self.pages > self.room {
            return self.older(false);
        }
        self.without(|list| list.spare.div_ceil(2))
    }

    /// Takes some of each length out, the oldest ones.
    fn without(&mut self, some: impl Fn(&List) -> u32) -> Chain {
        let mut out: *mut Desc = ptr::null_mut();
        for (at, list) in self.lists.iter_mut().enumerate() {
            let count = some(list);
            list.count -= count;
            list.spare = list.count;
            if count == 0 {
                continue;
            }
            self.pages -= count as usize * (at + 1);
            let mut link = &raw mut list.newest;
            // SAFETY: a list leads through as many runs of ours as it counts.
            unsafe {
                for _ in 0..list.count {
                    link = &raw mut (**link).next;
                }
                let mut oldest = mem::replace(&mut *link, ptr::null_mut());
                while let Some(run) = NonNull::new(oldest) {
                    oldest = mem::replace(&mut (*run.as_ptr()).next, out);
                    out = run.as_ptr();
                }
            }
        }
        Chain(out)
    }
}

/// Runs that were taken out, each of which is looked at no more once it is given.
pub(super) struct Chain(*mut Desc);

impl Chain {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_null()
    }
}

impl Iterator for Chain {
    type Item = NonNull<Desc>;

    fn next(&mut self) -> Option<NonNull<Desc>> {
        let run = NonNull::new(self.0)?;
        // SAFETY: it is ours until it is given.
        self.0 = unsafe { run.as_ref().next };
        Some(run)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::mem::MaybeUninit;
    use std::boxed::Box;
    use std::vec::Vec;

    use super::*;

    /// Descriptors of runs of so many pages each.
    fn runs<const COUNT: usize>(pages: usize) -> [NonNull<Desc>; COUNT] {
        core::array::from_fn(|_| {
            // SAFETY: numbers, atomics and pointers, all of which may be zero.
            let desc = Box::leak(Box::new(unsafe { MaybeUninit::<Desc>::zeroed().assume_init() }));
            desc.mark_used(pages);
            NonNull::from(desc)
        })
    }

    fn put(stash: &mut Stash, run: NonNull<Desc>) {
        // SAFETY: the run is ours.
        unsafe { stash.put(run, Desc::pages(run)) };
    }

    #[test]
    fn the_newest_of_a_length_is_taken_and_the_oldest_go() {
        let mut stash = Stash::EMPTY;
        let singles: [_; 5] = runs(1);
        let [long] = runs(5);
        singles.into_iter().chain([long]).for_each(|run| put(&mut stash, run));
        assert_eq!(stash.take(2), None);
        assert_eq!(stash.take(1), Some(singles[4]));
        let mut older: Vec<_> = stash.older(false).collect();
        older.sort_unstable();
        let mut expected = [singles[0], singles[1], long];
        expected.sort_unstable();
        assert_eq!(older, expected, "half of each, or the only one");
        assert_eq!(stash.pages, 2);
        assert_eq!(
            [stash.take(1), stash.take(1), stash.take(1)],
            [Some(singles[3]), Some(singles[2]), None]
        );
    }

    #[test]
    fn what_was_not_needed_goes_by_halves() {
        let mut stash = Stash::EMPTY;
        runs::<8>(1).into_iter().for_each(|run| put(&mut stash, run));
        assert_eq!(stash.unneeded().count(), 0, "they came just now");
        let kept: Vec<_> = (0..3).filter_map(|_| stash.take(1)).collect();
        kept.into_iter().for_each(|run| put(&mut stash, run));
        assert_eq!(stash.unneeded().count(), 3, "half of the five that lay there");
        assert_eq!(stash.unneeded().count(), 3, "half of five again");
        assert_eq!(stash.pages, 2);
    }

    #[test]
    fn there_is_room_for_a_share_of_what_is_in_use() {
        let mut stash = Stash::EMPTY;
        assert!(stash.keeps(8) && !stash.keeps(9));
        assert_eq!(stash.extra_room(), 0);
        let extra = [16, 17, 100, usize::MAX / SHARE].map(|share| {
            stash.share_in(share * SHARE, 1);
            stash.extra_room()
        });
        assert_eq!(extra, [0, 1, 84, MOST_ROOM - LEAST_ROOM]);
        stash.share_in(0, 1);
        runs::<2>(8).into_iter().for_each(|run| put(&mut stash, run));
        assert!(!stash.has_room_for(1));
        stash.share_in(64 * SHARE, 2);
        assert!(stash.keeps(LONGEST_KEPT) && !stash.keeps(LONGEST_KEPT + 1));
        assert!(stash.has_room_for(16) && !stash.has_room_for(17));
        stash.share_in(usize::MAX, 1);
        assert!(stash.has_room_for(MOST_ROOM - 16) && !stash.has_room_for(MOST_ROOM));
        stash.share_in(0, 1);
        assert_eq!(stash.unneeded().count(), 0, "there is room for these");
        let [more] = runs(4);
        put(&mut stash, more);
        assert_eq!(stash.unneeded().count(), 2, "half of each length, where there are too many");
    }
}
