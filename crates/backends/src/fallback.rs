//! Two sources, one after the other.

use heapwright_core::{HeapBackend, New, OutOfMemory, Region};

/// A source that can tell its own memory from that of others.
pub trait Owns {
    /// The longest stretch that ends at `end` and is memory of this source all along, or of this
    /// source nowhere.
    ///
    /// Asked of addresses in regions that this source gave, or another one with which it goes
    /// together; what lies between its regions may count as its own if no other source can have it.
    fn stretch_below(&self, end: usize) -> Stretch;
}

/// An answer of [`Owns`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Whether it is the source's own.
    pub own: bool,
    /// The address at which it starts.
    pub start: usize,
}

/// Memory from `A` as long as it gives any, then from `B`: the program break, and mappings where the
/// break is blocked, and for blocks that get a mapping of their own; an arena, and mappings when it is
/// full.
///
/// A region goes back to the one that gave it: `A` tells by the address. Should a region of the one
/// happen to continue a region of the other, and the caller treat both as one, each part goes back to
/// its own.
#[derive(Debug, Default)]
pub struct Fallback<A, B> {
    first: A,
    second: B,
}

impl<A: New, B: New> New for Fallback<A, B> {
    const NEW: Self = Self { first: A::NEW, second: B::NEW };
}

impl<A, B> Fallback<A, B> {
    /// `first`, and when that fails `second`.
    pub const fn over(first: A, second: B) -> Self {
        Self { first, second }
    }

    /// The source that is asked first.
    pub fn first(&self) -> &A {
        &self.first
    }

    /// The source that is asked second.
    pub fn second(&self) -> &B {
        &self.second
    }
}

impl<A: Owns, B> Fallback<A, B> {
    /// The end of a region that comes from one source, and whether that is the first.
    fn last_part(&self, region: Region) -> (Region, bool) {
        let stretch = self.first.stretch_below(region.end());
        let size = region.size.min(region.end() - stretch.start);
        // SAFETY: the part is the end of the region.
        let start = unsafe { region.start.add(region.size - size) };
        (Region { start, size, zeroed: false }, stretch.own)
    }

    /// Does something about each part of a region, with the source that it is from.
    fn each_part(
        &mut self,
        mut region: Region,
        first: impl Fn(&mut A, Region),
        second: impl Fn(&mut B, Region),
    ) {
        while region.size > 0 {
            let (part, own) = self.last_part(region);
            if own {
                first(&mut self.first, part)
            } else {
                second(&mut self.second, part)
            }
            region.size -= part.size;
        }
    }
}

// SAFETY: regions are those of the two sources, and each is given back to the source that it is from.
unsafe impl<A: HeapBackend + Owns, B: HeapBackend> HeapBackend for Fallback<A, B> {
    fn page_size(&self) -> usize {
        self.first.page_size().max(self.second.page_size())
    }

    #[cold]
    fn grow(&mut self, size: usize, align: usize) -> Result<Region, OutOfMemory> {
        self.first.grow(size, align).or_else(|OutOfMemory| self.second.grow(size, align))
    }

    #[cold]
    fn map(&mut self, size: usize, align: usize) -> Result<Region, OutOfMemory> {
        self.first.map(size, align).or_else(|OutOfMemory| self.second.map(size, align))
    }

    #[cold]
    unsafe fn shrink(&mut self, mut region: Region) -> usize {
        let whole = region.size;
        while region.size > 0 {
            let (part, own) = self.last_part(region);
            // SAFETY: the caller promises an unused end of a region; the part is the end of that, and
            // from the source that it goes to.
            let taken =
                unsafe { if own { self.first.shrink(part) } else { self.second.shrink(part) } };
            region.size -= taken;
            if taken < part.size {
                break;
            }
        }
        whole - region.size
    }

    #[cold]
    unsafe fn resize(&mut self, region: Region, new_size: usize, may_move: bool) -> Option<Region> {
        let (part, own) = self.last_part(region);
        if part.size < region.size {
            return None;
        }
        // SAFETY: the caller promises a whole region, which is all from the one source.
        unsafe {
            if own {
                self.first.resize(region, new_size, may_move)
            } else {
                self.second.resize(region, new_size, may_move)
            }
        }
    }

    #[cold]
    unsafe fn relocate(&mut self, from: Region, to: Region) -> bool {
        let ((old, old_own), (new, new_own)) = (self.last_part(from), self.last_part(to));
        if old.size < from.size || new.size < to.size || old_own != new_own {
            return false;
        }
        // SAFETY: the caller promises two whole regions, which are both all from the one source.
        unsafe {
            if old_own { self.first.relocate(from, to) } else { self.second.relocate(from, to) }
        }
    }

    #[cold]
    unsafe fn discard(&mut self, mut region: Region) -> bool {
        let mut zero = region.size > 0;
        while region.size > 0 {
            let (part, own) = self.last_part(region);
            // SAFETY: the caller promises a part of a region whose contents nobody needs.
            zero &=
                unsafe { if own { self.first.discard(part) } else { self.second.discard(part) } };
            region.size -= part.size;
        }
        zero
    }

    unsafe fn populate(&mut self, region: Region) {
        // SAFETY: the caller promises a part of a region.
        self.each_part(
            region,
            |first, part| unsafe { first.populate(part) },
            |second, part| unsafe { second.populate(part) },
        );
    }

    unsafe fn offer_huge_pages(&mut self, region: Region) {
        // SAFETY: the caller promises a part of a region.
        self.each_part(
            region,
            |first, part| unsafe { first.offer_huge_pages(part) },
            |second, part| unsafe { second.offer_huge_pages(part) },
        );
    }

    unsafe fn withdraw_huge_pages(&mut self, region: Region) {
        // SAFETY: the caller promises a part of a region.
        self.each_part(
            region,
            |first, part| unsafe { first.withdraw_huge_pages(part) },
            |second, part| unsafe { second.withdraw_huge_pages(part) },
        );
    }

    #[cold]
    fn is_readable(&self, addr: usize) -> bool {
        self.first.is_readable(addr) || self.second.is_readable(addr)
    }

    #[cold]
    fn is_present(&self, addr: usize) -> bool {
        self.first.is_present(addr) || self.second.is_present(addr)
    }

    #[cold]
    fn entropy(&self) -> u64 {
        match self.first.entropy() {
            0 => self.second.entropy(),
            bits => bits,
        }
    }
}

impl<A: Owns, B: Owns> Owns for Fallback<A, B> {
    fn stretch_below(&self, end: usize) -> Stretch {
        let first = self.first.stretch_below(end);
        if first.own {
            return first;
        }
        let second = self.second.stretch_below(end);
        Stretch { own: second.own, start: first.start.max(second.start) }
    }
}
