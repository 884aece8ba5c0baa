//! Which slabs there are, by address.
//!
//! A hash table with linear probing (Knuth, *The Art of Computer Programming* 3, §6.4, algorithms L and R),
//! at most half full: finding, adding and removing a slab take O(1) steps on average. A pointer that a
//! program hands in is looked up here, so that none is followed that does not lead to a slab.
//!
//! Invariants: each slab is in the table once; between the slot that a slab's address hashes to and the one
//! that it is in, no slot is empty.

use core::ptr::{self, NonNull};

use heapwright_backends::{Pile, grow_between};
use heapwright_core::{HeapBackend, Region};

/// The slots that a table has without memory from the backend.
const INLINE: usize = 16;

/// The slabs, and where the table of them is kept. Slots hold the addresses of slabs; zero is an empty one.
#[derive(Debug)]
pub(crate) struct Table {
    inline: [usize; INLINE],
    /// Slots from the backend, once the inline ones are too few; null before.
    slots: *mut usize,
    /// Two to this power is the number of slots.
    bits: u32,
    /// How many slabs are in it.
    pub(crate) count: usize,
    /// The region of the slots.
    region: Option<Region>,
    /// Regions of former slots that the backend did not take.
    left: Pile,
    left_bytes: usize,
}

impl Table {
    pub(crate) const EMPTY: Self = Self {
        inline: [0; INLINE],
        slots: ptr::null_mut(),
        bits: INLINE.ilog2(),
        count: 0,
        region: None,
        left: Pile::new(),
        left_bytes: 0,
    };

    /// Bytes held from the backend.
    pub(crate) fn held(&self) -> usize {
        self.region.map_or(0, |region| region.size) + self.left_bytes
    }

    #[inline(always)]
    fn slots(&self) -> *const usize {
        if self.slots.is_null() { self.inline.as_ptr() } else { self.slots }
    }

    fn slots_mut(&mut self) -> *mut usize {
        if self.slots.is_null() { self.inline.as_mut_ptr() } else { self.slots }
    }

    #[inline(always)]
    fn mask(&self) -> usize {
        (1 << self.bits) - 1
    }

    /// The slot in which a slab is sought first.
    #[inline(always)]
    fn home(&self, slab: usize) -> usize {
        // Slabs are at multiples of at least 1 KiB, and mostly follow each other.
        let hash = (slab >> 10).wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as usize);
        hash >> (usize::BITS - self.bits)
    }

    /// The slot that an address is in, or the empty one where it would have been found.
    #[inline(always)]
    fn seek(&self, slab: usize) -> (usize, bool) {
        let mut slot = self.home(slab);
        loop {
            // SAFETY: slots are masked to those that there are.
            let found = unsafe { self.slots().add(slot).read() };
            if found == slab || found == 0 {
                return (slot, found == slab);
            }
            slot = (slot + 1) & self.mask();
        }
    }

    /// Whether there is a slab at an address other than zero.
    #[inline(always)]
    pub(crate) fn has(&self, slab: usize) -> bool {
        self.seek(slab).1
    }

    /// Makes room for one more slab.
    pub(crate) fn reserve<B: HeapBackend>(&mut self, source: &mut B) -> Option<()> {
        let slots = 1 << self.bits;
        if (self.count + 1) * 2 <= slots {
            return Some(());
        }
        self.grow(source)
    }

    #[cold]
    fn grow<B: HeapBackend>(&mut self, source: &mut B) -> Option<()> {
        let (old_slots, old_count) = (self.slots_mut(), 1_usize << self.bits);
        let count = old_count * 2;
        let bytes = count * size_of::<usize>();
        let region = grow_between(source, bytes, bytes, align_of::<Pile>().max(16)).ok()?;
        // SAFETY: the region was just given, and is long enough; the old slots are there until their region
        // is given back.
        unsafe {
            let slots = region.start.cast::<usize>().as_ptr();
            if !region.zeroed {
                slots.write_bytes(0, count);
            }
            self.slots = slots;
            self.bits += 1;
            for slot in 0..old_count {
                let slab = old_slots.add(slot).read();
                if slab != 0 {
                    let (slot, _) = self.seek(slab);
                    slots.add(slot).write(slab);
                }
            }
            if let Some(old) = self.region.replace(region) {
                self.give_back(old, source);
            }
        }
        Some(())
    }

    /// Gives back former slots, or leaves them for later.
    ///
    /// # Safety
    ///
    /// The region held slots that nobody uses any more.
    unsafe fn give_back<B: HeapBackend>(&mut self, mut region: Region, source: &mut B) -> usize {
        // SAFETY: the caller promises an unused region of the source.
        let taken = unsafe { source.shrink(region) };
        region.size -= taken;
        if region.size > 0 {
            // SAFETY: what was not taken is ours still. Slots are at least as long as a region on the pile
            // must be, and what a backend leaves of them is.
            unsafe { self.left.push(region) };
            self.left_bytes += region.size;
        }
        taken
    }

    /// Adds a slab, for which there is room.
    pub(crate) fn add(&mut self, slab: usize) {
        let (slot, found) = self.seek(slab);
        if !found {
            // SAFETY: the slot is one of ours.
            unsafe { self.slots_mut().add(slot).write(slab) };
            self.count += 1;
        }
    }

    /// Removes a slab.
    pub(crate) fn remove(&mut self, slab: usize) {
        let (mut hole, found) = self.seek(slab);
        if !found {
            return;
        }
        self.count -= 1;
        let (slots, mask) = (self.slots_mut(), self.mask());
        let mut slot = hole;
        // SAFETY: slots are masked to those that there are.
        unsafe {
            loop {
                slot = (slot + 1) & mask;
                let next = slots.add(slot).read();
                if next == 0 {
                    break;
                }
                // What could not be found any more past the hole moves into it.
                let from_home = slot.wrapping_sub(self.home(next)) & mask;
                if from_home >= slot.wrapping_sub(hole) & mask {
                    slots.add(hole).write(next);
                    hole = slot;
                }
            }
            slots.add(hole).write(0);
        }
    }

    /// The addresses of all slabs.
    pub(crate) fn slabs(&self) -> impl Iterator<Item = NonNull<u8>> {
        let (slots, count) = (self.slots(), 1_usize << self.bits);
        (0..count).filter_map(move |slot| {
            // SAFETY: one of our slots.
            let slab = unsafe { slots.add(slot).read() };
            NonNull::new(ptr::with_exposed_provenance_mut(slab))
        })
    }

    /// Whether every slab is found where it is.
    pub(crate) fn is_sound(&self) -> bool {
        let mut count = 0;
        let found = self.slabs().all(|slab| {
            count += 1;
            self.has(slab.addr().get())
        });
        found && count == self.count && count * 2 <= 1 << self.bits
    }

    /// Puts the regions of the slots on a pile, of a table that is not used any more or that has no slab.
    pub(crate) fn clear(&mut self, pile: &mut Pile) {
        let slots = self.region.take();
        let mut left = core::mem::take(&mut self.left);
        let regions = core::iter::from_fn(|| left.pop()).chain(slots);
        for region in regions {
            // SAFETY: nobody uses slots of an empty table.
            unsafe { pile.push(region) };
        }
        *self = Self::EMPTY;
    }

    /// What a backend did not take of a cleared table's regions.
    ///
    /// # Safety
    ///
    /// The region is from the pile that [`clear`](Self::clear) filled.
    pub(crate) unsafe fn leave(&mut self, region: Region) {
        // SAFETY: the caller promises an unused region of ours.
        unsafe { self.left.push(region) };
        self.left_bytes += region.size;
    }
}
