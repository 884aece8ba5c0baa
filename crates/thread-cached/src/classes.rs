//! Size classes: the sizes that small objects come in.
//!
//! Steps of 16 bytes up to 256, then eight steps to each doubling (Jason Evans, *A Scalable Concurrent malloc(3)
//! Implementation for FreeBSD*, 2006, has four; eight halve the waste): above 128 bytes an eighth is wasted at most.

use heapwright_core::GRANULE;

use crate::mailbox::Parcel;

/// A page: the unit of runs, in bytes.
pub(crate) const PAGE: usize = 1 << PAGE_SHIFT;
/// Its binary logarithm.
pub(crate) const PAGE_SHIFT: u32 = 13;

/// How many classes there are for programs.
pub(crate) const CLASSES: usize = 72;
/// The class of what threads send each other, which no request gets.
pub(crate) const PARCELS: usize = CLASSES;
/// All classes.
pub(crate) const ALL: usize = CLASSES + 1;
/// The largest size that has a class, in bytes. What is larger gets a run of pages of its own.
pub(crate) const MAX_SMALL: usize = 32 << 10;

/// Sizes up to this one, in bytes, are looked up: the table is one or two cache lines.
const LOOKED_UP: usize = 1024;

static CLASS_OF: [u8; LOOKED_UP / GRANULE + 1] = {
    let mut table = [0; LOOKED_UP / GRANULE + 1];
    let mut granules = 0;
    while granules < table.len() {
        table[granules] = computed(granules * GRANULE) as u8;
        granules += 1;
    }
    table
};

const fn computed(size: usize) -> usize {
    let last = size.saturating_sub(1);
    // Eight steps between one power of two and the next; below 256 as if there were none smaller than 128.
    let power = (last | 128).ilog2();
    ((power as usize - 7) << 3) + (last >> (power - 3))
}

/// The class that serves `size` bytes, if one does.
#[inline(always)]
pub(crate) fn class_of(size: usize) -> Option<usize> {
    if size <= LOOKED_UP {
        // In bounds: `size` is not above the last one.
        Some(usize::from(CLASS_OF[(size + GRANULE - 1) >> GRANULE.ilog2()]))
    } else if size <= MAX_SMALL {
        Some(computed(size))
    } else {
        None
    }
}

/// The class that serves `size` bytes at a multiple of `align`, if one does.
#[inline(always)]
pub(crate) fn class_for(size: usize, align: usize) -> Option<usize> {
    if align <= GRANULE { class_of(size) } else { aligned_class(size, align) }
}

/// Objects lie at multiples of their size from the start of a page, so a size that is a multiple of the alignment
/// gives it.
#[inline(never)]
fn aligned_class(size: usize, align: usize) -> Option<usize> {
    if align > PAGE {
        return None;
    }
    (class_of(size.max(align))?..CLASSES).find(|&class| size_of_class(class) & (align - 1) == 0)
}

/// The size of the objects of a class, in bytes.
pub(crate) const fn size_of_class(class: usize) -> usize {
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
    /// The place in front of its first slot in a thread's cache: the sentinel.
    pub(crate) base: u16,
    /// The most objects that a thread keeps.
    pub(crate) most: u16,
}

/// All classes.
pub(crate) static TABLE: [Class; ALL] = table();

/// How many slots the cache of a thread has, sentinels included.
pub(crate) const SLOTS: usize = {
    let last = table()[ALL - 1];
    last.base as usize + last.most as usize + 1
};

const fn table() -> [Class; ALL] {
    let mut table = [Class { size: 0, reciprocal: 0, pages: 0, least: 0, base: 0, most: 0 }; ALL];
    let mut class = 0;
    let mut base = 0;
    while class < ALL {
        let size = if class == PARCELS { size_of::<Parcel>() } else { size_of_class(class) };
        let pages = slab_pages(size);
        let most = most_cached(size);
        table[class] = Class {
            size: size as u32,
            reciprocal: ((1_u64 << 32).div_ceil(size as u64)) as u32,
            pages: pages as u16,
            least: size.div_ceil(PAGE) as u16,
            base: base as u16,
            most: most as u16,
        };
        base += most + 1;
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

/// Of small classes many, so that what is allocated and freed by the hundred stays at hand; of the largest one each.
const fn most_cached(size: usize) -> usize {
    let kept = if size <= 128 { KEPT } else { KEPT / 2 };
    match kept / size {
        256.. => 256,
        0 => 1,
        most => most,
    }
}

/// The most bytes that a thread keeps at hand, of all classes together.
const ALL_KEPT: usize = {
    let (table, mut bytes, mut class) = (table(), 0, 0);
    while class < ALL {
        bytes += table[class].size as usize * table[class].most as usize;
        class += 1;
    }
    bytes
};
const _: () = assert!(ALL_KEPT <= 800 << 10, "a thread keeps as much as the documentation says");

/// Bytes of a class that a thread keeps at hand, at most.
pub(crate) const KEPT: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::WORDS;
    use crate::local::divided;

    #[test]
    fn every_size_has_the_least_class_that_holds_it() {
        for size in 0..=MAX_SMALL {
            let class = class_of(size).unwrap();
            assert!(size_of_class(class) >= size);
            assert!(class == 0 || size_of_class(class - 1) < size);
        }
        assert_eq!(size_of_class(CLASSES - 1), MAX_SMALL);
    }

    #[test]
    fn above_128_bytes_an_eighth_is_wasted_at_most() {
        for size in 129..=MAX_SMALL {
            let served = size_of_class(class_of(size).unwrap());
            assert!((served - size) * 8 <= served, "{size} in {served}");
        }
    }

    #[test]
    fn aligned_requests_get_classes_of_multiples() {
        for align in (0..=14).map(|power| 1 << power) {
            for size in [0, 1, 24, 100, 300, 1000, 5000, 16_000, 32_000] {
                if let Some(class) = class_for(size, align) {
                    let served = size_of_class(class);
                    assert!(served >= size && (align <= GRANULE || served.is_multiple_of(align)));
                }
            }
        }
        assert_eq!(class_for(64, 64), class_of(64));
        assert_eq!(class_for(MAX_SMALL + 1, 16), None);
    }

    #[test]
    fn slabs_lose_little_and_offsets_divide_exactly() {
        for &Class { size, reciprocal, pages, .. } in &TABLE {
            let (size, bytes) = (size as usize, pages as usize * PAGE);
            let capacity = bytes / size;
            assert!((bytes - capacity * size) * 8 <= bytes);
            assert!(pages <= 16 && capacity <= 64 * WORDS);
            for offset in 0..bytes {
                let exact = offset.is_multiple_of(size).then_some(offset / size);
                assert_eq!(divided(offset, reciprocal), exact);
            }
        }
    }
}
