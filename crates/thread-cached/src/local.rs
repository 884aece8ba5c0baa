//! A thread's part of a heap: the objects that it keeps at hand, and the slabs that it owns.
//!
//! Objects of each class are kept at hand in a stack of pointers, the *bin*; what was freed last is used first. No object
//! is read or written to be kept, so what a program writes into freed memory breaks nothing here, and memory that is cold
//! stays so, until a bin is filled with it from scattered places: then it is fetched. A bin has few slots, beside those
//! of the other classes, until they are too few. One that is empty is filled from what came home, or from slabs, half of
//! it at a time and by rising address; one that is full gives its older half back, each object to the slab that it is
//! from: its bit is set there. So does, now and then and before the heap grows, one that was not filled for some time. Of
//! large classes a few are kept where the heap is so large that they are little. Objects in slabs of other threads go
//! home, or stay in bins as well.
//!
//! Invariants:
//!
//! * the objects of a bin lie above its class's sentinel, which is null, up to its topmost index; they are of the class,
//!   and no slab counts them as free; behind them there are slots for as many more as it may hold; bins of an orphan are
//!   empty, and parcels at hand are of slabs of ours;
//! * a slab of ours that has free objects is the current one of its class or in its list; one that has none is the
//!   current one or nowhere; `free` is how many of its bits are set;
//! * a class whose bin was never filled has no slab;
//! * each place for a chunk that is near has one of the heap: whoever frees or takes something in a chunk that is in use may
//!   put it there, and who gives chunks back takes them away from all parts, under the lock of the page heap;
//! * only the owner touches any of this, but for those places and the mailbox; of an orphan, whoever holds the lock of the
//!   page heap; and while the owner has no turn (`turn`), a visitor touches what the fast paths do not: slabs, their lists,
//!   the stash. Others look at bins, slots and bits, for `stats` and the like: that may be stale and no more (`shown`).

mod bin;
mod crossing;
mod place;
mod slabs;
mod stash;
mod ticks;

use core::alloc::Layout;
use core::hint;
use core::mem;
use core::ptr::{self, NonNull};
use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicUsize,
    Ordering::{Relaxed, Release},
    compiler_fence,
};

use heapwright_core::HeapError;

use self::bin::Bin;
use self::crossing::Outgoing;
#[cfg(test)]
pub(crate) use self::place::divided;
use self::place::{Place, ones};
use self::stash::Stash;
use self::ticks::Ticks;
use crate::ahead;
use crate::chunk::{CHUNK_SHIFT, Chunk, Desc, Entry, Table, slab_class, slab_entry};
use crate::classes::{
    ALL, ALL_KEPT, CLASSES, Class, FEW, GRANULES, KEPT, MAX_SMALL, PAGE, PAGE_SHIFT, SHARING,
    SLOTS, TABLE, class_looked_up,
};
use crate::mailbox::Mailbox;
use crate::pages::{DECAY, Run, Taken};
use crate::shown::Shown;
use crate::turn::Turn;

/// So many chunks are near a part at most: those of 1 GiB side by side.
const NEAR: usize = 32;

/// The slabs of a class.
#[derive(Clone, Copy)]
struct Slabs {
    /// From which the bin is filled.
    current: *mut Desc,
    /// Those with free objects, the one listed first first.
    first: *mut Desc,
    last: *mut Desc,
}

/// Of what the bins of all classes may hold beyond what is kept anyhow, that of one may hold one of so many parts.
const SHARES: usize = 16;

/// So many slabs at most fill a bin together.
const SLABS_AT_ONCE: usize = 4;

/// The descriptor of an object that is given back is fetched so many places ahead.
const AHEAD: usize = 6;

/// At most so many bins are passed on the way to one that has something to give back.
const PASSED: usize = CLASSES / 3;

const _: () = assert!(ALL <= u128::BITS as usize);

/// How many classes are passed from one on, by turns, to one of a set; too many, if it has none.
fn passed(set: u128, from: usize) -> usize {
    let set = set & ((1 << CLASSES) - 1);
    match set >> from {
        0 => CLASSES - from + set.trailing_zeros() as usize,
        ahead => ahead.trailing_zeros() as usize,
    }
}

/// Where a run of pages for a slab comes from, and goes back to.
pub(crate) trait Runs {
    /// Whether anything is kept at hand at all.
    const AT_HAND: bool;
    /// Whether this is for the thread whose part it is. One who looks after another's part, or an orphan, touches nothing
    /// that the owner's fast paths do, but for the chunks that are near, and sends on what is not the part's as it is:
    /// parcels would have to go home too, in others, for ever.
    const OWNS: bool;
    /// A slab for a class: one that was abandoned, already the caller's, or a new run.
    fn slab(&mut self, class: usize, local: NonNull<Local>) -> Option<NewSlab>;
    /// Takes back the runs of slabs.
    ///
    /// # Safety
    ///
    /// Nobody uses them.
    unsafe fn release(&mut self, runs: impl IntoIterator<Item = Run>);
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
    /// Sizes up to so many granules are believed when objects are freed: those that are looked up while the heap has no
    /// other part, so that every object is of a slab of ours, and none from then on.
    believed: AtomicUsize,
    /// Whether the owner is in the middle of something, or visited.
    pub(crate) turn: Turn,
    /// Whether nothing is to be taken in: what came home is being given back, which may send something, after which what came
    /// home is looked at; or a slab is looked for, and the last one has none free.
    receiving: bool,
    /// Whether the thread that owned it has ended; under the lock of the page heap.
    pub(crate) orphan: bool,
    ticks: Ticks,
    /// Bytes of a class that are kept at hand, at most.
    kept: u32,
    /// The class whose bin is looked at next.
    next_bin: u8,
    /// A table of the heap, perhaps not the newest.
    pub(crate) table: *const Table,
    /// The length of chunks.
    span: usize,
    bins: [Shown<Bin>; ALL],
    /// Chunks in which something was freed or served lately: most of what is freed lies there. A chunk's address says which
    /// place it has; a place that none has has the chunk of the part.
    near: [AtomicPtr<Chunk>; NEAR],
    classes: [Slabs; ALL],
    /// Whether the bin of each was filled since it was last looked at.
    filled: [bool; ALL],
    /// A bit for each class whose bin was ever filled.
    ever_filled: u128,
    stash: Stash,
    /// Bytes that bins have room for beyond what is kept anyhow.
    beyond: usize,
    /// All parts of the heap.
    pub(crate) next: *mut Local,
    pub(crate) mailbox: Mailbox,
    /// How often the owner looked for what came home.
    looks: Shown<u16>,
    /// How many pages are in the stash, for others.
    stashed: Shown<u16>,
    /// How often the owner had looked when others asked for it last; under the lock of the page heap.
    looks_seen: u16,
    /// Whether there was something to be done then, and the owner had not looked for it since they asked before.
    pub(crate) asleep: AtomicBool,
    /// How often pages decayed while it was an orphan, up to when it rests; under the same lock.
    rested: u8,
    /// What was taken that the page heap does not know of.
    taken: Taken,
    /// When the thread did with less: the low bits of milliseconds.
    did_with_less: u32,
    outgoing: Outgoing,
    // Last, for they are touched as far as they are used.
    slots: [Shown<*mut u8>; SLOTS],
}

/// Pages of a part.
pub(crate) const PAGES: usize = size_of::<Local>().div_ceil(PAGE);
const _: () = assert!(PAGES <= 6, "a thread's part of a heap is small");
const _: () = assert!(
    ALL_KEPT + crossing::OUTGOING_BYTES + MAX_SMALL + stash::LEAST_ROOM * PAGE <= 1280 << 10,
    "a thread keeps back as much as the documentation says; the last object on its way home may be one too many"
);
const _: () = assert!(mem::offset_of!(Local, bins) < 64);
const _: () = assert!(
    mem::offset_of!(Local, slots) + crate::classes::SLOTS_FOR.0 * size_of::<*mut u8>() <= 8 << 10,
    "a thread that does little touches 8 KiB"
);

impl Local {
    /// Lays out a thread's part, with its number. Slots are written when they are used.
    ///
    /// # Safety
    ///
    /// `at` is pages of ours.
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
        // SAFETY: the caller promises the pages. Everything is written that will be read.
        unsafe {
            (&raw mut (*local).tag).write(slab_entry(0, owner));
            let believed = if next.is_null() { GRANULES } else { 0 };
            (&raw mut (*local).believed).write(AtomicUsize::new(believed));
            (&raw mut (*local).turn).write(Turn::new());
            (&raw mut (*local).receiving).write(false);
            (&raw mut (*local).orphan).write(false);
            (&raw mut (*local).rested).write(0);
            (&raw mut (*local).looks).write(Shown::new(0));
            (&raw mut (*local).asleep).write(AtomicBool::new(false));
            Self::awake(at);
            (&raw mut (*local).did_with_less).write(0);
            (&raw mut (*local).ticks).write(Ticks::NEW);
            (&raw mut (*local).taken).write(Taken::default());
            (&raw mut (*local).kept).write(kept);
            (&raw mut (*local).beyond).write(0);
            (&raw mut (*local).next_bin).write(0);
            (&raw mut (*local).table).write(table);
            (&raw mut (*local).span).write(1 << (*table).shift);
            let (chunk, _) = Self::own_place(at);
            (&raw mut (*local).near).write([(); NEAR].map(|()| AtomicPtr::new(chunk.as_ptr())));
            (&raw mut (*local).classes).write([NONE; ALL]);
            (&raw mut (*local).filled).write([false; ALL]);
            (&raw mut (*local).ever_filled).write(0);
            (&raw mut (*local).stash).write(Stash::EMPTY);
            (&raw mut (*local).stashed).write(Shown::new(0));
            (&raw mut (*local).next).write(next);
            (&raw mut (*local).mailbox).write(Mailbox::new());
            Outgoing::make(&raw mut (*local).outgoing);
            for (class, &Class { few, few_are, .. }) in TABLE.iter().enumerate() {
                let bin = Bin::of(class, 0, Self::kept_anyhow(at, class).min(few_are));
                (&raw mut (*local).bins[class]).write(Shown::new(bin));
                (*Self::slot(at, few)).set(ptr::null_mut());
            }
        }
    }

    /// Makes an orphan of it.
    ///
    /// # Safety
    ///
    /// It is a part that keeps nothing at hand, and the caller's, with the lock of the page heap.
    pub(crate) unsafe fn orphan(local: NonNull<Self>) {
        // SAFETY: the caller promises the part.
        unsafe {
            (*local.as_ptr()).orphan = true;
            (*local.as_ptr()).rested = 0;
        }
    }

    /// What an orphan does not touch any more, said once: after pages decayed some times and it was not taken over, or at
    /// once.
    ///
    /// # Safety
    ///
    /// It is an orphan, and the lock of the page heap is held.
    pub(crate) unsafe fn rest(local: NonNull<Self>, at_once: bool) -> Option<Run> {
        const LONG: u8 = 4;
        // SAFETY: the caller promises an orphan, whose bins are empty: they may have their few slots, in the first page.
        unsafe {
            let before = (*local.as_ptr()).rested;
            let now = if at_once { LONG } else { (before + 1).min(LONG) };
            (*local.as_ptr()).rested = now;
            if before == LONG || now < LONG {
                return None;
            }
            for (class, &Class { few_are, .. }) in TABLE.iter().enumerate() {
                let few = Self::kept_anyhow(local, class).min(few_are);
                if Self::room(local, class) > few {
                    Self::make_room(local, class, few);
                }
            }
            let (chunk, page) = Self::own_place(local);
            Some(Run { chunk, page: page + 1, pages: PAGES - 1, zeroed: false })
        }
    }

    /// Makes it known that there is another part.
    ///
    /// # Safety
    ///
    /// It is a part.
    pub(crate) unsafe fn meet_another(local: NonNull<Self>) {
        // SAFETY: the caller promises a part.
        unsafe { (*local.as_ptr()).believed.store(0, Relaxed) };
    }

    /// The class of an object of ours, by the layout that it is said to have; none if that is not to be believed, or the
    /// class is not looked up.
    ///
    /// # Safety
    ///
    /// The part is this thread's.
    #[inline(always)]
    pub(crate) unsafe fn believed_class(local: NonNull<Self>, layout: Layout) -> Option<usize> {
        // SAFETY: the caller promises a part; that is one of two numbers, neither of which is larger.
        let believed = unsafe {
            let believed = (*local.as_ptr()).believed.load(Relaxed);
            hint::assert_unchecked(believed <= GRANULES);
            believed
        };
        class_looked_up(layout.size(), layout.align(), believed)
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
            if !(*local.as_ptr()).ticks.tick() {
                return None;
            }
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
            let bin = Self::bin(local, class);
            let now = bin.get();
            let object = NonNull::new((*Self::slot(local, now.top())).get())?;
            bin.set(now.without(1));
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
        // SAFETY: the caller promises the class; the index is that of a slot, and behind it is another one if there is room.
        unsafe {
            let bin = Self::bin(local, class);
            let now = bin.get();
            let slot = Self::slot(local, now.top());
            if (*slot).get() == object.as_ptr() || now.is_full() {
                return false;
            }
            (*slot.add(1)).set(object.as_ptr());
            // Whoever interrupts this thread, by a signal or a fork, finds the object first.
            compiler_fence(Release);
            bin.set(now.with(1));
            true
        }
    }

    /// Whether the bin of a class has no room for another object.
    ///
    /// # Safety
    ///
    /// `class` is one. The part is this thread's.
    #[inline(always)]
    pub(crate) unsafe fn is_full(local: NonNull<Self>, class: usize) -> bool {
        // SAFETY: the caller promises class and part.
        unsafe { Self::bin(local, class).get().is_full() }
    }

    /// The bin of a class.
    ///
    /// # Safety
    ///
    /// It is a part, and `class` is one.
    #[inline(always)]
    unsafe fn bin<'a>(local: NonNull<Self>, class: usize) -> &'a Shown<Bin> {
        // SAFETY: the caller promises both.
        unsafe { &*(&raw const (*local.as_ptr()).bins).cast::<Shown<Bin>>().add(class) }
    }

    /// A slot, by its index.
    ///
    /// # Safety
    ///
    /// It is a part, and the index that of a slot.
    #[inline(always)]
    unsafe fn slot(local: NonNull<Self>, index: u16) -> *const Shown<*mut u8> {
        // SAFETY: the caller promises both.
        unsafe {
            (&raw const (*local.as_ptr()).slots).cast::<Shown<*mut u8>>().add(usize::from(index))
        }
    }

    /// The object on top of a bin; null if there is none.
    unsafe fn freed_last(local: NonNull<Self>, class: usize) -> *mut u8 {
        // SAFETY: the caller promises class and part; the index is that of a slot.
        unsafe { (*Self::slot(local, Self::bin(local, class).get().top())).get() }
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
            if Self::freed_last(local, class) == object.as_ptr() {
                return Err(HeapError::DoubleFree(object.addr().get()));
            }
            Self::flush(local, class, runs);
            if !Self::push(local, class, object) {
                // The bin is full anew, or what was freed twice is on top now: its slab knows.
                Self::send_home(local, Some(class), object, runs);
            }
            Ok(())
        }
    }

    /// What the page of an address serves; zero for an address of no chunk.
    ///
    /// # Safety
    ///
    /// The part is this thread's.
    #[inline(always)]
    pub(crate) unsafe fn entry(local: NonNull<Self>, addr: usize) -> Entry {
        // SAFETY: the caller promises the part, whose chunks are some.
        unsafe {
            match Self::find(local, addr) {
                Some((chunk, page)) => Chunk::entry(chunk, page).load(Relaxed),
                None => 0,
            }
        }
    }

    /// The chunk that an address is in, and its page there, by the table that the part knows.
    ///
    /// # Safety
    ///
    /// The part is the caller's, or one that it looks after. If the address is in a chunk, what lies there has not been given
    /// back.
    #[inline(always)]
    unsafe fn find(local: NonNull<Self>, addr: usize) -> Option<(NonNull<u8>, usize)> {
        // SAFETY: the caller promises the part.
        unsafe { Self::find_near(local, addr).or_else(|| Self::find_far(local, addr)) }
    }

    /// As [`find`](Self::find), for an address in a chunk that is near; none for any other.
    ///
    /// # Safety
    ///
    /// The part is the caller's, or one that it looks after.
    #[inline(always)]
    unsafe fn find_near(local: NonNull<Self>, addr: usize) -> Option<(NonNull<u8>, usize)> {
        // SAFETY: the caller promises the part, which has a chunk in each place.
        unsafe {
            let chunk = NonNull::new_unchecked(Self::near_place(local, addr).load(Relaxed).cast());
            let offset = addr.wrapping_sub(chunk.addr().get());
            (offset < (*local.as_ptr()).span).then_some((chunk, offset >> PAGE_SHIFT))
        }
    }

    /// As [`find`](Self::find), for an address in no chunk that is near: if it is in a slab of several objects, its chunk is
    /// from now on. Not if it is in a block of whole pages: that two threads free one at once is borne, and then it may have
    /// been given back.
    ///
    /// # Safety
    ///
    /// As [`find`](Self::find).
    #[inline(never)]
    unsafe fn find_far(local: NonNull<Self>, addr: usize) -> Option<(NonNull<u8>, usize)> {
        // SAFETY: the caller promises the part, whose table is one. The slab has an object that was not given back.
        unsafe {
            let (chunk, page) = Table::find((*local.as_ptr()).table, addr)?;
            let class = slab_class(Chunk::entry(chunk, page).load(Relaxed));
            if class.is_some_and(|class| class < SHARING) {
                Self::come_near(local, chunk.cast());
            }
            Some((chunk, page))
        }
    }

    /// Takes a chunk for near.
    ///
    /// # Safety
    ///
    /// The part is the caller's, or one that it looks after. A run of the chunk is in use, and given back later than this: so
    /// the chunk goes later, and when it goes, it is [near no more](Self::stay_near).
    unsafe fn come_near(local: NonNull<Self>, chunk: NonNull<Chunk>) {
        // SAFETY: the caller promises the part.
        unsafe {
            Self::near_place(local, chunk.addr().get()).store(chunk.as_ptr(), Relaxed);
        }
    }

    /// The place that the chunk of an address has if it is near. Those that are side by side and shorter than 32 MiB share one.
    ///
    /// # Safety
    ///
    /// It is a part.
    #[inline(always)]
    unsafe fn near_place<'a>(local: NonNull<Self>, addr: usize) -> &'a AtomicPtr<Chunk> {
        // SAFETY: the caller promises the part; the places are only ever used as atomics.
        unsafe {
            let places = (&raw const (*local.as_ptr()).near).cast::<AtomicPtr<Chunk>>();
            &*places.add((addr >> CHUNK_SHIFT) % NEAR)
        }
    }

    /// As [`entry`](Self::entry), for an address in a chunk that is near; none for any other.
    ///
    /// # Safety
    ///
    /// The part is this thread's.
    #[inline(always)]
    pub(crate) unsafe fn near_entry(local: NonNull<Self>, addr: usize) -> Option<Entry> {
        // SAFETY: the caller promises the part.
        unsafe {
            let (chunk, page) = Self::find_near(local, addr)?;
            Some(Chunk::entry(chunk, page).load(Relaxed))
        }
    }

    /// The class of an entry of ours, if it is no large one.
    ///
    /// # Safety
    ///
    /// The part is this thread's.
    #[inline(always)]
    pub(crate) unsafe fn own(local: NonNull<Self>, entry: Entry) -> Option<usize> {
        // SAFETY: the caller promises its own part.
        let class = (entry ^ unsafe { (*local.as_ptr()).tag }) as usize;
        (class < SHARING).then_some(class)
    }

    /// Takes no chunk for near but the one that the part itself is in, which stays as long as the heap.
    ///
    /// # Safety
    ///
    /// It is a part.
    pub(crate) unsafe fn stay_near(local: NonNull<Self>) {
        // SAFETY: the caller promises a part.
        unsafe {
            let (chunk, _) = Self::own_place(local);
            let places = &raw const (*local.as_ptr()).near;
            (*places).iter().for_each(|place| place.store(chunk.as_ptr(), Relaxed));
        }
    }

    /// The chunk that the part is in, and its first page there.
    unsafe fn own_place(local: NonNull<Self>) -> (NonNull<Chunk>, usize) {
        // SAFETY: the caller promises a part, which lies in a chunk.
        unsafe {
            let offset = local.addr().get() & ((*local.as_ptr()).span - 1);
            (local.cast::<u8>().sub(offset).cast(), offset >> PAGE_SHIFT)
        }
    }

    /// The class of an object of ours, by its address, if it is a large one.
    ///
    /// # Safety
    ///
    /// The part is this thread's.
    pub(crate) unsafe fn own_large_class(local: NonNull<Self>, addr: usize) -> Option<usize> {
        // SAFETY: the caller promises the part.
        unsafe {
            let class = (Self::entry(local, addr) ^ (*local.as_ptr()).tag) as usize;
            (SHARING..CLASSES).contains(&class).then_some(class)
        }
    }

    /// The class of an object of ours, by its address, but for large ones; whether it is one at all is not asked. Anything
    /// else is none.
    ///
    /// # Safety
    ///
    /// The part is this thread's.
    #[inline(always)]
    pub(crate) unsafe fn own_class(local: NonNull<Self>, addr: usize) -> Option<usize> {
        // SAFETY: the caller promises the part.
        unsafe { Self::own(local, Self::entry(local, addr)) }
    }

    /// How many objects of a class are kept at hand whatever the heap has in use, at most.
    unsafe fn kept_anyhow(local: NonNull<Self>, class: usize) -> u16 {
        // SAFETY: the caller promises a part.
        TABLE[class].kept_anyhow(unsafe { (*local.as_ptr()).kept } as usize)
    }

    /// How many bytes so many objects of a class have beyond those.
    unsafe fn beyond(local: NonNull<Self>, class: usize, objects: u16) -> usize {
        // SAFETY: the caller promises a part.
        let beyond = objects.saturating_sub(unsafe { Self::kept_anyhow(local, class) });
        usize::from(beyond) * TABLE[class].size as usize
    }

    /// How many bytes all bins may have room for beyond what is kept anyhow: twice the extra room for runs. Who is to keep
    /// less has less of a share.
    unsafe fn share(local: NonNull<Self>) -> usize {
        // SAFETY: the caller promises its own part.
        unsafe {
            let part = local.as_ptr();
            2 * (*part).stash.extra_room() * PAGE * (*part).kept as usize / KEPT
        }
    }

    /// Lets a bin that was too small hold twice as many objects from now on, and says how many it held so far.
    unsafe fn widen(local: NonNull<Self>, class: usize) -> u16 {
        // SAFETY: the caller promises class and part.
        unsafe {
            let room = Self::room(local, class);
            let Class { size, most, .. } = TABLE[class];
            if room == most {
                return room;
            }
            let share = Self::share(local);
            let anyhow = Self::kept_anyhow(local, class);
            let of_class = (share / SHARES / size as usize).min(FEW.into()) as u16;
            let wider = (room * 2).max(1).min(of_class.max(anyhow)).max(room);
            let others = (*local.as_ptr()).beyond - Self::beyond(local, class, room);
            let fits = others + Self::beyond(local, class, wider) <= share;
            let wider = if fits { wider } else { wider.min(anyhow).max(room) };
            if wider > room {
                Self::make_room(local, class, wider);
            }
            room
        }
    }

    /// Takes from a bin what room it has beyond what is kept anyhow, but for what it holds.
    unsafe fn narrow(local: NonNull<Self>, class: usize) {
        // SAFETY: the caller promises class and part.
        unsafe {
            let held = Self::bin(local, class).get().held(class);
            let least = Self::kept_anyhow(local, class).max(held);
            if least < Self::room(local, class) {
                Self::make_room(local, class, least);
            }
        }
    }

    /// How many objects a bin has room for.
    unsafe fn room(local: NonNull<Self>, class: usize) -> u16 {
        // SAFETY: the caller promises class and part.
        unsafe { Self::bin(local, class).get().room(class) }
    }

    /// Lets a bin have room for so many objects, as many as it holds at least. It has other slots if they are more than few.
    unsafe fn make_room(local: NonNull<Self>, class: usize, room: u16) {
        // SAFETY: the caller promises class, part and number.
        unsafe {
            let bin = Self::bin(local, class);
            let now = bin.get();
            let held = now.held(class);
            let before = Self::beyond(local, class, now.room(class));
            let part = local.as_ptr();
            (*part).beyond = (*part).beyond - before + Self::beyond(local, class, room);
            let new = Bin::of(class, held, room);
            let (from, to) = (now.bottom(class), new.bottom(class));
            // The sentinel goes along, and is null in both.
            if from != to {
                Self::move_slots(local, from, to, held + 1);
            }
            bin.set(new);
        }
    }

    /// Whether an object of a class can be kept at hand; those of the largest cannot where they are much.
    ///
    /// # Safety
    ///
    /// The part is this thread's.
    pub(crate) unsafe fn keeps(local: NonNull<Self>, class: usize) -> bool {
        // SAFETY: the caller promises its own part.
        unsafe {
            Self::has_room(local, class) || {
                Self::widen(local, class);
                Self::has_room(local, class)
            }
        }
    }

    /// Whether the bin of a class has room for any object.
    ///
    /// # Safety
    ///
    /// As [`keeps`](Self::keeps).
    pub(crate) unsafe fn has_room(local: NonNull<Self>, class: usize) -> bool {
        // SAFETY: the caller promises its own part.
        unsafe { Self::room(local, class) > 0 }
    }

    /// Whether the bytes are counted that bins have room for beyond what is kept anyhow.
    ///
    /// # Safety
    ///
    /// The part is the caller's.
    pub(crate) unsafe fn counts_room(local: NonNull<Self>) -> bool {
        // SAFETY: the caller promises the part.
        unsafe {
            let beyond = |class| Self::beyond(local, class, Self::room(local, class));
            (0..ALL).map(beyond).sum::<usize>() == (*local.as_ptr()).beyond
        }
    }

    /// Whether each bin is in its slots, above a sentinel, and holds no null.
    ///
    /// # Safety
    ///
    /// The part is the caller's.
    pub(crate) unsafe fn bins_are_in_their_slots(local: NonNull<Self>) -> bool {
        // SAFETY: the caller promises the part; the indexes are those of slots.
        unsafe {
            (0..ALL).all(|class| {
                let bin = Self::bin(local, class).get();
                bin.is_in_its_slots(class) && {
                    let is_null = |index| (*Self::slot(local, index)).get().is_null();
                    let bottom = bin.bottom(class);
                    is_null(bottom) && !(bottom + 1..=bin.top()).any(is_null)
                }
            })
        }
    }

    /// Whether all chunks that are near are the heap's.
    ///
    /// # Safety
    ///
    /// It is a part, the table is the newest of its heap, and the lock of the page heap is held.
    pub(crate) unsafe fn knows_its_chunks(local: NonNull<Self>, table: *const Table) -> bool {
        // SAFETY: the caller promises the part and the table.
        unsafe {
            let places = &raw const (*local.as_ptr()).near;
            (*places).iter().all(|place| {
                let chunk = place.load(Relaxed).addr();
                Table::find(table, chunk).is_some_and(|(found, _)| found.addr().get() == chunk)
            })
        }
    }

    /// Whether no class has slabs but those whose bins were filled.
    ///
    /// # Safety
    ///
    /// The part is the caller's.
    pub(crate) unsafe fn knows_its_classes(local: NonNull<Self>) -> bool {
        // SAFETY: the caller promises the part.
        unsafe {
            let part = local.as_ptr();
            (0..ALL).all(|class| {
                let Slabs { current, first, .. } = (*part).classes[class];
                (*part).ever_filled & (1 << class) != 0 || current.is_null() && first.is_null()
            })
        }
    }

    // ---- Filling a bin --------------------------------------------------------------------------

    /// A run is taken, which brings the time nearer when time is looked at.
    ///
    /// # Safety
    ///
    /// The part is this thread's.
    pub(crate) unsafe fn count_run(local: NonNull<Self>) {
        // SAFETY: the caller promises its own part.
        unsafe { (*local.as_ptr()).ticks.count_run() };
    }

    /// So many bytes are drawn from slabs, or as a run.
    ///
    /// # Safety
    ///
    /// The part is this thread's.
    pub(crate) unsafe fn count_drawn(local: NonNull<Self>, bytes: usize) {
        // SAFETY: the caller promises its own part.
        unsafe { (*local.as_ptr()).taken.drawn += bytes };
    }

    /// What was taken since this was asked before.
    ///
    /// # Safety
    ///
    /// The part is this thread's.
    pub(crate) unsafe fn taken(local: NonNull<Self>) -> Taken {
        // SAFETY: the caller promises its own part.
        unsafe {
            (*local.as_ptr()).taken.objects += (*local.as_ptr()).ticks.count();
            mem::take(&mut (*local.as_ptr()).taken)
        }
    }

    /// So many objects, or more, or a run, are given back: time is looked at sooner, though nothing is taken.
    ///
    /// # Safety
    ///
    /// The part is this thread's.
    pub(crate) unsafe fn hasten(local: NonNull<Self>, objects: u16) {
        // SAFETY: the caller promises its own part.
        unsafe { (*local.as_ptr()).ticks.hasten(objects) };
    }

    /// Whether a run may be taken before that.
    ///
    /// # Safety
    ///
    /// The part is this thread's.
    pub(crate) unsafe fn has_time_for_a_run(local: NonNull<Self>) -> bool {
        // SAFETY: the caller promises its own part.
        unsafe { (*local.as_ptr()).ticks.allow_a_run() }
    }

    /// Time was looked at, and will be sooner again by who is slow. Whether it is time to [do with
    /// less](Self::do_with_less); then it will be again some time later.
    ///
    /// # Safety
    ///
    /// The part is this thread's.
    pub(crate) unsafe fn is_due(local: NonNull<Self>, now: u64) -> bool {
        // SAFETY: the caller promises its own part.
        unsafe {
            (*local.as_ptr()).ticks.look(now);
            let now = now as u32;
            let due = now.wrapping_sub((*local.as_ptr()).did_with_less) >= DECAY as u32;
            if due {
                (*local.as_ptr()).did_with_less = now;
            }
            due
        }
    }

    /// Sends home what has gathered, and gives back objects and runs that were not needed since the last time.
    ///
    /// # Safety
    ///
    /// The part is this thread's, and none of its bins is being flushed.
    pub(crate) unsafe fn do_with_less<R: Runs>(local: NonNull<Self>, runs: &mut R) {
        // SAFETY: the caller promises its own part.
        unsafe {
            Self::shrink_bins(local, runs);
            Self::send(local, false, runs);
            Self::shrink_stash(local, runs);
        }
    }

    /// Whether it is time to look at the time; then it will be again after some more objects. What came home is looked at,
    /// too, and a bin.
    ///
    /// # Safety
    ///
    /// The part is this thread's.
    pub(crate) unsafe fn is_time<R: Runs>(local: NonNull<Self>, runs: &mut R) -> bool {
        // SAFETY: the caller promises its own part.
        unsafe {
            if !(*local.as_ptr()).ticks.are_over() {
                return false;
            }
            (*local.as_ptr()).taken.objects += (*local.as_ptr()).ticks.restart();
            if Self::has_mail(local) {
                Self::receive(local, runs);
            }
            Self::shrink_a_bin(local, runs);
            true
        }
    }

    /// Fills the bin of a class, with a single object if so asked, and takes one. A class without a slab so far is one
    /// of which a few may be enough.
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
            if Self::has_mail(local) {
                Self::receive(local, runs);
                if let Some(object) = Self::take(local, class) {
                    return Some(object);
                }
            }
            let wanted = if (*local.as_ptr()).classes[class].current.is_null() {
                FEW
            } else {
                Self::widen(local, class).div_ceil(2)
            };
            let wanted = if singly { 1 } else { wanted };
            Self::fill(local, class, wanted, runs)?;
            // Where objects are freed at random, each of many slabs has few.
            let slabs = &raw const (*local.as_ptr()).classes[class];
            for _ in 1..SLABS_AT_ONCE {
                let held = Self::bin(local, class).get().held(class);
                if held >= wanted || (*slabs).first.is_null() {
                    break;
                }
                Self::fill(local, class, wanted - held, runs);
            }
            if let Some(next) = NonNull::new((*slabs).first) {
                // It probably serves next.
                ahead::fetch(next.as_ptr().cast());
            }
            Self::take(local, class)
        }
    }

    /// Puts up to `wanted` objects of a slab into the bin of a class, at least one unless it is full: objects may have come
    /// home while the slab was looked for, if something was not as it should be.
    unsafe fn fill<R: Runs>(
        local: NonNull<Self>,
        class: usize,
        wanted: u16,
        runs: &mut R,
    ) -> Option<()> {
        // SAFETY: the caller promises class and part.
        unsafe {
            let slab = Self::slab_with_free(local, class, runs)?;
            let desc = slab.as_ptr();
            if !Self::has_room(local, class) {
                // It was taken meanwhile, for the heap was about to grow.
                Self::make_room(local, class, 1);
            }
            let bin = Self::bin(local, class);
            let now = bin.get();
            let count = wanted.min((*desc).free).min(now.left());
            if count == 0 && (*local.as_ptr()).classes[class].current != desc {
                Self::put_aside(local, Self::run(slab), runs);
                return Some(());
            }
            let bits = Desc::bits(slab);
            let size = TABLE[class].size as usize;
            Self::count_drawn(local, usize::from(count) * size);
            // The lowest on top.
            let filled = now.with(count);
            let mut slot = Self::slot(local, filled.top());
            let start = Self::start(slab).as_ptr();
            let (mut word, mut left) = (0, u32::from(count));
            while left > 0 {
                debug_assert!(word < bits.len(), "a slab counts its free objects");
                let (here, first) = (bits.get_unchecked(word), start.add(word * 64 * size));
                word += 1;
                let mut free = here.get();
                if free == 0 {
                    continue;
                }
                let lowest = free.trailing_zeros();
                let run = (free >> lowest).trailing_ones();
                if free == ones(run) << lowest {
                    // They lie side by side, which the processor foresees.
                    let run = run.min(left);
                    let mut object = first.add(lowest as usize * size);
                    for _ in 0..run {
                        (*slot).set(object);
                        slot = slot.sub(1);
                        object = object.wrapping_add(size);
                    }
                    left -= run;
                    free &= !(ones(run) << lowest);
                } else {
                    while free != 0 && left > 0 {
                        let object = first.add(free.trailing_zeros() as usize * size);
                        ahead::fetch(object);
                        (*slot).set(object);
                        slot = slot.sub(1);
                        free &= free - 1;
                        left -= 1;
                    }
                }
                here.set(free);
            }
            (*desc).free -= count;
            bin.set(filled);
            (*local.as_ptr()).filled[class] = true;
            (*local.as_ptr()).ever_filled |= 1 << class;
            Some(())
        }
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
            let older = Self::bin(local, class).get().held(class).div_ceil(2);
            Self::hasten(local, older);
            Self::flush_some(local, class, older, runs);
            Self::widen(local, class);
        }
    }

    /// Gives the `count` oldest objects of a bin back.
    unsafe fn flush_some<R: Runs>(local: NonNull<Self>, class: usize, count: u16, runs: &mut R) {
        // SAFETY: the caller promises class and part, and that the bin has that many.
        unsafe {
            let bin = Self::bin(local, class);
            let oldest = bin.get().bottom(class) + 1;
            let objects = Self::slot(local, oldest).cast::<*mut u8>();
            Self::give_back(local, class, objects, usize::from(count), runs);
            // What is another's may have been sent, and other objects have come home then.
            let left = bin.get().without(count);
            Self::move_slots(local, oldest + count, oldest, left.held(class));
            bin.set(left);
        }
    }

    /// Copies slots to where others are, by rising index.
    unsafe fn move_slots(local: NonNull<Self>, from: u16, to: u16, count: u16) {
        // SAFETY: the caller promises its own part, and slots.
        unsafe {
            let (from, to) = (Self::slot(local, from), Self::slot(local, to));
            for at in 0..usize::from(count) {
                (*to.add(at)).set((*from.add(at)).get());
            }
        }
    }

    /// Gives objects of a class back to their slabs.
    #[inline(always)]
    unsafe fn give_back<R: Runs>(
        local: NonNull<Self>,
        class: usize,
        objects: *const *mut u8,
        count: usize,
        runs: &mut R,
    ) {
        // SAFETY: the caller promises its own part, and that many objects that were freed.
        unsafe {
            let mut at = 0;
            while at < count {
                if at + AHEAD < count {
                    Self::fetch_desc(local, objects.add(at + AHEAD).read().addr());
                }
                let object = objects.add(at).read();
                if let Some((chunk, page)) = Self::place(local, class, object.addr()) {
                    Self::give_back_here(local, class, chunk, page, objects, &mut at, count, runs);
                } else {
                    if let Some(object) = NonNull::new(object) {
                        Self::send_home(local, Some(class), object, runs);
                    }
                    at += 1;
                }
            }
        }
    }

    /// Fetches the descriptor of the page of an object, as far as it lies in one line, if its chunk is near.
    #[inline(always)]
    unsafe fn fetch_desc(local: NonNull<Self>, addr: usize) {
        // SAFETY: the caller promises its own part; the page is one of the chunk.
        unsafe {
            if let Some((chunk, page)) = Self::find_near(local, addr) {
                ahead::fetch(Chunk::desc(chunk.cast(), page).as_ptr().cast());
            }
        }
    }

    /// Gives the object at `at` back to its slab, which is the one of this page and ours, and those that follow it as far as
    /// they are of the same slab: what is freed together mostly lies together.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "inlined, so that they stay where they are")]
    unsafe fn give_back_here<R: Runs>(
        local: NonNull<Self>,
        class: usize,
        chunk: NonNull<Chunk>,
        page: usize,
        objects: *const *mut u8,
        at: &mut usize,
        count: usize,
        runs: &mut R,
    ) {
        // SAFETY: the caller promises a page of a slab of its own, and that many objects that were freed.
        unsafe {
            let addr = objects.add(*at).read().addr();
            let alone =
                *at + 1 == count || (objects.add(*at + 1).read().addr() ^ addr) >> PAGE_SHIFT != 0;
            if alone {
                *at += 1;
                return Self::give_one_back(local, class, chunk, page, addr, runs);
            }
            let mut slab = Place::of(class, chunk, page);
            let result = slab.free_all(objects, at, count);
            if slab.put_down() && Self::relist(local, class, slab.desc) {
                Self::put_aside(local, Self::run(slab.desc), runs);
            }
            if let Err(error) = result {
                runs.misuse(error);
                *at += 1;
            }
        }
    }

    /// Looks at the next bin that holds anything.
    ///
    /// # Safety
    ///
    /// The part is this thread's, and none of its bins is being flushed.
    pub(crate) unsafe fn shrink_a_bin<R: Runs>(local: NonNull<Self>, runs: &mut R) {
        // SAFETY: the caller promises its own part.
        unsafe {
            let mut left = PASSED;
            while let Some(class) = Self::next_bin(local, &mut left) {
                let half = |held: u16| held.div_ceil(2);
                if Self::shrink_bin(local, class, half, runs) {
                    return;
                }
            }
        }
    }

    /// Looks at each bin, of which all goes that was not needed for some time: what a burst of work left there would stay for
    /// long where little is done, and each object may keep a page from being given back.
    unsafe fn shrink_bins<R: Runs>(local: NonNull<Self>, runs: &mut R) {
        // SAFETY: the caller promises its own part, of which no bin is being flushed.
        unsafe {
            for class in 0..CLASSES {
                if (*local.as_ptr()).ever_filled & (1 << class) != 0 {
                    Self::shrink_bin(local, class, |held| held, runs);
                }
            }
        }
    }

    /// Looks at a bin. If it was not filled since the last look, the thread does with less: as many of the older objects as
    /// is said of those held go back, and so does the slab that the bin was filled from, if it serves nothing. (Evans, 2014,
    /// has thread caches shrink likewise.) Says whether there was anything.
    unsafe fn shrink_bin<R: Runs>(
        local: NonNull<Self>,
        class: usize,
        goes: impl FnOnce(u16) -> u16,
        runs: &mut R,
    ) -> bool {
        // SAFETY: the caller promises its own part, of which no bin is being flushed, and the class.
        unsafe {
            let slabs = &raw mut (*local.as_ptr()).classes[class];
            let held = Self::bin(local, class).get().held(class);
            let unneeded = !mem::take(&mut (*local.as_ptr()).filled[class]);
            // The heap may have become much smaller.
            let too_much = (*local.as_ptr()).beyond > 2 * Self::share(local)
                && Self::room(local, class) > Self::kept_anyhow(local, class);
            if unneeded || too_much {
                if held > 0 {
                    Self::flush_some(local, class, goes(held), runs);
                }
                Self::narrow(local, class);
            }
            if unneeded
                && let Some(current) = NonNull::new((*slabs).current)
                && Self::is_idle(current)
            {
                (*slabs).current = ptr::null_mut();
                Self::put_aside(local, Self::run(current), runs);
                return true;
            }
            held > 0
        }
    }

    /// The next class whose bin is looked at, by turns, unless that is farther than so many.
    unsafe fn next_bin(local: NonNull<Self>, left: &mut usize) -> Option<usize> {
        // SAFETY: the caller promises its own part.
        unsafe {
            let part = local.as_ptr();
            let from = usize::from((*part).next_bin);
            let passed = passed((*part).ever_filled, from);
            let found = passed < *left;
            let passed = passed.min(*left);
            let class = (from + passed) % CLASSES;
            *left -= passed + usize::from(found);
            (*part).next_bin = ((class + usize::from(found)) % CLASSES) as u8;
            found.then_some(class)
        }
    }

    /// Does something while which nothing that comes home is taken in.
    ///
    /// # Safety
    ///
    /// The part is this thread's, or one that it looks after.
    pub(crate) unsafe fn taking_in_nothing(local: NonNull<Self>, then: impl FnOnce()) {
        // SAFETY: the caller promises the part.
        unsafe {
            let receiving = mem::replace(&mut (*local.as_ptr()).receiving, true);
            then();
            (*local.as_ptr()).receiving = receiving;
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
                let held = Self::bin(local, class).get().held(class);
                Self::flush_some(local, class, held, runs);
                Self::narrow(local, class);
            }
        };
        // What is received and what is flushed may have to be sent, which takes parcels.
        // SAFETY: as above.
        unsafe {
            Self::receive(local, runs);
            Self::taking_in_nothing(local, || {
                (0..CLASSES).for_each(|class| flush(class, runs));
                Self::send(local, false, runs);
                (CLASSES..ALL).for_each(|class| flush(class, runs));
            });
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
            Self::find(local, addr).or_else(|| {
                let table = runs.table();
                if R::OWNS {
                    (*local.as_ptr()).table = table;
                }
                Table::find(table, addr)
            })
        }
    }

    /// The same for an address in a slab, with the entry of the page.
    unsafe fn locate_slab<R: Runs>(
        local: NonNull<Self>,
        addr: usize,
        runs: &mut R,
    ) -> Option<(NonNull<u8>, usize, Entry)> {
        // SAFETY: the caller promises its own part; the page is one of the chunk.
        unsafe {
            let (chunk, page) = Self::locate(local, addr, runs)?;
            let entry = Chunk::entry(chunk, page).load(Relaxed);
            slab_class(entry).map(|_| (chunk, page, entry))
        }
    }

    // ---- Looking --------------------------------------------------------------------------------

    /// Visits the objects of a class that are at hand.
    ///
    /// # Safety
    ///
    /// It is a part. If it is in use, what is seen may be stale.
    pub(crate) unsafe fn at_hand(
        local: NonNull<Self>,
        class: usize,
        visit: &mut dyn FnMut(*mut u8),
    ) {
        // SAFETY: the caller promises part and class; at any time, what is in a bin is in slots.
        unsafe {
            let bin = Self::bin(local, class).look();
            let first = Self::slot(local, bin.bottom(class) + 1);
            (0..bin.held(class).into()).for_each(|at| visit((*first.add(at)).look()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_of_a_set_is_found_by_turns() {
        for set in [0, 1, 1 << CLASSES, 1 << (CLASSES - 1) | 1 << 7, u128::MAX, 0x5010 << 20] {
            for from in 0..CLASSES {
                let plain = (0..CLASSES).find(|at| set & (1 << ((from + at) % CLASSES)) != 0);
                let found = Some(passed(set, from)).filter(|&passed| passed < CLASSES);
                assert_eq!(found, plain, "{set:#x} from {from}");
            }
        }
    }
}
