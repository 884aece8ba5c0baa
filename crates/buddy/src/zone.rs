//! A zone: one region of the backend, with a table that says what its blocks are being used for.
//!
//! ```text
//! region: | Zone | table: one byte for each 16 bytes of blocks | blocks ………………………………… |
//!                                                              ^ base       ^ fresh   ^ base + span
//! ```
//!
//! Every block has a power of two of bytes, its *order* counting from 16 bytes up, and begins at an address
//! that is a multiple of its size: buddies are found by flipping one bit of an address, and no region needs
//! to be aligned or of a certain size. The byte of the 16 bytes at which a block begins is its entry.
//!
//! Invariants, for each zone:
//!
//! * from `base` on, entries lead from block to block up to the end of the zone;
//! * all other entries are zero, or say that a block that began here was merged into another;
//! * no two buddies are both free;
//! * `used` is the sum of the sizes of the blocks in use;
//! * memory at or above `fresh` is zero, but for the nodes of free blocks, and no block in use reaches
//!   beyond it.

use core::cell::Cell;
use core::ptr::NonNull;

use heapwright_core::{GRANULE, Region};

/// The size of a block of order zero.
pub(crate) const LEAST: usize = GRANULE;

/// Of an entry: a block in use begins here; its order is in the lower bits.
pub(crate) const USED: u8 = 0x80;
/// Of an entry: a free block begins here; its order is in the lower bits.
pub(crate) const FREE: u8 = 0x40;
/// An entry: a block began here, was freed, and is a part of a larger one now.
pub(crate) const MERGED: u8 = 0x20 | 0x1F;

const ORDER: u8 = 0x3F;

/// Stands at the start of a region. What changes is in cells, for a zone is reached through the list of
/// zones, as the one used last, and by address.
#[derive(Debug)]
pub(crate) struct Zone {
    pub(crate) next: Cell<*const Zone>,
    /// Where the blocks begin.
    base: NonNull<u8>,
    /// How many bytes of blocks there are.
    pub(crate) span: usize,
    /// The entry of the first block.
    table: NonNull<u8>,
    /// Memory at or above this address is zero, but for nodes.
    pub(crate) fresh: Cell<usize>,
    /// Bytes of blocks in use.
    pub(crate) used: Cell<usize>,
    /// Whether the region was zero when it came, as it will be when it comes again.
    pub(crate) zeroed: Cell<bool>,
    /// The region, as it came from the backend.
    region: Region,
}

/// The bytes of the smallest region that is of any use.
pub(crate) const LEAST_REGION: usize = size_of::<Zone>() + 4 * LEAST;

/// A region of so many bytes has room for bookkeeping and a block of `size` bytes, wherever it begins.
pub(crate) const fn region_for(size: usize) -> usize {
    // Of twice the block's size all but the least part may be needed to find an aligned place.
    let blocks = 2 * size;
    size_of::<Zone>() + LEAST + blocks / LEAST + blocks
}

/// The bytes of a block of an order.
#[inline(always)]
pub(crate) const fn size_of_order(order: usize) -> usize {
    LEAST << order
}

impl Zone {
    /// Makes a region a zone without any blocks.
    ///
    /// # Safety
    ///
    /// The region is the heap's, used by nobody, aligned to [`LEAST`] and at least [`LEAST_REGION`] long.
    pub(crate) unsafe fn make(region: Region) -> *const Self {
        let entries = (region.size - size_of::<Self>()) / (LEAST + 1);
        let blocks = (region.addr() + size_of::<Self>() + entries).next_multiple_of(LEAST);
        let span = (region.end() - blocks).min(entries * LEAST) & !(LEAST - 1);
        let zone = region.start.cast::<Self>().as_ptr();
        // SAFETY: head, table and blocks lie one behind the other within the region.
        unsafe {
            let table = region.start.add(size_of::<Self>());
            zone.write(Self {
                next: Cell::new(core::ptr::null()),
                base: region.start.add(blocks - region.addr()),
                span,
                table,
                fresh: Cell::new(if region.zeroed { blocks } else { blocks + span }),
                used: Cell::new(0),
                zeroed: Cell::new(region.zeroed),
                region: Region { zeroed: false, ..region },
            });
            if !region.zeroed {
                table.write_bytes(0, entries);
            }
        }
        zone
    }

    /// The region, as it came from the backend.
    pub(crate) fn region(&self) -> Region {
        self.region
    }

    /// The address of the first block.
    #[inline(always)]
    pub(crate) fn start(&self) -> usize {
        self.base.addr().get()
    }

    #[inline(always)]
    pub(crate) fn end(&self) -> usize {
        self.start() + self.span
    }

    /// Whether a block may begin at an address: it is within the blocks.
    #[inline(always)]
    pub(crate) fn holds(&self, addr: usize) -> bool {
        addr.wrapping_sub(self.start()) < self.span
    }

    /// The block at an address within the blocks.
    #[inline(always)]
    pub(crate) unsafe fn block(&self, addr: usize) -> NonNull<u8> {
        // SAFETY: the caller promises an address within the zone.
        unsafe { self.base.add(addr - self.start()) }
    }

    /// The place of the entry of an address.
    ///
    /// # Safety
    ///
    /// The zone [holds](Self::holds) the address.
    #[inline(always)]
    unsafe fn entry(&self, addr: usize) -> NonNull<u8> {
        // SAFETY: the table has an entry for all that the zone holds.
        unsafe { self.table.add((addr - self.start()) / LEAST) }
    }

    /// Reads the entry of an address.
    ///
    /// # Safety
    ///
    /// The zone [holds](Self::holds) the address.
    #[inline(always)]
    pub(crate) unsafe fn get(&self, addr: usize) -> u8 {
        // SAFETY: the caller promises the same.
        unsafe { self.entry(addr).read() }
    }

    /// Writes the entry of an address.
    ///
    /// # Safety
    ///
    /// The zone [holds](Self::holds) the address.
    #[inline(always)]
    pub(crate) unsafe fn set(&self, addr: usize, entry: u8) {
        // SAFETY: the caller promises the same.
        unsafe { self.entry(addr).write(entry) };
    }

    /// The free blocks that an empty zone has when all buddies are merged, as addresses and orders: from
    /// its start on, each the largest that its address and the zone's end allow.
    pub(crate) fn undivided(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (mut at, end) = (self.start(), self.end());
        core::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let size = (at & at.wrapping_neg()).min(1 << (end - at).ilog2());
            let (addr, order) = (at, (size / LEAST).ilog2() as usize);
            at += size;
            Some((addr, order))
        })
    }

    /// The blocks, as addresses and entries, as long as entries lead on.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (usize, u8)> {
        let mut at = self.start();
        core::iter::from_fn(move || {
            if !self.holds(at) {
                return None;
            }
            // SAFETY: the zone holds the address.
            let (addr, entry) = (at, unsafe { self.get(at) });
            at = at.checked_add(size_of_order(order_in(entry)))?;
            Some((addr, entry))
        })
    }

    /// The entry of the block of which an address is a part, not the first; none where entries are wrong.
    pub(crate) fn enclosing(&self, addr: usize) -> Option<u8> {
        for order in 1..usize::BITS as usize - 5 {
            let start = addr & !(size_of_order(order) - 1);
            if !self.holds(start) {
                return None;
            }
            // SAFETY: the zone holds the address.
            let entry = unsafe { self.get(start) };
            if entry & (USED | FREE) != 0 && order_in(entry) >= order {
                return Some(entry);
            }
        }
        None
    }
}

/// The order in an entry of a block.
#[inline(always)]
pub(crate) const fn order_in(entry: u8) -> usize {
    (entry & ORDER) as usize
}
