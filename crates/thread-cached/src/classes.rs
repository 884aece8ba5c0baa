//! Size classes: the sizes that small objects come in.
//!
//! Steps of 16 bytes up to 256, then eight steps to each doubling (Jason Evans, *A Scalable Concurrent malloc(3)
//! Implementation for FreeBSD*, 2006, has four; eight halve the waste): above 128 bytes an eighth is wasted at most, unless
//! an object was shrunk where it is. Classes from 32 KiB on are of whole pages, and a slab of theirs is a single object: what
//! comes and goes by that length in a large heap is kept at hand like any other.

use heapwright_core::GRANULE;

use crate::mailbox::{FEW_BYTES, Parcel};

/// A page: the unit of runs, in bytes.
pub(crate) const PAGE: usize = 1 << PAGE_SHIFT;
/// Its binary logarithm.
pub(crate) const PAGE_SHIFT: u32 = 13;

/// How many classes there are of objects that share slabs: those before the large ones.
pub(crate) const SHARING: usize = 72;
/// How many classes there are for programs.
pub(crate) const CLASSES: usize = SHARING + (MAX_CLASS - MAX_SMALL) / PAGE;
/// The class of what threads send each other, which no request gets.
pub(crate) const PARCELS: usize = CLASSES;
/// The same, of few objects.
pub(crate) const SMALL_PARCELS: usize = CLASSES + 1;
/// All classes.
pub(crate) const ALL: usize = CLASSES + 2;
/// The largest size that always has a class, in bytes. What is larger may get a run of pages of its own.
pub(crate) const MAX_SMALL: usize = 32 << 10;
/// The largest size of a class.
pub(crate) const MAX_CLASS: usize = 128 << 10;

/// Classes of sizes up to this one, in bytes, are looked up.
pub(crate) const LOOKED_UP: usize = GRANULES * GRANULE;
/// The same in granules.
pub(crate) const GRANULES: usize = 64;

/// Classes by the granule of their last byte, in one cache line.
#[repr(align(64))]
struct Looked([u8; GRANULES]);

// A constant, so that whoever compiles the fast paths has it at hand: a static of this crate is reached by way of a table
// of addresses, which takes a load.
const CLASS_OF: &Looked = &{
    let mut table = [0; GRANULES];
    let mut granules = 0;
    while granules < table.len() {
        table[granules] = computed(granules * GRANULE) as u8;
        granules += 1;
    }
    Looked(table)
};

/// The class of objects that have a byte of this number, counted from zero, and as few behind it as can be.
const fn computed(last: usize) -> usize {
    // Eight steps between one power of two and the next; below 256 as if there were none smaller than 128.
    let power = (last | 128).ilog2();
    ((power as usize - 7) << 3) + (last >> (power - 3))
}

/// The class that serves `size` bytes at a multiple of `align`, a power of two, if it can be looked up: what has it in
/// most requests, and in none for no bytes. None if that takes more than so many granules.
///
/// Objects lie at multiples of their size from the start of a page, so a size that is a multiple of the alignment
/// gives it; and the class of a size that is rounded up to a multiple of the alignment has such a size, as its own is
/// that, or a multiple of a larger power of two.
#[inline(always)]
pub(crate) fn class_looked_up(size: usize, align: usize, granules: usize) -> Option<usize> {
    let last = size.wrapping_sub(1) | (align - 1);
    let granule = last / GRANULE;
    if granule < granules { CLASS_OF.0.get(granule).copied().map(usize::from) } else { None }
}

/// The class that serves `size` bytes at a multiple of `align`, if one does.
#[inline]
pub(crate) fn class_for(size: usize, align: usize) -> Option<usize> {
    let last = size.saturating_sub(1) | (align - 1);
    match last {
        _ if align > PAGE => None,
        0..MAX_SMALL => Some(computed(last)),
        MAX_SMALL..MAX_CLASS => Some(SHARING + (last - MAX_SMALL) / PAGE),
        _ => None,
    }
}

/// The size of the objects of a class, in bytes.
pub(crate) const fn size_of_class(class: usize) -> usize {
    if class >= SHARING {
        return MAX_SMALL + (class - SHARING + 1) * PAGE;
    }
    let doublings = if class < 16 { 0 } else { (class - 8) / 8 };
    (class - 8 * doublings + 1) << (4 + doublings)
}

/// What is fixed about a class.
#[derive(Clone, Copy)]
pub(crate) struct Class {
    /// Bytes of an object.
    pub(crate) size: u32,
    /// 2³² divided by the size, rounded up: by which an offset in a slab is divided by the size.
    pub(crate) reciprocal: u32,
    /// Pages of a slab.
    pub(crate) pages: u16,
    /// Pages that hold an object: those of a slab when there are no more.
    pub(crate) least: u16,
    /// The place in front of its first slot in a thread's cache, the sentinel, while that holds a few of the class. Classes of
    /// which it holds none at first share that of the first class.
    pub(crate) few: u16,
    /// How many objects that is at most.
    pub(crate) few_are: u16,
    /// The same once it holds more.
    pub(crate) many: u16,
    /// The most objects that a thread keeps.
    pub(crate) most: u16,
    /// How many it keeps whatever the heap has in use, if it is to keep [`KEPT`] bytes.
    anyhow: u16,
}

impl Class {
    /// How many objects a thread keeps at hand that is to keep so many bytes of a class.
    #[inline]
    pub(crate) fn kept_anyhow(&self, kept: usize) -> u16 {
        if kept == KEPT { self.anyhow } else { kept_anyhow(self.size as usize, kept) as u16 }
    }
}

/// All classes.
pub(crate) static TABLE: [Class; ALL] = table();

/// So many of a class are few, unless fewer are kept anyhow.
pub(crate) const FEW: u16 = 8;

/// The slots for few of each class, and those for many, sentinels included. The former lie side by side: a thread that
/// does little touches no more than these.
pub(crate) const SLOTS_FOR: (usize, usize) = {
    let (mut few, mut many, mut class) = (0, 0, 0);
    while class < ALL {
        few += slots_for_few(size(class));
        many += slots_for_many(size(class));
        class += 1;
    }
    (few, many)
};

/// How many slots the cache of a thread has.
pub(crate) const SLOTS: usize = SLOTS_FOR.0 + SLOTS_FOR.1;

const fn few_are(size: usize) -> usize {
    let kept = kept_anyhow(size, KEPT);
    if kept > FEW as usize { FEW as usize } else { kept }
}

const fn slots_for_few(size: usize) -> usize {
    match few_are(size) {
        0 => 0,
        few => 1 + few,
    }
}

/// None, if all are few.
const fn slots_for_many(size: usize) -> usize {
    let most = most_cached(size);
    if most > few_are(size) { 1 + most } else { 0 }
}

const fn size(class: usize) -> usize {
    match class {
        PARCELS => size_of::<Parcel>(),
        SMALL_PARCELS => FEW_BYTES,
        _ => size_of_class(class),
    }
}

const fn table() -> [Class; ALL] {
    const NONE: Class = Class {
        size: 0,
        reciprocal: 0,
        pages: 0,
        least: 0,
        few: 0,
        few_are: 0,
        many: 0,
        most: 0,
        anyhow: 0,
    };
    let mut table = [NONE; ALL];
    let mut class = 0;
    let (mut few, mut many) = (0, SLOTS_FOR.0);
    while class < ALL {
        let size = size(class);
        let pages = slab_pages(size);
        table[class] = Class {
            size: size as u32,
            reciprocal: ((1_u64 << 32).div_ceil(size as u64)) as u32,
            pages: pages as u16,
            least: size.div_ceil(PAGE) as u16,
            few: if few_are(size) > 0 { few } else { 0 } as u16,
            few_are: few_are(size) as u16,
            many: if slots_for_many(size) > 0 { many } else { few } as u16,
            most: most_cached(size) as u16,
            anyhow: kept_anyhow(size, KEPT) as u16,
        };
        few += slots_for_few(size);
        many += slots_for_many(size);
        class += 1;
    }
    table
}

/// As few pages as lose at most an eighth at their end: the fewer objects share a slab, the sooner all are free.
const fn slab_pages(size: usize) -> usize {
    let mut pages = 1;
    loop {
        let bytes = pages * PAGE;
        if bytes >= size && (bytes % size) * 8 <= bytes {
            return pages;
        }
        pages += 1;
    }
}

/// How many objects of a class a thread keeps at hand, whatever the heap has in use: of small classes many, so that what is
/// allocated and freed by the hundred stays at hand, and what comes and goes by chance seldom fills or empties a bin; of
/// the largest that share slabs one each.
const fn kept_anyhow(size: usize, kept: usize) -> usize {
    let most = if size <= MANY_KEPT { KEPT } else { KEPT / 2 };
    match (if kept < most { kept } else { most }) / size {
        0 if size <= MAX_SMALL => 1,
        count => count,
    }
}

/// The most, in a large heap, where a few of the large classes are little.
const fn most_cached(size: usize) -> usize {
    let most = kept_anyhow(size, KEPT);
    if most < FEW as usize { FEW as usize } else { most }
}

/// The most bytes that a thread keeps at hand whatever the heap has in use, of all classes together; of parcels it keeps
/// fewer.
pub(crate) const ALL_KEPT: usize = {
    let (table, mut bytes, mut class) = (table(), 0, 0);
    while class < ALL {
        let size = table[class].size as usize;
        bytes += size * kept_anyhow(size, KEPT);
        class += 1;
    }
    bytes
};
const _: () = assert!(ALL_KEPT < 1 << 20, "a thread keeps as much as the documentation says");

/// Bytes of a class that a thread keeps at hand, at most, unless more are few to the heap.
pub(crate) const KEPT: usize = 16 << 10;
/// Of larger objects it keeps half as much. Where objects come and go by chance, a bin of *n* is full or empty each *n*²
/// requests or so, and then half of it moves: a share of one in *n* for each request. Of these there are sixteen or more
/// in a bin; above, what the objects hold costs more than that.
const MANY_KEPT: usize = 1 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::WORDS;
    use crate::local::divided;

    #[test]
    fn every_size_has_the_least_class_that_holds_it() {
        for size in 0..=MAX_CLASS {
            let class = class_for(size, 1).unwrap();
            assert!(size_of_class(class) >= size);
            assert!(class == 0 || size_of_class(class - 1) < size);
        }
        assert_eq!(size_of_class(SHARING - 1), MAX_SMALL);
        assert_eq!(size_of_class(CLASSES - 1), MAX_CLASS);
    }

    #[test]
    fn above_128_bytes_an_eighth_is_wasted_at_most() {
        for size in 129..=MAX_SMALL {
            let served = size_of_class(class_for(size, 1).unwrap());
            assert!((served - size) * 8 <= served, "{size} in {served}");
        }
    }

    #[test]
    fn aligned_requests_get_the_least_class_of_multiples() {
        let fits = |class: usize, size: usize, align: usize| {
            let served = size_of_class(class);
            served >= size && served.is_multiple_of(align)
        };
        for align in (0..=13).map(|power| 1 << power) {
            for size in 0..=MAX_SMALL {
                let class = class_for(size, align);
                assert_eq!(class, (0..CLASSES).find(|&class| fits(class, size, align)));
                if size > 0 && size.next_multiple_of(align) <= LOOKED_UP {
                    assert_eq!(class_looked_up(size, align, GRANULES), class);
                } else {
                    assert_eq!(class_looked_up(size, align, GRANULES), None);
                }
            }
        }
        assert_eq!(class_for(64, 2 * PAGE), None);
        assert_eq!(class_for(MAX_CLASS + 1, 16), None);
        assert_eq!(class_looked_up(64, 1 << 40, GRANULES), None);
    }

    #[test]
    fn slabs_lose_little_and_offsets_divide_exactly() {
        for &Class { size, reciprocal, pages, .. } in &TABLE {
            let (size, bytes) = (size as usize, pages as usize * PAGE);
            let capacity = bytes / size;
            assert!((bytes - capacity * size) * 8 <= bytes);
            assert!(pages <= 16 && capacity <= 64 * WORDS);
            // Of a slab of one object only the first page tells that it is one.
            let told = if capacity == 1 { PAGE } else { bytes };
            for offset in 0..told {
                let exact = offset.is_multiple_of(size).then_some(offset / size);
                assert_eq!(divided(offset, reciprocal), exact);
            }
        }
    }
}
