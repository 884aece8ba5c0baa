//! How the pages that a heap grows by become present in memory: each for itself, some at a time, or as huge ones.
//!
//! A fault for each small page is most of what a growing program pays for its memory. A huge page costs as much as a few
//! of them, and serves five hundred; but a heap holds up to 2 MiB more by it, all of which may never be needed. So what
//! pages become is decided when a run reaches them: in the first chunk as follows, in others when they are made.
//!
//! * from [`Design::HUGE_FROM`](crate::Design::HUGE_FROM) bytes on, huge ones: there they are an eighth of the heap at most;
//! * before that, from a quarter of those bytes on, each huge page for itself where the heap grows as fast as it did
//!   before: who keeps its pace is likely to go on. Most programs grow fast while they begin, and by little and little later.
//!   Pace is bytes for objects taken, so a program finds the same in each run, and to wait is not to be slow. The smaller
//!   the heap, the more a huge page is to it, and the less it may have slowed down;
//! * before that, from an eighth on, when too little was seen for a pace, where the heap keeps most of what is taken: what is
//!   being built up goes on, and where objects come and go, so that little of them stays, there is enough soon;
//! * below, some small pages at a time, as long as there is one thread.
//!
//! None are huge where memory is used in places only: see [`is_dense`](Pages::is_dense). Nor while they are
//! [dear](super::price): then small ones come as they do below. Nor do huge pages come back where part of one was
//! discarded: see [`note_clean`](Pages::note_clean).
//!
//! Where the kernel is set up to offer them to all (`always`), or the backend does, pages are huge besides where they
//! are not withdrawn here: who chose that has time for memory, but for the [first](Pages::withdraw_first) of a heap,
//! where part of one was discarded, and where they are dear.

use core::ops::Range;
use core::ptr::NonNull;

use heapwright_core::{Broken, FreeBlock, HeapBackend, Policy, Region, ensure};

use super::price::Price;
use super::{Pages, Run};
use crate::chunk::{
    CLEAN, Chunk, DESC, Desc, HUGE, HUGE_PAGES, HUGE_PARTS, LARGE, desc_of, slab_class,
};
use crate::classes::{PAGE, TABLE};

/// So many small pages become present at a time at most: few enough that caches still hold the kernel's zeros when they
/// are used.
const STEP: usize = (64 << 10) / PAGE;
/// Fewer at a time cost as much as a fault for each.
const LEAST_STEP: usize = (16 << 10) / PAGE;
/// They are such a part of the pages in use at most.
const STEP_PART: usize = 16;
/// What is far from the beginning of a longer run is not present for being part of a step.
const SHORT: usize = STEP / 2;
/// A run of more pages says by itself what a huge page would serve that begins with it.
const MUCH_AT_ONCE: usize = HUGE_PAGES / 16;
/// The part of [`Design::HUGE_FROM`](crate::Design::HUGE_FROM) from which on the pace decides.
const PACE_FROM: usize = 4;
/// That from which on it does whether the heap keeps most of what it takes.
const KEEPS_FROM: usize = 8;
/// Growth is looked at every so many bytes.
const MARK: usize = 1 << 20;
/// At so many marks a heap may take twice as many objects for each as before, and keeps its pace; at fewer, less in
/// proportion.
const MARKS_TO_DOUBLE: u64 = 12;

/// As many objects at least are taken for each mark, as it were: so few tell nothing.
const OBJECTS_A_MARK: u64 = 128;

/// What was taken of a heap, as far as its threads told: each does when it takes pages.
#[derive(Clone, Copy, Default)]
pub(crate) struct Taken {
    /// How many objects; a run counts as several.
    pub(crate) objects: usize,
    /// Bytes that came out of slabs and runs of pages: not what was freed a short time ago and taken again at once.
    pub(crate) drawn: usize,
}

/// How far the first chunk had filled up, and when.
#[derive(Clone, Copy)]
struct Mark {
    /// In [`MARK`]s.
    place: u64,
    /// In objects.
    time: u64,
    /// In bytes.
    drawn: u64,
    /// How many pages of the chunk were in use.
    used: u32,
}

/// What decides how pages become present.
pub(super) struct Growth {
    /// From how many bytes on the heap grows by huge pages.
    huge_from: usize,
    /// Where the first chunk is next looked at, when a run reaches beyond: at the next mark, or where huge pages begin
    /// whatever the pace. Beyond all addresses when all is decided. A process that never gets to huge pages is never
    /// put on the list of those whose pages the kernel collects, which costs more than all else in its first request.
    next_look: usize,
    /// Where huge pages begin whatever the pace, or the first chunk ends. Zero where memory is dear, and no pages are
    /// ever huge.
    paced_end: usize,
    /// Whether several small pages become present at a time below. Threads that are several let pages become present as
    /// they touch them, each for itself, and would have to wait for the lock otherwise.
    by_steps: bool,
    /// What huge pages cost lately.
    pub(super) price: Price,
    /// What was taken so far: objects, and bytes that were drawn.
    objects: u64,
    drawn: u64,
    /// The first mark, and the last two, the earlier one first.
    marks: Option<[Mark; 3]>,
}

impl Growth {
    pub(super) const fn new(huge_from: usize) -> Self {
        /// The length of a chunk, of which only the first is looked at as it fills up.
        const MOST: usize = HUGE_PARTS * HUGE;
        let with_any = huge_from > MOST && huge_from < usize::MAX;
        Self {
            huge_from: if with_any { MOST } else { huge_from },
            next_look: usize::MAX,
            paced_end: 0,
            by_steps: true,
            price: Price::NEW,
            objects: 0,
            drawn: 0,
            marks: None,
        }
    }

    /// Whether pages may be huge at all.
    pub(super) const fn has_huge_pages(&self) -> bool {
        self.huge_from < usize::MAX
    }

    /// Whether small pages become present several at a time.
    const fn takes_steps(&self) -> bool {
        self.by_steps && self.has_huge_pages()
    }

    /// So many bytes that were admitted begin to be used: whether their first huge page is to be timed.
    pub(super) fn is_due(&mut self, bytes: usize) -> bool {
        let several = !self.by_steps;
        self.price.is_due(bytes, several)
    }

    /// From now on pages become present when they are touched, each for itself.
    pub(super) fn leave_to_threads(&mut self) {
        self.by_steps = false;
    }

    /// So much was taken since this was said before.
    pub(super) fn note_progress(&mut self, taken: Taken) {
        self.objects += taken.objects as u64;
        self.drawn += taken.drawn as u64;
    }

    /// A place is reached, with so many pages in use: whether the heap is likely to grow on; early, when there is no pace, or
    /// by that.
    fn grows_on(&mut self, place: usize, used: u32, early: bool) -> bool {
        let place = (place / MARK) as u64;
        let time = self.objects + place * OBJECTS_A_MARK;
        let now = Mark { place, time, drawn: self.drawn, used };
        let marks @ [first, _, last] = self.marks.unwrap_or([now; 3]);
        self.marks = Some([first, last, now]);
        if early { Self::keeps_most(last, now) } else { Self::keeps_pace(marks, now) }
    }

    /// Whether seven tenths of what was drawn since the last mark stayed, and that was enough to tell.
    fn keeps_most(last: Mark, now: Mark) -> bool {
        let stayed = u64::from(now.used.saturating_sub(last.used)) * PAGE as u64;
        stayed >= MARK as u64 / 2 && (now.drawn - last.drawn) * 7 <= stayed * 10
    }

    /// Whether the heap grew no more slowly since the mark before last than from the first one to that, but for what chance
    /// may have taken.
    fn keeps_pace([first, earlier, _]: [Mark; 3], now: Mark) -> bool {
        let between = |then: Mark, now: Mark| (now.time - then.time, now.place - then.place);
        let (time, marks) = between(earlier, now);
        let (time_before, marks_before) = between(first, earlier);
        marks_before > 0
            && MARKS_TO_DOUBLE * time * marks_before
                <= (MARKS_TO_DOUBLE + now.place) * time_before * marks
    }
}

impl<B: HeapBackend, P: Policy> Pages<B, P> {
    /// A region was given for a chunk, and nothing of it is touched: withdraws of it what shall not be huge whoever offers
    /// that. That is all where none ever shall; and of the first chunk the first, so that a process that needs little starts
    /// fast, and who asks for 1 MiB holds less than two. Returns the [bits](Chunk::withdrawn) of those parts.
    pub(super) unsafe fn withdraw_first(&mut self, region: Region) -> u32 {
        let (size, parts) = match self.growth.has_huge_pages() {
            false => (region.size, u32::MAX),
            true if self.chunks.is_null() => (region.size.min(HUGE), 1),
            true => return 0,
        };
        // SAFETY: the caller promises a region of ours.
        unsafe { self.source.withdraw_huge_pages(Region { size, ..region }) };
        parts
    }

    /// A chunk was just made, after `previous`: whether its pages are huge is decided now, or as the first one fills up
    /// from below. That stays until the heap goes, as what its threads share lies in it.
    pub(super) unsafe fn begin_growth(
        &mut self,
        chunk: NonNull<Chunk>,
        previous: Option<NonNull<Chunk>>,
    ) {
        if !self.growth.has_huge_pages() {
            return;
        }
        // SAFETY: the caller promises chunks.
        unsafe {
            let Chunk { region, first, .. } = *chunk.as_ptr();
            if previous.is_none() {
                let from = self.growth.huge_from.saturating_add(first as usize * PAGE);
                let growth = &mut self.growth;
                growth.paced_end = region.addr() + from.min(region.size);
                growth.next_look = growth.paced_end.min(region.addr() + MARK);
            } else if previous.is_some_and(|previous| {
                self.is_dense(previous, 0..(*previous.as_ptr()).pages as usize, 0)
            }) {
                self.make_huge(chunk, region);
            }
        }
    }

    /// Lets pages of a chunk be huge, as far as they lie wholly in a region; or later, if they are dear.
    unsafe fn make_huge(&mut self, chunk: NonNull<Chunk>, region: Region) {
        let offset = |addr: usize| addr - chunk.addr().get();
        let parts = offset(region.addr()).div_ceil(HUGE)..offset(region.end()) / HUGE;
        // SAFETY: the caller promises a region of the chunk.
        unsafe {
            if self.growth.price.pauses() {
                // The first part has the head of the chunk in small pages, whatever the price.
                return parts.filter(|&part| part > 0).for_each(|part| self.leave_out(chunk, part));
            }
            self.source.offer_huge_pages(region);
            for part in parts {
                (*chunk.as_ptr()).huge |= 1 << part;
                (*chunk.as_ptr()).withdrawn &= !(1 << part);
            }
        }
    }

    /// Has no huge page for a part of a chunk, whoever offers it, until that is used anew and they are dear no more.
    unsafe fn leave_out(&mut self, chunk: NonNull<Chunk>, part: usize) {
        // SAFETY: the caller promises a part of a chunk, of which nothing is in use.
        unsafe {
            (*chunk.as_ptr()).dear |= 1 << part;
            (*chunk.as_ptr()).huge &= !(1 << part);
            self.set_withdrawn(chunk, part, true);
        }
    }

    /// Pages became clean by being discarded, or are clean no more. Where some of a huge page is in use, the kernel would
    /// collect another one around that by and by (`khugepaged`), and all that was discarded there be present again: so it
    /// may not, until all of it is clean, or nothing; and for good, where this heap had not offered it.
    pub(super) unsafe fn note_clean(
        &mut self,
        chunk: NonNull<Chunk>,
        pages: Range<usize>,
        discarded: bool,
    ) {
        for huge in pages.start / HUGE_PAGES..pages.end.div_ceil(HUGE_PAGES) {
            let all = huge * HUGE_PAGES..(huge + 1) * HUGE_PAGES;
            let here = (pages.end.min(all.end) - pages.start.max(all.start)) as u16;
            // SAFETY: the caller promises pages of a chunk.
            unsafe {
                let clean = &mut (*chunk.as_ptr()).clean[huge];
                *clean = if discarded { *clean + here } else { *clean - here };
                let in_part = *clean > 0 && usize::from(*clean) < HUGE_PAGES;
                if discarded || !in_part {
                    self.set_withdrawn(chunk, huge, in_part);
                }
            }
        }
    }

    /// Withdraws the offer of a huge page, whoever made it, or makes it again, if the heap made it before.
    #[inline]
    unsafe fn set_withdrawn(&mut self, chunk: NonNull<Chunk>, huge: usize, withdrawn: bool) {
        let bit = 1 << huge;
        // SAFETY: the caller promises a part of a chunk.
        unsafe {
            let at = chunk.as_ptr();
            let offers = (*at).huge & bit != 0;
            if withdrawn == ((*at).withdrawn & bit != 0) || !withdrawn && !offers {
                return;
            }
            (*at).withdrawn ^= bit;
            let start = Chunk::page(chunk, huge * HUGE_PAGES);
            // A chunk may be shorter than a huge page.
            let size = HUGE.min((*at).pages as usize * PAGE);
            let region = Region { start, size, zeroed: false };
            if withdrawn {
                self.source.withdraw_huge_pages(region);
            } else {
                self.source.offer_huge_pages(region);
            }
        }
    }

    /// A clean run is taken and not counted yet: looks at the huge pages that begin to be used with it.
    #[inline]
    pub(super) unsafe fn begin_huge(&mut self, run: &Run) {
        for part in run.page / HUGE_PAGES..(run.page + run.pages).div_ceil(HUGE_PAGES) {
            // SAFETY: the caller promises a run of a chunk.
            unsafe {
                let offered = run.chunk.as_ref().huge | run.chunk.as_ref().dear;
                if offered & 1 << part != 0 && run.chunk.as_ref().is_untouched(part) {
                    self.begin_part(run, part);
                }
            }
        }
    }

    /// A part of a chunk begins to be used that a huge page serves, or would serve if they were not dear. If the run ends
    /// there, so that what is taken next is there too, it is made present, and timed. After a dear one, what is untouched of
    /// the chunk is left out, and so it is while there is a pause.
    #[cold]
    unsafe fn begin_part(&mut self, run: &Run, part: usize) {
        // SAFETY: the caller promises a run that reaches into the part, of which nothing else is in use.
        unsafe {
            let chunk = run.chunk;
            let admitted = self.growth.price.admits(HUGE);
            if admitted {
                if chunk.as_ref().dear & 1 << part != 0 {
                    (*chunk.as_ptr()).dear &= !(1 << part);
                    (*chunk.as_ptr()).huge |= 1 << part;
                    self.set_withdrawn(chunk, part, false);
                }
                let (first, end) = (part * HUGE_PAGES, (part + 1) * HUGE_PAGES);
                let due = self.growth.is_due(HUGE) && run.page + run.pages <= end;
                let last = Chunk::page(chunk, end).addr().get() - 1;
                if !due || !self.was_dear(Chunk::page(chunk, first.max(run.page)), PAGE, last) {
                    return;
                }
            }
            for other in 1..HUGE_PARTS {
                let offered = chunk.as_ref().huge & 1 << other != 0;
                let begun = admitted && other == part;
                if offered && !begun && chunk.as_ref().is_untouched(other) {
                    self.leave_out(chunk, other);
                }
            }
        }
    }

    /// Makes the page present that a huge one begins to be used with, and says whether that was dear. `last` is an address
    /// in the huge page that is used last.
    pub(super) unsafe fn was_dear(&mut self, start: NonNull<u8>, size: usize, last: usize) -> bool {
        // What is present already costs nothing, and tells nothing: what was discarded was part of a huge page.
        if self.growth.price.is_in_doubt() && self.source.is_present(last) {
            return false;
        }
        // SAFETY: the caller promises pages of ours.
        let begin = || unsafe { self.source.populate(Region { start, size, zeroed: false }) };
        self.growth.price.was_dear(begin)
    }

    /// Part of a clean run was taken: looks at the growth, if it reaches beyond where that is due.
    #[inline]
    pub(super) unsafe fn note_growth(&mut self, run: &Run) {
        let due = self.growth.next_look;
        if run.region().end() > due && run.chunk.addr().get() < due {
            // SAFETY: the caller promises the run.
            unsafe { self.look_at_growth(run) };
        }
    }

    #[cold]
    unsafe fn look_at_growth(&mut self, run: &Run) {
        // SAFETY: the caller promises a run of the first chunk.
        unsafe {
            let region = run.chunk.as_ref().region;
            let end = run.region().end();
            // From the chunk's start, which is where huge pages are counted from.
            let huge_from = self.growth.huge_from;
            let paced_end = self.growth.paced_end;
            let part = |from: usize, to: usize| Region {
                start: region.start.add(from - region.addr()),
                size: to - from,
                zeroed: false,
            };
            let least = region.addr().saturating_add(huge_from / KEEPS_FROM);
            let from = self.growth.next_look.max(least);
            let whole = from.saturating_add(HUGE - 1) / HUGE * HUGE..end.min(paced_end);
            let early = whole.start.saturating_sub(region.addr()) < huge_from / PACE_FROM;
            let used = run.chunk.as_ref().used;
            let grows_on = self.growth.grows_on(end - 1 - region.addr(), used, early);
            if grows_on && !whole.is_empty() {
                let page = (whole.start - region.addr()) / PAGE;
                let last = page.saturating_sub(HUGE_PAGES)..page;
                let taken = if run.pages > MUCH_AT_ONCE { run.pages } else { 0 };
                if self.is_dense(run.chunk, last, taken) {
                    let pages = whole.step_by(HUGE);
                    pages.for_each(|page| self.make_huge(run.chunk, part(page, page + HUGE)));
                }
            }
            if end <= paced_end {
                self.growth.next_look = paced_end.min(end.next_multiple_of(MARK));
                return;
            }
            let rest = paced_end.next_multiple_of(HUGE).min(region.end());
            if rest < region.end() && self.is_dense(run.chunk, 0..run.page, 0) {
                self.make_huge(run.chunk, part(rest, region.end()));
            }
            self.growth.next_look = usize::MAX;
        }
    }

    /// As [`cut`](Self::cut) for a clean run. Where pages are small, more than a short run needs are made present at
    /// once, which costs less than a fault for each: the others are idle then, and serve next. A run of more than half a
    /// step is left as it is: it may grow, or be touched in part only.
    pub(super) fn cut_clean(&mut self, block: FreeBlock, pages: usize, align: usize) -> Run {
        let step = (self.used / STEP_PART).checked_ilog2().map_or(0, |it| STEP.min(1 << it));
        let short = align == 1 && pages <= step / 2 && block.size() / DESC >= step;
        let steps = short && step >= LEAST_STEP && self.growth.takes_steps() && {
            // SAFETY: a free block stands for a run of a chunk of ours.
            let (chunk, first) = unsafe { self.place(desc_of(block)) };
            self.comes_small(chunk, first, step)
        };
        if !steps {
            return self.cut(CLEAN, block, pages, align);
        }
        let run = self.cut(CLEAN, block, step, 1);
        // SAFETY: the pages were just taken; those behind the first few are given back.
        unsafe {
            // It may just have become part of a huge page.
            if self.comes_small(run.chunk, run.page, step) {
                self.source.populate(run.region());
            }
            self.used += step - pages;
            self.cut_end(run, pages);
        }
        Run { pages, ..run }
    }

    /// Whether the pages of a step become present as small ones, among others that are probably used as well: some of the
    /// first, or some that would be part of a huge one if those were not dear.
    fn comes_small(&self, chunk: NonNull<Chunk>, first: usize, step: usize) -> bool {
        let paced_end = self.growth.paced_end;
        [first, first + step - 1].into_iter().all(|page| {
            // SAFETY: the caller has a page of a chunk.
            let (addr, at) = unsafe { (Chunk::page(chunk, page).addr().get(), chunk.as_ref()) };
            let is_paced = at.region.addr() < paced_end && paced_end <= at.region.end();
            !at.is_huge(page) && (is_paced && addr < paced_end || at.is_dear(page))
        })
    }

    /// Gives back what serves nothing and is present for being part of a huge page, but for dirty runs; says how many
    /// bytes that was.
    pub(super) fn discard_rests(&mut self) -> usize {
        let mut given = 0;
        let mut chunk = self.chunks;
        while let Some(at) = NonNull::new(chunk) {
            // SAFETY: the list leads from chunk to chunk; nobody uses the pages of a clean run.
            unsafe {
                Self::runs(at, &mut |run, entry| {
                    let (first, end) = (run.page, run.page + run.pages);
                    let from = first.next_multiple_of(HUGE_PAGES).min(end);
                    let to = (end / HUGE_PAGES * HUGE_PAGES).max(from);
                    for rest in [first..from, to..end] {
                        if entry != CLEAN || rest.is_empty() {
                            continue;
                        }
                        // Some of it may have gone before.
                        for page in rest.clone().step_by(STEP) {
                            let pages = STEP.min(rest.end - page);
                            let part = Run { page, pages, ..run }.region();
                            if self.source.is_present(part.end() - 1) && self.source.discard(part) {
                                given += part.size;
                                self.set_withdrawn(at, page / HUGE_PAGES, true);
                            }
                        }
                    }
                });
                chunk = at.as_ref().next;
            }
        }
        given
    }

    /// Whether most of what some pages of a chunk serve is touched one and all, by the runs that lie there: slabs of
    /// objects of at most a page of which half are taken, and longer objects and blocks of which what is far from their
    /// beginnings is present. Of others each beginning would be a huge page. Where that is present anyhow, by huge
    /// pages or [by the step](Self::cut_clean), it tells nothing, and half of it is not believed: so blocks with huge
    /// pages are followed by some without, which tell anew. Nor is half of a slab of which all was taken once and little
    /// is now: so it was, and need not be again. A long run of so many pages that was just taken is not believed either,
    /// and of others that are known there must be half as much.
    unsafe fn is_dense(&self, chunk: NonNull<Chunk>, pages: Range<usize>, taken: usize) -> bool {
        /// At most about so many are looked at, for each is a system call.
        const LOOKED_AT: usize = 64;
        let (mut sparse, mut dense, mut filled_blocks) = (taken, 0, 0);
        let (mut looked_at, mut filled) = (0, false);
        // SAFETY: the caller promises a chunk; the lock of the page heap is held.
        unsafe {
            Self::runs(chunk, &mut |run, entry| {
                if run.page + run.pages <= pages.start || run.page >= pages.end {
                    return;
                }
                let length = match (entry, slab_class(entry)) {
                    (LARGE, _) => run.pages * PAGE,
                    (_, Some(class)) => TABLE[class].size as usize,
                    _ => return,
                };
                if length <= PAGE && entry != LARGE {
                    let slab = run.desc();
                    match (Desc::is_taken(slab), Desc::was_exhausted(slab)) {
                        (true, _) => dense += run.pages,
                        (false, true) => dense += run.pages / 2,
                        (false, false) => sparse += run.pages,
                    }
                    return;
                }
                let far = length / 4 * 3;
                let tells = run.pages > SHORT && !chunk.as_ref().is_huge(run.page + far / PAGE);
                // Of many, those that fill equal parts.
                let due =
                    looked_at * pages.len() <= run.page.saturating_sub(pages.start) * LOOKED_AT;
                if tells && due && looked_at < LOOKED_AT {
                    filled = self.source.is_present(run.start().addr().get() + far);
                    looked_at += 1;
                }
                match (tells, filled) {
                    (true, true) => {
                        filled_blocks += run.pages;
                        dense += run.pages;
                    }
                    (true, false) => sparse += run.pages,
                    (false, _) => sparse += run.pages / 2,
                }
            });
        }
        dense > 0 && sparse <= dense && filled_blocks >= taken / 2
    }

    /// Verifies what this module promises of a chunk.
    pub(super) fn check_huge(chunk: NonNull<Chunk>) -> Result<(), Broken> {
        let at = chunk.addr().get();
        // SAFETY: the caller holds the lock, and has a chunk.
        unsafe {
            let Chunk { huge, withdrawn, dear, clean: counted, .. } = *chunk.as_ptr();
            let mut clean = counted.map(|_| 0);
            Self::runs(chunk, &mut |run, entry| {
                if entry == CLEAN {
                    (run.page..run.page + run.pages).for_each(|page| clean[page / HUGE_PAGES] += 1);
                }
            });
            ensure(clean == counted, "a chunk counts its clean pages", at)?;
            let in_part = |&(at, &clean): &(usize, &u16)| {
                huge & withdrawn & (1 << at) == 0 || (1..HUGE_PAGES).contains(&clean.into())
            };
            let fine = clean.iter().enumerate().all(|part| in_part(&part));
            ensure(fine, "where huge pages are withdrawn, some pages are clean and some not", at)?;
            let apart = dear & huge == 0 && dear & !withdrawn == 0;
            ensure(apart, "a huge page that is dear is not offered, and withdrawn", at)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a heap is likely to grow on at the last of some marks, for each of which so much more was taken, and so many
    /// bytes are in use.
    fn grows_on(marks: impl IntoIterator<Item = (Taken, usize)>, early: bool) -> bool {
        let mut growth = Growth::new(usize::MAX);
        let looks = marks.into_iter().enumerate().map(|(mark, (taken, used))| {
            growth.note_progress(taken);
            growth.grows_on((mark + 1) * MARK, (used / PAGE) as u32, early)
        });
        looks.last().unwrap_or(false)
    }

    fn keeps_pace(objects: &[usize]) -> bool {
        grows_on(objects.iter().map(|&objects| (Taken { objects, drawn: 0 }, 0)), false)
    }

    #[test]
    fn a_heap_keeps_most_if_seven_tenths_of_what_is_drawn_from_one_mark_to_the_next_stay() {
        /// For each mark, bytes that are drawn and that are in use.
        fn keeps_most(marks: &[(usize, usize)]) -> bool {
            let taken = |drawn| Taken { objects: 1_000_000, drawn };
            grows_on(marks.iter().map(|&(drawn, used)| (taken(drawn), used)), true)
        }
        assert!(keeps_most(&[(0, MARK), (MARK, 2 * MARK)]));
        assert!(keeps_most(&[(10 * MARK, MARK), (MARK * 10 / 7, 2 * MARK)]), "whatever was before");
        assert!(!keeps_most(&[(0, MARK), (MARK * 10 / 7 + 1, 2 * MARK)]));
        assert!(!keeps_most(&[(0, MARK), (MARK, MARK * 17 / 10 - PAGE)]));
        assert!(keeps_most(&[(0, MARK), (0, MARK * 3 / 2)]), "by long runs, which go further");
        assert!(!keeps_most(&[(0, MARK), (0, MARK * 3 / 2 - PAGE)]), "in places only");
        assert!(!keeps_most(&[(0, 2 * MARK)]), "seen too little");
    }

    #[test]
    fn pace_is_that_of_the_last_two_marks_and_the_smaller_a_heap_the_less_it_may_slow_down() {
        assert!(keeps_pace(&[0, 10_000, 10_000, 10_000]));
        assert!(keeps_pace(&[0, 10_000, 15_000, 8_000]), "on the mean of both");
        assert!(keeps_pace(&[0, 10_000, 13_000, 13_000]), "at 4 MiB a third more");
        assert!(!keeps_pace(&[0, 10_000, 14_000, 14_000]));
        let at_12_mib = |count| {
            let mut objects = [10_000; 12];
            objects[10..].fill(count);
            keeps_pace(&objects)
        };
        assert!(at_12_mib(19_000) && !at_12_mib(21_000), "twice as many");
    }

    #[test]
    fn a_heap_that_was_seen_too_little_keeps_no_pace() {
        for seen in 0..4 {
            assert!(!keeps_pace(&[1_000; 3][..seen]));
        }
        // A long run passes several marks at once.
        let mut growth = Growth::new(usize::MAX);
        assert!(![3, 8, 9].map(|mark| growth.grows_on(mark * MARK, 0, false)).contains(&true));
        assert!(
            growth.grows_on(11 * MARK, 0, false),
            "of few objects each takes the least that is counted"
        );
    }
}
