//! The page heap: runs of pages, chosen by a policy, over a backend.
//!
//! Free runs are kept in two indexes of the same policy: *dirty* ones, whose pages are probably present in memory, and
//! *clean* ones, which cost nothing but addresses. A request takes a dirty run if one serves, then a clean one, then
//! the backend is asked for another chunk. Neighbours of the same kind are merged at once (boundary tags: Knuth 1968).
//!
//! Dirty pages decay: of what was not needed for a tenth of a second half is discarded, as whole huge pages; of what was
//! not for four tenths, all; and what exceeds a bound goes at once, if it is in runs that are not short (Jason Evans,
//! *jemalloc*, 2014, has decay by time; here nobody but the callers drives it). So do the mappings that large blocks left
//! (`mapped`). And a large run that only a clean one serves first makes as many idle pages clean, so that what is present
//! does not grow by it, but for a quarter of what is in use.
//!
//! Invariants, besides those of the chunks: a free run is in the index of its kind; no two neighbours are of the same
//! kind; `pages` of an index is the sum of its runs; the pages that are clean are counted for each part of a chunk that a
//! huge page could serve; where the heap offers huge pages but has withdrawn them for now, some are clean and some are
//! not; where it would but for their price, all are withdrawn.

mod growth;
mod mapped;
mod price;

use core::mem;
use core::ops::Range;
use core::ptr::{self, NonNull};
use core::sync::atomic::Ordering::{Relaxed, Release};

use heapwright_backends::Counting;
use heapwright_core::{
    Broken, FreeBlock, HeapBackend, OutOfMemory, Policy, Region, Request, ensure,
};

use self::growth::Growth;
pub(crate) use self::growth::Taken;
pub(crate) use self::mapped::{BEFORE_BLOCK, LEAST_MAPPED, Mapping};
use self::mapped::{Mappings, Spares};
use crate::chunk::{
    ASIDE, CHUNK_SHIFT, CLEAN, Chunk, DESC, DIRTY, Desc, Entry, HUGE_PAGES, INSIDE, LARGE, Table,
    block_of, desc_of,
};
use crate::classes::PAGE;

/// The least chunk: for small arenas.
const LEAST_SHIFT: u32 = 16;
/// Units of the address space that the first table covers.
const FIRST_UNITS: usize = 256;

/// Dirty pages beyond this many, a quarter of those in use, and [what was missed](Pages::missed), are discarded at once, but
/// for [short](LONG) runs.
const DIRTY_BOUND: usize = (64 << 20) / PAGE;
/// From this many pages on a request makes dirty pages clean before it takes clean ones.
const EXCHANGES: usize = 64;
/// One idle page may stay for so many in use: to discard what others need next costs more than all else about them.
const STAY: usize = 4;
/// So often idle pages decay by huge ones before what was not needed meanwhile goes, whatever it is.
const CALM: u8 = 4;
/// Dirty runs of fewer pages are short.
const LONG: usize = (64 << 10) / PAGE;
/// Where idle pages are in short runs, so many times as many may stay.
const PIECES: usize = 2;
/// If all but one in so many became idle since pages decayed last, that time begins anew: a program has just shrunk.
const MOST: usize = 8;
/// How often dirty pages decay, in milliseconds.
pub(crate) const DECAY: u64 = 100;

/// Pages from one to the next that is a multiple of `align`, a power of two.
const fn front(page: usize, align: usize) -> usize {
    page.wrapping_neg() & (align - 1)
}

/// Free runs of one kind.
struct Index<P> {
    policy: P,
    pages: usize,
}

impl<P: Policy> Index<P> {
    const NEW: Self = Self { policy: P::NEW, pages: 0 };
}

/// A run of pages.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    pub(crate) chunk: NonNull<Chunk>,
    pub(crate) page: usize,
    pub(crate) pages: usize,
    /// Whether all of it is zero.
    pub(crate) zeroed: bool,
}

impl Run {
    pub(crate) fn start(&self) -> NonNull<u8> {
        // SAFETY: the run is one of the chunk.
        unsafe { Chunk::page(self.chunk, self.page) }
    }

    pub(crate) fn desc(&self) -> NonNull<Desc> {
        // SAFETY: the run is one of the chunk.
        unsafe { Chunk::desc(self.chunk, self.page) }
    }

    fn region(&self) -> Region {
        Region { start: self.start(), size: self.pages * PAGE, zeroed: false }
    }
}

/// Runs of pages over the backend `B`, chosen by the policy `P`.
pub(crate) struct Pages<B, P> {
    source: Counting<B>,
    dirty: Index<P>,
    clean: Index<P>,
    pub(crate) chunks: *mut Chunk,
    pub(crate) mappings: Mappings,
    /// Mappings without a block.
    spares: Spares,
    pub(crate) table: *mut Table,
    /// The binary logarithm of the length of chunks; zero before the first.
    shift: u32,
    /// Pages that serve something.
    used: usize,
    /// Those of blocks with mappings of their own.
    mapped_pages: usize,
    /// The fewest idle pages since they last decayed.
    idle: usize,
    /// The same since those went that were not needed for long, and how often pages decayed since.
    long_idle: usize,
    calm: u8,
    /// Whether that was since chunks were looked at last.
    is_calm: bool,
    /// Pages that were discarded a short time ago for being more than may stay; and of such, those that were needed again.
    /// They are forgotten by halves and by eighths as pages decay.
    thrown: usize,
    missed: usize,
    /// When pages decayed last.
    decayed: u64,
    /// Whether to ask the backend to discard: not until pages decay next, once it refused so much that more stays than may.
    discards: bool,
    growth: Growth,
}

// SAFETY: all pointers lead into regions that belong to the heap alone and go where it goes.
unsafe impl<B: Send, P: Send> Send for Pages<B, P> {}

impl<B: HeapBackend, P: Policy> Pages<B, P> {
    pub(crate) const fn over(backend: B, huge_from: usize) -> Self {
        Self {
            source: Counting::over(backend),
            dirty: Index::NEW,
            clean: Index::NEW,
            chunks: ptr::null_mut(),
            mappings: Mappings::NONE,
            spares: Spares::NONE,
            table: ptr::null_mut(),
            shift: 0,
            used: 0,
            mapped_pages: 0,
            idle: 0,
            long_idle: 0,
            calm: 0,
            is_calm: false,
            thrown: 0,
            missed: 0,
            decayed: 0,
            discards: true,
            growth: Growth::new(huge_from),
        }
    }

    /// The backend, of a heap that took nothing from it.
    pub(crate) fn into_source(self) -> B {
        self.source.into_inner()
    }

    /// The books on the backend.
    pub(crate) fn source(&self) -> &Counting<B> {
        &self.source
    }

    /// Discards pages that go on serving something: few, for which no huge page is withdrawn.
    ///
    /// # Safety
    ///
    /// They are some of a run in use, and nobody needs the contents.
    pub(crate) unsafe fn discard_used(&mut self, run: Run) {
        // SAFETY: the caller promises the pages.
        unsafe { self.source.discard(run.region()) };
    }

    /// How many pages serve something.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// The most pages that a run may have.
    pub(crate) fn longest(&self) -> usize {
        const LONGEST: usize = Chunk::room(CHUNK_SHIFT);
        match self.shift {
            0 | CHUNK_SHIFT => LONGEST,
            shift => Chunk::room(shift),
        }
    }

    fn index(&mut self, kind: Entry) -> &mut Index<P> {
        if kind == DIRTY { &mut self.dirty } else { &mut self.clean }
    }

    // ---- Runs -----------------------------------------------------------------------------------

    /// A run of `pages` pages whose start is a multiple of `align` pages, a power of two. Its entries are the
    /// caller's to set; those of its ends are [`INSIDE`] until then.
    pub(crate) fn take(&mut self, pages: usize, align: usize) -> Option<Run> {
        let free = self.free_run(pages, align);
        free.or_else(|| self.new_run(pages, align)).inspect(|run| self.note_taken(run))
    }

    /// A run of `pages` pages, if one is free.
    pub(crate) fn take_free(&mut self, pages: usize) -> Option<Run> {
        self.free_run(pages, 1).inspect(|run| self.note_taken(run))
    }

    fn note_taken(&mut self, run: &Run) {
        self.used += run.pages;
        self.note_need();
    }

    /// Whether no dirty run has so many pages.
    pub(crate) fn lacks(&mut self, pages: usize) -> bool {
        self.dirty.policy.find(Request::new(pages * DESC)).is_none()
    }

    /// Part of a free run.
    fn free_run(&mut self, pages: usize, align: usize) -> Option<Run> {
        if let Some(block) = self.fitting(DIRTY, pages, align) {
            return Some(self.cut(DIRTY, block, pages, align));
        }
        if pages >= EXCHANGES {
            self.exchange(pages);
        }
        let block = self.fitting(CLEAN, pages, align)?;
        Some(self.cut_clean(block, pages, align))
    }

    /// A free run that has so many pages from a multiple of `align` on. One may have them by luck, or because another such
    /// run was there, so some are looked at before the first that has them however it lies.
    fn fitting(&mut self, kind: Entry, pages: usize, align: usize) -> Option<FreeBlock> {
        const LOOKS: usize = 128;
        let mut block = self.index(kind).policy.find(Request::new(pages * DESC))?;
        for _ in 0..LOOKS {
            // SAFETY: a free block stands for a run of a chunk of ours.
            let (_, page) = unsafe { self.place(desc_of(block)) };
            if front(page, align) + pages <= block.size() / DESC {
                return Some(block);
            }
            // SAFETY: the block is in the index.
            let Some(next) = (unsafe { self.index(kind).policy.next_free(block) }) else { break };
            block = next;
        }
        self.index(kind).policy.find(Request::new((pages + align - 1) * DESC))
    }

    /// Part of what the backend gives, or of what is free when all of it is clean, or all dirty.
    fn new_run(&mut self, pages: usize, align: usize) -> Option<Run> {
        let least = pages + align - 1;
        if least > self.longest() {
            return None;
        }
        if self.grow(least).is_none() && !self.grow_by_spares(least) {
            // The last resort: what is dirty and what is clean become neighbours.
            self.discards = true;
            self.discard_down_to(0);
            if self.dirty.pages > 0 {
                self.soil();
                let block = self.fitting(DIRTY, pages, align)?;
                return Some(self.cut(DIRTY, block, pages, align));
            }
        }
        let block = self.fitting(CLEAN, pages, align)?;
        Some(self.cut_clean(block, pages, align))
    }

    /// Takes another chunk when spare mappings were given back, if there were any.
    fn grow_by_spares(&mut self, pages: usize) -> bool {
        self.give_back_spares(usize::MAX) && self.grow(pages).is_some()
    }

    /// Before so many pages become present: discards as many that are idle, if there are, and more than may stay.
    fn exchange(&mut self, pages: usize) {
        let stay = (self.used + self.mapped_pages) / STAY;
        if self.idle_pages() > stay.max(pages) {
            self.discard_huge_down_to((self.idle_pages() - pages).max(stay));
        }
    }

    /// So much was taken since this was said before, by one of the threads.
    pub(crate) fn note_progress(&mut self, taken: Taken) {
        self.growth.note_progress(taken);
    }

    /// There are several threads from now on.
    pub(crate) fn leave_to_threads(&mut self) {
        self.growth.leave_to_threads();
    }

    /// Takes pages out of a free run, and puts back what is left in front and behind.
    fn cut(&mut self, kind: Entry, block: FreeBlock, pages: usize, align: usize) -> Run {
        // SAFETY: the block is in the index of its kind, and all its pages are free.
        unsafe {
            let (chunk, page) = self.place(desc_of(block));
            let all = block.size() / DESC;
            let front = front(page, align);
            let rest = all - front - pages;
            let index = self.index(kind);
            index.pages -= pages;
            if front > 0 {
                index.policy.remove(block);
                self.insert(kind, chunk, page, front);
                if rest > 0 {
                    self.insert(kind, chunk, page + front + pages, rest);
                }
            } else if rest > 0 {
                let cut = self.lay(kind, chunk, page + pages, rest);
                self.index(kind).policy.replace(block, cut);
            } else {
                index.policy.remove(block);
            }
            let run = Run {
                chunk,
                page: page + front,
                pages,
                zeroed: kind == CLEAN && chunk.as_ref().region.zeroed,
            };
            // Before the lock is let go: who gives back a neighbour must not take this for a free run.
            Chunk::entry(chunk.cast(), run.page).store(INSIDE, Relaxed);
            Chunk::entry(chunk.cast(), run.page + pages - 1).store(INSIDE, Relaxed);
            (*run.desc().as_ptr()).mark_used(pages);
            (*chunk.as_ptr()).used += pages as u32;
            if kind == CLEAN {
                self.note_missed(pages);
                self.note_growth(&run);
                self.begin_huge(&run);
                self.note_clean(chunk, run.page..run.page + pages, false);
            }
            run
        }
    }

    /// Writes the marks of a free run: its header, the entries at its ends, and its foot. The end of a chunk bears none:
    /// nobody looks at it from behind, and a page of the entries and one of the descriptors are never touched for it.
    ///
    /// # Safety
    ///
    /// The pages are free.
    unsafe fn lay(
        &self,
        kind: Entry,
        chunk: NonNull<Chunk>,
        page: usize,
        pages: usize,
    ) -> FreeBlock {
        // SAFETY: the caller promises free pages of the chunk.
        unsafe {
            let last = page + pages - 1;
            Chunk::entry(chunk.cast(), page).store(kind, Relaxed);
            if last + 1 < chunk.as_ref().pages as usize {
                Chunk::entry(chunk.cast(), last).store(kind, Relaxed);
                (*Chunk::desc(chunk, last).as_ptr()).foot = pages as u32;
            }
            block_of(Chunk::desc(chunk, page), pages)
        }
    }

    /// Puts a free run into the index of its kind, as it is.
    ///
    /// # Safety
    ///
    /// The pages are free.
    unsafe fn insert(&mut self, kind: Entry, chunk: NonNull<Chunk>, page: usize, pages: usize) {
        // SAFETY: the caller promises free pages of the chunk.
        unsafe {
            let block = self.lay(kind, chunk, page, pages);
            self.index(kind).policy.insert(block);
        }
    }

    /// Where a descriptor is.
    unsafe fn place(&self, desc: NonNull<Desc>) -> (NonNull<Chunk>, usize) {
        // SAFETY: the caller promises a descriptor of a chunk of ours.
        unsafe {
            let chunk = Chunk::of(desc, self.shift);
            (chunk, Chunk::page_of(chunk, desc))
        }
    }

    /// Gives back a run.
    ///
    /// # Safety
    ///
    /// It was taken, and nobody uses it.
    pub(crate) unsafe fn give(&mut self, run: Run) {
        // SAFETY: the caller promises the run.
        unsafe {
            // A pointer into it is refused from now on. Of a slab all pages may say what it is, of others only the first
            // does.
            let first = Chunk::entry(run.chunk.cast(), run.page).load(Relaxed);
            let told = if matches!(first, LARGE | ASIDE) { 1 } else { run.pages };
            Chunk::mark(run.chunk, run.page, told, DIRTY);
            (*run.chunk.as_ptr()).used -= run.pages as u32;
            self.used -= run.pages;
            self.put(DIRTY, run.chunk, run.page, run.pages);
        }
        self.keep_bound();
        self.decay();
    }

    /// Puts a free run into the index of its kind, merged with its neighbours there.
    unsafe fn put(
        &mut self,
        kind: Entry,
        chunk: NonNull<Chunk>,
        mut page: usize,
        mut pages: usize,
    ) {
        self.index(kind).pages += pages;
        // SAFETY: an entry of a kind of free runs, next to a run, is at the end of another run of that kind.
        unsafe {
            let all = chunk.as_ref().pages as usize;
            if page + pages < all && Chunk::entry(chunk.cast(), page + pages).load(Relaxed) == kind
            {
                let next = Chunk::desc(chunk, page + pages);
                let size = Desc::pages(next);
                self.index(kind).policy.remove(block_of(next, size));
                pages += size;
            }
            if Chunk::entry(chunk.cast(), page - 1).load(Relaxed) == kind {
                let size = Chunk::desc(chunk, page - 1).as_ref().foot as usize;
                let previous = Chunk::desc(chunk, page - size);
                self.index(kind).policy.remove(block_of(previous, size));
                page -= size;
                pages += size;
            }
            self.insert(kind, chunk, page, pages);
        }
    }

    /// Makes a run in use longer where it stands, if what follows is free; its entries are set.
    ///
    /// # Safety
    ///
    /// It is a large block's.
    pub(crate) unsafe fn extend(&mut self, run: Run, pages: usize) -> bool {
        // SAFETY: the caller promises a run in use. Behind it is another run, or the end.
        unsafe {
            let more = pages - run.pages;
            let next = run.page + run.pages;
            if next >= run.chunk.as_ref().pages as usize {
                return false;
            }
            let kind = Chunk::entry(run.chunk.cast(), next).load(Relaxed);
            let desc = Chunk::desc(run.chunk, next);
            if (kind != DIRTY && kind != CLEAN) || Desc::pages(desc) < more {
                return false;
            }
            let block = block_of(desc, Desc::pages(desc));
            let taken = self.cut(kind, block, more, 1);
            self.used += more;
            debug_assert!(taken.page == next, "what follows was taken from its start");
            (*run.desc().as_ptr()).mark_used(pages);
            true
        }
    }

    /// Gives back the end of a run in use.
    ///
    /// # Safety
    ///
    /// It is a large block's, or was just taken, longer than `pages`, and nobody uses its end.
    pub(crate) unsafe fn cut_end(&mut self, run: Run, pages: usize) {
        // SAFETY: the caller promises the run.
        unsafe {
            (*run.desc().as_ptr()).mark_used(pages);
            if pages > 1 {
                Chunk::entry(run.chunk.cast(), run.page + pages - 1).store(INSIDE, Relaxed);
            }
            let end = Run { page: run.page + pages, pages: run.pages - pages, ..run };
            self.give(end);
        }
    }

    // ---- Decay ----------------------------------------------------------------------------------

    /// Pages that serve nothing and are probably present.
    pub(crate) fn idle_pages(&self) -> usize {
        self.dirty.pages + self.spares.pages
    }

    /// Gives back spare mappings, and discards huge pages that are all dirty, until at most `keep` pages are idle, or there
    /// are none left. A huge page of which a part is discarded is none any more, and its pages cost a fault each when they
    /// serve again: that is for those that are not needed for long.
    fn discard_huge_down_to(&mut self, keep: usize) {
        if !self.growth.has_huge_pages() {
            return;
        }
        self.give_back_spares(self.idle_pages().saturating_sub(keep));
        // So long a run has a whole huge page, wherever it starts.
        let request = Request::new((2 * HUGE_PAGES - 1) * DESC);
        while self.idle_pages() > keep
            && self.discards
            && let Some(block) = self.dirty.policy.find(request)
        {
            // SAFETY: the block is in the index, so it is a dirty run.
            unsafe {
                let (chunk, page) = self.place(desc_of(block));
                let end = page + block.size() / DESC;
                let first = page.next_multiple_of(HUGE_PAGES);
                let most = (self.idle_pages() - keep).next_multiple_of(HUGE_PAGES);
                let last = (end / HUGE_PAGES * HUGE_PAGES).min(first + most);
                let whole = Run { chunk, page, pages: end - page, zeroed: false };
                if !self.discard(whole, first..last) {
                    return;
                }
            }
        }
    }

    /// Gives back spare mappings, and discards dirty runs, until at most `keep` pages are idle. What the backend refuses, as
    /// a kernel does where the program has locked a page into memory, stays as it is.
    fn discard_down_to(&mut self, keep: usize) {
        const REFUSALS: usize = 64;
        self.give_back_spares(self.idle_pages().saturating_sub(keep));
        if !self.discards {
            return;
        }
        let mut refusals = 0;
        let mut chunk = self.chunks;
        while let Some(at) = NonNull::new(chunk) {
            // SAFETY: the list leads from chunk to chunk, and runs follow each other in each.
            unsafe {
                let mut page = at.as_ref().first as usize;
                while page < at.as_ref().pages as usize {
                    if self.idle_pages() <= keep {
                        return;
                    }
                    if refusals == REFUSALS {
                        self.discards = false;
                        return;
                    }
                    let desc = Chunk::desc(at, page);
                    let pages = Desc::pages(desc);
                    if Chunk::entry(at.cast(), page).load(Relaxed) == DIRTY {
                        let run = Run { chunk: at, page, pages, zeroed: false };
                        refusals += usize::from(!self.discard(run, page..page + pages));
                    }
                    page += pages;
                }
                chunk = at.as_ref().next;
            }
        }
        self.discards = refusals == 0;
    }

    /// Makes pages of a dirty run clean, if the backend discards them.
    unsafe fn discard(&mut self, run: Run, pages: Range<usize>) -> bool {
        let Run { chunk, page: start, .. } = run;
        let end = start + run.pages;
        let part = Run { page: pages.start, pages: pages.len(), ..run };
        // SAFETY: the caller promises a dirty run, which is in its index, and pages of it.
        unsafe {
            if !self.source.discard(part.region()) {
                return false;
            }
            self.dirty.policy.remove(block_of(run.desc(), run.pages));
            self.dirty.pages -= part.pages;
            if start < pages.start {
                self.insert(DIRTY, chunk, start, pages.start - start);
            }
            if pages.end < end {
                self.insert(DIRTY, chunk, pages.end, end - pages.end);
            }
            self.put(CLEAN, chunk, part.page, part.pages);
            self.note_clean(chunk, pages, true);
        }
        true
    }

    /// Makes all clean runs dirty, where not all that is dirty can be made clean.
    fn soil(&mut self) {
        (self.thrown, self.missed) = (0, 0);
        while let Some(block) = self.clean.policy.take(Request::new(DESC)) {
            // SAFETY: the block was in the index, so it is a free run.
            unsafe {
                let pages = block.size() / DESC;
                let (chunk, page) = self.place(desc_of(block));
                self.clean.pages -= pages;
                self.put(DIRTY, chunk, page, pages);
                self.note_clean(chunk, page..page + pages, false);
            }
        }
    }

    /// Discards dirty runs that are not short, at first those of half a MiB or more, until at most `keep` pages are idle, or
    /// there are none left. For each run the kernel is asked once, which costs as much as the discarding of some pages: where objects are
    /// freed at random, what is short becomes long by and by, or serves again.
    fn discard_long_down_to(&mut self, keep: usize) {
        for least in [LONG * LONG, LONG] {
            let request = Request::new(least * DESC);
            while self.idle_pages() > keep
                && self.discards
                && let Some(block) = self.dirty.policy.find(request)
            {
                // SAFETY: the block is in the index, so it is a dirty run.
                unsafe {
                    let (chunk, page) = self.place(desc_of(block));
                    let pages = block.size() / DESC;
                    let run = Run { chunk, page, pages, zeroed: false };
                    if !self.discard(run, page..page + pages) {
                        // It would be the first that is found again.
                        return self.discard_down_to(keep);
                    }
                }
            }
        }
    }

    /// Where more is idle than may be, half of that may stay, and as much as was missed when it had gone: a program that
    /// frees all it has and soon fills it again would fault in the same pages each time.
    fn keep_bound(&mut self) {
        let least = DIRTY_BOUND + (self.used + self.mapped_pages) / 4;
        let (bound, stay) = (least + self.missed, least / 2 + self.missed);
        let idle = self.idle_pages();
        if idle > bound {
            self.discard_huge_down_to(stay);
            if self.idle_pages() > bound {
                self.discard_long_down_to(stay);
            }
            if self.idle_pages() > PIECES * least + self.missed {
                self.discard_down_to(stay);
            }
            self.thrown += idle - self.idle_pages();
        }
    }

    /// Before so many pages become present.
    fn note_present(&mut self, pages: usize) {
        self.exchange(pages);
        self.note_missed(pages);
    }

    /// So many pages become present that might be so still, had not as many been discarded before.
    fn note_missed(&mut self, pages: usize) {
        let again = pages.min(self.thrown);
        self.thrown -= again;
        self.missed += again;
    }

    /// Lets time pass: of the idle pages that were not needed since the last time, half go.
    pub(crate) fn decay(&mut self) {
        if self.idle_pages() + self.thrown + self.missed == 0 {
            return;
        }
        let now = now();
        if now < self.decayed + DECAY {
            return;
        }
        self.discards = true;
        self.thrown /= 2;
        self.missed -= self.missed.div_ceil(8);
        if self.decayed > 0 {
            self.calm += 1;
            let idle = self.idle.min(self.idle_pages());
            if idle < self.idle_pages() / MOST {
                self.calm = 0;
                self.long_idle = self.idle_pages();
            }
            self.discard_huge_down_to(self.idle_pages() - idle.div_ceil(2));
        }
        if self.calm == CALM {
            self.calm = 0;
            let idle = self.long_idle.min(self.idle_pages());
            self.discard_down_to(self.idle_pages() - idle);
            self.long_idle = self.idle_pages();
            self.is_calm = true;
        }
        self.idle = self.idle_pages();
        self.decayed = now;
    }

    /// Once what was not needed for long has gone: gives back chunks of which that was all. Says whether any went, which none
    /// may take for near any more.
    pub(crate) fn give_back_clean_chunks(&mut self) -> bool {
        mem::take(&mut self.is_calm) && self.give_back_chunks(true) > 0
    }

    /// Pages that became idle beyond so many were not needed for some time before.
    pub(crate) fn note_idle_beyond(&mut self, idle: usize) {
        let more = self.idle_pages().saturating_sub(idle);
        self.idle += more;
        self.long_idle += more;
    }

    /// Idle pages are needed.
    fn note_need(&mut self) {
        self.idle = self.idle.min(self.idle_pages());
        self.long_idle = self.long_idle.min(self.idle);
    }

    /// Gives back chunks that serve nothing, discards all else that is dirty, and says how many bytes that was.
    pub(crate) fn trim(&mut self) -> usize {
        let spare = self.spares.pages;
        self.give_back_all_spares();
        let mut given = (spare - self.spares.pages) * PAGE;
        given += self.give_back_chunks(false);
        given += self.discard_rests();
        let dirty = self.dirty.pages;
        self.discards = true;
        self.discard_down_to(0);
        given + (dirty - self.dirty.pages) * PAGE
    }

    /// Gives back chunks that serve nothing; if so asked, only those of which all was discarded: their descriptors are what
    /// is left of them. Says how many bytes that was.
    fn give_back_chunks(&mut self, only_clean: bool) -> usize {
        let mut given = 0;
        let mut link = &raw mut self.chunks;
        // SAFETY: the list leads from chunk to chunk. A chunk without a page in use is one dirty or clean run, or
        // several; they leave the indexes first.
        unsafe {
            while let Some(chunk) = NonNull::new(*link) {
                if chunk.as_ref().used > 0 || only_clean && !chunk.as_ref().is_clean() {
                    link = &raw mut (*chunk.as_ptr()).next;
                    continue;
                }
                self.index_all(chunk, false);
                let region = chunk.as_ref().region;
                let next = chunk.as_ref().next;
                self.publish(chunk.addr().get(), ptr::null_mut());
                // Backends that stack take only what they gave last.
                let taken = self.source.shrink(region);
                if taken == region.size {
                    *link = next;
                    given += taken;
                } else {
                    self.publish(chunk.addr().get(), chunk.as_ptr().cast());
                    self.index_all(chunk, true);
                    link = &raw mut (*chunk.as_ptr()).next;
                }
            }
        }
        given
    }

    /// Puts all runs of a chunk into the indexes, or takes them out.
    unsafe fn index_all(&mut self, chunk: NonNull<Chunk>, indexed: bool) {
        // SAFETY: the caller promises a chunk of which no page is in use, and whether its runs are in the indexes.
        unsafe {
            let mut page = chunk.as_ref().first as usize;
            while page < chunk.as_ref().pages as usize {
                let desc = Chunk::desc(chunk, page);
                let pages = Desc::pages(desc);
                let kind = Chunk::entry(chunk.cast(), page).load(Relaxed);
                let index = self.index(kind);
                if indexed {
                    index.policy.insert(block_of(desc, pages));
                    index.pages += pages;
                } else {
                    index.policy.remove(block_of(desc, pages));
                    index.pages -= pages;
                }
                page += pages;
            }
        }
    }

    /// Makes all pages of a chunk one clean run, and makes it known.
    unsafe fn fill(&mut self, chunk: NonNull<Chunk>) {
        // SAFETY: the caller promises a chunk of which no page is in an index.
        unsafe {
            let Chunk { first, pages, .. } = *chunk.as_ptr();
            let (first, pages) = (first as usize, pages as usize);
            self.clean.pages += pages - first;
            self.insert(CLEAN, chunk, first, pages - first);
            self.publish(chunk.addr().get(), chunk.as_ptr().cast());
        }
    }

    // ---- Chunks ---------------------------------------------------------------------------------

    /// Takes another chunk, one that has `pages` pages to give.
    fn grow(&mut self, pages: usize) -> Option<()> {
        let chunk = if self.shift == 0 {
            let least = Chunk::enough_for(pages) * PAGE;
            let shifts = (LEAST_SHIFT..=CHUNK_SHIFT).rev().filter(|&shift| 1 << shift >= least);
            shifts.into_iter().find_map(|shift| self.chunk(shift))?
        } else {
            self.chunk(self.shift)?
        };
        if self.reach(chunk.addr().get()).is_err() {
            // SAFETY: just given, and used by nobody.
            unsafe { self.source.shrink(chunk.as_ref().region) };
            return None;
        }
        // SAFETY: a new chunk, known to the table's range.
        unsafe { self.fill(chunk) };
        self.chunks = chunk.as_ptr();
        Some(())
    }

    fn chunk(&mut self, shift: u32) -> Option<NonNull<Chunk>> {
        let size = 1_usize << shift;
        let region = self.source.grow(size, size).ok()?;
        self.shift = shift;
        let previous = NonNull::new(self.chunks);
        // SAFETY: one is a chunk, the other was just given.
        unsafe {
            let withdrawn = self.withdraw_first(region);
            let chunk = Chunk::make(region, size, self.chunks);
            (*chunk.as_ptr()).withdrawn = withdrawn;
            self.begin_growth(chunk, previous);
            Some(chunk)
        }
    }

    /// Says of the unit of an address what it is, in every table that has it: threads read old ones too.
    fn publish(&self, addr: usize, word: *mut u8) {
        let mut table = self.table;
        // SAFETY: tables live as long as the heap.
        unsafe {
            while let Some(known) = NonNull::new(table) {
                let unit = (addr >> self.shift).wrapping_sub(known.as_ref().low);
                if unit < known.as_ref().units {
                    Table::unit(table, unit).store(word, Release);
                }
                table = known.as_ref().older;
            }
        }
    }

    /// Bytes of a table that covers what the first one covers.
    pub(crate) const FIRST_TABLE: usize = Table::bytes(FIRST_UNITS);

    /// Lays the first table, around the first chunk.
    ///
    /// # Safety
    ///
    /// `at` has room for [`FIRST_TABLE`](Self::FIRST_TABLE) bytes, for as long as the heap lives.
    pub(crate) unsafe fn lay_first_table(&mut self, at: NonNull<Table>) {
        let Some(chunk) = NonNull::new(self.chunks) else { return };
        // The first unit of all is left out: nothing lies there, and null is no unit's address.
        let low = (chunk.addr().get() >> self.shift).saturating_sub(FIRST_UNITS / 8).max(1);
        // SAFETY: the caller promises the room.
        unsafe { self.lay_table(at, low, FIRST_UNITS, None) };
    }

    unsafe fn lay_table(
        &mut self,
        at: NonNull<Table>,
        low: usize,
        units: usize,
        region: Option<Region>,
    ) {
        // SAFETY: the caller promises the room. What a table says is written before it is published.
        unsafe {
            if !region.is_some_and(|region| region.zeroed) {
                ptr::write_bytes(at.as_ptr().cast::<u8>(), 0, Table::bytes(units));
            }
            at.write(Table { shift: self.shift, low, units, older: self.table, region });
            let mut chunk = self.chunks;
            while let Some(known) = NonNull::new(chunk) {
                let unit = (known.addr().get() >> self.shift) - low;
                Table::unit(at.as_ptr(), unit).store(chunk.cast(), Relaxed);
                chunk = known.as_ref().next;
            }
            let mut mapping = self.mappings.first;
            while let Some(known) = NonNull::new(mapping) {
                let unit = ((known.addr().get() + BEFORE_BLOCK) >> self.shift) - low;
                Table::unit(at.as_ptr(), unit).store(mapping.cast(), Relaxed);
                mapping = known.as_ref().next;
            }
        }
        self.table = at.as_ptr();
    }

    /// Makes the table cover an address.
    fn reach(&mut self, addr: usize) -> Result<(), OutOfMemory> {
        if self.table.is_null() {
            return Ok(());
        }
        // SAFETY: the table is one.
        let covered = unsafe { ((*self.table).low, (*self.table).units) };
        let (low, units) = covered;
        let unit = addr >> self.shift;
        if unit >= low && unit < low + units {
            return Ok(());
        }
        let low = low.min(unit.saturating_sub(units)).max(1);
        let high = (covered.0 + covered.1).max(unit + 1) + units;
        let units = high - low;
        let region = self.source.grow(Table::bytes(units), self.source.page_size().min(4096))?;
        // SAFETY: just given.
        unsafe { self.lay_table(region.start.cast(), low, units, Some(region)) };
        Ok(())
    }

    // ---- The end --------------------------------------------------------------------------------

    /// Gives everything back.
    ///
    /// # Safety
    ///
    /// Nobody uses anything of the heap any more, and `self` does not lie in it.
    pub(crate) unsafe fn give_all_back(&mut self) {
        // SAFETY: the caller promises that nothing is used any more; what is read of a thing is read before it goes.
        unsafe {
            while let Some(mapping) = NonNull::new(self.mappings.first) {
                self.mappings.first = mapping.as_ref().next;
                self.source.shrink(mapping.as_ref().region);
            }
            while let Some(spare) = NonNull::new(self.spares.list.first) {
                self.spares.list.first = spare.as_ref().next;
                self.source.shrink(spare.as_ref().region);
            }
            let mut table = self.table;
            while let Some(known) = NonNull::new(table) {
                table = known.as_ref().older;
                if let Some(region) = known.as_ref().region {
                    self.source.shrink(region);
                }
            }
            while let Some(chunk) = NonNull::new(self.chunks) {
                self.chunks = chunk.as_ref().next;
                self.source.shrink(chunk.as_ref().region);
            }
        }
    }

    // ---- Looking --------------------------------------------------------------------------------

    /// Visits the runs of a chunk, by rising address: the first page, how many, and the entry.
    pub(crate) unsafe fn runs(chunk: NonNull<Chunk>, visit: &mut dyn FnMut(Run, Entry)) {
        // SAFETY: the caller promises a chunk and the lock of the page heap.
        unsafe {
            let mut page = chunk.as_ref().first as usize;
            while page < chunk.as_ref().pages as usize {
                let pages = Desc::pages(Chunk::desc(chunk, page));
                if pages == 0 {
                    return;
                }
                let entry = Chunk::entry(chunk.cast(), page).load(Relaxed);
                visit(Run { chunk, page, pages, zeroed: false }, entry);
                page += pages;
            }
        }
    }

    /// Verifies what this module promises.
    pub(crate) fn check(&self) -> Result<(), Broken> {
        let (mut dirty, mut clean, mut used) = ((0, 0), (0, 0), 0);
        let mut chunk = self.chunks;
        while let Some(at) = NonNull::new(chunk) {
            let mut found = Ok(());
            let (mut end, mut previous, mut used_here) = (0, 0, 0);
            // SAFETY: the list leads from chunk to chunk.
            unsafe {
                Self::runs(at, &mut |run, entry| {
                    end = run.page + run.pages;
                    let place = run.start().addr().get();
                    let desc = run.desc().as_ref();
                    if entry == DIRTY || entry == CLEAN {
                        let foot = Chunk::desc(at, end - 1).as_ref().foot as usize;
                        let last = Chunk::entry(at.cast(), end - 1).load(Relaxed);
                        let last_of_all = end == at.as_ref().pages as usize;
                        let fine = last_of_all || (foot == run.pages && last == entry);
                        let fine = fine && !desc.used();
                        let marked = ensure(fine, "a free run is marked at both ends", place);
                        let apart = entry != previous;
                        let merged = ensure(apart, "free neighbours of a kind are merged", place);
                        found = found.and(marked).and(merged);
                        let sums = if entry == DIRTY { &mut dirty } else { &mut clean };
                        *sums = (sums.0 + 1, sums.1 + run.pages);
                    } else {
                        used_here += run.pages;
                        found = found.and(ensure(desc.used(), "a run in use is marked", place));
                    }
                    previous = entry;
                });
                found?;
                let addr = at.addr().get();
                let whole = end == at.as_ref().pages as usize;
                ensure(whole, "the runs of a chunk fill it", addr)?;
                ensure(used_here == at.as_ref().used as usize, "a chunk counts its pages", addr)?;
                Self::check_huge(at)?;
                used += used_here;
                chunk = at.as_ref().next;
            }
        }
        let here = ptr::from_ref(self).addr();
        ensure(used == self.used, "pages in use are counted", here)?;
        for (index, (runs, pages)) in [(&self.dirty, dirty), (&self.clean, clean)] {
            let indexed = index.policy.check()?;
            ensure(indexed.blocks == runs, "free runs are in their index", here)?;
            ensure(indexed.bytes == pages * DESC, "an index has the sizes of its runs", here)?;
            ensure(index.pages == pages, "an index counts its pages", here)?;
        }
        self.check_mapped()
    }
}

/// Milliseconds since some moment, cheaply.
pub(crate) fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time is writable. The clock is read without a system call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000
}
