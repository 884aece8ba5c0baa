//! A backend under observation: it passes every call on to another backend, keeps the books on what is
//! held from it, holds the heap to the backend's contract, and fails when it is told to.
//!
//! The other backend is behind a `dyn`, so that a strategy is compiled for one observed backend and not
//! for each of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use heapwright_core::{HeapBackend, New, OutOfMemory, Region, hand_on};

/// An observed backend. What is seen is read from its [`Ledger`].
///
/// A `Rig` that [`New`] made has nothing to give.
pub struct Rig<'a> {
    source: Option<Box<dyn HeapBackend + Send + 'a>>,
    ledger: Option<Ledger>,
}

/// Which calls of a rig are refused, whatever its source would say. The calls that count are those that
/// ask for something: `grow`, `map`, `resize`, `shrink` and `discard`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refuse {
    /// None.
    #[default]
    Nothing,
    /// This one, counted from one.
    Once(usize),
    /// This one and all that follow.
    From(usize),
}

/// What a rig has seen. Copies are of the same books.
#[derive(Clone, Debug)]
pub struct Ledger(Arc<Mutex<Book>>);

/// The numbers in a ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Bytes that the heap holds.
    pub held: usize,
    /// The most that it ever held.
    pub peak: usize,
    /// Calls that ask for something.
    pub calls: usize,
    /// Calls of `grow` that got nothing. (A heap whose `map` or `resize` fails can still ask `grow`.)
    pub refusals: usize,
    /// Regions that were given.
    pub grows: usize,
    /// Whether the heap has dropped the backend.
    pub dropped: bool,
}

#[derive(Debug, Default)]
struct Book {
    seen: Seen,
    /// The regions given and held, by start.
    grants: BTreeMap<usize, Grant>,
    refuse: Refuse,
    dirty: bool,
    breaches: Vec<String>,
}

/// A region that was given.
#[derive(Clone, Copy, Debug)]
struct Grant {
    end: usize,
    /// Whether it stands alone: it can always go back whole, and its start can go back too.
    alone: bool,
}

/// What memory is filled with that is promised to no one: not zero, not aligned, no address.
const DIRT: u8 = 0xD5;

impl<'a> Rig<'a> {
    /// Observes `source`.
    pub fn over(source: impl HeapBackend + Send + 'a) -> (Self, Ledger) {
        let ledger = Ledger(Arc::default());
        (Self { source: Some(Box::new(source)), ledger: Some(ledger.clone()) }, ledger)
    }

    /// As [`over`](Self::over), and all memory that is given is dirty, and is said to be.
    pub fn dirty(source: impl HeapBackend + Send + 'a) -> (Self, Ledger) {
        let (rig, ledger) = Self::over(source);
        ledger.book().dirty = true;
        (rig, ledger)
    }

    fn parts(&mut self) -> Option<(&mut (dyn HeapBackend + Send + 'a), MutexGuard<'_, Book>)> {
        Some((self.source.as_deref_mut()?, self.ledger.as_ref()?.book()))
    }

    /// Passes on a wish about a region that is held.
    fn wish(
        &mut self,
        call: &str,
        region: Region,
        pass_on: impl FnOnce(&mut (dyn HeapBackend + Send + 'a)),
    ) {
        if let Some((source, mut book)) = self.parts()
            && book.verify(call, &region, false, false)
        {
            pass_on(source);
        }
    }

    /// Asks the source for a region, and enters it into the books.
    fn obtain(
        &mut self,
        call: &str,
        size: usize,
        align: usize,
        ask: impl FnOnce(&mut (dyn HeapBackend + Send + 'a)) -> Result<Region, OutOfMemory>,
    ) -> Result<Region, OutOfMemory> {
        let (source, mut book) = self.parts().ok_or(OutOfMemory)?;
        if size == 0 || !align.is_power_of_two() {
            book.breach(format!("{call}({size}, {align}): no size, or no power of two"));
            return Err(OutOfMemory);
        }
        let answer = if book.refuses() { Err(OutOfMemory) } else { ask(source) };
        match answer {
            Ok(mut region) => {
                if region.size < size || !region.addr().is_multiple_of(align) {
                    book.breach(format!("{call}({size}, {align}) gave {}", show(&region)));
                }
                if book.dirty {
                    region.zeroed = false;
                    // SAFETY: the region was just given and is nobody's yet.
                    unsafe { region.start.write_bytes(DIRT, region.size) };
                }
                book.seen.grows += 1;
                book.give(region, call == "map");
                Ok(region)
            }
            Err(error) => {
                book.seen.refusals += usize::from(call == "grow");
                Err(error)
            }
        }
    }
}

impl New for Rig<'_> {
    const NEW: Self = Self { source: None, ledger: None };
}

impl Ledger {
    fn book(&self) -> MutexGuard<'_, Book> {
        // A panic elsewhere leaves the books as true as they were.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The numbers of this moment.
    pub fn seen(&self) -> Seen {
        self.book().seen
    }

    /// Refuses calls from now on; counting starts anew.
    pub fn refuse(&self, refuse: Refuse) {
        let mut book = self.book();
        book.seen.calls = 0;
        book.refuse = refuse;
    }

    /// What the heap did that the contract of [`HeapBackend`] forbids, in words.
    pub fn breaches(&self) -> Vec<String> {
        self.book().breaches.clone()
    }

    /// Start and end of the region given that `addr` is in.
    pub fn grant_of(&self, addr: usize) -> Option<(usize, usize)> {
        self.book().grant_of(addr)
    }

    /// How many regions are held.
    pub fn grants(&self) -> usize {
        self.book().grants.len()
    }

    /// Whether every byte of `start..end` is held.
    pub fn holds(&self, start: usize, end: usize) -> bool {
        self.book().holds(start, end)
    }
}

impl Book {
    fn grant_of(&self, addr: usize) -> Option<(usize, usize)> {
        let (&start, &Grant { end, .. }) = self.grants.range(..=addr).next_back()?;
        (addr < end).then_some((start, end))
    }

    fn holds(&self, start: usize, end: usize) -> bool {
        let mut at = start;
        while at < end {
            match self.grant_of(at) {
                Some((_, grant_end)) => at = grant_end,
                None => return false,
            }
        }
        true
    }

    fn breach(&mut self, what: String) {
        self.breaches.push(what);
    }

    /// Counts a call, and says whether it is to be refused.
    fn refuses(&mut self) -> bool {
        self.seen.calls += 1;
        match self.refuse {
            Refuse::Nothing => false,
            Refuse::Once(call) => self.seen.calls == call,
            Refuse::From(call) => self.seen.calls >= call,
        }
    }

    fn give(&mut self, region: Region, alone: bool) {
        let below = self.grants.range(..region.end()).next_back();
        if below.is_some_and(|(_, grant)| grant.end > region.addr()) {
            self.breach(format!("the source gave {} twice", show(&region)));
        }
        self.grants.insert(region.addr(), Grant { end: region.end(), alone });
        self.seen.held += region.size;
        self.seen.peak = self.seen.peak.max(self.seen.held);
    }

    /// Takes `start..end`, all of it held, off the regions given.
    fn take(&mut self, start: usize, end: usize) {
        let mut at = start;
        while let Some((from, to)) = (at < end).then(|| self.grant_of(at)).flatten() {
            let Some(grant) = self.grants.remove(&from) else { break };
            if from < start {
                self.grants.insert(from, Grant { end: start, ..grant });
            }
            if to > end {
                self.grants.insert(end, grant);
            }
            at = to;
        }
        self.seen.held -= end - start;
    }

    /// The region that stands alone and of which this is the start, or the whole.
    fn alone(&self, region: &Region) -> Option<Grant> {
        let grant = self.grants.get(&region.addr()).copied()?;
        (grant.alone && region.end() <= grant.end).then_some(grant)
    }

    /// Verifies that a region that the heap hands in is held, and starts or ends where a given one does.
    fn verify(&mut self, call: &str, region: &Region, starts: bool, ends: bool) -> bool {
        let held = region.size > 0 && self.holds(region.addr(), region.end());
        let starts = !starts || self.grants.contains_key(&region.addr());
        let ends = !ends || self.grants.values().any(|grant| grant.end == region.end());
        if !held || !starts || !ends {
            let show_grant =
                |(start, grant): (&usize, &Grant)| format!("{start:#x}..{:#x}", grant.end);
            let grants: Vec<_> = self.grants.iter().map(show_grant).collect();
            let wrong = match (held, starts) {
                (false, _) => "is not held",
                (true, false) => "does not start where a region starts",
                (true, true) => "does not end where a region ends",
            };
            self.breach(format!(
                "{call}({}) of what {wrong}; held are {}",
                show(region),
                grants.join(", ")
            ));
        }
        held && starts && ends
    }
}

fn show(region: &Region) -> String {
    format!("{:#x}..{:#x}", region.addr(), region.end())
}

// SAFETY: memory comes from the source and goes back to it; what the books refuse is not passed on.
unsafe impl HeapBackend for Rig<'_> {
    fn page_size(&self) -> usize {
        self.source.as_ref().map_or(4096, |source| source.page_size())
    }

    fn grow(&mut self, size: usize, align: usize) -> Result<Region, OutOfMemory> {
        self.obtain("grow", size, align, |source| source.grow(size, align))
    }

    fn map(&mut self, size: usize, align: usize) -> Result<Region, OutOfMemory> {
        self.obtain("map", size, align, |source| source.map(size, align))
    }

    unsafe fn shrink(&mut self, region: Region) -> usize {
        let Some((source, mut book)) = self.parts() else { return 0 };
        let alone = book.alone(&region);
        let whole = alone.is_some_and(|grant| grant.end == region.end());
        // What stands alone always goes back whole.
        let refuses = |book: &mut Book| !whole && book.refuses();
        if !book.verify("shrink", &region, false, alone.is_none()) || refuses(&mut book) {
            return 0;
        }
        // SAFETY: the caller promises the same.
        let taken = unsafe { source.shrink(region) };
        let all = taken == region.size;
        if taken > region.size || (!all && whole) || (!all && alone.is_some() && taken > 0) {
            book.breach(format!("the source took {taken} bytes of {}", show(&region)));
            return taken;
        }
        book.take(region.end() - taken, region.end());
        taken
    }

    unsafe fn resize(&mut self, region: Region, new_size: usize, may_move: bool) -> Option<Region> {
        let (source, mut book) = self.parts()?;
        if !book.verify("resize", &region, true, true) || book.refuses() {
            return None;
        }
        let alone = book.alone(&region).is_some();
        // SAFETY: the caller promises the same.
        let resized = unsafe { source.resize(region, new_size, may_move) }?;
        book.take(region.addr(), region.end());
        book.give(resized, alone);
        Some(resized)
    }

    unsafe fn relocate(&mut self, from: Region, to: Region) -> bool {
        let Some((source, mut book)) = self.parts() else { return false };
        let held =
            book.verify("relocate", &from, true, true) && book.verify("relocate", &to, true, true);
        if !held || to.size < from.size {
            book.breach(format!("relocate({}, {})", show(&from), show(&to)));
            return false;
        }
        // SAFETY: the caller promises the same.
        if book.refuses() || !unsafe { source.relocate(from, to) } {
            return false;
        }
        book.take(from.addr(), from.end());
        true
    }

    unsafe fn discard(&mut self, region: Region) -> bool {
        let Some((source, mut book)) = self.parts() else { return false };
        if !book.verify("discard", &region, false, false) || book.refuses() {
            return false;
        }
        // SAFETY: the caller promises the same.
        let zeroed = unsafe { source.discard(region) };
        if book.dirty {
            // SAFETY: the region is held and nobody needs its contents.
            unsafe { region.start.write_bytes(DIRT, region.size) };
            return false;
        }
        zeroed
    }

    unsafe fn populate(&mut self, region: Region) {
        // SAFETY: the caller promises the same.
        self.wish("populate", region, |source| unsafe { source.populate(region) });
    }

    unsafe fn offer_huge_pages(&mut self, region: Region) {
        // SAFETY: the caller promises the same.
        self.wish("offer_huge_pages", region, |source| unsafe { source.offer_huge_pages(region) });
    }

    unsafe fn withdraw_huge_pages(&mut self, region: Region) {
        // SAFETY: the caller promises the same.
        self.wish("withdraw_huge_pages", region, |source| unsafe {
            source.withdraw_huge_pages(region)
        });
    }

    fn is_readable(&self, addr: usize) -> bool {
        self.source.as_ref().is_some_and(|source| source.is_readable(addr))
    }

    fn is_present(&self, addr: usize) -> bool {
        self.source.as_ref().is_some_and(|source| source.is_present(addr))
    }

    fn entropy(&self) -> u64 {
        self.source.as_ref().map_or(0, |source| source.entropy())
    }
}

impl Drop for Rig<'_> {
    fn drop(&mut self) {
        if let Some(ledger) = &self.ledger {
            ledger.book().seen.dropped = true;
        }
    }
}

/// A backend whose regions are as odd as the contract allows: aligned as was asked and to nothing more,
/// a few bytes longer than was asked, taken back whole or not at all.
pub struct Odd<B> {
    source: B,
    /// What was given, and what of the source it is a part of.
    given: Vec<(Region, Region)>,
}

// SAFETY: the regions are memory of the source, and go where it goes.
unsafe impl<B: Send> Send for Odd<B> {}

impl<B: HeapBackend> Odd<B> {
    /// Makes the regions of `source` odd.
    pub fn over(source: B) -> Self {
        Self { source, given: Vec::new() }
    }
}

// SAFETY: every region is a part of a region of the source that nothing else is given of.
unsafe impl<B: HeapBackend> HeapBackend for Odd<B> {
    fn page_size(&self) -> usize {
        1
    }

    fn grow(&mut self, size: usize, align: usize) -> Result<Region, OutOfMemory> {
        let more =
            align.checked_add(size).and_then(|size| size.checked_add(7)).ok_or(OutOfMemory)?;
        let whole = self.source.grow(more, align.checked_mul(2).ok_or(OutOfMemory)?)?;
        // SAFETY: the source gave `align` bytes more than are used.
        let start = unsafe { whole.start.add(align) };
        let odd = Region { start, size: size + 7, zeroed: whole.zeroed };
        self.given.push((odd, whole));
        Ok(odd)
    }

    unsafe fn shrink(&mut self, region: Region) -> usize {
        let is_it = |given: &(Region, Region)| {
            given.0.addr() == region.addr() && given.0.size == region.size
        };
        let Some(at) = self.given.iter().position(is_it) else { return 0 };
        let whole = self.given[at].1;
        // SAFETY: the caller promises that the part is unused, and nothing else of it was given.
        if unsafe { self.source.shrink(whole) } < whole.size {
            return 0;
        }
        self.given.swap_remove(at);
        region.size
    }

    hand_on! { source: discard, is_readable, is_present, entropy }
}

#[cfg(test)]
mod tests {
    use heapwright_backends::Mmap;

    use super::*;

    fn rig() -> (Rig<'static>, Ledger) {
        Rig::over(Mmap::new())
    }

    fn end_of(region: Region, from: usize) -> Region {
        // SAFETY: within the region.
        let start = unsafe { region.start.add(from) };
        Region { start, size: region.size - from, zeroed: false }
    }

    #[test]
    fn the_books_follow_what_is_given_and_taken() {
        let (mut rig, ledger) = rig();
        let region = rig.grow(5 * 4096, 16).unwrap();
        assert_eq!((ledger.seen().held, ledger.grants()), (5 * 4096, 1));
        assert!(ledger.holds(region.addr(), region.end()));
        // SAFETY: nobody uses the region.
        assert_eq!(unsafe { rig.shrink(end_of(region, 2 * 4096)) }, 3 * 4096);
        assert_eq!(ledger.seen().held, 2 * 4096);
        assert!(!ledger.holds(region.addr(), region.end()));
        let rest = Region { size: 2 * 4096, ..region };
        // SAFETY: as above.
        let moved = unsafe { rig.resize(rest, 9 * 4096, true) }.unwrap();
        assert_eq!((ledger.seen().held, ledger.grants()), (9 * 4096, 1));
        // SAFETY: as above.
        assert_eq!(unsafe { rig.shrink(moved) }, 9 * 4096);
        let seen = ledger.seen();
        assert_eq!((seen.held, seen.peak, seen.refusals), (0, 9 * 4096, 0));
        assert_eq!((ledger.breaches(), ledger.grants(), seen.calls), (Vec::new(), 0, 4));
    }

    #[test]
    fn breaches_of_the_contract_are_found_and_not_passed_on() {
        let (mut rig, ledger) = rig();
        let region = rig.grow(4 * 4096, 16).unwrap();
        let front = Region { size: 4096, ..region };
        let part = end_of(region, 4096);
        // SAFETY: nobody uses the region; what the contract forbids is not passed on.
        unsafe {
            assert_eq!(rig.shrink(front), 0);
            assert!(rig.resize(part, 4096, false).is_none());
            assert_eq!(rig.shrink(region), region.size);
            assert_eq!(rig.shrink(region), 0);
            assert!(!rig.discard(region));
        }
        assert!(rig.grow(0, 16).is_err());
        let breaches = ledger.breaches();
        let words = ["does not end", "does not start", "is not held", "is not held", "no size"];
        assert_eq!(breaches.len(), words.len(), "{breaches:?}");
        for (breach, words) in breaches.iter().zip(words) {
            assert!(breach.contains(words), "{breach}");
        }
    }

    #[test]
    fn a_region_that_stands_alone_gives_back_its_start_and_always_itself() {
        let (mut rig, ledger) = rig();
        let region = rig.map(4 * 4096, 16).unwrap();
        ledger.refuse(Refuse::From(2));
        let rest = end_of(region, 4096);
        // SAFETY: nobody uses the region.
        unsafe {
            assert_eq!(rig.shrink(Region { size: 4096, ..region }), 4096);
            assert_eq!(rig.shrink(end_of(rest, 4096)), 0);
            assert_eq!(rig.shrink(rest), 3 * 4096);
        }
        assert_eq!((ledger.seen().held, ledger.breaches()), (0, Vec::new()));
    }

    #[test]
    fn calls_are_refused_on_demand() {
        let (mut rig, ledger) = rig();
        ledger.refuse(Refuse::Once(2));
        let region = rig.grow(4096, 16).unwrap();
        assert!(rig.grow(4096, 16).is_err());
        // SAFETY: nobody uses the region.
        assert_eq!(unsafe { rig.shrink(region) }, 4096);
        ledger.refuse(Refuse::From(1));
        assert!(rig.grow(4096, 16).is_err() && rig.grow(4096, 16).is_err());
        ledger.refuse(Refuse::Nothing);
        assert!(rig.grow(4096, 16).is_ok());
        assert_eq!(ledger.seen().refusals, 3);
        assert!(!ledger.seen().dropped);
        drop(rig);
        assert!(ledger.seen().dropped);
    }

    #[test]
    fn dirty_memory_is_dirty_and_said_to_be() {
        let (mut rig, _) = Rig::dirty(Mmap::new());
        let region = rig.grow(4096, 16).unwrap();
        assert!(!region.zeroed);
        // SAFETY: the region was just given.
        assert_eq!(unsafe { region.start.add(4095).read() }, DIRT);
    }

    #[test]
    fn odd_regions_are_odd() {
        let mut odd = Odd::over(Mmap::new());
        for align in [1, 16, 4096, 1 << 16] {
            let region = odd.grow(100, align).unwrap();
            assert!(
                region.addr().is_multiple_of(align) && !region.addr().is_multiple_of(2 * align)
            );
            assert_eq!(region.size, 107);
            // SAFETY: nobody uses the region.
            assert_eq!(unsafe { (odd.shrink(end_of(region, 50)), odd.shrink(region)) }, (0, 107));
        }
    }
}
