//! A thread's part of a heap: the objects that it keeps at hand, and the slabs that it owns.
//!
//! Objects of each class are kept at hand in a stack of pointers, the *bin*; what was freed last is used first. No
//! object is read or written to be kept, so what a program writes into freed memory breaks nothing here, and memory
//! that is cold stays so. A bin that is empty is filled from a slab, half of it at a time and by rising address; one
//! that is full gives its older half back, each object to the slab that it is from: its bit is set there. Objects in
//! slabs of other threads go home in parcels.
//!
//! Invariants:
//!
//! * a bin's index is between its class's sentinel, which is null, and `full`; what lies between is an object of the
//!   class, which no slab counts as free; those of an orphan are empty, and parcels at hand are of slabs of ours;
//! * a slab of ours that has free objects is the current one of its class or in its list; one that has none is the
//!   current one or nowhere; `free` is how many of its bits are set;
//! * only the owner touches any of this, but for the mailbox; of an orphan, whoever holds the lock of the page heap.

use core::mem::offset_of;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use heapwright_core::HeapError;

use crate::chunk::{Chunk, Desc, Entry, INSIDE, KIND, Table, slab_entry};
use crate::classes::{ALL, CLASSES, PAGE, PARCELS, SLOTS, TABLE};
use crate::mailbox::{Mailbox, PARCEL, Parcel};
use crate::pages::Run;

/// The objects of a class that are at hand.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Bin {
    /// The index of the topmost one in the slots.
    top: u16,
    /// That index in a bin that is full.
    full: u16,
}

/// So often objects are taken before time is looked at.
const TICKS: u32 = 128;

/// A slab, with what it takes to find its objects.
struct Place {
    start: usize,
    bytes: usize,
    size: usize,
    reciprocal: u64,
    bits: *mut u64,
    desc: NonNull<Desc>,
    /// How many objects were freed in it, and the lowest word with one of them.
    freed: u16,
    lowest: *mut u64,
}

impl Place {
    /// The slab that a page is of.
    ///
    /// # Safety
    ///
    /// The page is one of a slab of this class.
    #[inline]
    unsafe fn of(class: usize, chunk: NonNull<Chunk>, page: usize) -> Self {
        // SAFETY: the caller promises a page of a slab.
        unsafe {
            let fixed = TABLE.get_unchecked(class);
            let head = page - usize::from(Chunk::desc(chunk, page).as_ref().delta);
            let desc = Chunk::desc(chunk, head);
            let start = Chunk::page(chunk, head);
            let size = fixed.size as usize;
            let bits = (&raw mut (*desc.as_ptr()).bits).cast();
            Self {
                start: start.addr().get(),
                bytes: usize::from(desc.as_ref().capacity) * size,
                size,
                reciprocal: u64::from(fixed.reciprocal),
                bits,
                desc,
                freed: 0,
                lowest: ptr::without_provenance_mut(usize::MAX),
            }
        }
    }

    /// The word and the bit of the object at an address.
    #[inline(always)]
    fn bit(&self, addr: usize) -> Result<(*mut u64, u64), HeapError> {
        let offset = addr.wrapping_sub(self.start);
        let index = ((offset as u64).wrapping_mul(self.reciprocal) >> 32) as usize;
        if offset >= self.bytes || index * self.size != offset {
            return Err(HeapError::InvalidFree(addr));
        }
        Ok((self.bits.wrapping_add(index / 64), 1 << (index % 64)))
    }

    /// Sets the bit of an object. The slab knows when it is [`put_down`](Self::put_down).
    unsafe fn free(&mut self, addr: usize) -> Result<(), HeapError> {
        let (word, bit) = self.bit(addr)?;
        // SAFETY: the caller promises a slab of its own; the word is one of its bits.
        unsafe {
            if *word & bit != 0 {
                return Err(HeapError::DoubleFree(addr));
            }
            *word |= bit;
        }
        self.freed += 1;
        self.lowest = self.lowest.min(word);
        Ok(())
    }

    /// Sets the bits of objects from `at` on, up to the first that lies elsewhere.
    ///
    /// # Errors
    ///
    /// The object at `at` is free already, or none.
    #[inline(always)]
    unsafe fn free_all(
        &mut self,
        objects: *const *mut u8,
        at: &mut usize,
        count: usize,
    ) -> Result<(), HeapError> {
        // SAFETY: the caller promises that many objects, and a slab of its own.
        unsafe {
            let Self { start, bytes, size, reciprocal, bits, .. } = *self;
            let (first, mut lowest, mut result) = (*at, usize::MAX, Ok(()));
            while *at < count {
                let addr = objects.add(*at).read().addr();
                let offset = addr.wrapping_sub(start);
                if offset >= bytes {
                    break;
                }
                let index = ((offset as u64).wrapping_mul(reciprocal) >> 32) as usize;
                let word = bits.add(index / 64);
                let bit = 1 << (index % 64);
                if index * size != offset || *word & bit != 0 {
                    result = self.free(addr);
                    break;
                }
                *word |= bit;
                lowest = lowest.min(index);
                *at += 1;
            }
            self.freed += (*at - first) as u16;
            if *at > first {
                self.lowest = self.lowest.min(bits.add(lowest / 64));
            }
            result
        }
    }

    /// Lets the slab know what was freed in it, and says whether it is to be listed anew: it has its first free objects,
    /// or all are free.
    #[inline]
    unsafe fn put_down(&self) -> bool {
        if self.freed == 0 {
            return false;
        }
        // SAFETY: the caller promises a slab of its own; `lowest` is one of its words.
        unsafe {
            let desc = &mut *self.desc.as_ptr();
            let lowest = self.lowest.offset_from_unsigned(self.bits) as u16;
            desc.hint = desc.hint.min(lowest);
            desc.free += self.freed;
            desc.free == self.freed || desc.free == desc.capacity
        }
    }
}

/// The slabs of a class.
#[derive(Clone, Copy)]
struct Slabs {
    /// From which the bin is filled.
    current: *mut Desc,
    /// Those with free objects, the one listed first first.
    first: *mut Desc,
    last: *mut Desc,
}

/// Objects of other threads' slabs, before they go home.
struct Outgoing {
    count: usize,
    bytes: usize,
    objects: [*mut u8; PARCEL],
    /// The entry of each one's page when it was freed.
    entries: [Entry; PARCEL],
}

/// How many pages a part keeps, so that classes that come and go do not take and give pages all the time.
const STASH: usize = 16;

/// How many objects a bin holds until it was too small.
const FIRST: u16 = 8;

/// Objects go home when so many bytes of them are together.
const OUTGOING_BYTES: usize = 64 << 10;

/// Where a run of pages for a slab comes from, and goes back to.
pub(crate) trait Runs {
    /// Whether freed objects are kept at hand at all.
    const AT_HAND: bool;
    /// Whether objects go home in parcels. One who looks after orphans sends them as they are: else the parcels
    /// would have to go home too, in others, for ever.
    const PACKS: bool;
    /// A slab for a class: one that was abandoned, already the caller's, or a new run.
    fn slab(&mut self, class: usize, local: NonNull<Local>) -> Option<NewSlab>;
    /// Takes back the run of a slab.
    ///
    /// # Safety
    ///
    /// Nobody uses it.
    unsafe fn release(&mut self, run: Run);
    /// Where the newest table is.
    fn table(&mut self) -> *const Table;
    /// Tells of an object that was not what it should be.
    fn misuse(&mut self, error: HeapError);
}

/// What a class gets when it has no free object left.
pub(crate) enum NewSlab {
    /// Pages to be divided.
    Run(Run),
    /// A slab with free objects that another thread left.
    Adopted(NonNull<Desc>),
}

/// A thread's part of a heap.
#[repr(C)]
pub(crate) struct Local {
    /// The entry of the pages of its slabs, for class zero.
    pub(crate) tag: Entry,
    /// Whether the heap has no other part, so that every object is of a slab of ours.
    alone: AtomicBool,
    /// Whether the owner is in the middle of something.
    pub(crate) busy: bool,
    /// Whether the thread that owned it has ended; under the lock of the page heap.
    pub(crate) orphan: bool,
    /// How many objects are taken before time is looked at.
    ticks: u32,
    /// Bytes of a class that are kept at hand, at most.
    kept: u32,
    /// A table of the heap, perhaps not the newest.
    pub(crate) table: *const Table,
    bins: [Bin; ALL],
    slots: [*mut u8; SLOTS],
    classes: [Slabs; ALL],
    outgoing: Outgoing,
    /// Single pages that no slab needs any more, for the next one that does.
    stash: [Option<Run>; STASH],
    /// How many there are.
    stashed: usize,
    /// All parts of the heap.
    pub(crate) next: *mut Local,
    pub(crate) mailbox: Mailbox,
}

/// Pages of a part.
pub(crate) const PAGES: usize = size_of::<Local>().div_ceil(PAGE);
const _: () = assert!(PAGES <= 4, "a thread's part of a heap is small");
const _: () = assert!(offset_of!(Local, bins) < 64);

impl Local {
    /// Lays out a thread's part, with its number.
    ///
    /// # Safety
    ///
    /// `at` is a page of ours.
    pub(crate) unsafe fn make(
        at: NonNull<Self>,
        owner: u32,
        kept: u32,
        table: *const Table,
        next: *mut Self,
    ) {
        const NONE: Slabs =
            Slabs { current: ptr::null_mut(), first: ptr::null_mut(), last: ptr::null_mut() };
        let local = at.as_ptr();
        // SAFETY: the caller promises the page. Everything is written.
        unsafe {
            (&raw mut (*local).tag).write(slab_entry(0, owner));
            (&raw mut (*local).alone).write(AtomicBool::new(next.is_null()));
            (&raw mut (*local).busy).write(false);
            (&raw mut (*local).orphan).write(false);
            (&raw mut (*local).ticks).write(TICKS);
            (&raw mut (*local).kept).write(kept);
            (&raw mut (*local).table).write(table);
            (&raw mut (*local).slots).write_bytes(0, 1);
            (&raw mut (*local).classes).write([NONE; ALL]);
            (&raw mut (*local).outgoing).write_bytes(0, 1);
            (&raw mut (*local).stash).write([None; STASH]);
            (&raw mut (*local).stashed).write(0);
            (&raw mut (*local).next).write(next);
            (&raw mut (*local).mailbox).write(Mailbox::new());
            for (class, fixed) in TABLE.iter().enumerate() {
                let full = fixed.base + Self::most(at, class).min(FIRST);
                let bin = Bin { top: fixed.base, full };
                (&raw mut (*local).bins[class]).write(bin);
            }
        }
    }

    /// Makes it known that there is another part.
    ///
    /// # Safety
    ///
    /// It is a part.
    pub(crate) unsafe fn meet_another(local: NonNull<Self>) {
        // SAFETY: the caller promises a part.
        unsafe { (*local.as_ptr()).alone.store(false, Relaxed) };
    }

    /// Whether every object of the heap is of a slab of this part.
    ///
    /// # Safety
    ///
    /// The part is this thread's.
    #[inline(always)]
    pub(crate) unsafe fn is_alone(local: NonNull<Self>) -> bool {
        // SAFETY: the caller promises a part.
        unsafe { (*local.as_ptr()).alone.load(Relaxed) }
    }

    // ---- The fast paths -------------------------------------------------------------------------

    /// The object of a class that was freed last; none if none is at hand, or it is time to look at the time.
    ///
    /// # Safety
    ///
    /// `class` is one. The part is this thread's.
    #[inline(always)]
    pub(crate) unsafe fn pop(local: NonNull<Self>, class: usize) -> Option<NonNull<u8>> {
        // SAFETY: the caller promises class and part.
        unsafe {
            let (ticks, over) = (*local.as_ptr()).ticks.overflowing_sub(1);
            if over {
                return None;
            }
            (*local.as_ptr()).ticks = ticks;
            Self::take(local, class)
        }
    }

    /// The object of a class that was freed last, whatever the time.
    ///
    /// # Safety
    ///
    /// As [`pop`](Self::pop).
    #[inline(always)]
    pub(crate) unsafe fn take(local: NonNull<Self>, class: usize) -> Option<NonNull<u8>> {
        // SAFETY: the caller promises the class; the index is that of a slot.
        unsafe {
            let local = local.as_ptr();
            let bin = (&raw mut (*local).bins).cast::<Bin>().add(class);
            let top = (*bin).top;
            let slots = (&raw mut (*local).slots).cast::<*mut u8>();
            let object = NonNull::new(slots.add(usize::from(top)).read())?;
            (*bin).top = top - 1;
            Some(object)
        }
    }

    /// Keeps a freed object at hand, if the bin has room for it and it is not the one freed just before.
    ///
    /// # Safety
    ///
    /// `class` is one, and the object is of this class. The part is this thread's.
    #[inline(always)]
    pub(crate) unsafe fn push(local: NonNull<Self>, class: usize, object: NonNull<u8>) -> bool {
        // SAFETY: the caller promises the class; the index is that of a slot, and behind it is another one below `full`.
        unsafe {
            let local = local.as_ptr();
            let bin = (&raw mut (*local).bins).cast::<Bin>().add(class);
            let top = (*bin).top;
            let slot = (&raw mut (*local).slots).cast::<*mut u8>().add(usize::from(top));
            if slot.read() == object.as_ptr() || top == (*bin).full {
                return false;
            }
            slot.add(1).write(object.as_ptr());
            (*bin).top = top + 1;
            true
        }
    }

    /// As [`push`](Self::push), with room made if there is none.
    ///
    /// # Errors
    ///
    /// The same object was freed just before.
    ///
    /// # Safety
    ///
    /// As [`push`](Self::push).
    pub(crate) unsafe fn push_slowly<R: Runs>(
        local: NonNull<Self>,
        class: usize,
        object: NonNull<u8>,
        runs: &mut R,
    ) -> Result<(), HeapError> {
        // SAFETY: the caller promises class, object and part.
        unsafe {
            if Self::push(local, class, object) {
                return Ok(());
            }
            let bin = (*local.as_ptr()).bins[class];
            if bin.top == bin.full {
                let top = (*local.as_ptr()).slots[usize::from(bin.full)];
                if top != object.as_ptr() {
                    Self::flush(local, class, runs);
                    if Self::push(local, class, object) {
                        return Ok(());
                    }
                }
            }
            Err(HeapError::DoubleFree(object.addr().get()))
        }
    }

    /// What the page of an address serves; zero for an address of no chunk.
    ///
    /// # Safety
    ///
    /// The part is this thread's.
    #[inline(always)]
    pub(crate) unsafe fn entry(local: NonNull<Self>, addr: usize) -> Entry {
        // SAFETY: the table is one, and so is the chunk that it knows.
        unsafe {
            match Table::find((*local.as_ptr()).table, addr) {
                Some((chunk, page)) => Chunk::entry(chunk, page).load(Relaxed),
                None => 0,
            }
        }
    }

    /// Frees an object of a slab, if that takes no more than to keep it at hand or with those that go home.
    ///
    /// # Safety
    ///
    /// The part is this thread's.
    #[inline(always)]
    pub(crate) unsafe fn free_at_once(local: NonNull<Self>, block: NonNull<u8>) -> bool {
        // SAFETY: the caller promises the part; the class is that of the object.
        unsafe {
            let entry = Self::entry(local, block.addr().get());
            let class = (entry ^ (*local.as_ptr()).tag) as usize;
            if class < CLASSES {
                return Self::push(local, class, block);
            }
            Self::free_elsewhere_at_once(local, entry, block)
        }
    }

    /// Frees an object of another thread's slab, if there is room for it with those that go home.
    #[inline(never)]
    unsafe fn free_elsewhere_at_once(
        local: NonNull<Self>,
        entry: Entry,
        block: NonNull<u8>,
    ) -> bool {
        let class = (entry & KIND) as usize;
        if class >= CLASSES || entry <= KIND {
            return false;
        }
        // SAFETY: the caller promises the part.
        unsafe {
            let outgoing = &mut (*local.as_ptr()).outgoing;
            let again = outgoing.objects[..outgoing.count].last() == Some(&block.as_ptr());
            if outgoing.count + 1 >= PARCEL || outgoing.bytes > OUTGOING_BYTES || again {
                return false;
            }
            outgoing.objects[outgoing.count] = block.as_ptr();
            outgoing.entries[outgoing.count] = entry;
            outgoing.count += 1;
            outgoing.bytes += TABLE[class].size as usize;
        }
        true
    }

    /// The class of an object of ours, by its address; whether it is one at all is not asked. Anything else is none.
    ///
    /// # Safety
    ///
    /// The part is this thread's.
    #[inline(always)]
    pub(crate) unsafe fn own_class(local: NonNull<Self>, addr: usize) -> Option<usize> {
        // SAFETY: the caller promises the part.
        unsafe {
            let class = (Self::entry(local, addr) ^ (*local.as_ptr()).tag) as usize;
            (class < CLASSES).then_some(class)
        }
    }

    /// How many objects of a class are kept at hand, at most.
    unsafe fn most(local: NonNull<Self>, class: usize) -> u16 {
        // SAFETY: the caller promises a part.
        let kept = unsafe { (*local.as_ptr()).kept };
        TABLE[class].most.min((kept / TABLE[class].size).max(1) as u16)
    }

    // ---- Filling a bin --------------------------------------------------------------------------

    /// Whether it is time to look at the time; then it will be again after some more objects.
    ///
    /// # Safety
    ///
    /// The part is this thread's.
    pub(crate) unsafe fn is_time(local: NonNull<Self>) -> bool {
        // SAFETY: the caller promises its own part.
        unsafe {
            let over = (*local.as_ptr()).ticks == 0;
            if over {
                (*local.as_ptr()).ticks = TICKS;
            }
            over
        }
    }

    /// Fills the bin of a class, with a single object if so asked, and takes one.
    ///
    /// # Safety
    ///
    /// `class` is one. The part is this thread's.
    pub(crate) unsafe fn refill<R: Runs>(
        local: NonNull<Self>,
        class: usize,
        singly: bool,
        runs: &mut R,
    ) -> Option<NonNull<u8>> {
        // SAFETY: the caller promises class and part.
        unsafe {
            if !(*local.as_ptr()).mailbox.is_empty() {
                Self::receive(local, runs);
                if let Some(object) = Self::take(local, class) {
                    return Some(object);
                }
            }
            let (base, most) = (TABLE[class].base, Self::most(local, class));
            let bin = &mut (*local.as_ptr()).bins[class];
            let room = bin.full - base;
            let wanted = if singly { 1 } else { room.div_ceil(2) };
            bin.full = base + (room * 2).min(most);
            Self::fill(local, class, wanted, runs)?;
            Self::take(local, class)
        }
    }

    /// Puts up to `wanted` objects of a slab, at least one, into the empty bin of a class.
    unsafe fn fill<R: Runs>(
        local: NonNull<Self>,
        class: usize,
        wanted: u16,
        runs: &mut R,
    ) -> Option<()> {
        // SAFETY: the caller promises class and part.
        unsafe {
            let slab = Self::slab_with_free(local, class, runs)?;
            let desc = &mut *slab.as_ptr();
            let count = wanted.min(desc.free);
            let (first, words) = Self::bits(slab);
            let size = TABLE[class].size as usize;
            let base = TABLE[class].base;
            let slots = (&raw mut (*local.as_ptr()).slots).cast::<*mut u8>();
            // The lowest on top.
            let mut slot = slots.add(usize::from(base + count));
            let bottom = slots.add(usize::from(base));
            let mut word = usize::from(desc.hint);
            let start = Self::start(slab);
            while slot > bottom {
                let mut bits = first.add(word).read();
                let before = bits;
                while bits != 0 && slot > bottom {
                    let index = word * 64 + bits.trailing_zeros() as usize;
                    slot.write(start.as_ptr().add(index * size));
                    slot = slot.sub(1);
                    bits &= bits - 1;
                }
                if bits != before {
                    first.add(word).write(bits);
                }
                if bits == 0 {
                    word += 1;
                    if word >= words {
                        break;
                    }
                }
            }
            desc.hint = word.min(words - 1) as u16;
            desc.free -= count;
            (*local.as_ptr()).bins[class].top = base + count;
            Some(())
        }
    }

    /// The current slab of a class if it has a free object, or the next one.
    unsafe fn slab_with_free<R: Runs>(
        local: NonNull<Self>,
        class: usize,
        runs: &mut R,
    ) -> Option<NonNull<Desc>> {
        // SAFETY: the caller promises class and part; what is in a list is a slab.
        unsafe {
            let slabs = &raw mut (*local.as_ptr()).classes[class];
            if let Some(current) = NonNull::new((*slabs).current)
                && current.as_ref().free > 0
            {
                return Some(current);
            }
            let next = if let Some(first) = NonNull::new((*slabs).first) {
                Self::unlist(slabs, first);
                first
            } else {
                let put_aside =
                    if TABLE[class].pages == 1 { Self::from_stash(local) } else { None };
                match put_aside
                    .map_or_else(|| runs.slab(class, local), |run| Some(NewSlab::Run(run)))?
                {
                    NewSlab::Run(run) => Self::divide(local, class, run),
                    NewSlab::Adopted(slab) => slab,
                }
            };
            (*local.as_ptr()).table = runs.table();
            (*slabs).current = next.as_ptr();
            Some(next)
        }
    }

    /// Keeps the page of a slab that is none any more, or gives back its run.
    unsafe fn put_aside<R: Runs>(local: NonNull<Self>, run: Run, runs: &mut R) {
        // SAFETY: the caller promises its own part, and a run that nobody uses.
        unsafe {
            let stash = &mut (*local.as_ptr()).stash;
            let stashed = &mut (*local.as_ptr()).stashed;
            match stash.get_mut(*stashed) {
                Some(place) if run.pages == 1 && R::AT_HAND => {
                    // A pointer into it is refused from now on.
                    Chunk::mark(run.chunk, run.page, 1, INSIDE);
                    *place = Some(run);
                    *stashed += 1;
                }
                _ => runs.release(run),
            }
        }
    }

    /// A page that was kept.
    unsafe fn from_stash(local: NonNull<Self>) -> Option<Run> {
        // SAFETY: the caller promises its own part.
        unsafe {
            let local = local.as_ptr();
            (*local).stashed = (*local).stashed.checked_sub(1)?;
            (*local).stash[(*local).stashed].take()
        }
    }

    /// Makes a slab of a run: all its objects are free.
    unsafe fn divide(local: NonNull<Self>, class: usize, run: Run) -> NonNull<Desc> {
        let slab = run.desc();
        // SAFETY: the run was just given.
        unsafe {
            let capacity = run.pages * PAGE / TABLE[class].size as usize;
            let desc = &mut *slab.as_ptr();
            desc.owner.store(local.as_ptr(), Relaxed);
            desc.capacity = capacity as u16;
            desc.free = capacity as u16;
            desc.hint = 0;
            desc.listed = false;
            let (first, words) = Self::bits(slab);
            for word in 0..words {
                let here = (capacity - word * 64).min(64);
                first.add(word).write(u64::MAX >> (64 - here));
            }
            for page in 0..run.pages {
                (*Chunk::desc(run.chunk, run.page + page).as_ptr()).delta = page as u8;
            }
            let entry = (*local.as_ptr()).tag | class as u32;
            Chunk::mark(run.chunk, run.page, run.pages, entry);
        }
        slab
    }

    // ---- Emptying a bin -------------------------------------------------------------------------

    /// Gives the older half of a full bin back to the slabs, and has room for more from now on.
    ///
    /// # Safety
    ///
    /// `class` is one. The part is this thread's.
    unsafe fn flush<R: Runs>(local: NonNull<Self>, class: usize, runs: &mut R) {
        // SAFETY: the caller promises class and part.
        unsafe {
            let held = (*local.as_ptr()).bins[class].top - TABLE[class].base;
            Self::flush_some(local, class, usize::from(held.div_ceil(2)), runs);
            let (base, most) = (TABLE[class].base, Self::most(local, class));
            let bin = &mut (*local.as_ptr()).bins[class];
            bin.full = base + ((bin.full - base) * 2).min(most);
        }
    }

    /// Gives the `count` oldest objects of a bin back.
    unsafe fn flush_some<R: Runs>(local: NonNull<Self>, class: usize, count: usize, runs: &mut R) {
        // SAFETY: the caller promises class and part, and that the bin has that many.
        unsafe {
            let bottom = (&raw mut (*local.as_ptr()).slots)
                .cast::<*mut u8>()
                .add(usize::from(TABLE[class].base) + 1);
            let held = usize::from((*local.as_ptr()).bins[class].top);
            let rest = held - usize::from(TABLE[class].base) - count;
            // What is freed together mostly lies together: a slab is looked for when it is another one.
            let mut at = 0;
            while at < count {
                let Some(mut slab) = Self::place(local, class, bottom.add(at).read().addr()) else {
                    if let Some(object) = NonNull::new(bottom.add(at).read()) {
                        Self::send_home(local, class, object, runs);
                    }
                    at += 1;
                    continue;
                };
                let result = slab.free_all(bottom, &mut at, count);
                if slab.put_down()
                    && let Some(run) = Self::relist(local, class, slab.desc)
                {
                    Self::put_aside(local, run, runs);
                }
                if let Err(error) = result {
                    runs.misuse(error);
                    at += 1;
                }
            }
            ptr::copy(bottom.add(count), bottom, rest);
            (*local.as_ptr()).bins[class].top -= count as u16;
        }
    }

    /// The slab of an address, if it is one of this class and ours.
    #[inline]
    unsafe fn place(local: NonNull<Self>, class: usize, addr: usize) -> Option<Place> {
        // SAFETY: the caller promises its own part, whose table is one.
        unsafe {
            let (chunk, page) = Table::find((*local.as_ptr()).table, addr)?;
            let entry = Chunk::entry(chunk, page).load(Relaxed);
            if entry != (*local.as_ptr()).tag | class as u32 {
                return None;
            }
            Some(Place::of(class, chunk.cast(), page))
        }
    }

    /// Gives back everything that is at hand.
    ///
    /// # Safety
    ///
    /// The part is this thread's.
    pub(crate) unsafe fn flush_all<R: Runs>(local: NonNull<Self>, runs: &mut R) {
        let flush = |class: usize, runs: &mut R| {
            // SAFETY: the caller promises the part.
            unsafe {
                let count = usize::from((*local.as_ptr()).bins[class].top - TABLE[class].base);
                Self::flush_some(local, class, count, runs);
            }
        };
        // What is received may stay at hand, and what is flushed may have to be sent, which takes parcels.
        // SAFETY: as above.
        unsafe {
            Self::receive(local, runs);
            (0..CLASSES).for_each(|class| flush(class, runs));
            Self::send(local, runs);
            flush(PARCELS, runs);
        }
    }

    /// Gives an object back to its slab, here or at another thread's.
    pub(crate) unsafe fn send_home<R: Runs>(
        local: NonNull<Self>,
        class: usize,
        object: NonNull<u8>,
        runs: &mut R,
    ) {
        // SAFETY: the caller promises an object that was freed.
        unsafe {
            let addr = object.addr().get();
            let Some((chunk, page)) = Self::locate(local, addr, runs) else {
                return runs.misuse(HeapError::InvalidFree(addr));
            };
            let entry = Chunk::entry(chunk, page).load(Relaxed);
            if entry & KIND != class as u32 {
                // Its size was not the one that it was freed with.
                return runs.misuse(HeapError::InvalidFree(addr));
            }
            if entry == (*local.as_ptr()).tag | class as u32 {
                match Self::free(local, class, chunk.cast(), page, addr) {
                    Ok(None) => {}
                    Ok(Some(run)) => Self::put_aside(local, run, runs),
                    Err(error) => runs.misuse(error),
                }
            } else {
                if let Err(error) = Self::free_elsewhere(local, class, object, runs) {
                    runs.misuse(error);
                }
            }
        }
    }

    /// The chunk of an address, and its page there, by the newest table if need be.
    pub(crate) unsafe fn locate<R: Runs>(
        local: NonNull<Self>,
        addr: usize,
        runs: &mut R,
    ) -> Option<(NonNull<u8>, usize)> {
        // SAFETY: tables live as long as the heap.
        unsafe {
            Table::find((*local.as_ptr()).table, addr).or_else(|| {
                (*local.as_ptr()).table = runs.table();
                Table::find((*local.as_ptr()).table, addr)
            })
        }
    }

    /// Whether an address is that of an object in use, as far as its slab knows.
    ///
    /// # Errors
    ///
    /// It is free already, or no object.
    ///
    /// # Safety
    ///
    /// The page is one of a slab.
    pub(crate) unsafe fn verify(
        class: usize,
        chunk: NonNull<Chunk>,
        page: usize,
        addr: usize,
    ) -> Result<(), HeapError> {
        // SAFETY: the caller promises a page of a slab.
        unsafe {
            let (word, bit) = Place::of(class, chunk, page).bit(addr)?;
            if *word & bit == 0 { Ok(()) } else { Err(HeapError::DoubleFree(addr)) }
        }
    }

    /// Sets the bit of an object in a slab of ours. The slab's run, if it is to be given back.
    ///
    /// # Errors
    ///
    /// It is free already, or no object.
    ///
    /// # Safety
    ///
    /// The page is one of a slab of ours, or of an orphan's that we look after.
    unsafe fn free(
        local: NonNull<Self>,
        class: usize,
        chunk: NonNull<Chunk>,
        page: usize,
        addr: usize,
    ) -> Result<Option<Run>, HeapError> {
        // SAFETY: the caller promises a page of a slab.
        unsafe {
            let mut slab = Place::of(class, chunk, page);
            slab.free(addr)?;
            Ok(if slab.put_down() { Self::relist(local, class, slab.desc) } else { None })
        }
    }

    /// A slab has its first free object, or its last object has become free.
    #[cold]
    #[inline(never)]
    unsafe fn relist(local: NonNull<Self>, class: usize, slab: NonNull<Desc>) -> Option<Run> {
        // SAFETY: the caller promises a slab of ours.
        unsafe {
            let slabs = &raw mut (*local.as_ptr()).classes[class];
            if (*slabs).current == slab.as_ptr() {
                return None;
            }
            if slab.as_ref().free < slab.as_ref().capacity {
                Self::list(slabs, slab);
                return None;
            }
            if !slab.as_ref().listed {
                Self::list(slabs, slab);
            }
            Self::unlist(slabs, slab);
            Some(Self::run(slab))
        }
    }

    unsafe fn list(slabs: *mut Slabs, slab: NonNull<Desc>) {
        // SAFETY: the caller promises a slab in no list.
        unsafe {
            let desc = slab.as_ptr();
            (*desc).listed = true;
            (*desc).next = ptr::null_mut();
            (*desc).previous = (*slabs).last;
            match (*slabs).last.as_mut() {
                Some(last) => last.next = desc,
                None => (*slabs).first = desc,
            }
            (*slabs).last = desc;
        }
    }

    unsafe fn unlist(slabs: *mut Slabs, slab: NonNull<Desc>) {
        // SAFETY: the caller promises a slab of this list.
        unsafe {
            let desc = slab.as_ptr();
            (*desc).listed = false;
            match (*desc).previous.as_mut() {
                Some(previous) => previous.next = (*desc).next,
                None => (*slabs).first = (*desc).next,
            }
            match (*desc).next.as_mut() {
                Some(next) => next.previous = (*desc).previous,
                None => (*slabs).last = (*desc).previous,
            }
        }
    }

    /// The bits of a slab, and how many words they are.
    ///
    /// # Safety
    ///
    /// It is a slab.
    pub(crate) unsafe fn bits(slab: NonNull<Desc>) -> (*mut u64, usize) {
        // SAFETY: the caller promises a slab.
        unsafe {
            let words = usize::from(slab.as_ref().capacity).div_ceil(64);
            ((&raw mut (*slab.as_ptr()).bits).cast(), words)
        }
    }

    /// The chunk of a slab.
    unsafe fn chunk(slab: NonNull<Desc>) -> NonNull<Chunk> {
        // SAFETY: the caller promises a slab of a chunk; its owner's tables know how long chunks are.
        unsafe {
            let shift = (*(*slab.as_ref().owner.load(Relaxed)).table).shift;
            let base = slab.addr().get() >> shift << shift;
            slab.cast::<u8>().sub(slab.addr().get() - base).cast()
        }
    }

    /// The first byte of a slab.
    unsafe fn start(slab: NonNull<Desc>) -> NonNull<u8> {
        // SAFETY: the caller promises a slab.
        unsafe {
            let chunk = Self::chunk(slab);
            Chunk::page(chunk, Chunk::page_of(chunk, slab))
        }
    }

    /// The run of a slab.
    unsafe fn run(slab: NonNull<Desc>) -> Run {
        // SAFETY: the caller promises a slab.
        unsafe {
            let chunk = Self::chunk(slab);
            let page = Chunk::page_of(chunk, slab);
            Run { chunk, page, pages: slab.as_ref().pages(), zeroed: false }
        }
    }

    // ---- Other threads' objects -----------------------------------------------------------------

    /// Puts an object of another thread's slab with those that go home.
    ///
    /// # Errors
    ///
    /// The same object was put there just before.
    ///
    /// # Safety
    ///
    /// The object was freed, and is of that class. The part is this thread's.
    pub(crate) unsafe fn free_elsewhere<R: Runs>(
        local: NonNull<Self>,
        class: usize,
        object: NonNull<u8>,
        runs: &mut R,
    ) -> Result<(), HeapError> {
        // SAFETY: the caller promises object and part.
        unsafe {
            let entry = Self::entry(local, object.addr().get());
            let outgoing = &mut (*local.as_ptr()).outgoing;
            if outgoing.objects[..outgoing.count].last() == Some(&object.as_ptr()) {
                return Err(HeapError::DoubleFree(object.addr().get()));
            }
            outgoing.objects[outgoing.count] = object.as_ptr();
            outgoing.entries[outgoing.count] = entry;
            outgoing.count += 1;
            outgoing.bytes += TABLE[class].size as usize;
            if outgoing.count == PARCEL || outgoing.bytes > OUTGOING_BYTES {
                Self::send(local, runs);
            }
            Ok(())
        }
    }

    /// Sends home what has gathered: a parcel to each owner.
    pub(crate) unsafe fn send<R: Runs>(local: NonNull<Self>, runs: &mut R) {
        // SAFETY: the caller promises its own part. What gathers meanwhile gathers in the part anew.
        unsafe {
            let Outgoing { count, mut objects, mut entries, .. } =
                (&raw const (*local.as_ptr()).outgoing).read();
            let outgoing = &mut (*local.as_ptr()).outgoing;
            (outgoing.count, outgoing.bytes) = (0, 0);
            let table = runs.table();
            let mut left = count;
            while left > 0 {
                let number = entries[0] & !KIND;
                let owner = Self::owner(table, objects[0]);
                let parcel = if R::PACKS { Self::parcel(local, runs) } else { None };
                let (mut kept, mut packed) = (0, 0);
                for at in 0..left {
                    let (object, entry) = (objects[at], entries[at]);
                    if entry & !KIND != number {
                        (objects[kept], entries[kept]) = (object, entry);
                        kept += 1;
                    } else if let Some(parcel) = parcel {
                        (*parcel.as_ptr()).objects[packed] = object;
                        packed += 1;
                    } else if let Some(parcel) = NonNull::new(object.cast::<Parcel>())
                        && let Some(owner) = owner
                    {
                        // For want of memory an object is sent as it is: any is as long as the head of a parcel.
                        (*parcel.as_ptr()).count = 0;
                        owner.as_ref().mailbox.push(parcel);
                    }
                }
                left = kept;
                if let Some(parcel) = parcel
                    && let Some(owner) = owner
                {
                    (*parcel.as_ptr()).count = packed;
                    owner.as_ref().mailbox.push(parcel);
                }
            }
        }
    }

    /// An object of ours to put others into.
    unsafe fn parcel<R: Runs>(local: NonNull<Self>, runs: &mut R) -> Option<NonNull<Parcel>> {
        // SAFETY: the caller promises its own part. The bin is filled without looking into the mailbox.
        unsafe {
            if let Some(object) = Self::take(local, PARCELS) {
                return Some(object.cast());
            }
            let few = Self::most(local, PARCELS).min(4);
            Self::fill(local, PARCELS, few, runs)?;
            Self::take(local, PARCELS).map(NonNull::cast)
        }
    }

    /// The owner of the slab that an object is in.
    ///
    /// # Safety
    ///
    /// `table` is one of the heap; the address is that of an object, if it is in a chunk at all.
    pub(crate) unsafe fn owner(table: *const Table, object: *mut u8) -> Option<NonNull<Self>> {
        // SAFETY: the caller promises a freed object of a slab.
        unsafe {
            let (chunk, page) = Table::find(table, object.addr())?;
            let chunk = chunk.cast::<Chunk>();
            let head = page - usize::from(Chunk::desc(chunk, page).as_ref().delta);
            NonNull::new(Chunk::desc(chunk, head).as_ref().owner.load(Relaxed))
        }
    }

    /// Takes in what others left in the mailbox.
    ///
    /// # Safety
    ///
    /// The part is this thread's, or an orphan's that it looks after.
    pub(crate) unsafe fn receive<R: Runs>(local: NonNull<Self>, runs: &mut R) {
        // SAFETY: the caller promises the part. Parcels are ours once taken.
        unsafe {
            let mut parcel = (*local.as_ptr()).mailbox.take_all();
            while let Some(here) = NonNull::new(parcel) {
                parcel = here.as_ref().next;
                for &object in here.as_ref().objects() {
                    if let Some(object) = NonNull::new(object) {
                        Self::take_in(local, object, runs);
                    }
                }
                Self::take_in(local, here.cast(), runs);
            }
        }
    }

    /// An object has come home: it is kept at hand or given back to its slab. If the slab has another owner by now, it
    /// goes on.
    unsafe fn take_in<R: Runs>(local: NonNull<Self>, object: NonNull<u8>, runs: &mut R) {
        // SAFETY: the caller promises a freed object.
        unsafe {
            let addr = object.addr().get();
            let Some((chunk, page)) = Self::locate(local, addr, runs) else {
                return runs.misuse(HeapError::InvalidFree(addr));
            };
            let class = (Chunk::entry(chunk, page).load(Relaxed) & KIND) as usize;
            if class >= ALL {
                return runs.misuse(HeapError::InvalidFree(addr));
            }
            let entry = Chunk::entry(chunk, page).load(Relaxed);
            let ours = entry == (*local.as_ptr()).tag | class as u32;
            if ours && R::AT_HAND && !(*local.as_ptr()).orphan {
                if let Err(error) = Self::push_slowly(local, class, object, runs) {
                    runs.misuse(error);
                }
                return;
            }
            Self::send_home(local, class, object, runs);
        }
    }

    // ---- The end of a thread --------------------------------------------------------------------

    /// Puts every slab that has free objects into its list, and gives back those without an object in use.
    ///
    /// # Safety
    ///
    /// The part is this thread's, or an orphan's that it looks after.
    pub(crate) unsafe fn settle<R: Runs>(local: NonNull<Self>, runs: &mut R) {
        // SAFETY: the caller promises the part.
        while let Some(run) = unsafe { Self::from_stash(local) } {
            // SAFETY: nobody uses it.
            unsafe { runs.release(run) };
        }
        for class in 0..ALL {
            // SAFETY: the caller promises the part; what is in a list is a slab.
            unsafe {
                let slabs = &raw mut (*local.as_ptr()).classes[class];
                if let Some(current) = NonNull::new((*slabs).current) {
                    (*slabs).current = ptr::null_mut();
                    if current.as_ref().free > 0 {
                        Self::list(slabs, current);
                    }
                }
                let mut slab = (*slabs).first;
                while let Some(here) = NonNull::new(slab) {
                    slab = here.as_ref().next;
                    if here.as_ref().free == here.as_ref().capacity {
                        Self::unlist(slabs, here);
                        runs.release(Self::run(here));
                    }
                }
            }
        }
    }

    /// Takes a slab with free objects from an orphan.
    ///
    /// # Safety
    ///
    /// `orphan` is one, and the lock of the page heap is held; `local` is this thread's part.
    pub(crate) unsafe fn adopt(
        local: NonNull<Self>,
        orphan: NonNull<Self>,
        class: usize,
    ) -> Option<NonNull<Desc>> {
        // SAFETY: the caller promises both parts.
        unsafe {
            let slabs = &raw mut (*orphan.as_ptr()).classes[class];
            let slab = NonNull::new((*slabs).first)?;
            Self::unlist(slabs, slab);
            let run = Self::run(slab);
            slab.as_ref().owner.store(local.as_ptr(), Relaxed);
            let entry = (*local.as_ptr()).tag | class as u32;
            Chunk::mark(run.chunk, run.page, run.pages, entry);
            Some(slab)
        }
    }

    // ---- Looking --------------------------------------------------------------------------------

    /// Visits the objects of a class that are at hand.
    ///
    /// # Safety
    ///
    /// The part is not in use; if it is, what is read is stale and no more.
    pub(crate) unsafe fn at_hand(
        local: NonNull<Self>,
        class: usize,
        visit: &mut dyn FnMut(*mut u8),
    ) {
        // SAFETY: the slots are those of the class, whatever the index is.
        unsafe {
            let local = local.as_ptr();
            let count = usize::from((*local).bins[class].top);
            let base = usize::from(TABLE[class].base);
            let count = count.saturating_sub(base).min(usize::from(TABLE[class].most));
            let first = (&raw mut (*local).slots).cast::<*mut u8>().add(base + 1);
            (0..count).for_each(|at| visit(first.add(at).read()));
        }
    }

    /// Visits the objects that are on their way home, to others and, if the part is that of the caller, from others.
    ///
    /// # Safety
    ///
    /// As [`at_hand`](Self::at_hand).
    pub(crate) unsafe fn on_their_way(
        local: NonNull<Self>,
        own: bool,
        visit: &mut dyn FnMut(*mut u8),
    ) {
        // SAFETY: only the owner takes parcels out of a mailbox, so those in it stay as they are.
        unsafe {
            let first = (&raw mut (*local.as_ptr()).outgoing.objects).cast::<*mut u8>();
            let count = (*local.as_ptr()).outgoing.count.min(PARCEL);
            (0..count).for_each(|at| visit(first.add(at).read()));
            let mut parcel = if own { (*local.as_ptr()).mailbox.top() } else { ptr::null_mut() };
            while let Some(here) = NonNull::new(parcel) {
                visit(parcel.cast());
                here.as_ref().objects().iter().for_each(|&object| visit(object));
                parcel = here.as_ref().next;
            }
        }
    }

    /// Whether a slab is listed, or the current one, as its free objects ask for; and how many of its bits are set.
    pub(crate) unsafe fn is_in_place(
        local: NonNull<Self>,
        class: usize,
        slab: NonNull<Desc>,
    ) -> bool {
        // SAFETY: the caller promises a slab of the part.
        unsafe {
            let current = (*local.as_ptr()).classes[class].current == slab.as_ptr();
            current != slab.as_ref().listed && (current || slab.as_ref().free > 0)
                || !current && !slab.as_ref().listed && slab.as_ref().free == 0
        }
    }
}
