//! A slab: a region of the backend at a multiple of its size, cut into objects of one size.
//!
//! ```text
//! region: | Slab | bits: one for each object | object 0 | object 1 | … |
//!                                            ^ first
//! ```
//!
//! Objects are handed out from the start on; one that is freed has its bit set, and goes out again before
//! any that was never used. A second level of bits, `words`, tells which words of bits are not zero, so that
//! a free object is found with two instructions that count zeros: hence at most 64 × 64 objects.
//!
//! Invariants, for each slab:
//!
//! * the bit of an object is set if and only if it was handed out and is free again;
//! * bit `n` of `words` is set if and only if word `n` of the bits is not zero;
//! * objects from `carved` on were never handed out, and are zero if the region was;
//! * `used` is the number of objects in use.

use core::ptr::NonNull;

use heapwright_core::Region;

/// The most objects that a slab can have.
pub(crate) const MOST: usize = 64 * 64;

/// Stands at the start of a slab.
#[derive(Debug)]
pub(crate) struct Slab {
    /// Which words of the bits are not zero.
    pub(crate) words: u64,
    /// How many objects were handed out at least once.
    pub(crate) carved: usize,
    /// How many objects are in use.
    pub(crate) used: usize,
    /// Neighbours in the list that the slab is in, if it is in one.
    pub(crate) next: *mut Slab,
    pub(crate) previous: *mut Slab,
    /// Whether objects that were never handed out are zero.
    pub(crate) zeroed: bool,
    /// Of the whole region.
    size: usize,
}

/// How the slabs of a heap are divided: alike all of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Bytes of a slab, a power of two.
    pub(crate) size: usize,
    /// From the start of a slab to its first object.
    pub(crate) first: usize,
    /// How many objects it has.
    pub(crate) capacity: usize,
}

impl Plan {
    /// No slabs, hence no objects.
    pub(crate) const NONE: Self = Self { size: 1, first: 0, capacity: 0 };

    /// How a slab of `size` bytes, a power of two, is divided into objects of `stride` bytes, each at a
    /// multiple of `align`; `None` if there is no room for any.
    pub(crate) fn of(size: usize, stride: usize, align: usize) -> Option<Self> {
        let most = (size / stride).min(MOST);
        let bits = most.div_ceil(64) * size_of::<u64>();
        let first = (size_of::<Slab>() + bits).next_multiple_of(align);
        let capacity = (size.checked_sub(first)? / stride).min(most);
        (capacity > 0).then_some(Self { size, first, capacity })
    }
}

impl Slab {
    /// Makes a region a slab without any object in use.
    ///
    /// # Safety
    ///
    /// The region is the heap's, used by nobody, and begins at a multiple of the plan's size, which it has.
    pub(crate) unsafe fn make(region: Region, plan: &Plan) -> NonNull<Self> {
        let slab = region.start.cast::<Self>();
        // SAFETY: head and bits lie one behind the other within the region.
        unsafe {
            slab.write(Self {
                words: 0,
                carved: 0,
                used: 0,
                next: core::ptr::null_mut(),
                previous: core::ptr::null_mut(),
                zeroed: region.zeroed,
                size: region.size,
            });
            if !region.zeroed {
                Self::word(slab, 0).write_bytes(0, plan.capacity.div_ceil(64));
            }
        }
        slab
    }

    /// The region, as it came from the backend.
    ///
    /// # Safety
    ///
    /// It is a slab.
    pub(crate) unsafe fn region(slab: NonNull<Self>) -> Region {
        // SAFETY: the caller promises a slab.
        Region { start: slab.cast(), size: unsafe { slab.as_ref().size }, zeroed: false }
    }

    /// The place of a word of the bits.
    ///
    /// # Safety
    ///
    /// It is a slab, and has that many words.
    #[inline(always)]
    unsafe fn word(slab: NonNull<Self>, index: usize) -> NonNull<u64> {
        // SAFETY: the bits follow the head.
        unsafe { slab.add(1).cast::<u64>().add(index) }
    }

    /// Whether an object was handed out and is free again.
    ///
    /// # Safety
    ///
    /// It is a slab, and has the object.
    #[inline(always)]
    pub(crate) unsafe fn is_freed(slab: NonNull<Self>, index: usize) -> bool {
        // SAFETY: the caller promises the object, which has a bit.
        unsafe { Self::word(slab, index / 64).read() >> (index % 64) & 1 != 0 }
    }

    /// Takes an object that is free: one that was in use before, else one that never was, and says which.
    /// `None` if there is none.
    ///
    /// # Safety
    ///
    /// It is a slab with so many objects.
    #[inline(always)]
    pub(crate) unsafe fn take(slab: NonNull<Self>, capacity: usize) -> Option<(usize, bool)> {
        // SAFETY: the caller promises a slab; `words` tells of bits that there are.
        unsafe {
            let head = &mut *slab.as_ptr();
            if head.words != 0 {
                let word = head.words.trailing_zeros() as usize;
                let place = Self::word(slab, word);
                let bits = place.read();
                let rest = bits & bits.wrapping_sub(1);
                place.write(rest);
                if rest == 0 {
                    head.words &= head.words - 1;
                }
                head.used += 1;
                return Some((word * 64 + bits.trailing_zeros() as usize, false));
            }
            if head.carved == capacity {
                return None;
            }
            head.carved += 1;
            head.used += 1;
            Some((head.carved - 1, true))
        }
    }

    /// Takes back an object in use, and says whether there was no free one before.
    ///
    /// # Safety
    ///
    /// It is a slab with so many objects, and this one is in use.
    #[inline(always)]
    pub(crate) unsafe fn give(slab: NonNull<Self>, index: usize, capacity: usize) -> bool {
        // SAFETY: the caller promises the object, which has a bit.
        unsafe {
            let head = &mut *slab.as_ptr();
            let was_full = head.used == capacity;
            let place = Self::word(slab, index / 64);
            place.write(place.read() | 1 << (index % 64));
            head.words |= 1 << (index / 64);
            head.used -= 1;
            was_full
        }
    }

    /// Counts the objects that were handed out and are free again, word by word; `None` where `words` does
    /// not say what the bits do, or a bit is set that belongs to none of the first `carved` objects.
    ///
    /// # Safety
    ///
    /// It is a slab with so many objects.
    pub(crate) unsafe fn count_freed(slab: NonNull<Self>, capacity: usize) -> Option<usize> {
        let mut freed = 0;
        // SAFETY: the caller promises the bits.
        unsafe {
            let (words, carved) = (slab.as_ref().words, slab.as_ref().carved);
            for index in 0..capacity.div_ceil(64) {
                let bits = Self::word(slab, index).read();
                let handed_out = match carved.saturating_sub(index * 64) {
                    all if all >= 64 => u64::MAX,
                    some => (1 << some) - 1,
                };
                if (words >> index & 1 != 0) != (bits != 0) || bits & !handed_out != 0 {
                    return None;
                }
                freed += bits.count_ones() as usize;
            }
        }
        Some(freed)
    }
}
