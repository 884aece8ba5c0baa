//! The model that a heap is compared with: disjoint live ranges, each with contents of its own.
//!
//! The model carries out requests and verifies what comes back: alignment, room, disjointness, zeros,
//! contents. [`Model::check`] asks the heap itself, [`Model::verify_books`] holds what the heap says of
//! itself to what the model knows, and to what the backend has really given.

use core::alloc::Layout;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::collections::{BTreeMap, VecDeque};

use heapwright_core::{BlockInfo, BlockState, HeapError, Limits, Stats, Strategy};

use crate::family::Nature;
use crate::rig::Ledger;
use crate::{Step, pattern};

/// A broken promise: what was asked, what came back, and what had happened before.
#[derive(Clone, PartialEq, Eq)]
pub struct Complaint {
    what: String,
    before: Vec<String>,
}

impl Complaint {
    /// A complaint that no model stands behind.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), before: Vec::new() }
    }

    /// The same with more said in front.
    #[must_use]
    pub fn during(mut self, when: impl fmt::Display) -> Self {
        self.what = format!("{when}: {}", self.what);
        self
    }

    /// What is complained of, without what happened before.
    pub fn what(&self) -> &str {
        &self.what
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if !self.before.is_empty() {
            f.write_str("\nThe last requests were:")?;
            self.before.iter().try_for_each(|line| write!(f, "\n    {line}"))?;
        }
        Ok(())
    }
}

/// As `Display`: this is what a failing test prints.
impl fmt::Debug for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Complaint {}

/// What a promise returns.
pub type Kept = Result<(), Complaint>;

/// A [`Complaint`] unless a condition holds.
macro_rules! require {
    ($holds:expr, $($message:tt)+) => {
        if !$holds {
            return Err($crate::Complaint::new(format!($($message)+)));
        }
    };
}
pub(crate) use require;

/// A block in use, as the model knows it.
#[derive(Clone, Copy, Debug)]
pub struct Live {
    /// Where it is.
    pub block: NonNull<u8>,
    /// What it was asked for with, or resized to.
    pub layout: Layout,
    /// How many bytes of it may be used.
    pub usable: usize,
    seed: u64,
}

// SAFETY: a block may be used and freed by any thread.
unsafe impl Send for Live {}

impl Live {
    /// Its address.
    pub fn addr(&self) -> usize {
        self.block.addr().get()
    }

    /// The address behind its last usable byte.
    pub fn end(&self) -> usize {
        self.addr() + self.usable
    }
}

/// A request that was made, and what came of it.
#[derive(Clone, Copy)]
enum Event {
    Allocated { slot: usize, layout: Layout, zeroed: bool, block: Option<NonNull<u8>> },
    Freed { slot: usize, block: NonNull<u8>, result: Result<(), HeapError> },
    Resized { slot: usize, old: Live, size: usize, result: Result<NonNull<u8>, HeapError> },
    Trimmed { bytes: usize },
    Misused { addr: usize, result: Result<(), HeapError> },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Allocated { slot, layout, zeroed, block } => {
                let name = if zeroed { "allocate_zeroed" } else { "allocate" };
                write!(f, "[{slot}] {name}({}, align {}) -> ", layout.size(), layout.align())?;
                match block {
                    Some(block) => write!(f, "{block:p}"),
                    None => f.write_str("None"),
                }
            }
            Self::Freed { slot, block, result } => {
                write!(f, "[{slot}] deallocate({block:p}) -> {result:?}")
            }
            Self::Resized { slot, old, size, result } => write!(
                f,
                "[{slot}] reallocate({:p}, of {} usable {} align {}, to {size}) -> {result:?}",
                old.block,
                old.layout.size(),
                old.usable,
                old.layout.align(),
            ),
            Self::Trimmed { bytes } => write!(f, "trim() -> {bytes}"),
            Self::Misused { addr, result } => write!(f, "misuse of {addr:#x} -> {result:?}"),
        }
    }
}

/// How many requests a complaint recalls.
const RECALLED: usize = 24;

/// From this size on a request may fail without a reason: no machine has that much.
const HOPELESS: usize = 1 << 40;

static NEXT_SEED: AtomicU64 = AtomicU64::new(0);

/// A heap together with all that it has promised so far.
pub struct Model<'a> {
    heap: &'a dyn Strategy,
    limits: Limits,
    nature: Nature,
    ledger: Option<&'a Ledger>,
    live: BTreeMap<usize, Live>,
    /// The slots of the blocks in use, by address.
    places: BTreeMap<usize, usize>,
    events: VecDeque<Event>,
    seeds: u64,
    peak: usize,
}

impl<'a> Model<'a> {
    /// A model of an empty heap.
    pub fn new(heap: &'a dyn Strategy, nature: Nature) -> Self {
        Self {
            heap,
            limits: heap.limits(),
            nature,
            ledger: None,
            live: BTreeMap::new(),
            places: BTreeMap::new(),
            events: VecDeque::new(),
            // Not the same contents in every model: blocks may change hands.
            seeds: NEXT_SEED.fetch_add(1 << 32, Relaxed),
            peak: 0,
        }
    }

    /// A model of an empty heap over an observed backend. A request may then fail only if the backend
    /// refused something meanwhile.
    pub fn observed(heap: &'a dyn Strategy, nature: Nature, ledger: &'a Ledger) -> Self {
        Self { ledger: Some(ledger), ..Self::new(heap, nature) }
    }

    /// The heap.
    pub fn heap(&self) -> &'a dyn Strategy {
        self.heap
    }

    /// The block of a slot.
    pub fn get(&self, slot: usize) -> Option<&Live> {
        self.live.get(&slot)
    }

    /// What the heap promises.
    pub fn nature(&self) -> Nature {
        self.nature
    }

    /// What the heap says it serves.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The slots that are taken, in rising order.
    pub fn slots(&self) -> Vec<usize> {
        self.live.keys().copied().collect()
    }

    /// The usable bytes of all blocks in use.
    pub fn live_bytes(&self) -> usize {
        self.live.values().map(|live| live.usable).sum()
    }

    /// A complaint with the last requests.
    pub fn complaint(&self, what: impl Into<String>) -> Complaint {
        let before = self.events.iter().map(Event::to_string).collect();
        Complaint { what: what.into(), before }
    }

    fn ensure(&self, holds: bool, what: impl FnOnce() -> String) -> Kept {
        if holds { Ok(()) } else { Err(self.complaint(what())) }
    }

    fn note(&mut self, event: Event) {
        if self.events.len() == RECALLED {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    fn refusals(&self) -> usize {
        self.ledger.map_or(0, |ledger| ledger.seen().refusals)
    }

    /// Complains of a failure for which there was no reason.
    fn excuse(&self, refusals: usize, size: usize, layout: Layout) -> Kept {
        let layout = Layout::from_size_align(size, layout.align());
        let admitted = layout.is_ok_and(|layout| self.limits.admit(layout));
        let excused = !admitted || size >= HOPELESS || self.refusals() > refusals;
        self.ensure(excused, || {
            format!("a request for {size} bytes failed, though it is within the limits and the backend refused nothing")
        })
    }

    // ---- Requests -----------------------------------------------------------------------------

    /// Carries out a step, and says whether it was served; one that does not apply is.
    ///
    /// # Errors
    ///
    /// What came back and should not have.
    pub fn apply(&mut self, step: Step) -> Result<bool, Complaint> {
        match step {
            Step::Allocate { slot, size, align, zeroed } => {
                match Layout::from_size_align(size, align) {
                    Ok(layout) if !self.live.contains_key(&slot) => {
                        self.allocate(slot, layout, zeroed)
                    }
                    _ => Ok(true),
                }
            }
            Step::Free { slot } if self.live.contains_key(&slot) => self.free(slot).map(|()| true),
            Step::Reallocate { slot, size } if self.live.contains_key(&slot) => {
                self.reallocate(slot, size)
            }
            Step::Free { .. } | Step::Reallocate { .. } => Ok(true),
            Step::Trim => {
                self.trim();
                Ok(true)
            }
        }
    }

    /// Allocates into an empty slot, and says whether there was memory.
    ///
    /// # Errors
    ///
    /// What came back and should not have.
    pub fn allocate(
        &mut self,
        slot: usize,
        layout: Layout,
        zeroed: bool,
    ) -> Result<bool, Complaint> {
        let refusals = self.refusals();
        let block =
            if zeroed { self.heap.allocate_zeroed(layout) } else { self.heap.allocate(layout) };
        self.note(Event::Allocated { slot, layout, zeroed, block });
        let Some(block) = block else {
            self.excuse(refusals, layout.size(), layout)?;
            return Ok(false);
        };
        self.ensure(self.limits.admit(layout), || {
            format!("{layout:?} was served, though it is beyond {:?}", self.limits)
        })?;
        let live = self.examine(slot, block, layout)?;
        if zeroed {
            // SAFETY: a block is readable for its size.
            let found = unsafe { pattern::find_nonzero(block, layout.size()) };
            self.ensure(found.is_none(), || {
                let (at, byte) = found.unwrap_or_default();
                format!("[{slot}] zeroed memory is not zero: byte {at} is {byte:#04x}")
            })?;
        }
        self.enter(slot, live);
        Ok(true)
    }

    /// Allocates a small request, for which there must be memory.
    ///
    /// # Errors
    ///
    /// What came back and should not have, also nothing.
    pub fn must_allocate(&mut self, slot: usize, size: usize, align: usize) -> Kept {
        let layout = layout(size, align);
        let served = self.allocate(slot, layout, false)?;
        self.ensure(served, || format!("there is no memory for {layout:?}"))
    }

    /// Frees the block of a slot that is taken, after its contents were verified.
    ///
    /// # Errors
    ///
    /// What came back and should not have.
    pub fn free(&mut self, slot: usize) -> Kept {
        let live = self.expect(slot)?;
        self.verify_block(slot, &live)?;
        self.forget(slot);
        // Both ways of freeing are the heap's promise.
        // SAFETY: the block is in use, and is forgotten here.
        let result = unsafe {
            if slot.is_multiple_of(2) {
                self.heap.deallocate(live.block)
            } else {
                self.heap.deallocate_sized(live.block, live.layout)
            }
        };
        self.note(Event::Freed { slot, block: live.block, result });
        self.ensure(result.is_ok(), || {
            format!("[{slot}] a block in use could not be freed: {result:?}")
        })
    }

    /// Changes the size of the block of a slot that is taken, and says whether there was memory.
    ///
    /// # Errors
    ///
    /// What came back and should not have.
    pub fn reallocate(&mut self, slot: usize, size: usize) -> Result<bool, Complaint> {
        let old = self.expect(slot)?;
        self.reallocate_as(slot, old.layout, size)
    }

    /// As [`reallocate`](Self::reallocate), with the usable size given as the old one, as C's `realloc`
    /// does.
    ///
    /// # Errors
    ///
    /// What came back and should not have.
    pub fn reallocate_usable(&mut self, slot: usize, size: usize) -> Result<bool, Complaint> {
        let old = self.expect(slot)?;
        self.reallocate_as(slot, layout(old.usable, old.layout.align()), size)
    }

    fn reallocate_as(&mut self, slot: usize, said: Layout, size: usize) -> Result<bool, Complaint> {
        let old = self.expect(slot)?;
        self.verify_block(slot, &old)?;
        let refusals = self.refusals();
        // SAFETY: the block is in use; its size is at most the usable one.
        let result = unsafe { self.heap.reallocate(old.block, said, size) };
        self.note(Event::Resized { slot, old, size, result });
        match result {
            Ok(block) => {
                let kept = said.size().min(size);
                let new = Layout::from_size_align(size, old.layout.align());
                let new = new.ok().filter(|&new| self.limits.admit(new));
                let Some(new) = new else {
                    let what = format!(
                        "[{slot}] a resize to {size} bytes was served, though it is beyond {:?}",
                        self.limits
                    );
                    return Err(self.complaint(what));
                };
                self.forget(slot);
                let live = self.examine(slot, block, new)?;
                // SAFETY: the new block is at least `size` bytes long.
                let verified = unsafe { pattern::verify(block, old.usable, old.seed, kept) };
                verified.map_err(|(at, wanted, found)| {
                    self.complaint(format!(
                        "[{slot}] resizing lost contents: byte {at} of the first {kept} was {wanted:#04x} and is {found:#04x}"
                    ))
                })?;
                self.enter(slot, live);
                Ok(true)
            }
            Err(HeapError::OutOfMemory) => {
                self.excuse(refusals, size, old.layout)?;
                self.verify_block(slot, &old)
                    .map_err(|complaint| complaint.during("after a failed resize"))?;
                Ok(false)
            }
            Err(error) => {
                let what = format!("[{slot}] a block in use could not be resized: {error}");
                Err(self.complaint(what))
            }
        }
    }

    /// Trims the heap.
    pub fn trim(&mut self) -> usize {
        let bytes = self.heap.trim();
        self.note(Event::Trimmed { bytes });
        bytes
    }

    /// Notes a misuse that a test has made.
    pub(crate) fn note_misuse(&mut self, addr: usize, result: Result<(), HeapError>) {
        self.note(Event::Misused { addr, result });
    }

    /// Hands the block of a slot over to another model of the same heap.
    ///
    /// # Errors
    ///
    /// The slot is empty, or the block has lost its contents.
    pub fn give(&mut self, slot: usize) -> Result<Live, Complaint> {
        let live = self.expect(slot)?;
        self.verify_block(slot, &live)?;
        self.forget(slot);
        Ok(live)
    }

    /// Takes over a block that another model of the same heap gave, into an empty slot.
    ///
    /// # Errors
    ///
    /// The block has lost its contents on its way.
    pub fn take(&mut self, slot: usize, live: Live) -> Kept {
        self.verify_block(slot, &live)
            .map_err(|complaint| complaint.during("a block that was handed over"))?;
        self.places.insert(live.addr(), slot);
        self.live.insert(slot, live);
        Ok(())
    }

    /// Frees all blocks in use, in the order that `arrange` brings their slots into.
    ///
    /// # Errors
    ///
    /// What came back and should not have.
    pub fn free_all(&mut self, arrange: impl FnOnce(&mut [usize])) -> Kept {
        let mut slots = self.slots();
        arrange(&mut slots);
        slots.into_iter().try_for_each(|slot| self.free(slot))
    }

    /// The live block of a slot; a complaint where a test is mistaken about it.
    fn expect(&self, slot: usize) -> Result<Live, Complaint> {
        let live = self.live.get(&slot).copied();
        live.ok_or_else(|| self.complaint(format!("the test uses slot {slot}, which is empty")))
    }

    fn forget(&mut self, slot: usize) {
        if let Some(live) = self.live.remove(&slot) {
            self.places.remove(&live.addr());
        }
    }

    /// Writes the contents of a block, and takes it on.
    fn enter(&mut self, slot: usize, mut live: Live) {
        self.seeds += 1;
        live.seed = self.seeds;
        // SAFETY: the block is the model's, as long as is usable.
        unsafe { pattern::write(live.block, live.usable, live.seed) };
        self.places.insert(live.addr(), slot);
        self.live.insert(slot, live);
    }

    /// What can be said of a block that was just given, before it is written to.
    fn examine(&self, slot: usize, block: NonNull<u8>, layout: Layout) -> Result<Live, Complaint> {
        let addr = block.addr().get();
        self.ensure(addr.is_multiple_of(layout.align()), || {
            format!("[{slot}] {block:p} is not aligned to {}", layout.align())
        })?;
        // SAFETY: the block is in use.
        let usable = unsafe { self.heap.usable_size(block) };
        self.ensure(usable > 0, || {
            format!("[{slot}] {block:p} has no usable byte; empty requests get a smallest block")
        })?;
        self.ensure(usable >= layout.size(), || {
            format!(
                "[{slot}] of {block:p} {usable} bytes are usable, and {} were asked for",
                layout.size()
            )
        })?;
        self.ensure(addr.checked_add(usable).is_some(), || {
            format!("[{slot}] {block:p} with {usable} usable bytes wraps around the address space")
        })?;
        let live = Live { block, layout, usable, seed: 0 };
        let below = self.places.range(..live.end()).next_back();
        if let Some((other, at)) = below.and_then(|(_, at)| Some((self.live.get(at)?, at))) {
            self.ensure(other.end() <= addr, || {
                format!(
                    "[{slot}] {addr:#x}..{:#x} overlaps [{at}] {:#x}..{:#x}, which is in use",
                    live.end(),
                    other.addr(),
                    other.end(),
                )
            })?;
        }
        if let Some(ledger) = self.ledger {
            self.ensure(ledger.holds(addr, live.end()), || {
                format!("[{slot}] {addr:#x}..{:#x} is not the backend's memory", live.end())
            })?;
        }
        Ok(live)
    }

    // ---- Verifying ----------------------------------------------------------------------------

    fn verify_block(&self, slot: usize, live: &Live) -> Kept {
        // SAFETY: the block is in use, as long as is usable.
        let verified = unsafe { pattern::verify(live.block, live.usable, live.seed, live.usable) };
        verified.map_err(|(at, wanted, found)| {
            self.complaint(format!(
                "[{slot}] something wrote into a block in use: byte {at} of {:p} ({} bytes, {} usable) was {wanted:#04x} and is {found:#04x}",
                live.block, live.layout.size(), live.usable,
            ))
        })?;
        // SAFETY: the block is in use.
        let usable = unsafe { self.heap.usable_size(live.block) };
        self.ensure(usable == live.usable, || {
            format!("[{slot}] {:p} had {} usable bytes and has {usable}", live.block, live.usable)
        })
    }

    /// Verifies the contents of all blocks in use.
    ///
    /// # Errors
    ///
    /// The first byte that is not what was written.
    pub fn verify_contents(&self) -> Kept {
        self.live.iter().try_for_each(|(&slot, live)| self.verify_block(slot, live))
    }

    /// Has the heap verify its invariants, and the backend's contract verified.
    ///
    /// # Errors
    ///
    /// What either found broken.
    pub fn check(&self) -> Kept {
        self.heap.check().map_err(|broken| self.complaint(format!("check() says: {broken}")))?;
        self.verify_contract()
    }

    /// Verifies that the heap has kept the backend's contract, if that is observed.
    ///
    /// # Errors
    ///
    /// What it did instead.
    pub fn verify_contract(&self) -> Kept {
        let breaches = self.ledger.map(Ledger::breaches).unwrap_or_default();
        self.ensure(breaches.is_empty(), || {
            format!("the backend's contract was broken: {}", breaches.join("; "))
        })
    }

    /// Everything there is to verify: [`check`](Self::check), [`verify_contents`](Self::verify_contents)
    /// and [`verify_books`](Self::verify_books).
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn verify_all(&mut self) -> Kept {
        self.check()?;
        self.verify_contents()?;
        self.verify_books()
    }

    /// Verifies what the heap says of itself: [`verify_walk`](Self::verify_walk),
    /// [`verify_stats`](Self::verify_stats) and [`verify_footprint`](Self::verify_footprint).
    ///
    /// # Errors
    ///
    /// The first statement that is not true.
    pub fn verify_books(&mut self) -> Kept {
        self.verify_walk()?;
        self.verify_stats()?;
        self.verify_footprint()
    }

    /// `walk` shows every block in use, once, with its place, size and state; nothing overlaps; region by
    /// region, by rising address.
    ///
    /// # Errors
    ///
    /// The first block that is not shown rightly.
    pub fn verify_walk(&self) -> Kept {
        let blocks = walked(self.heap);
        let mut sorted: Vec<&BlockInfo> = blocks.iter().collect();
        sorted.sort_by_key(|block| (block.address, block.size));
        for pair in sorted.windows(2) {
            self.ensure(pair[0].address + pair[0].size <= pair[1].address, || {
                format!("walk shows two blocks that overlap: {:x?} and {:x?}", pair[0], pair[1])
            })?;
            self.ensure(pair[0].address != pair[1].address, || {
                format!("walk shows a block twice: {:x?} and {:x?}", pair[0], pair[1])
            })?;
        }
        for (slot, live) in &self.live {
            let found = sorted.binary_search_by_key(&live.addr(), |block| block.address);
            let shown = found.ok().map(|at| sorted[at]);
            let Some(shown) = shown else {
                return Err(self.complaint(format!("[{slot}] walk does not show {:p}", live.block)));
            };
            let used = matches!(shown.state, BlockState::Used | BlockState::Mapped);
            self.ensure(used && shown.size == live.usable, || {
                format!(
                    "[{slot}] walk shows {:p}, which is in use with {} usable bytes, as {shown:x?}",
                    live.block, live.usable
                )
            })?;
        }
        for block in &blocks {
            let Some(next) = block.next_free else { continue };
            let found = sorted.binary_search_by_key(&next, |block| block.address);
            let state = found.ok().map(|at| sorted[at].state);
            self.ensure(state == Some(block.state), || {
                format!("walk shows {block:x?}, whose next free block is {state:?}")
            })?;
        }
        self.verify_order(&blocks)
    }

    /// Each region is shown in one piece, by rising address.
    fn verify_order(&self, blocks: &[BlockInfo]) -> Kept {
        let Some(ledger) = self.ledger else { return Ok(()) };
        let mut shown: Vec<usize> = Vec::new();
        let mut last: Option<(usize, usize)> = None;
        for block in blocks {
            let Some((region, _)) = ledger.grant_of(block.address) else {
                // What is left of a wilderness that is used up may lie at the very end.
                self.ensure(block.size == 0, || {
                    format!("walk shows {block:x?}, which is not in the backend's memory")
                })?;
                continue;
            };
            self.ensure(ledger.holds(block.address, block.address + block.size), || {
                format!("walk shows {block:x?}, which reaches beyond the backend's memory")
            })?;
            match last {
                Some((current, address)) if current == region => {
                    self.ensure(address < block.address, || {
                        format!("walk shows {:#x} after {address:#x} in one region", block.address)
                    })?;
                }
                _ => {
                    self.ensure(!shown.contains(&region), || {
                        format!("walk comes back to the region at {region:#x} with {block:x?}")
                    })?;
                    shown.push(region);
                }
            }
            last = Some((region, block.address));
        }
        Ok(())
    }

    /// `tally` shows as many blocks of each size and state as the walk.
    fn verify_tally(&self, blocks: &[BlockInfo]) -> Kept {
        let kind = |block: BlockInfo| (block.state as u8, block.size, block.overhead);
        let mut surplus = BTreeMap::new();
        self.heap.tally(&mut |block, count| *surplus.entry(kind(block)).or_insert(0) += count);
        for &block in blocks {
            let Some(left) = surplus.get_mut(&kind(block)).filter(|left| **left > 0) else {
                return self.ensure(false, || format!("tally lacks a block: walk has {block:x?}"));
            };
            *left -= 1;
        }
        self.ensure(surplus.values().all(|&left| left == 0), || {
            format!(
                "tally shows blocks that walk does not, by state, size and overhead: {surplus:?}"
            )
        })
    }

    /// `stats` are the sums of the walk, and right about what is live.
    ///
    /// # Errors
    ///
    /// The first number that is not.
    pub fn verify_stats(&self) -> Kept {
        let (blocks, stats) = (walked(self.heap), self.heap.stats());
        self.verify_tally(&blocks)?;
        let mut sums = Stats::default();
        blocks.iter().for_each(|&block| sums.count(block));
        let pairs = [
            ("live_bytes", stats.live_bytes, sums.live_bytes),
            ("live_blocks", stats.live_blocks, sums.live_blocks),
            ("free_bytes", stats.free_bytes, sums.free_bytes),
            ("free_blocks", stats.free_blocks, sums.free_blocks),
            ("largest_free", stats.largest_free, sums.largest_free),
            ("cached_bytes", stats.cached_bytes, sums.cached_bytes),
            ("cached_blocks", stats.cached_blocks, sums.cached_blocks),
            ("mapped_blocks", stats.mapped_blocks, sums.mapped_blocks),
        ];
        for (name, said, counted) in pairs {
            self.ensure(said == counted, || {
                format!("stats say {name} is {said}, and the walk adds up to {counted}")
            })?;
        }
        self.ensure(stats.overhead >= sums.overhead, || {
            let (said, counted) = (stats.overhead, sums.overhead);
            format!("stats say overhead is {said}, and the blocks' alone is {counted}")
        })?;
        let sum = stats.live_bytes + stats.free_bytes + stats.cached_bytes + stats.overhead;
        self.ensure(stats.footprint == sum, || {
            format!("the footprint is not the sum of its parts, {sum}: {stats:?}")
        })?;
        let (bytes, count) = (self.live_bytes(), self.live.len());
        let right = if self.nature.never_frees {
            stats.live_bytes >= bytes && stats.live_blocks >= count
        } else {
            stats.live_bytes == bytes && stats.live_blocks == count
        };
        self.ensure(right, || {
            format!("{count} blocks of {bytes} bytes are in use, and stats say: {stats:?}")
        })
    }

    /// The footprint is what the backend gave; it was never above its peak.
    ///
    /// # Errors
    ///
    /// The first number that is wrong.
    pub fn verify_footprint(&mut self) -> Kept {
        let stats = self.heap.stats();
        self.peak = self.peak.max(stats.footprint);
        self.ensure(stats.peak_footprint >= self.peak, || {
            format!("peak_footprint is {}, and {} were held", stats.peak_footprint, self.peak)
        })?;
        self.peak = self.peak.max(stats.peak_footprint);
        let Some(ledger) = self.ledger else { return Ok(()) };
        let seen = ledger.seen();
        self.ensure(stats.footprint == seen.held, || {
            let (said, held) = (stats.footprint, seen.held);
            format!("the footprint is said to be {said}, and what the backend gave is {held}")
        })?;
        self.ensure(stats.peak_footprint <= seen.peak, || {
            let (said, peak) = (stats.peak_footprint, seen.peak);
            format!("peak_footprint is said to be {said}, and the backend gave {peak} at most")
        })?;
        self.ensure(stats.regions == 0 || (1..=seen.grows).contains(&stats.grows), || {
            format!(
                "stats say the backend gave memory {} times; it did so {} times",
                stats.grows, seen.grows
            )
        })?;
        self.ensure(stats.regions <= ledger.grants(), || {
            format!(
                "stats say there are {} regions; the backend gave {}",
                stats.regions,
                ledger.grants()
            )
        })
    }
}

/// All that `walk` shows.
pub fn walked(heap: &dyn Strategy) -> Vec<BlockInfo> {
    let mut blocks = Vec::new();
    heap.walk(&mut |block| blocks.push(block));
    blocks
}

/// A layout that is one; a size beyond all is cut to the largest.
pub(crate) fn layout(size: usize, align: usize) -> Layout {
    let largest = isize::MAX as usize + 1 - align;
    Layout::from_size_align(size.min(largest), align).unwrap_or(Layout::new::<u8>())
}
