//! A slab, found by an address, and its objects.

use core::ptr::NonNull;

use heapwright_core::HeapError;

use super::Local;
use crate::chunk::{Chunk, Desc};
use crate::classes::TABLE;
use crate::shown::Shown;

/// A slab, with what it takes to find its objects.
pub(super) struct Place {
    start: usize,
    size: usize,
    capacity: usize,
    reciprocal: u32,
    bits: *const Shown<u64>,
    pub(super) desc: NonNull<Desc>,
    /// How many objects were freed in it.
    freed: u16,
}

impl Place {
    /// The slab that a page is of.
    ///
    /// # Safety
    ///
    /// The page is one of a slab of this class.
    #[inline]
    pub(super) unsafe fn of(class: usize, chunk: NonNull<Chunk>, page: usize) -> Self {
        // SAFETY: the caller promises a page of a slab.
        unsafe {
            let fixed = TABLE.get_unchecked(class);
            let head = Chunk::head(chunk, page);
            let desc = Chunk::desc(chunk, head);
            Self {
                start: Chunk::page(chunk, head).addr().get(),
                size: fixed.size as usize,
                capacity: Desc::capacity(desc),
                reciprocal: fixed.reciprocal,
                bits: (&raw const (*desc.as_ptr()).bits).cast(),
                desc,
                freed: 0,
            }
        }
    }

    /// The number of the object at an address.
    #[inline(always)]
    fn index(&self, addr: usize) -> Result<usize, HeapError> {
        let offset = addr.wrapping_sub(self.start);
        if offset < self.capacity * self.size
            && let Some(index) = divided(offset, self.reciprocal)
        {
            Ok(index)
        } else {
            Err(HeapError::InvalidFree(addr))
        }
    }

    /// The word and the bit of the object at an address.
    #[inline(always)]
    pub(super) fn bit(&self, addr: usize) -> Result<(*const Shown<u64>, u64), HeapError> {
        let index = self.index(addr)?;
        Ok((self.bits.wrapping_add(index / 64), 1 << (index % 64)))
    }

    /// Sets the bit of an object. The slab knows when it is [`put_down`](Self::put_down).
    pub(super) unsafe fn free(&mut self, addr: usize) -> Result<(), HeapError> {
        let (word, bit) = self.bit(addr)?;
        // SAFETY: the caller promises a slab of its own; the word is one of its bits.
        unsafe {
            let bits = (*word).get();
            if bits & bit != 0 {
                return Err(HeapError::DoubleFree(addr));
            }
            (*word).set(bits | bit);
        }
        self.freed += 1;
        Ok(())
    }

    /// Sets the bits of objects from `at` on, up to the first that lies elsewhere. The one at `at` lies in a page of the slab.
    ///
    /// # Errors
    ///
    /// The object at `at` is free already, or none.
    #[inline(always)]
    pub(super) unsafe fn free_all(
        &mut self,
        objects: *const *mut u8,
        at: &mut usize,
        count: usize,
    ) -> Result<(), HeapError> {
        // SAFETY: the caller promises that many objects, and a slab of its own.
        unsafe {
            let begin = *at;
            // Asked here, too: mostly there is none, and no call then.
            if row(objects.add(*at), count - *at, self.size).is_some() {
                self.free_rows(objects, at, count);
            }
            let Self { start, size, capacity, reciprocal, bits, .. } = *self;
            let bytes = capacity * size;
            let first = *at;
            let mut next = first;
            let mut wrong = false;
            // What is freed together mostly has its bits in one word, which is written when another one's turn comes.
            let (mut at_word, mut word) = (0, (*bits).get());
            while next < count {
                let offset = objects.add(next).read().addr().wrapping_sub(start);
                if offset >= bytes {
                    // Behind the last object, if this is the one that the slab was found by.
                    wrong = next == begin;
                    break;
                }
                let Some(index) = divided(offset, reciprocal) else {
                    wrong = true;
                    break;
                };
                if index / 64 != at_word {
                    (*bits.add(at_word)).set(word);
                    at_word = index / 64;
                    word = (*bits.add(at_word)).get();
                }
                let bit = 1 << (index % 64);
                if word & bit != 0 {
                    wrong = true;
                    break;
                }
                word |= bit;
                next += 1;
            }
            (*bits.add(at_word)).set(word);
            self.freed += (next - first) as u16;
            *at = next;
            if wrong { self.free(objects.add(next).read().addr()) } else { Ok(()) }
        }
    }

    /// Sets the bits of objects from `at` on that follow each other in memory, up or down, those of a word together: as far as
    /// there seem to be enough in a row, they lie here, and they are in use.
    #[inline(never)]
    unsafe fn free_rows(&mut self, objects: *const *mut u8, at: &mut usize, count: usize) {
        // SAFETY: the caller promises that many objects, and a slab of its own. Bits are set of objects that the slab has.
        unsafe {
            while let Some(step) = row(objects.add(*at), count - *at, self.size) {
                let these = objects.add(*at);
                let addr = (*these).addr();
                let Ok(index) = self.index(addr) else { return };
                // So many, with the first, may have their bits in its word.
                let bit = index % 64;
                let up = step == self.size;
                let most = if up { (64 - bit).min(self.capacity - index) } else { bit + 1 };
                let most = most.min(count - *at);
                let follows = |nth: usize| {
                    (*these.add(nth)).addr() == addr.wrapping_add(step.wrapping_mul(nth))
                };
                let run = (1..most).find(|&nth| !follows(nth)).unwrap_or(most);
                let mask = ones(run as u32) << if up { bit } else { bit + 1 - run };
                let word = self.bits.add(index / 64);
                let bits = (*word).get();
                if bits & mask != 0 {
                    return;
                }
                (*word).set(bits | mask);
                self.freed += run as u16;
                *at += run;
            }
        }
    }

    /// Lets the slab know what was freed in it, and says whether it is to be listed anew: it has its first free objects,
    /// or all are free.
    #[inline]
    pub(super) unsafe fn put_down(&self) -> bool {
        if self.freed == 0 {
            return false;
        }
        // SAFETY: the caller promises a slab of its own.
        unsafe {
            let desc = self.desc.as_ptr();
            (*desc).free += self.freed;
            (*desc).free == self.freed || Local::is_idle(self.desc)
        }
    }
}

/// How many bytes each of some objects lies behind the one before it, if so many of them probably follow each other in memory,
/// up or down, that to look for them pays: which branches go the wrong way where rows are shorter costs more than they save.
///
/// # Safety
///
/// There are that many, to be read.
#[inline(always)]
unsafe fn row(objects: *const *mut u8, count: usize, size: usize) -> Option<usize> {
    const ROW: usize = 16;
    if count < ROW {
        return None;
    }
    // SAFETY: the caller promises the objects.
    let to_last = unsafe { (*objects.add(ROW - 1)).addr().wrapping_sub((*objects).addr()) };
    [size, size.wrapping_neg()].into_iter().find(|step| to_last == step.wrapping_mul(ROW - 1))
}

/// So many of the lowest bits, 1 to 64.
pub(super) const fn ones(count: u32) -> u64 {
    u64::MAX >> (64 - count)
}

/// The quotient of an offset in a slab and the size whose reciprocal this is, if there is no remainder: then what is
/// behind the point is less than the reciprocal (Lemire, Kaser and Kurz, *Faster Remainder by Direct Computation*, 2019).
#[inline(always)]
pub(crate) const fn divided(offset: usize, reciprocal: u32) -> Option<usize> {
    let product = (offset as u64).wrapping_mul(reciprocal as u64);
    if (product as u32) < reciprocal { Some((product >> 32) as usize) } else { None }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::ptr;
    use std::vec::Vec;

    use heapwright_testkit::Rng;

    use super::*;
    use crate::chunk::WORDS;
    use crate::classes::{PAGE, SHARING};

    /// A slab of objects of so many bytes at a place where nothing is, all of which are in use.
    fn slab(class: usize, capacity: usize, bits: &[Shown<u64>; WORDS]) -> Place {
        Place {
            start: 1 << 20,
            size: TABLE[class].size as usize,
            capacity,
            reciprocal: TABLE[class].reciprocal,
            bits: bits.as_ptr(),
            desc: NonNull::dangling(),
            freed: 0,
        }
    }

    /// What is freed in any order, up and down, with what was freed already and what is no object among it, sets the same bits
    /// as when each is freed for itself, and stops where that fails first.
    #[test]
    fn what_lies_in_a_row_is_freed_as_if_one_by_one() {
        let mut rng = Rng::new(1);
        let mut random = |below| rng.below(below);
        for round in 0..10_000 {
            let class = random(SHARING);
            let size = TABLE[class].size as usize;
            let capacity = 1 + random(usize::from(TABLE[class].pages) * PAGE / size);
            let [together, alone] = [(); 2].map(|()| [(); WORDS].map(|()| Shown::new(0)));
            let mut fast = slab(class, capacity, &together);
            let mut slow = slab(class, capacity, &alone);
            for _ in 0..random(3) {
                let addr = fast.start + random(capacity) * size;
                // SAFETY: the words of a slab.
                unsafe { assert_eq!(fast.free(addr), slow.free(addr)) };
            }
            let mut addrs = Vec::new();
            for _ in 0..1 + random(8) {
                let from = random(capacity + 2) * size + if random(16) == 0 { 8 } else { 0 };
                let step = [size, size.wrapping_neg(), size * 2, 0][random(4)];
                let offsets = (0..random(100)).map(|at| from.wrapping_add(step.wrapping_mul(at)));
                addrs.extend(offsets.map(|offset| fast.start.wrapping_add(offset)));
            }
            let objects: Vec<_> =
                addrs.iter().map(|&addr| ptr::without_provenance_mut(addr)).collect();
            let first = random(1 + objects.len() / 4);
            let count = first + random(1 + objects.len() - first);
            let mut at = first;
            // SAFETY: so many objects, none of which is touched, and the words of a slab.
            let found = unsafe { fast.free_all(objects.as_ptr(), &mut at, count) };
            let all = slow.start..slow.start + capacity * size;
            let mut expected = (first, Ok(()));
            let here = |&(at, addr): &(usize, &usize)| at == 0 || all.contains(addr);
            for (_, &addr) in addrs[first..count].iter().enumerate().take_while(here) {
                // SAFETY: as above.
                expected.1 = unsafe { slow.free(addr) };
                if expected.1.is_err() {
                    break;
                }
                expected.0 += 1;
            }
            assert_eq!((at, found), expected, "round {round}");
            assert_eq!(fast.freed, slow.freed);
            for (together, alone) in together.iter().zip(&alone) {
                assert_eq!(together.look(), alone.look());
            }
        }
    }

    #[test]
    fn rows_are_seen_up_and_down_and_freed_as_such() {
        let bits = [(); WORDS].map(|()| Shown::new(0));
        let mut slab = slab(0, 130, &bits);
        let size = slab.size;
        let objects = |offsets: &mut dyn Iterator<Item = usize>| -> Vec<*mut u8> {
            offsets.map(|nth| ptr::without_provenance_mut((1 << 20) + nth * size)).collect()
        };
        let (up, down) = (objects(&mut (0..65)), objects(&mut (65..130).rev()));
        let scattered = objects(&mut (0..65).map(|nth| nth * 7 % 65));
        // SAFETY: so many objects, none of which is touched, and the words of a slab.
        unsafe {
            assert_eq!(row(up.as_ptr(), 16, size), Some(size));
            assert_eq!(row(down.as_ptr(), 16, size), Some(size.wrapping_neg()));
            assert_eq!(row(up.as_ptr(), 15, size), None);
            assert_eq!(row(scattered.as_ptr(), 65, size), None);
            for (objects, freed) in [(up, 64), (down, 64)] {
                let mut at = 0;
                slab.free_rows(objects.as_ptr(), &mut at, objects.len());
                assert!((freed - 15..=freed + 1).contains(&at), "{at} of {}", objects.len());
            }
        }
    }
}
