//! Objects of one size: each allocation and each free takes the same few steps, whatever happened before.
//!
//! The oldest refinement of allocation there is (Douglas T. Ross, *The AED free storage package*,
//! Communications of the ACM 10 (8), 1967, has zones of one size), and what kernels allocate their structures
//! with (Jeff Bonwick, *The Slab Allocator*, USENIX Summer 1994).
//!
//! * **Good at:** what it is made for. O(1) with a small constant; no header; nothing is lost to
//!   fragmentation, since any free object serves any request; objects lie close together.
//! * **Bad at:** anything else. A request for more than `SIZE` bytes, or for more alignment than `SIZE`
//!   has by nature (the largest power of two that divides it, rounded up to 16), is refused; one for less
//!   takes a whole object.
//!
//! Costs: one bit an object and the head of its slab, well below 1 % over mappings; a slab has up to 4096
//! objects, of 256 KiB together over mappings, sixteen objects or 4 KiB over an arena. A slab without an
//! object in use goes back to the backend, but for one in eight that is kept in reserve.
//!
//! A pointer that is freed is looked up in a table of the slabs, O(1) on average, and then in the slab's
//! bits: double frees and frees of what never was an object are found, and any address at all may be
//! handed in.
//!
//! ```
//! use core::alloc::Layout;
//! use heapwright_core::Strategy;
//! use heapwright_pool::Pool;
//!
//! /// As much as a node of our tree needs.
//! static NODES: Pool<48> = Pool::new();
//!
//! let node = NODES.allocate(Layout::new::<[u64; 5]>()).expect("there is memory");
//! // SAFETY: in use, and not used again.
//! unsafe { NODES.deallocate(node)? };
//! // SAFETY: what it is given is checked.
//! assert!(unsafe { NODES.deallocate(node) }.is_err());
//! assert!(NODES.allocate(Layout::new::<[u64; 7]>()).is_none());
//! # Ok::<(), heapwright_core::HeapError>(())
//! ```
//!
//! It is a `GlobalAlloc` too, though a program for which it serves as such is a rare one:
//!
//! ```no_run
//! use heapwright_pool::Pool;
//!
//! #[global_allocator]
//! static HEAP: Pool<4096> = Pool::new();
//! # fn main() {}
//! ```
//!
//! # Invariants
//!
//! Those that the modules `slab` and `table` state, and:
//!
//! * a slab other than the current one is in the list `partial` if it has objects in use and others not, in
//!   the list `reserve` if it has none in use, and in no list if all are in use;
//! * the current slab is in no list.
#![no_std]

mod slab;
mod table;

use core::alloc::Layout;
use core::ptr::{self, NonNull};

#[cfg(not(target_os = "linux"))]
use heapwright_backends::Arena;
#[cfg(target_os = "linux")]
use heapwright_backends::Mmap;
use heapwright_backends::{Counting, Pile};
use heapwright_core::{
    BlockInfo, BlockState, Broken, Engine, FutexMutex, GRANULE, HeapBackend, HeapError, Limits,
    Locked, New, Region, Stats, ensure,
};

use crate::slab::{MOST, Plan, Slab};
use crate::table::Table;

/// A pool of objects of `SIZE` bytes over the backend `B`, under the lock `L`.
#[cfg(target_os = "linux")]
pub type Pool<const SIZE: usize = 64, B = Mmap, L = FutexMutex> = Locked<L, PoolHeap<SIZE, B>>;

/// A pool of objects of `SIZE` bytes over the backend `B`, under the lock `L`.
#[cfg(not(target_os = "linux"))]
pub type Pool<const SIZE: usize = 64, B = Arena<'static>, L = FutexMutex> =
    Locked<L, PoolHeap<SIZE, B>>;

/// The pool without a lock.
#[derive(Debug)]
pub struct PoolHeap<const SIZE: usize, B: HeapBackend> {
    /// The slab that serves.
    current: *mut Slab,
    plan: Plan,
    table: Table,
    partial: *mut Slab,
    reserve: *mut Slab,
    /// How many slabs are in reserve.
    reserved: usize,
    misuses: usize,
    /// The bytes of all slabs and of the table are what it holds.
    source: Counting<B>,
}

/// The size of slabs over mappings, where that is not too much or too little.
const SLAB: usize = 256 << 10;

/// A slab has at least so many objects, if there is that much memory.
const FEW: usize = 16;

// SAFETY: all pointers lead into regions that belong to the heap alone and go where it goes.
unsafe impl<const SIZE: usize, B: HeapBackend + Send> Send for PoolHeap<SIZE, B> {}

impl<const SIZE: usize, B: HeapBackend + New> New for PoolHeap<SIZE, B> {
    const NEW: Self = Self::over(B::NEW);
}

impl<const SIZE: usize, B: HeapBackend> PoolHeap<SIZE, B> {
    /// From one object to the next.
    const STRIDE: usize = {
        assert!(SIZE > 0 && SIZE <= 1 << 26, "objects have between 1 byte and 64 MiB");
        SIZE.next_multiple_of(GRANULE)
    };

    /// What every object is aligned to.
    const ALIGN: usize = 1 << Self::STRIDE.trailing_zeros();

    /// An empty pool over a backend, which is first asked for memory by the first request.
    pub const fn over(backend: B) -> Self {
        Self {
            current: ptr::null_mut(),
            plan: Plan::NONE,
            table: Table::EMPTY,
            partial: ptr::null_mut(),
            reserve: ptr::null_mut(),
            reserved: 0,
            misuses: 0,
            source: Counting::over(backend),
        }
    }

    /// The backend, to look at.
    pub const fn backend(&self) -> &B {
        self.source.inner()
    }

    // ---- Slabs ----------------------------------------------------------------------------------

    /// Another slab becomes the current one, one with free objects.
    #[cold]
    #[inline(never)]
    fn next_slab(&mut self) -> Option<NonNull<Slab>> {
        let slab = if let Some(slab) = NonNull::new(self.partial) {
            // SAFETY: the first of the list is in the list.
            unsafe { Self::unlink(&mut self.partial, slab) };
            slab
        } else if let Some(slab) = NonNull::new(self.reserve) {
            // SAFETY: as above.
            unsafe { Self::unlink(&mut self.reserve, slab) };
            self.reserved -= 1;
            slab
        } else {
            self.grow()?
        };
        self.current = slab.as_ptr();
        Some(slab)
    }

    /// A new slab, in no list.
    fn grow(&mut self) -> Option<NonNull<Slab>> {
        self.table.reserve(&mut self.source)?;
        let region =
            if self.table.count == 0 { self.grow_first()? } else { self.grow_slab().ok()? };
        // SAFETY: the region was just given, of the size and the alignment of a slab.
        unsafe {
            if self.table.count > 0 {
                // Of a pool with one slab, most of that may never be used.
                self.source.populate(Region { size: region.size.min(SLAB), ..region });
            }
            let slab = Slab::make(region, &self.plan);
            self.table.add(slab.as_ptr().expose_provenance());
            Some(slab)
        }
    }

    fn grow_slab(&mut self) -> Result<Region, heapwright_core::OutOfMemory> {
        self.source.grow(self.plan.size, self.plan.size)
    }

    /// The first slab: its size, which all will have, is what is best, or what there is memory for.
    fn grow_first(&mut self) -> Option<Region> {
        let page = self.source.page_size();
        let few = (FEW * Self::STRIDE).next_power_of_two();
        // Not more than its bits can tell of, nor much more than a small source may have.
        let most = (MOST * Self::STRIDE / 2 + 1).next_power_of_two();
        let mut size = SLAB.min(most).min((page * 64).max(4096)).max(few).max(page);
        loop {
            self.plan = Plan::of(size, Self::STRIDE, Self::ALIGN)?;
            if let Ok(region) = self.grow_slab() {
                return Some(region);
            }
            size /= 2;
            if size < page.max(1024) {
                return None;
            }
        }
    }

    /// # Safety
    ///
    /// The slab is in no list.
    unsafe fn link(list: &mut *mut Slab, slab: NonNull<Slab>) {
        let slab = slab.as_ptr();
        // SAFETY: the caller promises a slab; what is in a list is one.
        unsafe {
            (*slab).next = *list;
            (*slab).previous = ptr::null_mut();
            if let Some(next) = (*list).as_mut() {
                next.previous = slab;
            }
        }
        *list = slab;
    }

    /// # Safety
    ///
    /// The slab is in this list.
    unsafe fn unlink(list: &mut *mut Slab, slab: NonNull<Slab>) {
        // SAFETY: what is in a list has neighbours in the list.
        unsafe {
            let Slab { next, previous, .. } = slab.read();
            if let Some(next) = next.as_mut() {
                next.previous = previous;
            }
            match previous.as_mut() {
                Some(previous) => previous.next = next,
                None => *list = next,
            }
        }
    }

    /// A slab other than the current one has free objects now, or none in use any more.
    #[cold]
    #[inline(never)]
    unsafe fn relist(&mut self, slab: NonNull<Slab>, was_full: bool) {
        // SAFETY: the caller promises a slab other than the current one.
        unsafe {
            if slab.as_ref().used > 0 {
                return Self::link(&mut self.partial, slab);
            }
            if !was_full {
                Self::unlink(&mut self.partial, slab);
            }
            if self.reserved <= self.table.count / 8 || self.release(slab) == 0 {
                Self::link(&mut self.reserve, slab);
                self.reserved += 1;
            }
        }
    }

    /// Gives back a slab that is in no list, and says how many bytes were taken. One that the backend does
    /// not take stays as it is.
    ///
    /// # Safety
    ///
    /// It is a slab of ours, in no list, with no object in use.
    unsafe fn release(&mut self, slab: NonNull<Slab>) -> usize {
        // SAFETY: the caller promises a slab that nobody uses.
        let taken = unsafe { self.source.shrink(Slab::region(slab)) };
        if taken > 0 {
            // Backends take the whole of what they gave at once, or nothing of it.
            self.table.remove(slab.addr().get());
        }
        taken
    }

    // ---- Objects --------------------------------------------------------------------------------

    /// A free object, and whether it was never in use and is zero.
    #[inline(always)]
    fn take(&mut self) -> Option<(NonNull<u8>, bool)> {
        let mut slab = NonNull::new(self.current).or_else(|| self.next_slab())?;
        // SAFETY: the current slab is a slab, and so is the next one, which has free objects.
        unsafe {
            let (index, first) = match Slab::take(slab, self.plan.capacity) {
                Some(taken) => taken,
                None => {
                    slab = self.next_slab()?;
                    Slab::take(slab, self.plan.capacity)?
                }
            };
            let object = slab.cast::<u8>().add(self.plan.first + index * Self::STRIDE);
            Some((object, first && slab.as_ref().zeroed))
        }
    }

    /// The slab and the number of an object in use. Tolerates any address.
    #[inline(always)]
    fn find(&self, object: NonNull<u8>) -> Result<(NonNull<Slab>, usize), HeapError> {
        let addr = object.addr().get();
        let base = addr & !(self.plan.size - 1);
        let invalid = Err(HeapError::InvalidFree(addr));
        if base == 0 || (base != self.current.addr() && !self.table.has(base)) {
            return invalid;
        }
        let offset = (addr - base).wrapping_sub(self.plan.first);
        let index = offset / Self::STRIDE;
        // SAFETY: there is a slab at the base, and the address is in it.
        unsafe {
            let slab = object.sub(addr - base).cast::<Slab>();
            if index * Self::STRIDE != offset || index >= slab.as_ref().carved {
                return invalid;
            }
            if Slab::is_freed(slab, index) {
                return Err(HeapError::DoubleFree(addr));
            }
            Ok((slab, index))
        }
    }

    /// Counts a misuse on its way out.
    #[cold]
    fn misused(&mut self, error: HeapError) -> HeapError {
        self.misuses += 1;
        error
    }

    fn slabs(&self) -> impl Iterator<Item = NonNull<Slab>> {
        self.table.slabs().map(NonNull::cast)
    }

    /// Takes the current slab for one like the others.
    fn retire_current(&mut self) {
        let Some(slab) = NonNull::new(self.current) else { return };
        self.current = ptr::null_mut();
        // SAFETY: the current slab is a slab, and in no list.
        unsafe {
            match slab.as_ref().used {
                0 => {
                    Self::link(&mut self.reserve, slab);
                    self.reserved += 1;
                }
                used if used < self.plan.capacity => Self::link(&mut self.partial, slab),
                _ => {}
            }
        }
    }

    /// Gives back all slabs in reserve, and the table if there is no slab but those.
    fn release_reserve(&mut self) -> usize {
        let mut pile = Pile::new();
        let mut taken = 0;
        let mut list = core::mem::replace(&mut self.reserve, ptr::null_mut());
        self.reserved = 0;
        // SAFETY: slabs in reserve are used by nobody, nor is the table without a slab. Each is taken out of
        // where it is before it is piled up; what is not taken is made a slab again.
        unsafe {
            while let Some(slab) = NonNull::new(list) {
                list = slab.as_ref().next;
                self.table.remove(slab.addr().get());
                pile.push(Slab::region(slab));
            }
            if self.table.count == 0 {
                // A contiguous source takes them in the order of their addresses only.
                self.table.clear(&mut pile);
            }
            pile.sort();
            while let Some(mut region) = pile.pop() {
                let given = self.source.shrink(region);
                taken += given;
                region.size -= given;
                if region.size == 0 {
                    continue;
                }
                let is_slab =
                    region.size == self.plan.size && region.addr() & (self.plan.size - 1) == 0;
                if is_slab && self.table.reserve(&mut self.source).is_some() {
                    let slab = Slab::make(region, &self.plan);
                    self.table.add(slab.as_ptr().expose_provenance());
                    Self::link(&mut self.reserve, slab);
                    self.reserved += 1;
                } else {
                    self.table.leave(region);
                }
            }
        }
        if self.table.count == 0 {
            self.plan = Plan::NONE;
        }
        taken
    }

    fn check_list(&self, list: *mut Slab, wanted: impl Fn(&Slab) -> bool) -> Result<usize, Broken> {
        let (mut at, mut previous, mut count) = (list, ptr::null_mut(), 0);
        while !at.is_null() {
            ensure(self.table.has(at.addr()), "what is in a list is a slab", at.addr())?;
            // SAFETY: the table has it, so it is a slab.
            let slab = unsafe { &*at };
            ensure(slab.previous == previous, "lists are doubly linked", at.addr())?;
            ensure(wanted(slab), "a slab is in the list that it belongs to", at.addr())?;
            ensure(at != self.current, "the current slab is in no list", at.addr())?;
            ensure(count < self.table.count, "a list holds each slab once", at.addr())?;
            count += 1;
            previous = at;
            at = slab.next;
        }
        Ok(count)
    }
}

// SAFETY: objects follow each other within slabs, which are regions that belong to the heap; one that is
// handed out was not in use. Slabs are aligned to their size and the first object to what the stride is
// a multiple of.
unsafe impl<const SIZE: usize, B: HeapBackend> Engine for PoolHeap<SIZE, B> {
    const LIMITS: Limits = Limits { max_size: SIZE, max_align: Self::ALIGN };

    #[inline]
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        if !Self::LIMITS.admit(layout) {
            return None;
        }
        self.take().map(|(object, _)| object)
    }

    #[inline]
    fn allocate_zeroed(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        if !Self::LIMITS.admit(layout) {
            return None;
        }
        let (object, fresh) = self.take()?;
        if !fresh {
            // SAFETY: an object is at least that long.
            unsafe { object.write_bytes(0, layout.size()) };
        }
        Some(object)
    }

    #[inline]
    unsafe fn deallocate(&mut self, block: NonNull<u8>) -> Result<(), HeapError> {
        let (slab, index) = match self.find(block) {
            Ok(found) => found,
            Err(error) => return Err(self.misused(error)),
        };
        // SAFETY: found to be an object in use.
        unsafe {
            let was_full = Slab::give(slab, index, self.plan.capacity);
            if (was_full || slab.as_ref().used == 0) && slab.as_ptr() != self.current {
                self.relist(slab, was_full);
            }
        }
        Ok(())
    }

    /// Stays where the object is, or is refused.
    #[inline]
    unsafe fn reallocate(
        &mut self,
        block: NonNull<u8>,
        _: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, HeapError> {
        match self.find(block) {
            Ok(_) if new_size <= SIZE => Ok(block),
            Ok(_) => Err(HeapError::OutOfMemory),
            Err(error) => Err(self.misused(error)),
        }
    }

    #[inline]
    unsafe fn usable_size(&self, _: NonNull<u8>) -> usize {
        Self::STRIDE
    }

    /// Gives back all slabs without an object in use.
    fn trim(&mut self) -> usize {
        self.retire_current();
        self.release_reserve()
    }

    fn stats(&self) -> Stats {
        let counts = self.source.counts();
        let mut stats = Stats {
            footprint: counts.held(),
            peak_footprint: counts.high_water,
            regions: self.table.count,
            grows: counts.grows,
            shrinks: counts.shrinks,
            misuses: self.misuses,
            ..Stats::default()
        };
        for slab in self.slabs() {
            // SAFETY: the table holds slabs.
            stats.live_blocks += unsafe { slab.as_ref().used };
        }
        stats.free_blocks = self.table.count * self.plan.capacity - stats.live_blocks;
        stats.live_bytes = stats.live_blocks * Self::STRIDE;
        stats.free_bytes = stats.free_blocks * Self::STRIDE;
        stats.largest_free = if stats.free_blocks > 0 { Self::STRIDE } else { 0 };
        // Heads, bits, the table, and what is left at the ends of slabs.
        stats.overhead = stats.footprint - stats.live_bytes - stats.free_bytes;
        stats
    }

    fn walk(&self, visit: &mut dyn FnMut(BlockInfo)) {
        for slab in self.slabs() {
            for index in 0..self.plan.capacity {
                // SAFETY: the table holds slabs, each with so many objects.
                let free = unsafe { index >= slab.as_ref().carved || Slab::is_freed(slab, index) };
                visit(BlockInfo {
                    address: slab.addr().get() + self.plan.first + index * Self::STRIDE,
                    size: Self::STRIDE,
                    overhead: 0,
                    state: if free { BlockState::Free } else { BlockState::Used },
                    next_free: None,
                });
            }
        }
    }

    fn check(&self) -> Result<(), Broken> {
        let capacity = self.plan.capacity;
        ensure(self.table.is_sound(), "every slab is found in the table", self.table.count)?;
        let (mut held, mut partial, mut reserve) = (self.table.held(), 0, 0);
        for slab in self.slabs() {
            let addr = slab.addr().get();
            // SAFETY: the table holds slabs.
            let (head, freed, region) =
                unsafe { (slab.as_ref(), Slab::count_freed(slab, capacity), Slab::region(slab)) };
            ensure(head.carved <= capacity, "a slab has no more objects than fit", addr)?;
            ensure(freed.is_some(), "a slab's words tell of its bits", addr)?;
            ensure(
                head.carved == head.used + freed.unwrap_or(0),
                "an object that was handed out is in use or free",
                addr,
            )?;
            held += region.size;
            if slab.as_ptr() != self.current {
                partial += usize::from(head.used > 0 && head.used < capacity);
                reserve += usize::from(head.used == 0);
            }
        }
        ensure(
            self.current.is_null() || self.table.has(self.current.addr()),
            "the current slab is one",
            self.current.addr(),
        )?;
        let in_partial =
            self.check_list(self.partial, |slab| slab.used > 0 && slab.used < capacity)?;
        ensure(in_partial == partial, "a slab with free objects is in the list of those", partial)?;
        let in_reserve = self.check_list(self.reserve, |slab| slab.used == 0)?;
        ensure(in_reserve == reserve, "a slab that is not in use is in reserve", reserve)?;
        ensure(in_reserve == self.reserved, "slabs in reserve are counted", reserve)?;
        ensure(held == self.source.held(), "the regions' sizes add up", held)
    }
}

impl<const SIZE: usize, B: HeapBackend> Drop for PoolHeap<SIZE, B> {
    fn drop(&mut self) {
        let mut pile = Pile::new();
        // SAFETY: nobody uses an object of a heap that is dropped, so no slab is in use.
        unsafe {
            for slab in self.table.slabs() {
                pile.push(Slab::region(slab.cast()));
            }
            self.table.clear(&mut pile);
            pile.sort();
            while let Some(region) = pile.pop() {
                self.source.shrink(region);
            }
        }
    }
}
