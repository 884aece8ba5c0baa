//! The slabs of a part: where they come from, which of them serves, what is freed in them, and where they go.
//!
//! A slab of ours that has free objects is the current one of its class or in its list, first in, first out, so that
//! many have become free by the time that it serves again. One of which all are free, other than the current one, goes:
//! its run is kept for a class whose slabs are as long, or given back.

use core::ptr::{self, NonNull};
use core::sync::atomic::Ordering::Relaxed;

use heapwright_core::HeapError;

use super::place::{Place, ones};
use super::stash::Chain;
use super::{Local, NewSlab, Runs, Slabs};
use crate::chunk::{ASIDE, Chunk, Desc, INSIDE, KIND, slab_class};
use crate::classes::{ALL, CLASSES, MAX_SMALL, PAGE, TABLE};
use crate::pages::Run;

impl Local {
    /// The current slab of a class if it has a free object, or the next one.
    pub(super) unsafe fn slab_with_free<R: Runs>(
        local: NonNull<Self>,
        class: usize,
        runs: &mut R,
    ) -> Option<NonNull<Desc>> {
        // SAFETY: the caller promises class and part; what is in a list is a slab.
        unsafe {
            let slabs = &raw mut (*local.as_ptr()).classes[class];
            if let Some(current) = NonNull::new((*slabs).current) {
                if current.as_ref().free > 0 {
                    return Some(current);
                }
                current.as_ref().exhausted.set(1);
            }
            let next = if let Some(first) = NonNull::new((*slabs).first) {
                Self::unlist(slabs, first);
                first
            } else {
                match runs.slab(class, local)? {
                    NewSlab::Run(run) => Self::divide(local, class, run),
                    NewSlab::Adopted(slab) => slab,
                }
            };
            (*local.as_ptr()).table = runs.table();
            Self::come_near(local, Self::chunk(next));
            // One of a large class has none left when it has served, and is not kept for being current when that is free.
            if TABLE[class].size as usize <= MAX_SMALL {
                (*slabs).current = next.as_ptr();
            }
            Some(next)
        }
    }

    /// Keeps the run of a slab that is none any more, or of a block, or gives it back; before it, those that were kept for
    /// longer.
    ///
    /// # Safety
    ///
    /// The part is this thread's, and nobody uses the run.
    pub(crate) unsafe fn put_aside<R: Runs>(local: NonNull<Self>, run: Run, runs: &mut R) {
        // SAFETY: the caller promises its own part, and a run that nobody uses.
        unsafe {
            let first = Chunk::entry(run.chunk.cast(), run.page).load(Relaxed);
            if slab_class(first).is_some_and(|class| class >= CLASSES) {
                Self::forget_parcel(local);
            }
            let stash = &raw mut (*local.as_ptr()).stash;
            if !R::AT_HAND || !(*stash).keeps(run.pages) {
                return runs.release([run]);
            }
            while !(*stash).has_room_for(run.pages) {
                Self::let_go(local, (*stash).overflowing(), runs);
            }
            Self::keep(local, run);
        }
    }

    /// Whether a run of so many pages may be kept.
    ///
    /// # Safety
    ///
    /// The part is this thread's.
    pub(crate) unsafe fn has_room_for(local: NonNull<Self>, pages: usize) -> bool {
        // SAFETY: the caller promises its own part.
        unsafe { (*local.as_ptr()).stash.has_room_for(pages) }
    }

    /// Keeps a run for a slab.
    ///
    /// # Safety
    ///
    /// The part is this thread's, and has room for the run, which nobody uses.
    pub(crate) unsafe fn keep(local: NonNull<Self>, run: Run) {
        // SAFETY: the caller promises all this.
        unsafe {
            // A pointer into it is refused from now on. Of a slab all pages may say what it is, of others only the first
            // does.
            let first = Chunk::entry(run.chunk.cast(), run.page);
            if slab_class(first.load(Relaxed)).is_some() {
                Chunk::mark(run.chunk, run.page, run.pages, INSIDE);
            }
            first.store(ASIDE, Relaxed);
            (*local.as_ptr()).stash.put(run.desc(), run.pages);
            Self::show_stash(local);
        }
    }

    /// A run of so many pages that was kept.
    ///
    /// # Safety
    ///
    /// The part is this thread's.
    pub(crate) unsafe fn from_stash(local: NonNull<Self>, pages: usize) -> Option<Run> {
        // SAFETY: the caller promises its own part.
        unsafe {
            let run = (*local.as_ptr()).stash.take(pages)?;
            Self::show_stash(local);
            Some(Self::run_of(local, run))
        }
    }

    /// How many runs of so many pages to take at a time, none of which is kept.
    ///
    /// # Safety
    ///
    /// The part is this thread's.
    pub(crate) unsafe fn lacking(local: NonNull<Self>, pages: usize) -> usize {
        // SAFETY: the caller promises its own part.
        unsafe { (*local.as_ptr()).stash.lacking(pages) }
    }

    /// Lets the part keep a share of so many pages in use by so many threads.
    ///
    /// # Safety
    ///
    /// The part is this thread's.
    pub(crate) unsafe fn share_in(local: NonNull<Self>, used: usize, threads: usize) {
        // SAFETY: the caller promises its own part.
        unsafe { (*local.as_ptr()).stash.share_in(used, threads) };
    }

    /// Gives back runs that were not needed for some time.
    ///
    /// # Safety
    ///
    /// The part is this thread's.
    pub(crate) unsafe fn shrink_stash<R: Runs>(local: NonNull<Self>, runs: &mut R) {
        // SAFETY: the caller promises its own part. Nobody uses what it kept.
        unsafe {
            Self::let_go(local, (*local.as_ptr()).stash.unneeded(), runs);
        }
    }

    /// Before the heap grows: gives back the older half of the runs that are kept, so that they may become longer ones.
    ///
    /// # Safety
    ///
    /// The part is this thread's.
    pub(crate) unsafe fn give_back_older<R: Runs>(local: NonNull<Self>, runs: &mut R) {
        // SAFETY: the caller promises its own part. Nobody uses what it kept.
        unsafe {
            Self::let_go(local, (*local.as_ptr()).stash.older(false), runs);
        }
    }

    /// Gives back runs that were kept, if there are any.
    unsafe fn let_go<R: Runs>(local: NonNull<Self>, kept: Chain, runs: &mut R) {
        if !kept.is_empty() {
            // SAFETY: the caller promises the part that kept them. Nobody uses them.
            unsafe {
                Self::show_stash(local);
                runs.release(kept.map(|run| Self::run_of(local, run)));
            }
        }
    }

    /// Says to others how many pages are kept.
    unsafe fn show_stash(local: NonNull<Self>) {
        // SAFETY: the caller promises its own part, or one that it looks after.
        unsafe { (*local.as_ptr()).stashed.set((*local.as_ptr()).stash.pages() as u16) };
    }

    /// A run of the part's heap, by its descriptor.
    unsafe fn run_of(local: NonNull<Self>, run: NonNull<Desc>) -> Run {
        // SAFETY: the caller promises both.
        unsafe {
            let chunk = Chunk::of(run, (*(*local.as_ptr()).table).shift);
            let page = Chunk::page_of(chunk, run);
            Run { chunk, page, pages: Desc::pages(run), zeroed: false }
        }
    }

    /// Makes a slab of a run: all its objects are free.
    pub(super) unsafe fn divide(local: NonNull<Self>, class: usize, run: Run) -> NonNull<Desc> {
        let slab = run.desc();
        // SAFETY: the run was just given.
        unsafe {
            let capacity = run.pages * PAGE / TABLE[class].size as usize;
            let desc = slab.as_ptr();
            (*desc).owner.store(local.as_ptr(), Relaxed);
            (*desc).capacity.set(capacity as u16);
            (*desc).free = capacity as u16;
            (*desc).listed = false;
            (*desc).exhausted.set(0);
            for (word, bits) in Desc::bits(slab).iter().enumerate() {
                let here = (capacity - word * 64).min(64);
                bits.set(ones(here as u32));
            }
            Self::tell(local, class, run, capacity);
        }
        slab
    }

    /// Has the pages of a slab tell what they serve; if that is a single object, the first page does.
    unsafe fn tell(local: NonNull<Self>, class: usize, run: Run, capacity: usize) {
        let told = if capacity == 1 { 1 } else { run.pages };
        // SAFETY: the caller promises a slab of its own.
        unsafe {
            for page in 0..told {
                let desc = Chunk::desc(run.chunk, run.page + page).as_ptr();
                (*desc).delta.set(page as u8);
            }
            Chunk::mark(run.chunk, run.page, told, (*local.as_ptr()).tag | class as u32);
        }
    }

    /// The chunk and the page of an address, if it is in a slab of ours of this class.
    #[inline(always)]
    pub(super) unsafe fn place(
        local: NonNull<Self>,
        class: usize,
        addr: usize,
    ) -> Option<(NonNull<Chunk>, usize)> {
        // SAFETY: the caller promises its own part, whose table is one.
        unsafe {
            let (chunk, page) = Self::find(local, addr)?;
            let entry = Chunk::entry(chunk, page).load(Relaxed);
            let found = (entry ^ (*local.as_ptr()).tag) as usize;
            (class == found).then_some((chunk.cast(), page))
        }
    }

    /// Gives an object back to its slab, here or at another thread's; of this class, if one is said.
    pub(crate) unsafe fn send_home<R: Runs>(
        local: NonNull<Self>,
        class: Option<usize>,
        object: NonNull<u8>,
        runs: &mut R,
    ) {
        // SAFETY: the caller promises an object that was freed.
        unsafe {
            let addr = object.addr().get();
            // If it is of another class, its size was not the one that it was freed with.
            let found = Self::locate_slab(local, addr, runs)
                .filter(|(.., entry)| class.is_none_or(|class| class == (entry & KIND) as usize));
            let Some((chunk, page, entry)) = found else {
                return runs.misuse(HeapError::InvalidFree(addr));
            };
            let class = (entry & KIND) as usize;
            if entry == (*local.as_ptr()).tag | class as u32 {
                Self::give_one_back(local, class, chunk.cast(), page, addr, runs);
            } else if let Err(error) = Self::free_elsewhere(local, object, false, runs) {
                runs.misuse(error);
            }
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
            if (*word).look() & bit == 0 { Ok(()) } else { Err(HeapError::DoubleFree(addr)) }
        }
    }

    /// Gives an object back to its slab, which is the one of this page and ours.
    #[inline(always)]
    pub(super) unsafe fn give_one_back<R: Runs>(
        local: NonNull<Self>,
        class: usize,
        chunk: NonNull<Chunk>,
        page: usize,
        addr: usize,
        runs: &mut R,
    ) {
        // SAFETY: the caller promises a page of a slab of ours, and an object that was freed.
        unsafe {
            match Self::free(local, class, chunk, page, addr) {
                Ok(None) => {}
                Ok(Some(slab)) => Self::put_aside(local, Self::run(slab), runs),
                Err(error) => runs.misuse(error),
            }
        }
    }

    /// Sets the bit of an object in a slab of ours. The slab, if its run is to be given back.
    ///
    /// # Errors
    ///
    /// It is free already, or no object.
    ///
    /// # Safety
    ///
    /// The page is one of a slab of ours, or of an orphan's that we look after.
    #[inline]
    pub(super) unsafe fn free(
        local: NonNull<Self>,
        class: usize,
        chunk: NonNull<Chunk>,
        page: usize,
        addr: usize,
    ) -> Result<Option<NonNull<Desc>>, HeapError> {
        // SAFETY: the caller promises a page of a slab.
        unsafe {
            let mut slab = Place::of(class, chunk, page);
            slab.free(addr)?;
            let goes = slab.put_down() && Self::relist(local, class, slab.desc);
            Ok(goes.then_some(slab.desc))
        }
    }

    /// A slab has its first free object, or its last object has become free: whether its run is to be given back.
    #[cold]
    #[inline(never)]
    pub(super) unsafe fn relist(local: NonNull<Self>, class: usize, slab: NonNull<Desc>) -> bool {
        // SAFETY: the caller promises a slab of ours.
        unsafe {
            let slabs = &raw mut (*local.as_ptr()).classes[class];
            if (*slabs).current == slab.as_ptr() {
                return false;
            }
            let idle = Self::is_idle(slab);
            if !idle {
                Self::list(slabs, slab);
            } else if slab.as_ref().listed {
                Self::unlist(slabs, slab);
            }
            idle
        }
    }

    pub(super) unsafe fn list(slabs: *mut Slabs, slab: NonNull<Desc>) {
        // SAFETY: the caller promises a slab in no list.
        unsafe {
            let desc = slab.as_ptr();
            (*desc).listed = true;
            (*desc).next = ptr::null_mut();
            (*desc).previous = (*slabs).last;
            match NonNull::new((*slabs).last) {
                Some(last) => (*last.as_ptr()).next = desc,
                None => (*slabs).first = desc,
            }
            (*slabs).last = desc;
        }
    }

    pub(super) unsafe fn unlist(slabs: *mut Slabs, slab: NonNull<Desc>) {
        // SAFETY: the caller promises a slab of this list.
        unsafe {
            let desc = slab.as_ptr();
            (*desc).listed = false;
            let (previous, next) = ((*desc).previous, (*desc).next);
            match NonNull::new(previous) {
                Some(previous) => (*previous.as_ptr()).next = next,
                None => (*slabs).first = next,
            }
            match NonNull::new(next) {
                Some(next) => (*next.as_ptr()).previous = previous,
                None => (*slabs).last = previous,
            }
        }
    }

    /// Whether all objects of a slab of ours are free.
    pub(super) unsafe fn is_idle(slab: NonNull<Desc>) -> bool {
        // SAFETY: the caller promises a slab of its own.
        unsafe { usize::from((*slab.as_ptr()).free) == Desc::capacity(slab) }
    }

    /// The chunk of a slab.
    pub(super) unsafe fn chunk(slab: NonNull<Desc>) -> NonNull<Chunk> {
        // SAFETY: the caller promises a slab of a chunk; its owner's tables know how long chunks are.
        unsafe {
            let shift = (*(*slab.as_ref().owner.load(Relaxed)).table).shift;
            Chunk::of(slab, shift)
        }
    }

    /// The first byte of a slab.
    pub(super) unsafe fn start(slab: NonNull<Desc>) -> NonNull<u8> {
        // SAFETY: the caller promises a slab.
        unsafe {
            let chunk = Self::chunk(slab);
            Chunk::page(chunk, Chunk::page_of(chunk, slab))
        }
    }

    /// The run of a slab.
    pub(super) unsafe fn run(slab: NonNull<Desc>) -> Run {
        // SAFETY: the caller promises a slab.
        unsafe {
            let chunk = Self::chunk(slab);
            let page = Chunk::page_of(chunk, slab);
            Run { chunk, page, pages: Desc::pages(slab), zeroed: false }
        }
    }

    /// Puts every slab that has free objects into its list, and gives back those without an object in use.
    ///
    /// # Safety
    ///
    /// The part is this thread's, or one that it looks after.
    pub(crate) unsafe fn settle<R: Runs>(local: NonNull<Self>, runs: &mut R) {
        // SAFETY: the caller promises the part. Nobody uses what it kept.
        unsafe {
            Self::let_go(local, (*local.as_ptr()).stash.older(true), runs);
            Self::forget_parcel(local);
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
                    if Self::is_idle(here) {
                        Self::unlist(slabs, here);
                        runs.release([Self::run(here)]);
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
            Self::tell(local, class, run, Desc::capacity(slab));
            Some(slab)
        }
    }

    /// Whether a slab is listed, or the current one, as its free objects ask for.
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
