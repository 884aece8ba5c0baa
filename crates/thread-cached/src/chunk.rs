//! Chunks: what the heap takes from its backend at a time, and what it knows of their pages.
//!
//! A chunk is as long as it is aligned, and divided into pages. Its first pages hold an *entry* of four bytes for each
//! page, which says what the page serves, and a *descriptor*, of which only those at the heads of runs are used.
//! [`Table`] says for every unit of the address space, as long as a chunk, whether it is one; so for any address at
//! all, two loads that do not depend on each other tell what it is.
//!
//! Invariants:
//!
//! * an entry is that of a slab (its class and its owner's number) for every page of a slab, or for the first of a slab
//!   that is a single object, and for no other page; [`LARGE`] for the first page of a large block, and [`ASIDE`] for that
//!   of a run that a thread keeps, and for no other; [`DIRTY`] or [`CLEAN`] for the first and the last page of a free run,
//!   and never for those of a run in use; pages between them, and the last one if it is the chunk's, have any of the kinds
//!   but [`LARGE`] and [`ASIDE`], or zero, which no pages have that are the head's;
//! * runs follow each other without a gap; the header of each head's descriptor has its size; behind the last one
//!   stands a header of zero.

use core::array;
use core::ptr::{self, NonNull};
use core::slice;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering::Relaxed};

use heapwright_core::{FreeBlock, Region};

use crate::classes::{ALL, CLASSES, PAGE, PAGE_SHIFT, SHARING};
use crate::local::Local;
use crate::pages::{BEFORE_BLOCK, Mapping};
use crate::shown::Shown;

/// What a page serves: a class and an owner's number above it, or one of the kinds below.
pub(crate) type Entry = u32;

/// The bits of the class, or of the kind.
pub(crate) const KIND: u32 = 0xFF;
/// The first page of a large block.
pub(crate) const LARGE: Entry = 0xF0;
/// Another page of a large block.
pub(crate) const INSIDE: Entry = 0xF1;
/// The first page of a run that serves nothing, and that a thread keeps.
pub(crate) const ASIDE: Entry = 0xF4;
/// A free run that may hold anything, and is probably present in memory.
pub(crate) const DIRTY: Entry = 0xF2;
/// A free run that was never used, or was discarded: not present in memory.
pub(crate) const CLEAN: Entry = 0xF3;

/// The entry of the pages of a slab.
pub(crate) const fn slab_entry(class: usize, owner: u32) -> Entry {
    (owner << 8) | class as u32
}

/// The class of a slab, by the entry of its pages; none for any other entry.
pub(crate) fn slab_class(entry: Entry) -> Option<usize> {
    let class = (entry & KIND) as usize;
    (entry > KIND && class < ALL).then_some(class)
}

/// Whether an entry is that of the first page of a block of whole pages: a large one, or the object of a large class.
pub(crate) fn is_whole(entry: Entry) -> bool {
    entry == LARGE || slab_class(entry).is_some_and(|class| (SHARING..CLASSES).contains(&class))
}

/// The length of a descriptor in bytes: what a page is in the eyes of a policy.
pub(crate) const DESC: usize = size_of::<Desc>();

/// The bit that marks the header of a run in use, as the block engine marks blocks.
const USED: usize = 1;

/// Bytes of what the kernel makes a huge page.
pub(crate) const HUGE: usize = 2 << 20;
/// Pages of it.
pub(crate) const HUGE_PAGES: usize = HUGE / PAGE;
/// How many there are in the longest chunk.
pub(crate) const HUGE_PARTS: usize = (1 << CHUNK_SHIFT) / HUGE;
/// The binary logarithm of the length of a chunk, where the backend has that much.
pub(crate) const CHUNK_SHIFT: u32 = 25;

/// Bits that the descriptor of a slab has room for.
pub(crate) const WORDS: usize = 8;

/// What is known of a run of pages, at its head. A policy sees a free one as a block of as many descriptors as it has
/// pages. What it says of a slab is the slab's owner's to write.
#[repr(C, align(128))]
pub(crate) struct Desc {
    /// The size of the run as a policy sees it, and [`USED`].
    header: usize,
    /// The policy's node of a free run; the neighbours of a slab in its list; the next of a run that a thread keeps.
    pub(crate) next: *mut Desc,
    pub(crate) previous: *mut Desc,
    /// The owner of a slab.
    pub(crate) owner: AtomicPtr<Local>,
    /// Free objects of a slab: how many of its bits are set.
    pub(crate) free: u16,
    /// How many objects a slab has.
    pub(crate) capacity: Shown<u16>,
    /// Of each page of a slab, how many pages it is from the first.
    pub(crate) delta: Shown<u8>,
    /// Whether a slab is in the list of those with free objects.
    pub(crate) listed: bool,
    /// Whether all objects of a slab were taken, and another slab looked for then.
    pub(crate) exhausted: Shown<u8>,
    /// Of the last page of a free run, how many pages it has.
    pub(crate) foot: u32,
    /// One bit an object of a slab, set where it is free.
    pub(crate) bits: [Shown<u64>; WORDS],
}

impl Desc {
    /// Pages of the run. The rest of its descriptor may be another thread's to write.
    ///
    /// # Safety
    ///
    /// It is the head of a run, and the lock of the page heap is held, or the run is the caller's.
    pub(crate) unsafe fn pages(this: NonNull<Self>) -> usize {
        // SAFETY: the caller promises a descriptor.
        (unsafe { (*this.as_ptr()).header } & !15) / DESC
    }

    /// Whether the run serves anything.
    pub(crate) fn used(&self) -> bool {
        self.header & USED != 0
    }

    /// The bits of a slab.
    ///
    /// # Safety
    ///
    /// It is a slab.
    pub(crate) unsafe fn bits<'a>(slab: NonNull<Self>) -> &'a [Shown<u64>] {
        // SAFETY: the caller promises a slab, which has no more objects than there is room for bits.
        unsafe {
            let words = Self::capacity(slab).div_ceil(64);
            slice::from_raw_parts((&raw const (*slab.as_ptr()).bits).cast(), words)
        }
    }

    /// How many objects a slab has.
    ///
    /// # Safety
    ///
    /// It is a slab.
    pub(crate) unsafe fn capacity(slab: NonNull<Self>) -> usize {
        // SAFETY: the caller promises a slab.
        unsafe { (*slab.as_ptr()).capacity.look().into() }
    }

    /// How many objects of a slab are free: by its bits, which others may look at, while its owner may be at work.
    ///
    /// # Safety
    ///
    /// It is a slab.
    pub(crate) unsafe fn free_by_bits(slab: NonNull<Self>) -> usize {
        // SAFETY: the caller promises a slab.
        unsafe { Self::bits(slab) }.iter().map(|word| word.look().count_ones() as usize).sum()
    }

    /// Whether half of a slab's objects at least are in use or at hand, as far as its bits say.
    ///
    /// # Safety
    ///
    /// It is a slab.
    pub(crate) unsafe fn is_taken(slab: NonNull<Self>) -> bool {
        // SAFETY: the caller promises a slab.
        unsafe { 2 * Self::free_by_bits(slab) <= Self::capacity(slab) }
    }

    /// Whether all of a slab's objects were taken at some time, so that all of its pages were touched, probably.
    ///
    /// # Safety
    ///
    /// It is a slab.
    pub(crate) unsafe fn was_exhausted(slab: NonNull<Self>) -> bool {
        // SAFETY: the caller promises a slab.
        unsafe { (*slab.as_ptr()).exhausted.look() != 0 }
    }

    /// Marks the run as one of `pages` pages in use.
    pub(crate) fn mark_used(&mut self, pages: usize) {
        self.header = (pages * DESC) | USED;
    }
}

/// The run behind a free block, in the eyes of a policy.
pub(crate) fn desc_of(block: FreeBlock) -> NonNull<Desc> {
    block.start().cast()
}

/// The free block that stands for a run.
///
/// # Safety
///
/// The run is the page heap's.
pub(crate) unsafe fn block_of(desc: NonNull<Desc>, pages: usize) -> FreeBlock {
    // SAFETY: a descriptor begins with the header and a node of two words.
    unsafe { FreeBlock::lay(desc.cast(), pages * DESC) }
}

/// The head of a chunk, at its first byte.
pub(crate) struct Chunk {
    /// The chunk taken before this one.
    pub(crate) next: *mut Chunk,
    /// What the backend gave.
    pub(crate) region: Region,
    /// The descriptors.
    descs: NonNull<Desc>,
    /// How many pages it has, those of the head among them.
    pub(crate) pages: u32,
    /// The first page that is not the head's.
    pub(crate) first: u32,
    /// Pages that serve something.
    pub(crate) used: u32,
    /// To which parts of it that a huge page could serve the heap offers one: a bit for each.
    pub(crate) huge: u32,
    /// To which it would if they were not dear.
    pub(crate) dear: u32,
    /// Which may have none, whoever offered it.
    pub(crate) withdrawn: u32,
    /// How many pages of each such part are those of clean runs.
    pub(crate) clean: [u16; HUGE_PARTS],
}

/// Where the entries begin.
const ENTRIES: usize = 128;
const _: () = assert!(size_of::<Chunk>() <= ENTRIES);

impl Chunk {
    /// Where the descriptors begin, in a chunk of so many pages.
    const fn descs(pages: usize) -> usize {
        (ENTRIES + pages * size_of::<Entry>()).next_multiple_of(DESC)
    }

    /// Lays out a chunk in a region of `size` bytes, aligned to as much. All its pages but the head's are one run,
    /// which is in no index yet.
    ///
    /// # Safety
    ///
    /// The region was just given.
    pub(crate) unsafe fn make(region: Region, size: usize, next: *mut Self) -> NonNull<Self> {
        let pages = size / PAGE;
        let head = Self::descs(pages) + (pages + 1) * DESC;
        let chunk = region.start.cast::<Self>();
        // SAFETY: the head lies within the region, which is ours.
        unsafe {
            if !region.zeroed {
                ptr::write_bytes(region.start.as_ptr(), 0, head);
            }
            let first = head.div_ceil(PAGE) as u32;
            let descs = region.start.add(Self::descs(pages)).cast();
            let pages = pages as u32;
            let (used, huge, dear, withdrawn) = (0, 0, 0, 0);
            let end = |part: usize| ((part * HUGE_PAGES) as u32).clamp(first, pages);
            let clean = array::from_fn(|part| (end(part + 1) - end(part)) as u16);
            chunk.write(Self {
                next,
                region,
                descs,
                pages,
                first,
                used,
                huge,
                dear,
                withdrawn,
                clean,
            });
        }
        chunk
    }

    /// The least size of a chunk that has `pages` pages to give, as a number of pages.
    pub(crate) const fn enough_for(pages: usize) -> usize {
        let mut all = pages + 1;
        while (Self::descs(all) + (all + 1) * DESC).div_ceil(PAGE) + pages > all {
            all += 1;
        }
        all
    }

    /// The most pages that a chunk of 2 to the power of `shift` bytes has to give.
    pub(crate) const fn room(shift: u32) -> usize {
        let pages = (1 << shift) / PAGE;
        pages - (Self::enough_for(pages) - pages)
    }

    /// Whether nothing is in use of a part that a huge page could serve.
    pub(crate) fn is_untouched(&self, part: usize) -> bool {
        usize::from(self.clean[part]) == HUGE_PAGES
    }

    /// Whether nothing is in use, nor probably present, but the head.
    pub(crate) fn is_clean(&self) -> bool {
        let clean: u32 = self.clean.iter().map(|&pages| u32::from(pages)).sum();
        clean == self.pages - self.first
    }

    /// Whether the heap offers a huge page for a page.
    pub(crate) fn is_huge(&self, page: usize) -> bool {
        self.huge & (1 << (page * PAGE / HUGE)) != 0
    }

    /// Whether it would if they were not dear.
    pub(crate) fn is_dear(&self, page: usize) -> bool {
        self.dear & (1 << (page * PAGE / HUGE)) != 0
    }

    /// The descriptor of a page; of the end, for the number of pages.
    ///
    /// # Safety
    ///
    /// `chunk` is one and has that page.
    #[inline(always)]
    pub(crate) unsafe fn desc(chunk: NonNull<Self>, page: usize) -> NonNull<Desc> {
        // SAFETY: the caller promises the page; the descriptors lie within the head.
        unsafe { chunk.as_ref().descs.add(page) }
    }

    /// The chunk that a descriptor is of, where chunks are of 2 to the power of `shift` bytes.
    ///
    /// # Safety
    ///
    /// It is that of a chunk of this length.
    #[inline(always)]
    pub(crate) unsafe fn of(desc: NonNull<Desc>, shift: u32) -> NonNull<Self> {
        let addr = desc.addr().get();
        // SAFETY: descriptors lie in the head of their chunk, which begins at a multiple of its length.
        unsafe { desc.cast::<u8>().sub(addr - (addr >> shift << shift)).cast() }
    }

    /// The first page of the slab that a page is of.
    ///
    /// # Safety
    ///
    /// The page is one of a slab.
    #[inline(always)]
    pub(crate) unsafe fn head(chunk: NonNull<Self>, page: usize) -> usize {
        // SAFETY: the caller promises the page.
        page - usize::from(unsafe { (*Self::desc(chunk, page).as_ptr()).delta.look() })
    }

    /// The number of the page that a descriptor is of.
    ///
    /// # Safety
    ///
    /// The descriptor is of this chunk.
    #[inline(always)]
    pub(crate) unsafe fn page_of(chunk: NonNull<Self>, desc: NonNull<Desc>) -> usize {
        // SAFETY: the caller promises a descriptor of this chunk.
        let first = unsafe { Self::desc(chunk, 0) };
        (desc.addr().get() - first.addr().get()) / DESC
    }

    /// The first byte of a page.
    ///
    /// # Safety
    ///
    /// As [`desc`](Self::desc).
    #[inline(always)]
    pub(crate) unsafe fn page(chunk: NonNull<Self>, page: usize) -> NonNull<u8> {
        // SAFETY: the caller promises the page.
        unsafe { chunk.cast::<u8>().add(page << PAGE_SHIFT) }
    }

    /// The entry of a page.
    ///
    /// # Safety
    ///
    /// As [`desc`](Self::desc).
    #[inline(always)]
    pub(crate) unsafe fn entry<'a>(chunk: NonNull<u8>, page: usize) -> &'a AtomicU32 {
        // SAFETY: the caller promises the page; entries lie within the head, and are only ever used as atomics.
        unsafe { chunk.add(ENTRIES).cast::<AtomicU32>().add(page).as_ref() }
    }

    /// Sets the entries of pages.
    ///
    /// # Safety
    ///
    /// As [`desc`](Self::desc).
    pub(crate) unsafe fn mark(chunk: NonNull<Self>, page: usize, pages: usize, entry: Entry) {
        for page in page..page + pages {
            // SAFETY: the caller promises the pages.
            unsafe { Self::entry(chunk.cast(), page) }.store(entry, Relaxed);
        }
    }
}

/// Which units of the address space are the heap's.
///
/// A unit's word is the address of the chunk that it is, which is its own; or the address of the head of a mapping,
/// where a block with a mapping of its own begins in it; or zero. Its mapping begins where a unit does, or it is a unit
/// long at least, so none has two.
#[repr(C)]
pub(crate) struct Table {
    /// The binary logarithm of a unit.
    pub(crate) shift: u32,
    /// The number of the first unit.
    pub(crate) low: usize,
    /// How many units there are.
    pub(crate) units: usize,
    /// The table that this one replaced. Threads may still be reading it.
    pub(crate) older: *mut Table,
    /// What this one lies in, if it has a region of its own.
    pub(crate) region: Option<Region>,
}

impl Table {
    /// Bytes that a table of so many units takes.
    pub(crate) const fn bytes(units: usize) -> usize {
        size_of::<Self>() + units * size_of::<usize>()
    }

    #[inline(always)]
    pub(crate) unsafe fn unit<'a>(table: *const Self, unit: usize) -> &'a AtomicPtr<u8> {
        // SAFETY: the caller promises a unit of the table; the words lie behind it and are only used as atomics.
        unsafe { &*table.add(1).cast::<AtomicPtr<u8>>().add(unit) }
    }

    /// The word of the unit that an address is in.
    ///
    /// # Safety
    ///
    /// `table` is one.
    #[inline(always)]
    pub(crate) unsafe fn word(table: *const Self, addr: usize) -> *mut u8 {
        // SAFETY: the caller promises a table, and the unit is one of it.
        unsafe {
            let unit = (addr >> (*table).shift).wrapping_sub((*table).low);
            if unit >= (*table).units {
                return ptr::null_mut();
            }
            Self::unit(table, unit).load(Relaxed)
        }
    }

    /// The chunk that an address is in, and its page there.
    ///
    /// # Safety
    ///
    /// `table` is one.
    #[inline(always)]
    pub(crate) unsafe fn find(table: *const Self, addr: usize) -> Option<(NonNull<u8>, usize)> {
        // SAFETY: the caller promises a table. The first unit of the address space is none of a table's, so a unit's own
        // address is not null.
        unsafe {
            let number = addr >> (*table).shift;
            let unit = number.wrapping_sub((*table).low);
            if unit >= (*table).units {
                return None;
            }
            let base = number << (*table).shift;
            let word = Self::unit(table, unit).load(Relaxed);
            if word.addr() != base {
                return None;
            }
            Some((NonNull::new_unchecked(word), (addr - base) >> PAGE_SHIFT))
        }
    }

    /// The mapping of the block at an address.
    ///
    /// # Safety
    ///
    /// `table` is one.
    pub(crate) unsafe fn mapping(table: *const Self, addr: usize) -> Option<NonNull<Mapping>> {
        // SAFETY: the caller promises a table. A word that is not the unit's own address is that of a mapping.
        let word = unsafe { Self::word(table, addr) };
        let known = word.addr() != 0 && word.addr() == addr.wrapping_sub(BEFORE_BLOCK);
        if known { NonNull::new(word.cast()) } else { None }
    }
}
