//! Binary buddy: blocks are powers of two at multiples of their size, split in halves on demand and
//! merged with their other half, their buddy, as soon as both are free.
//!
//! Kenneth C. Knowlton, *A Fast Storage Allocator*, Communications of the ACM 8 (10), 1965; Donald E. Knuth,
//! *The Art of Computer Programming* 1, §2.5, algorithms R and S.
//!
//! * **Good at:** kernels and arenas. Every operation takes O(log size) steps at the most, whatever the
//!   heap looks like; blocks are naturally aligned, which is what page tables, rings and DMA want; a block
//!   has no header, so a request for a power of two takes just that, and a write past its end hits no
//!   bookkeeping.
//! * **Bad at:** space for other sizes: rounding up to a power of two leaves a quarter unused on average.
//!   And merging at once means that programs which allocate and free one size in turn split and merge in
//!   turn.
//!
//! What a block is being used for stands in a table beside the blocks: one byte for each 16 bytes, 6 % of
//! the region, of which only the bytes for memory in use are ever touched. Double frees and frees of
//! what never was a block are found from it in O(1), to say which of the two it is in O(log size); any
//! address at all may be handed in. Which region a block is in is remembered for 32 places of a megabyte,
//! and else found in O(regions); regions grow with the heap, so that there are few.
//!
//! Regions may have any size and begin anywhere. They are taken from the backend as large as the heap is
//! already, from 1 MiB to 64 MiB (or twice a larger request), or as it has them. One that is wholly free
//! goes back, but for one that is kept in reserve until the heap is [trimmed](Engine::trim).
//!
//! ```
//! use core::alloc::Layout;
//! use core::mem::MaybeUninit;
//! use heapwright_backends::Arena;
//! use heapwright_buddy::{Buddy, BuddyHeap};
//! use heapwright_core::Engine;
//!
//! // As the program's allocator:
//! #[global_allocator]
//! static HEAP: Buddy = Buddy::new();
//!
//! // Over sixty-four kilobytes of one's own:
//! let mut memory = [MaybeUninit::uninit(); 64 << 10];
//! let mut heap = BuddyHeap::over(Arena::new(&mut memory));
//! let page = heap.allocate(Layout::from_size_align(4096, 1)?).expect("there is room");
//! assert!(page.addr().get().is_multiple_of(4096));
//! # Ok::<(), core::alloc::LayoutError>(())
//! ```
//!
//! # Invariants
//!
//! Those of zones, which the module `zone` states, and:
//!
//! * the list of an order holds the free blocks of that order, in all zones, each once, and nothing else;
//!   it is doubly linked through the blocks themselves;
//! * bit `n` of `available` is set where the list of order `n` is not empty.
#![no_std]

mod zone;

use core::alloc::Layout;
use core::ptr::{self, NonNull};

#[cfg(not(target_os = "linux"))]
use heapwright_backends::Arena;
#[cfg(target_os = "linux")]
use heapwright_backends::Mmap;
use heapwright_backends::{Counting, Pile, grow_between};
use heapwright_core::{
    BlockInfo, BlockState, Broken, Engine, FutexMutex, GRANULE, HeapBackend, HeapError, Locked,
    New, OutOfMemory, Region, Stats, ensure, reallocate_by_moving,
};

use crate::zone::{
    FREE, LEAST, LEAST_REGION, MERGED, USED, Zone, order_in, region_for, size_of_order,
};

/// The buddy allocator over the backend `B`, under the lock `L`.
#[cfg(target_os = "linux")]
pub type Buddy<B = Mmap, L = FutexMutex> = Locked<L, BuddyHeap<B>>;

/// The buddy allocator over the backend `B`, under the lock `L`.
#[cfg(not(target_os = "linux"))]
pub type Buddy<B = Arena<'static>, L = FutexMutex> = Locked<L, BuddyHeap<B>>;

/// The heap without a lock.
#[derive(Debug)]
pub struct BuddyHeap<B: HeapBackend> {
    /// Which lists hold a block.
    available: usize,
    /// The free blocks of each order.
    lists: [*mut Node; ORDERS],
    /// For each megabyte of addresses, modulo [`NEAR`], the zone that was last found there; null for none.
    near: [*const Zone; NEAR],
    /// All zones, the newest first.
    zones: *const Zone,
    /// A zone that was empty when it was last looked at; null for none.
    reserve: *const Zone,
    misuses: usize,
    /// The bytes of all zones are what it holds.
    source: Counting<B>,
}

/// Stands at the start of a free block.
#[derive(Debug)]
struct Node {
    next: *mut Node,
    previous: *mut Node,
}

const NODE: usize = size_of::<Node>();

/// One list for each bit of `available`.
const ORDERS: usize = usize::BITS as usize;

/// Larger orders do not fit the address space; a bound that keeps sums from overflowing.
const MAX_ORDER: usize = ORDERS - 9;

/// The least that is asked of the backend at a time, if there is that much.
const LEAST_GROWTH: usize = 1 << 20;
/// The most, but for larger requests.
const MOST_GROWTH: usize = 64 << 20;

/// A zone that is kept in reserve has at most this many bytes, or an eighth of the heap.
const RESERVE: usize = 4 << 20;

/// How many zones are remembered by address.
const NEAR: usize = 32;

/// The place of an address among those remembered.
#[inline(always)]
fn near(addr: usize) -> usize {
    addr / LEAST_GROWTH % NEAR
}

/// How many words of each block's fresh memory are verified to be zero; and of its entries, how many times 64.
const SAMPLE: usize = 512;

/// Requests from this order on fail anyhow, and no zone is given back for them.
const HOPELESS: usize = if ORDERS == 64 { 36 } else { 26 };

// SAFETY: all pointers lead into regions that belong to the heap alone and go where it goes.
unsafe impl<B: HeapBackend + Send> Send for BuddyHeap<B> {}

impl<B: HeapBackend + New> New for BuddyHeap<B> {
    const NEW: Self = Self::over(B::NEW);
}

/// The order of the smallest block that has `size` bytes and is aligned to `align`.
#[inline(always)]
fn order_for(size: usize, align: usize) -> usize {
    let least = (size.max(align) - 1) | (LEAST - 1);
    (usize::BITS - (least / LEAST).leading_zeros()) as usize
}

impl<B: HeapBackend> BuddyHeap<B> {
    /// An empty heap over a backend, which is first asked for memory by the first request.
    pub const fn over(backend: B) -> Self {
        Self {
            available: 0,
            lists: [ptr::null_mut(); ORDERS],
            near: [ptr::null(); NEAR],
            zones: ptr::null(),
            reserve: ptr::null(),
            misuses: 0,
            source: Counting::over(backend),
        }
    }

    /// The backend, to look at.
    pub const fn backend(&self) -> &B {
        self.source.inner()
    }

    // ---- Lists of free blocks -------------------------------------------------------------------

    #[inline(always)]
    fn list(&mut self, order: usize) -> &mut *mut Node {
        &mut self.lists[order & (ORDERS - 1)]
    }

    /// Puts a block into the list of its order.
    ///
    /// # Safety
    ///
    /// It is ours, in no list, used by nobody and of this order.
    #[inline(always)]
    unsafe fn push(&mut self, block: NonNull<u8>, order: usize) {
        let list = self.list(order);
        let node = block.cast::<Node>().as_ptr();
        // SAFETY: the caller promises a block that is ours to write; what is in a list is a node.
        unsafe {
            node.write(Node { next: *list, previous: ptr::null_mut() });
            if let Some(next) = (*list).as_mut() {
                next.previous = node;
            }
        }
        *list = node;
        self.available |= 1 << order;
    }

    /// Takes a block out of the list of its order.
    ///
    /// # Safety
    ///
    /// It is in that list.
    #[inline(always)]
    unsafe fn unlink(&mut self, block: NonNull<u8>, order: usize) {
        // SAFETY: what is in a list is a node with neighbours in the list.
        unsafe {
            let Node { next, previous } = block.cast::<Node>().read();
            if let Some(next) = next.as_mut() {
                next.previous = previous;
            }
            match previous.as_mut() {
                Some(previous) => previous.next = next,
                None => {
                    *self.list(order) = next;
                    self.available &= !(usize::from(next.is_null()) << order);
                }
            }
        }
    }

    // ---- Zones ----------------------------------------------------------------------------------

    /// The zone that holds an address. The reference is good until the zone is given back.
    #[inline(always)]
    fn zone_of<'zone>(&self, addr: usize) -> Option<&'zone Zone> {
        // SAFETY: zones are taken out of `near` before they are given back.
        let near = unsafe { self.near[near(addr)].as_ref() };
        near.filter(|zone| zone.holds(addr)).or_else(|| self.seek(addr))
    }

    /// As [`zone_of`](Self::zone_of), and remembers it.
    #[inline(always)]
    fn note_zone_of<'zone>(&mut self, addr: usize) -> Option<&'zone Zone> {
        // SAFETY: as above.
        match unsafe { self.near[near(addr)].as_ref() } {
            Some(zone) if zone.holds(addr) => Some(zone),
            _ => {
                let zone = self.seek(addr)?;
                self.near[near(addr)] = zone;
                Some(zone)
            }
        }
    }

    #[inline(never)]
    fn seek<'zone>(&self, addr: usize) -> Option<&'zone Zone> {
        self.zones().find(|zone| zone.holds(addr))
    }

    /// All zones. The references are good until the zones are given back.
    fn zones<'zone>(&self) -> impl Iterator<Item = &'zone Zone> + use<'zone, B> {
        let mut at = self.zones;
        core::iter::from_fn(move || {
            // SAFETY: the list holds zones of ours.
            let zone = unsafe { at.as_ref()? };
            at = zone.next.get();
            Some(zone)
        })
    }

    /// Makes a region a zone, with all of it free. Returns the order of the largest block.
    ///
    /// # Safety
    ///
    /// The region is ours, used by nobody, and at least [`LEAST_REGION`] bytes long.
    unsafe fn adopt(&mut self, region: Region) -> usize {
        // SAFETY: the caller promises the region; a zone that was just made has no blocks.
        unsafe {
            let zone = &*Zone::make(region);
            zone.next.set(self.zones);
            self.zones = zone;
            self.list_undivided(zone)
        }
    }

    /// Makes all of a zone free blocks. Returns the order of the largest.
    ///
    /// # Safety
    ///
    /// The zone is ours, has no block in use, and none in a list.
    unsafe fn list_undivided(&mut self, zone: &Zone) -> usize {
        let mut largest = 0;
        for (addr, order) in zone.undivided() {
            // SAFETY: these blocks fill the zone, without overlapping, and nobody uses it.
            unsafe {
                zone.set(addr, FREE | order as u8);
                self.push(zone.block(addr), order);
            }
            largest = largest.max(order);
        }
        largest
    }

    /// Obtains a zone in which there is a block of an order.
    #[cold]
    fn grow(&mut self, order: usize) -> Option<()> {
        if order > MAX_ORDER {
            return None;
        }
        if self.grow_once(order).is_none() {
            if order >= HOPELESS || self.release_unused() == 0 {
                return None;
            }
            self.grow_once(order)?;
        }
        Some(())
    }

    fn grow_once(&mut self, order: usize) -> Option<()> {
        let size = size_of_order(order);
        let held = self.source.held();
        let wished = held.next_power_of_two().clamp(LEAST_GROWTH, MOST_GROWTH);
        let least = region_for(size);
        // Twice the size, aligned to that: the upper half is one block. Of a source that gives whole
        // pages, and mostly only wherever they are used, that costs addresses, not memory.
        let aligned = wished.max(2 * size.max(LEAST_REGION));
        let region = if self.source.page_size() > LEAST {
            self.source.grow(aligned, aligned)
        } else {
            Err(OutOfMemory)
        };
        let region = region
            .or_else(|_| grow_between(&mut self.source, least, wished, GRANULE))
            // With luck less will do.
            .or_else(|_| self.source.grow(region_for(size / 2).max(size + LEAST_REGION), GRANULE))
            .ok()?;
        // SAFETY: the backend just gave the region, which is long enough for a zone.
        unsafe {
            if self.adopt(region) >= order {
                return Some(());
            }
            self.release(&*self.zones);
        }
        None
    }

    /// Takes an empty zone out, and gives its region back. What the backend does not take is a zone again.
    ///
    /// # Safety
    ///
    /// The zone is ours, has no block in use, and is not referred to any more.
    unsafe fn release(&mut self, zone: &Zone) -> usize {
        let (region, zeroed) = (zone.region(), zone.zeroed.get());
        // SAFETY: the caller promises a zone of which nobody uses anything.
        unsafe {
            self.remove(zone);
            self.give_back(region, zeroed)
        }
    }

    /// Takes a zone and its blocks out of all lists.
    ///
    /// # Safety
    ///
    /// The zone is ours and has no block in use.
    unsafe fn remove(&mut self, zone: &Zone) {
        for near in self.near.iter_mut().filter(|near| ptr::eq(**near, zone)) {
            *near = ptr::null();
        }
        if ptr::eq(self.reserve, zone) {
            self.reserve = ptr::null();
        }
        if ptr::eq(self.zones, zone) {
            self.zones = zone.next.get();
        } else if let Some(before) = self.zones().find(|other| ptr::eq(other.next.get(), zone)) {
            before.next.set(zone.next.get());
        }
        for (addr, order) in zone.undivided() {
            // SAFETY: where no block is in use, all buddies are merged, and these are the free blocks.
            unsafe { self.unlink(zone.block(addr), order) };
        }
    }

    /// Gives a region back whose zone is in no list. What the backend does not take is a zone again.
    ///
    /// # Safety
    ///
    /// The region is ours, and used by nobody.
    unsafe fn give_back(&mut self, region: Region, was_zeroed: bool) -> usize {
        // SAFETY: the caller promises a region that nobody uses; what is left of it is ours still.
        unsafe {
            let taken = self.source.shrink(region);
            let left = region.size - taken;
            if left >= LEAST_REGION {
                self.adopt(Region { size: left, ..region });
                (*self.zones).zeroed.set(was_zeroed);
            }
            taken
        }
    }

    /// The last block of a zone was freed: gives the zone back, or keeps it in reserve.
    #[cold]
    #[inline(never)]
    fn emptied(&mut self, zone: &Zone) {
        let unused = |zone: *const Zone| {
            // SAFETY: `reserve` is one of our zones, or null.
            unsafe { zone.as_ref() }.is_some_and(|zone| zone.used.get() == 0)
        };
        let has_reserve = !ptr::eq(self.reserve, zone) && unused(self.reserve);
        let limit = (self.source.held() / 8).max(RESERVE);
        // Where memory does not come zeroed, a new zone costs clearing its table.
        let cheap = zone.region().size <= limit || !zone.zeroed.get();
        if cheap && !has_reserve {
            self.reserve = zone;
        } else {
            // SAFETY: the zone has no block in use, and the caller is done with it.
            unsafe { self.release(zone) };
        }
    }

    /// Gives back all zones without a block in use.
    fn release_unused(&mut self) -> usize {
        let mut pile = Pile::new();
        let mut zeroed = true;
        // SAFETY: the list holds zones of ours; those that are piled up are in no list.
        unsafe {
            for zone in self.zones() {
                if zone.used.get() == 0 {
                    let region = zone.region();
                    zeroed &= zone.zeroed.get();
                    self.remove(zone);
                    pile.push(region);
                }
            }
            pile.sort();
            let mut taken = 0;
            while let Some(region) = pile.pop() {
                taken += self.give_back(region, zeroed);
            }
            taken
        }
    }

    // ---- Blocks ---------------------------------------------------------------------------------

    /// A block of an order, and up to where its memory may be other than zero.
    #[inline(always)]
    fn take(&mut self, order: usize) -> Option<(NonNull<u8>, usize)> {
        if self.available >> order == 0 {
            self.grow(order)?;
        }
        let from = order + (self.available >> order).trailing_zeros() as usize;
        let block = NonNull::new(*self.list(from))?.cast::<u8>();
        let addr = block.addr().get();
        let zone = self.note_zone_of(addr)?;
        // SAFETY: the block is the first in its list. Its upper halves, each of an order whose list is empty
        // still, become free blocks.
        unsafe {
            let next = block.cast::<Node>().read().next;
            *self.list(from) = next;
            if let Some(next) = next.as_mut() {
                next.previous = ptr::null_mut();
            } else {
                self.available &= !(1 << from);
            }
            for half in (order..from).rev() {
                let upper = addr + size_of_order(half);
                zone.set(upper, FREE | half as u8);
                let node = block.add(size_of_order(half)).cast::<Node>();
                node.write(Node { next: ptr::null_mut(), previous: ptr::null_mut() });
                *self.list(half) = node.as_ptr();
            }
            self.available |= (1 << from) - (1 << order);
            zone.set(addr, USED | order as u8);
        }
        let end = addr + size_of_order(order);
        zone.used.set(zone.used.get() + size_of_order(order));
        let fresh = zone.fresh.get();
        zone.fresh.set(fresh.max(end));
        let dirty_to = fresh.min(end).max(addr + NODE);
        Some((block, dirty_to))
    }

    /// Frees a block in use, and merges it with its buddy as long as that is free too.
    ///
    /// # Safety
    ///
    /// A block of this order in use begins at the address, in this zone.
    #[inline(always)]
    unsafe fn give(&mut self, zone: &Zone, mut addr: usize, mut order: usize) {
        let used = zone.used.get() - size_of_order(order);
        zone.used.set(used);
        loop {
            let buddy = addr ^ size_of_order(order);
            // SAFETY: read only where the zone holds the buddy's first byte.
            if !zone.holds(buddy) || unsafe { zone.get(buddy) } != FREE | order as u8 {
                break;
            }
            // SAFETY: a free block of this order begins at the buddy's address, so it is in the list. Where it
            // is fresh, all that is not zero in it is its node.
            unsafe {
                let block = zone.block(buddy);
                self.unlink(block, order);
                if buddy >= zone.fresh.get() {
                    block.write_bytes(0, NODE);
                }
                zone.set(addr.max(buddy), MERGED);
            }
            addr = addr.min(buddy);
            order += 1;
        }
        // SAFETY: the merged block is in no list.
        unsafe {
            zone.set(addr, FREE | order as u8);
            self.push(zone.block(addr), order);
        }
        if used == 0 {
            self.emptied(zone);
        }
    }

    /// The zone and the order of a block in use that is given back. Tolerates any address.
    #[inline(always)]
    fn find<'zone>(&mut self, block: NonNull<u8>) -> Result<(&'zone Zone, usize), HeapError> {
        let addr = block.addr().get();
        if let Some(zone) = self.note_zone_of(addr)
            && addr & (LEAST - 1) == 0
        {
            // SAFETY: the zone holds the address.
            let entry = unsafe { zone.get(addr) };
            if entry & USED != 0 {
                return Ok((zone, order_in(entry)));
            }
        }
        Err(self.misused(addr))
    }

    /// Says what is wrong with an address at which no block in use begins.
    #[cold]
    #[inline(never)]
    fn misused(&mut self, addr: usize) -> HeapError {
        self.misuses += 1;
        let double = addr & (LEAST - 1) == 0
            && self.zone_of(addr).is_some_and(|zone| {
                // SAFETY: the zone holds the address.
                match unsafe { zone.get(addr) } {
                    // A block began here. It was freed; if its memory serves another now, that is another
                    // matter.
                    MERGED => zone.enclosing(addr).is_some_and(|entry| entry & FREE != 0),
                    entry => entry & FREE != 0,
                }
            });
        if double { HeapError::DoubleFree(addr) } else { HeapError::InvalidFree(addr) }
    }

    /// Tries to make a block in use one of a larger order by taking in its buddies, each of them free.
    ///
    /// # Safety
    ///
    /// A block of the order `from` in use begins at the address, in this zone.
    unsafe fn extend(&mut self, zone: &Zone, addr: usize, from: usize, to: usize) -> bool {
        if to > MAX_ORDER || addr & (size_of_order(to) - 1) != 0 {
            return false;
        }
        let free = (from..to).all(|order| {
            let buddy = addr + size_of_order(order);
            // SAFETY: read only where the zone holds the buddy's first byte.
            zone.holds(buddy) && unsafe { zone.get(buddy) } == FREE | order as u8
        });
        if !free {
            return false;
        }
        for order in from..to {
            let buddy = addr + size_of_order(order);
            // SAFETY: found to be a free block, which is in the list.
            unsafe {
                self.unlink(zone.block(buddy), order);
                zone.set(buddy, MERGED);
            }
        }
        // SAFETY: the zone holds the block.
        unsafe { zone.set(addr, USED | to as u8) };
        zone.used.set(zone.used.get() + size_of_order(to) - size_of_order(from));
        zone.fresh.set(zone.fresh.get().max(addr + size_of_order(to)));
        true
    }

    /// Makes a block in use one of a smaller order, and its upper halves free blocks.
    ///
    /// # Safety
    ///
    /// A block of the order `from` in use begins at the address, in this zone.
    unsafe fn reduce(&mut self, zone: &Zone, addr: usize, from: usize, to: usize) {
        for half in (to..from).rev() {
            let upper = addr + size_of_order(half);
            // SAFETY: the upper half is within the block, and used by nobody any more; its buddy is in use.
            unsafe {
                zone.set(upper, FREE | half as u8);
                self.push(zone.block(upper), half);
            }
        }
        // SAFETY: the zone holds the block.
        unsafe { zone.set(addr, USED | to as u8) };
        zone.used.set(zone.used.get() + size_of_order(to) - size_of_order(from));
    }

    fn check_zone(&self, zone: &Zone, counts: &mut [usize; ORDERS]) -> Result<(), Broken> {
        let (mut reached, mut used, mut used_to) = (zone.start(), 0, 0);
        for (addr, entry) in zone.blocks() {
            let order = order_in(entry);
            let is_used = entry & USED != 0;
            ensure(is_used != (entry & FREE != 0), "a block is in use or free", addr)?;
            ensure(order <= MAX_ORDER, "a block is of some order", addr)?;
            let size = size_of_order(order);
            ensure(addr & (size - 1) == 0, "a block begins at a multiple of its size", addr)?;
            ensure(size <= zone.end() - addr, "entries lead from block to block", addr)?;
            // A sample of what may be very much, as below.
            for inner in (addr + LEAST..addr + size).step_by(LEAST).take(64 * SAMPLE) {
                // SAFETY: the zone holds the block.
                let entry = unsafe { zone.get(inner) };
                ensure(entry == 0 || entry == MERGED, "within a block begins no other", inner)?;
            }
            if is_used {
                used += size;
                used_to = addr + size;
            } else {
                counts[order] += 1;
                let buddy = addr ^ size;
                // SAFETY: read only where the zone holds the buddy.
                let free = zone.holds(buddy) && unsafe { zone.get(buddy) } == entry;
                ensure(!free, "no two buddies are both free", addr)?;
            }
            let from = if is_used { addr } else { addr + NODE }.max(zone.fresh.get());
            for at in (from..addr + size).step_by(size_of::<usize>()).take(SAMPLE) {
                // SAFETY: the zone holds the block, and all memory from `fresh` on is initialized.
                let word = unsafe { zone.block(at).cast::<usize>().read() };
                ensure(word == 0, "fresh memory is zero, but for nodes", at)?;
            }
            reached = addr + size;
        }
        ensure(reached == zone.end(), "blocks fill their zone", reached)?;
        ensure(used == zone.used.get(), "`used` is the sum of the blocks in use", zone.start())?;
        ensure(used_to <= zone.fresh.get(), "no block in use is fresh", used_to)
    }

    fn check_lists(&self, mut counts: [usize; ORDERS]) -> Result<(), Broken> {
        for (order, count) in counts.iter_mut().enumerate() {
            let (mut at, mut previous) = (self.lists[order], ptr::null_mut());
            ensure(
                (self.available >> order & 1 != 0) != at.is_null(),
                "`available` says which lists hold a block",
                order,
            )?;
            while !at.is_null() {
                ensure(*count > 0, "a list holds each free block once", at.addr())?;
                *count -= 1;
                let zone = self.zones().find(|zone| zone.holds(at.addr()));
                // SAFETY: read only where a zone holds the address.
                let entry = zone.map_or(0, |zone| unsafe { zone.get(at.addr()) });
                ensure(
                    entry == FREE | order as u8,
                    "what is in a list is a free block of its order",
                    at.addr(),
                )?;
                // SAFETY: a free block begins with its node.
                let node = unsafe { &*at };
                ensure(node.previous == previous, "lists are doubly linked", at.addr())?;
                previous = at;
                at = node.next;
            }
            ensure(*count == 0, "every free block is in the list of its order", order)?;
        }
        Ok(())
    }
}

// SAFETY: blocks of one zone do not overlap, for each begins at a multiple of its size and entries lead from
// one to the next; a block is in use or in a list, never both; each is as aligned as it is long.
unsafe impl<B: HeapBackend> Engine for BuddyHeap<B> {
    #[inline]
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        if layout.align() > Self::LIMITS.max_align {
            return None;
        }
        self.take(order_for(layout.size(), layout.align())).map(|(block, _)| block)
    }

    #[inline]
    fn allocate_zeroed(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        if layout.align() > Self::LIMITS.max_align {
            return None;
        }
        let (block, dirty_to) = self.take(order_for(layout.size(), layout.align()))?;
        // SAFETY: the block is that long.
        unsafe { block.write_bytes(0, (dirty_to - block.addr().get()).min(layout.size())) };
        Some(block)
    }

    #[inline]
    unsafe fn deallocate(&mut self, block: NonNull<u8>) -> Result<(), HeapError> {
        let (zone, order) = self.find(block)?;
        // SAFETY: found to be a block in use.
        unsafe { self.give(zone, block.addr().get(), order) };
        Ok(())
    }

    /// Stays where the block is: to shrink always, to grow where the buddies above it are free.
    #[inline]
    unsafe fn reallocate(
        &mut self,
        block: NonNull<u8>,
        layout: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, HeapError> {
        let (zone, order) = self.find(block)?;
        if new_size > isize::MAX as usize {
            return Err(HeapError::OutOfMemory);
        }
        let addr = block.addr().get();
        let wanted = order_for(new_size, layout.align());
        // SAFETY: found to be a block in use; the caller promises the rest.
        unsafe {
            if wanted < order {
                self.reduce(zone, addr, order, wanted);
                return Ok(block);
            }
            if wanted == order || self.extend(zone, addr, order, wanted) {
                return Ok(block);
            }
            reallocate_by_moving(self, block, layout, new_size)
        }
    }

    #[inline]
    unsafe fn usable_size(&self, block: NonNull<u8>) -> usize {
        let addr = block.addr().get();
        let zone = self.zone_of(addr);
        // SAFETY: the zone holds the address.
        zone.map_or(0, |zone| size_of_order(order_in(unsafe { zone.get(addr) })))
    }

    /// Gives back zones without a block in use, and discards whole pages inside free blocks.
    fn trim(&mut self) -> usize {
        let mut given = self.release_unused();
        let page = self.source.page_size();
        for zone in self.zones() {
            for (addr, entry) in zone.blocks() {
                // Not the page with the node, and nothing that was never used.
                let end = (addr + size_of_order(order_in(entry)))
                    .min(zone.fresh.get().next_multiple_of(page));
                if entry & FREE == 0 || addr & (page - 1) != 0 || end <= addr + page {
                    continue;
                }
                // SAFETY: within a free block, of which nobody needs more than the node.
                unsafe {
                    let (start, size) = (zone.block(addr).add(page), end - addr - page);
                    if self.source.discard(Region { start, size, zeroed: false }) {
                        given += size;
                    }
                }
            }
        }
        given
    }

    fn stats(&self) -> Stats {
        let counts = self.source.counts();
        let mut stats = Stats {
            footprint: counts.held(),
            peak_footprint: counts.high_water,
            regions: self.zones().count(),
            grows: counts.grows,
            shrinks: counts.shrinks,
            misuses: self.misuses,
            ..Stats::default()
        };
        self.walk(&mut |block| stats.count(block));
        // Heads and tables.
        stats.overhead = stats.footprint - stats.live_bytes - stats.free_bytes;
        stats
    }

    fn walk(&self, visit: &mut dyn FnMut(BlockInfo)) {
        for zone in self.zones() {
            for (address, entry) in zone.blocks() {
                let info = BlockInfo {
                    address,
                    size: size_of_order(order_in(entry)),
                    overhead: 0,
                    state: BlockState::Used,
                    next_free: None,
                };
                if entry & USED != 0 {
                    visit(info);
                } else {
                    // SAFETY: a free block begins with its node.
                    let next = unsafe { zone.block(address).cast::<Node>().read().next };
                    let next_free = NonNull::new(next).map(|next| next.addr().get());
                    visit(BlockInfo { state: BlockState::Free, next_free, ..info });
                }
            }
        }
    }

    fn check(&self) -> Result<(), Broken> {
        let (mut held, mut counts) = (0, [0; ORDERS]);
        for zone in self.zones() {
            held += zone.region().size;
            self.check_zone(zone, &mut counts)?;
        }
        ensure(held == self.source.held(), "the regions' sizes add up", held)?;
        for &near in self.near.iter().filter(|near| !near.is_null()) {
            let known = self.zones().any(|zone| ptr::eq(zone, near));
            ensure(known, "what is remembered of addresses is a zone", near.addr())?;
        }
        self.check_lists(counts)
    }
}

impl<B: HeapBackend> Drop for BuddyHeap<B> {
    fn drop(&mut self) {
        let mut pile = Pile::new();
        // SAFETY: nobody uses a block of a heap that is dropped, so no region is in use.
        unsafe {
            while let Some(zone) = self.zones.as_ref() {
                self.zones = zone.next.get();
                pile.push(zone.region());
            }
            pile.sort();
            while let Some(region) = pile.pop() {
                self.source.shrink(region);
            }
        }
    }
}
