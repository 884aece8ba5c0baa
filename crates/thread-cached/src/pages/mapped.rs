//! Blocks with mappings of their own: the large ones.
//!
//! Each begins in a unit of the address space in which no other one begins, as the [`Table`] wants: a mapping starts at a
//! multiple of a unit. So there is room to grow behind it, mostly, for which no memory is asked before it is needed.
//!
//! What such a block leaves behind is kept as a *spare* for the next: its pages are present, and asking the kernel for
//! others costs more than all else about a large block. Any spare serves any block with as much in front of it, as it can
//! grow where it stands, or its end be discarded. Spares are idle pages like dirty runs, and decay with them.
//!
//! Invariants: `pages` of the spares is the sum of what is present of them; a block and the pages behind it that were
//! touched since they were last discarded lie in their region.

use core::alloc::Layout;
use core::mem;
use core::ops::Range;
use core::ptr::{self, NonNull};

use heapwright_core::{Broken, HeapBackend, Policy, Region, ensure};

use super::Pages;
use crate::chunk::{HUGE, Table};
use crate::classes::PAGE;

/// From how many bytes on a block may have a mapping of its own, where the backend has such: the least that gets a huge
/// page, for the mapping begins where one does, and is as long if an eighth of the block is enough for that.
pub(crate) const LEAST_MAPPED: usize = HUGE / 9 * 8;
const _: () = assert!(HUGE - FRONT - LEAST_MAPPED <= LEAST_MAPPED / REST);
/// One part in so many of a block may be lost to make its last pages a huge one, or in front of it.
const REST: usize = 8;
/// Where so many blocks as long could be mapped already, none gets a mapping: the kernel has some 65,000 for a process.
const MANY: usize = 8192;

/// What lies in front of a block that has a mapping of its own.
pub(crate) struct Mapping {
    /// What the backend gave.
    pub(crate) region: Region,
    /// Bytes that the program may use.
    pub(crate) bytes: usize,
    /// Bytes from the block on that may be present; none of what the backend did not take back.
    touched: usize,
    pub(crate) next: *mut Mapping,
    previous: *mut Mapping,
}

/// From the head of a mapping to the block.
pub(crate) const BEFORE_BLOCK: usize = 64;
/// The least distance of the block from the start of the mapping.
const FRONT: usize = 4096;
/// Longer blocks have no huge pages, unless they are seen to grow: they may be touched here and there only.
const MOST_HUGE: usize = 1 << 30;
/// So much longer than one that was filled, a block may well be filled too.
const LIKE: usize = 8;
/// Longer ones that are to be zero get their zeros from the kernel as they are touched, which may be here and there only;
/// shorter ones are cleared if most of them is present, which costs less than to fault them in again.
const MOST_CLEARED: usize = 32 << 20;

impl Mapping {
    /// Where the block begins.
    unsafe fn block(this: NonNull<Self>) -> NonNull<u8> {
        // SAFETY: the caller promises a mapping, of which this is the head.
        unsafe { this.cast::<u8>().add(BEFORE_BLOCK) }
    }

    /// How far into its region the block begins.
    unsafe fn front(this: NonNull<Self>) -> usize {
        // SAFETY: the caller promises a mapping.
        unsafe { Self::block(this).addr().get() - this.as_ref().region.addr() }
    }
}

/// A list of mappings, the newest first; each knows the one before it, and the list its last.
pub(crate) struct Mappings {
    pub(crate) first: *mut Mapping,
    last: *mut Mapping,
}

impl Mappings {
    pub(super) const NONE: Self = Self { first: ptr::null_mut(), last: ptr::null_mut() };

    /// Puts a mapping in front.
    ///
    /// # Safety
    ///
    /// It is in no list, and stays where it is until it is removed.
    unsafe fn push(&mut self, mapping: NonNull<Mapping>) {
        // SAFETY: the caller promises a mapping; the first is one of the list.
        unsafe {
            (*mapping.as_ptr()).next = self.first;
            (*mapping.as_ptr()).previous = ptr::null_mut();
            match self.first.as_mut() {
                Some(first) => first.previous = mapping.as_ptr(),
                None => self.last = mapping.as_ptr(),
            }
        }
        self.first = mapping.as_ptr();
    }

    /// Takes a mapping out.
    ///
    /// # Safety
    ///
    /// It is in this list.
    unsafe fn remove(&mut self, mapping: NonNull<Mapping>) {
        // SAFETY: the caller promises a mapping of the list, whose neighbours are others of it.
        unsafe {
            let Mapping { next, previous, .. } = *mapping.as_ptr();
            match next.as_mut() {
                Some(next) => next.previous = previous,
                None => self.last = previous,
            }
            match previous.as_mut() {
                Some(previous) => previous.next = next,
                None => self.first = next,
            }
        }
    }
}

/// Mappings without a block, the one left last first.
pub(super) struct Spares {
    pub(super) list: Mappings,
    /// Pages of them that may be present.
    pub(super) pages: usize,
}

impl Spares {
    pub(super) const NONE: Self = Self { list: Mappings::NONE, pages: 0 };
}

/// Pages of that many bytes.
const fn pages(bytes: usize) -> usize {
    bytes.div_ceil(PAGE)
}

impl<B: HeapBackend, P: Policy> Pages<B, P> {
    /// Whether a block is long enough for a mapping of its own: as long as others, too, or there would be too many, and
    /// much longer than its alignment, as that much lies in front of it, or aligned to a huge page at most.
    pub(crate) fn maps(&self, layout: Layout) -> bool {
        let least = LEAST_MAPPED.max(self.mapped_pages * PAGE / MANY);
        layout.size() >= least && layout.align() <= HUGE.max(layout.size() / REST)
    }

    /// A block with a mapping of its own, and whether it is zero. If there is none, one with a region of another kind, if so
    /// asked. It has huge pages if the last such block was filled: others may be touched here and there only, and each such
    /// place would be a huge page.
    pub(crate) fn map(
        &mut self,
        layout: Layout,
        zeroed: bool,
        or_grow: bool,
    ) -> Option<(NonNull<u8>, bool)> {
        let bytes = layout.size().checked_next_multiple_of(FRONT)?;
        let front = match layout.align() {
            // Nothing in front but the head is present, which is in a huge page that the block has no part of.
            align if align > layout.size() / REST => HUGE.max(align),
            align => align.max(FRONT),
        };
        if self.shift == 0 || bytes.checked_add(front)? > isize::MAX as usize {
            return None;
        }
        if let Some(taken) = self.take_spare(bytes, front, zeroed) {
            return Some(taken);
        }
        let most = if zeroed { MOST_CLEARED } else { MOST_HUGE };
        let filled = bytes <= most && self.last_is_filled(bytes);
        let (block, region) = self.fresh(bytes, front, or_grow)?;
        self.note_present(pages(bytes));
        // SAFETY: just given.
        unsafe {
            if filled {
                self.offer_huge_pages_of(region, front, 0..bytes);
            }
            self.link(block, region, bytes, bytes);
        }
        Some((block, region.zeroed))
    }

    /// A region and the place of a block in it, `front` bytes from its start.
    fn fresh(
        &mut self,
        bytes: usize,
        front: usize,
        or_grow: bool,
    ) -> Option<(NonNull<u8>, Region)> {
        let (mut all, unit) = (bytes + front, 1 << self.shift);
        // The last pages are a huge one if little of it is not asked for.
        let rest = all.wrapping_neg() % HUGE;
        if rest <= bytes / REST {
            all += rest;
        }
        let align = front.max(unit);
        let mut region = self.source.map(all, align);
        if region.is_err() {
            self.give_back_spares(usize::MAX);
            region = self.source.map(all, align);
        }
        if region.is_err() && or_grow {
            // From its block on, such a region is a unit long, so that no other block begins there.
            region = self.source.grow(all.max(unit + front), front);
        }
        let region = region.ok()?;
        // SAFETY: just given, and long enough.
        unsafe {
            let block = region.start.add(front);
            let unit = self.word(block.addr().get());
            if self.reach(block.addr().get()).is_err() || !unit.is_null() {
                self.put_back(block, region);
                return None;
            }
            Some((block, region))
        }
    }

    /// Whether the newest block that has a mapping of its own, or else the newest spare, seems to have been filled, and is
    /// not much shorter than one of `bytes`.
    fn last_is_filled(&self, bytes: usize) -> bool {
        let mappings = self.mappings.first;
        let last = if mappings.is_null() { self.spares.list.first } else { mappings };
        // SAFETY: both lists lead through mappings.
        NonNull::new(last).is_some_and(|last| unsafe { self.is_filled(last, bytes) })
    }

    /// Whether what is left of a block seems to have been filled, for some places in it are present, and is not much shorter
    /// than `bytes`.
    unsafe fn is_filled(&self, mapping: NonNull<Mapping>, bytes: usize) -> bool {
        const PLACES: usize = 4;
        // SAFETY: the caller promises a mapping.
        let (block, left) = unsafe {
            let Mapping { bytes, touched, .. } = *mapping.as_ptr();
            (Mapping::block(mapping), bytes.min(touched))
        };
        let mut places = (1..=PLACES).map(|place| block.addr().get() + left / (PLACES + 1) * place);
        left >= bytes / LIKE && left > 0 && places.all(|place| self.source.is_present(place))
    }

    /// Has huge pages for as much of a mapping as lies wholly in it, from the one on in which its block begins; or none, if
    /// they are dear. `more` is what the block will have and was not touched; the huge page that is used next for it is
    /// [timed](Pages::was_dear).
    unsafe fn offer_huge_pages_of(&mut self, region: Region, front: usize, more: Range<usize>) {
        if !self.growth.has_huge_pages() {
            return;
        }
        let (unused, end) = (front / HUGE * HUGE, front + more.end);
        let next = match more.start {
            // What is in front of the block is written to first of all, or else the block.
            0 => unused.max(front - FRONT),
            touched => (front + touched).next_multiple_of(HUGE),
        };
        let huge = next / HUGE * HUGE;
        let whole = region.addr().is_multiple_of(HUGE) && huge + HUGE <= region.size && next < end;
        // SAFETY: the caller promises a region of ours, how far from its start the block is, and what of it is touched.
        unsafe {
            let dear = !self.growth.price.admits(more.len()) || {
                let (start, size) = (region.start.add(unused), region.size - unused);
                self.source.offer_huge_pages(Region { start, size, zeroed: false });
                let last = region.addr() + huge + HUGE - 1;
                whole
                    && self.growth.is_due(more.len())
                    && self.was_dear(region.start.add(next), FRONT, last)
            };
            if dear {
                // All of it alike: the kernel moves no mapping of which parts differ.
                self.source.withdraw_huge_pages(region);
            }
        }
    }

    /// Whether a region starts where a unit does, so that it may be shorter than one.
    fn is_aligned(&self, region: Region) -> bool {
        region.addr().trailing_zeros() >= self.shift
    }

    /// A block in a spare mapping, and whether it is zero, which it is at most if it is to be: of those that have enough
    /// pages the one with the fewest, or else the one with the most. None that is much longer, which another such will need.
    fn take_spare(
        &mut self,
        bytes: usize,
        front: usize,
        zeroed: bool,
    ) -> Option<(NonNull<u8>, bool)> {
        let mut best: Option<NonNull<Mapping>> = None;
        let mut spare = self.spares.list.first;
        // SAFETY: the list leads through spares. The best of them is one, and serves nothing.
        unsafe {
            while let Some(here) = NonNull::new(spare) {
                let Mapping { region, touched, next, .. } = *here.as_ptr();
                let long_enough = touched > 0 || region.size >= bytes + front;
                // What was not taken back may be shorter than a unit by now, in which another block may begin.
                let alone = self.is_aligned(region) || region.size - front >= 1 << self.shift;
                let like = touched / LIKE <= bytes;
                if long_enough && like && alone && Mapping::front(here) == front {
                    let better = best.is_none_or(|best| {
                        let best = best.as_ref().touched;
                        if best < bytes { touched > best } else { (bytes..best).contains(&touched) }
                    });
                    if better {
                        best = Some(here);
                    }
                }
                spare = next;
            }
            let best = best?;
            let Mapping { mut region, mut touched, .. } = *best.as_ptr();
            let block = Mapping::block(best);
            if region.size < bytes + front {
                region = self.source.resize(region, bytes + front, false)?;
            }
            let filled = touched < bytes && bytes <= MOST_HUGE && self.is_filled(best, bytes);
            self.remove_spare(best);
            let much = bytes > MOST_CLEARED || touched < bytes / 2;
            let all = Region { start: block, size: bytes, zeroed: false };
            // Only whole pages of the kernel become zero.
            let whole = (block.addr().get() | bytes).is_multiple_of(self.source.page_size());
            let zero = zeroed && much && whole && self.source.discard(all);
            if zero && bytes > MOST_CLEARED {
                self.source.withdraw_huge_pages(region);
            } else if filled {
                // The first huge page was not discarded as a whole: what is in front of the block is there.
                let present = if zero { FRONT } else { touched };
                self.offer_huge_pages_of(region, front, present..bytes);
            }
            if touched < bytes {
                self.note_present(pages(bytes - touched));
                touched = bytes;
            } else if touched - bytes > bytes / 4 {
                let end = (front + bytes).next_multiple_of(HUGE) - front;
                if end < touched {
                    self.discard_end(best, end);
                    touched = end;
                }
            }
            self.link(block, region, bytes, touched);
            Some((block, zero))
        }
    }

    unsafe fn add_spare(&mut self, spare: NonNull<Mapping>) {
        // SAFETY: the caller promises a mapping in no list.
        unsafe {
            self.spares.list.push(spare);
            self.spares.pages += pages(spare.as_ref().touched);
        }
    }

    unsafe fn remove_spare(&mut self, spare: NonNull<Mapping>) {
        // SAFETY: the caller promises a spare.
        unsafe {
            self.spares.list.remove(spare);
            self.spares.pages -= pages(spare.as_ref().touched);
        }
        self.note_need();
    }

    /// Gives back so many pages of spares, the oldest first, rounded to huge ones; whether there were any.
    pub(super) fn give_back_spares(&mut self, mut excess: usize) -> bool {
        let mut given = false;
        while excess > 0
            && let Some(oldest) = self.oldest_spare()
        {
            given = true;
            // SAFETY: a spare serves nothing.
            unsafe {
                let Mapping { region, touched, .. } = *oldest.as_ptr();
                let (block, front) = (Mapping::block(oldest), Mapping::front(oldest));
                let left = touched.saturating_sub(excess.saturating_mul(PAGE));
                let kept = ((front + left) / HUGE * HUGE).saturating_sub(front);
                let present = pages(touched);
                if kept > 0 {
                    self.discard_end(oldest, kept);
                    self.spares.pages -= present - pages(kept);
                    break;
                }
                self.remove_spare(oldest);
                self.put_back(block, region);
                excess = excess.saturating_sub(present);
            }
        }
        given
    }

    /// Gives back all spares, those too that the backend did not take when it was asked before.
    pub(super) fn give_back_all_spares(&mut self) {
        self.give_back_spares(usize::MAX);
        let mut spare = mem::replace(&mut self.spares.list, Mappings::NONE).first;
        while let Some(here) = NonNull::new(spare) {
            // SAFETY: the list leads through spares, and this one is in none any more.
            unsafe {
                spare = here.as_ref().next;
                self.put_back(Mapping::block(here), here.as_ref().region);
            }
        }
    }

    /// Discards what is present of a mapping behind so many bytes of its block.
    unsafe fn discard_end(&mut self, mapping: NonNull<Mapping>, bytes: usize) {
        // SAFETY: the caller promises a mapping, of which nobody uses more.
        unsafe {
            let start = Mapping::block(mapping).add(bytes);
            let size = mapping.as_ref().touched - bytes;
            self.source.discard(Region { start, size, zeroed: false });
            (*mapping.as_ptr()).touched = bytes;
        }
    }

    /// The spare that was left first, of those of which anything may be present.
    fn oldest_spare(&self) -> Option<NonNull<Mapping>> {
        let mut spare = self.spares.list.last;
        while let Some(here) = NonNull::new(spare) {
            // SAFETY: the list leads through spares.
            unsafe {
                if here.as_ref().touched > 0 {
                    return Some(here);
                }
                spare = here.as_ref().previous;
            }
        }
        None
    }

    /// What the table says of the unit of an address.
    fn word(&self, addr: usize) -> *mut u8 {
        // SAFETY: there is a table from the first chunk on.
        unsafe { Table::word(self.table, addr) }
    }

    /// Gives a region back to the backend; what that does not take is a spare.
    unsafe fn put_back(&mut self, block: NonNull<u8>, region: Region) {
        // SAFETY: the caller promises a region of ours that serves nothing.
        unsafe {
            let taken = self.source.shrink(region);
            let left = region.size - taken;
            if left > block.addr().get() - region.addr() {
                let spare = block.sub(BEFORE_BLOCK).cast::<Mapping>();
                let region = Region { size: left, ..region };
                let (next, previous) = (ptr::null_mut(), ptr::null_mut());
                spare.write(Mapping { region, bytes: 0, touched: 0, next, previous });
                let size = region.end() - block.addr().get();
                self.source.discard(Region { start: block, size, zeroed: false });
                self.add_spare(spare);
            }
        }
    }

    /// Makes a mapping known.
    unsafe fn link(&mut self, block: NonNull<u8>, region: Region, bytes: usize, touched: usize) {
        self.mapped_pages += pages(bytes);
        // SAFETY: the caller promises a region and a block in it, with room in front.
        unsafe {
            let mapping = block.sub(BEFORE_BLOCK).cast::<Mapping>();
            let (next, previous) = (ptr::null_mut(), ptr::null_mut());
            mapping.write(Mapping { region, bytes, touched, next, previous });
            self.mappings.push(mapping);
            self.publish(block.addr().get(), mapping.as_ptr().cast());
        }
    }

    unsafe fn unlink(&mut self, mapping: NonNull<Mapping>) {
        // SAFETY: the caller promises a mapping of the list.
        unsafe {
            self.mappings.remove(mapping);
            self.mapped_pages -= pages(mapping.as_ref().bytes);
            self.publish(Mapping::block(mapping).addr().get(), ptr::null_mut());
        }
    }

    /// Gives back a block with its mapping, which is a spare from now on.
    ///
    /// # Safety
    ///
    /// The mapping is the heap's and nobody uses it.
    pub(crate) unsafe fn unmap(&mut self, mapping: NonNull<Mapping>) {
        // SAFETY: the caller promises the mapping.
        unsafe {
            self.unlink(mapping);
            self.add_spare(mapping);
        }
        self.keep_bound();
        self.decay();
    }

    /// Changes the size of a block that has a mapping of its own, which may move with its contents.
    ///
    /// # Safety
    ///
    /// The mapping is the heap's.
    pub(crate) unsafe fn remap(
        &mut self,
        mapping: NonNull<Mapping>,
        size: usize,
    ) -> Option<NonNull<u8>> {
        let new_bytes = size.checked_next_multiple_of(FRONT)?;
        // SAFETY: the caller promises the mapping.
        unsafe {
            let Mapping { mut region, bytes, touched, .. } = *mapping.as_ptr();
            let (block, front) = (Mapping::block(mapping), Mapping::front(mapping));
            // What grows may grow on: the pages at its end are to be huge ones, too, and not cut in two.
            let all = new_bytes.checked_add(front)?.checked_next_multiple_of(HUGE)?;
            let too_short = new_bytes + front > region.size;
            let too_long = all < region.size && new_bytes < bytes && self.is_aligned(region);
            let filled = too_short && self.is_filled(mapping, bytes);
            if too_short || too_long {
                let least = if too_short { new_bytes + front } else { all };
                match self.resize_in_place(region, all, least) {
                    Some(resized) => region = resized,
                    None if too_long => {}
                    None => {
                        if front == FRONT
                            && let Some(moved) = self.relocate(mapping, new_bytes, filled)
                        {
                            return Some(moved);
                        }
                        self.give_back_spares(usize::MAX);
                        region = self.resize_in_place(region, all, least)?;
                    }
                }
            }
            if new_bytes > touched {
                self.note_present(pages(new_bytes - touched));
            }
            if filled {
                self.offer_huge_pages_of(region, front, touched..new_bytes);
            }
            let present = touched.clamp(new_bytes, region.size - front);
            self.unlink(mapping);
            self.link(block, region, new_bytes, present);
            Some(block)
        }
    }

    /// A region resized where it stands, or else to what must be at least.
    unsafe fn resize_in_place(
        &mut self,
        region: Region,
        size: usize,
        least: usize,
    ) -> Option<Region> {
        // SAFETY: the caller promises a whole region of ours.
        unsafe {
            let resized = self.source.resize(region, size, false);
            match resized {
                None if least < size => self.source.resize(region, least, false),
                _ => resized,
            }
        }
    }

    /// Moves a block, with its pages, to a mapping of `bytes`.
    unsafe fn relocate(
        &mut self,
        mapping: NonNull<Mapping>,
        bytes: usize,
        filled: bool,
    ) -> Option<NonNull<u8>> {
        let (new, region) = self.fresh(bytes, FRONT, false)?;
        // SAFETY: the caller promises the mapping, of which the block begins as far from the start.
        unsafe {
            let Mapping { region: old, touched, .. } = *mapping.as_ptr();
            self.unlink(mapping);
            if !self.source.relocate(old, region) {
                let Mapping { bytes, .. } = *mapping.as_ptr();
                self.link(Mapping::block(mapping), old, bytes, touched);
                self.put_back(new, region);
                return None;
            }
            self.note_present(pages(bytes - touched.min(bytes)));
            if filled {
                self.offer_huge_pages_of(region, FRONT, touched..bytes);
            }
            self.link(new, region, bytes, touched.max(bytes));
            Some(new)
        }
    }

    /// Verifies what this module promises.
    pub(super) fn check_mapped(&self) -> Result<(), Broken> {
        let mut sums = [0, 0];
        for (sum, list) in sums.iter_mut().zip([&self.mappings, &self.spares.list]) {
            let serves = ptr::eq(list, &self.mappings);
            let (mut next, mut before) = (list.first, ptr::null_mut());
            while let Some(here) = NonNull::new(next) {
                // SAFETY: both lists lead from mapping to mapping.
                unsafe {
                    let Mapping { region, bytes, touched, previous, .. } = *here.as_ptr();
                    let (block, front) = (Mapping::block(here).addr().get(), Mapping::front(here));
                    ensure(previous == before, "a mapping knows the one before it", block)?;
                    let fits = bytes.max(touched) <= region.size - front;
                    ensure(fits, "a block and what was touched lie in their region", block)?;
                    let long = region.size - front >= 1 << self.shift;
                    let alone = !serves || long || self.is_aligned(region);
                    ensure(alone, "no two blocks begin in the same unit", block)?;
                    let known = self.word(block) == here.as_ptr().cast();
                    ensure(known == serves, "the table knows mappings with a block", block)?;
                    *sum += pages(if serves { bytes } else { touched });
                    before = next;
                    next = here.as_ref().next;
                }
            }
            ensure(list.last == before, "a list knows its last mapping", before.addr())?;
        }
        let here = ptr::from_ref(self).addr();
        ensure(sums[0] == self.mapped_pages, "mapped pages are counted", here)?;
        ensure(sums[1] == self.spares.pages, "spare pages are counted", here)
    }
}
