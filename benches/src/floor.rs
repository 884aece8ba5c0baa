//! The floor: what a replay costs before any allocator does anything.
//!
//! A [`Floor`] is called as a contender is, but it only hands out addresses. What is left of the time is the harness's
//! own: the loop over the script, the call through `&dyn GlobalAlloc`, touching the blocks, waiting for other streams, and
//! the kernel's work for the pages that are touched for the first time. No contender can be faster by more than better
//! addresses make it: blocks that lie closer together, or on huge pages.
//!
//! The script is played once beforehand, in the order of a [`Schedule`], on simulated heaps, one for each stream: best fit,
//! neighbours merged at once, blocks in units of 16 bytes with no headers; a block goes back to the heap that it came
//! from. The n-th request of each stream is answered with the n-th address from there. So as much memory is touched as such
//! heaps have, about as much as is live at the most, and a request costs a load or two. Streams that run at the same time
//! do not keep to the schedule; then a block may be handed out that another stream still has, which costs what it costs
//! two processors to share it, and nothing else.
//!
//! It is for timing alone. Frees do nothing, a moved block's contents are not copied, and zeroed blocks are not zeroed:
//! a verifying replay finds that out.

use std::alloc::{GlobalAlloc, Layout};
use std::collections::{BTreeMap, BTreeSet};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use anyhow::{Context, Result};
use memmap2::{MmapMut, MmapOptions, MmapRaw};

use crate::replay;
use crate::script::{self, Kind, Op, Schedule, Step};

/// Hands out addresses; see the module.
pub struct Floor {
    memory: MmapRaw,
    /// Where blocks are, in units from the start of the memory: one place for each request, stream after stream; present
    /// before the replay.
    places: MmapMut,
    streams: Vec<Requests>,
}

/// The requests of one stream, on a cache line of their own.
#[repr(align(128))]
struct Requests {
    /// The place of the next, and where they end.
    next: AtomicUsize,
    end: usize,
}

/// Bytes that blocks are multiples of.
const UNIT: usize = 16;

impl Floor {
    /// For one replay of these streams. Plays them beforehand, which takes several times as long as a replay; maps
    /// memory for them, of which no page is present yet.
    ///
    /// # Errors
    ///
    /// When there is no memory for it, or more than 64 GiB would be needed.
    pub fn new(streams: &[&[Op]]) -> Result<Self> {
        let (places, units) = play(streams);
        let mut requests = Vec::new();
        let mut all = Vec::new();
        for places in places {
            let next = AtomicUsize::new(all.len());
            for place in places {
                all.push(u32::try_from(place).context("a floor has 64 GiB at most")?);
            }
            requests.push(Requests { next, end: all.len() });
        }
        let bytes: &[u8] = bytemuck::cast_slice(&all);
        let mut map = MmapOptions::new()
            .len(bytes.len().max(1))
            .populate()
            .map_anon()
            .context("mapping the table of addresses")?;
        map[..bytes.len()].copy_from_slice(bytes);
        Ok(Self { memory: reserve(units * UNIT)?, places: map, streams: requests })
    }

    /// As [`Floor::new`], for as long as the process runs, which is what a contender must be there for.
    ///
    /// # Errors
    ///
    /// As [`Floor::new`].
    pub fn leak(streams: &[&[Op]]) -> Result<&'static Self> {
        Ok(Box::leak(Box::new(Self::new(streams)?)))
    }

    #[inline]
    fn next(&self) -> *mut u8 {
        let Some(Requests { next, end }) = self.streams.get(replay::current_stream()) else {
            return ptr::null_mut();
        };
        let request = next.load(Relaxed);
        if request >= *end {
            return ptr::null_mut();
        }
        next.store(request + 1, Relaxed);
        // SAFETY: the table has a place for each request, is page-aligned, and any bytes make a number.
        let place = unsafe { *self.places.as_ptr().cast::<u32>().add(request) };
        self.memory.as_mut_ptr().wrapping_add(place as usize * UNIT)
    }
}

// SAFETY: it is not quite an allocator, see the module: what it returns is mapped and writable for the whole
// life of the floor, and aligned up to a page, but blocks of several streams may overlap, and contents are neither kept nor zeroed. A timed replay
// trusts none of that, and nothing else is run on a floor.
unsafe impl GlobalAlloc for Floor {
    unsafe fn alloc(&self, _layout: Layout) -> *mut u8 {
        self.next()
    }

    unsafe fn alloc_zeroed(&self, _layout: Layout) -> *mut u8 {
        self.next()
    }

    unsafe fn dealloc(&self, _block: *mut u8, _layout: Layout) {}

    unsafe fn realloc(&self, _block: *mut u8, _layout: Layout, _new_size: usize) -> *mut u8 {
        self.next()
    }
}

/// Memory whose pages appear as they are touched.
fn reserve(bytes: usize) -> Result<MmapRaw> {
    let map =
        MmapOptions::new().len(bytes.max(1)).map_anon().context("mapping the floor's memory")?;
    Ok(MmapRaw::from(map))
}

/// Plays the streams on simulated heaps: where each allocation and reallocation of each places its block, and how large
/// all heaps together become, in units.
fn play(streams: &[&[Op]]) -> (Vec<Vec<usize>>, usize) {
    let units = |size: usize| size.div_ceil(UNIT);
    let slots = streams.iter().copied().flatten().map(|op| op.slot() + 1).max().unwrap_or(0);
    // A block is a heap and a place in it.
    let mut tables = vec![vec![(0, 0); slots]; streams.len()];
    let mut mailboxes = vec![(0, 0); script::mailboxes(streams)];
    let mut heaps: Vec<Heap> = streams.iter().map(|_| Heap::default()).collect();
    let mut blocks: Vec<Vec<(usize, usize)>> = vec![Vec::new(); streams.len()];
    for Step { stream, table, op } in Schedule::new(streams) {
        let (size, align) = (units(op.size()), units(op.align()));
        let slot = &mut tables[table][op.slot()];
        let (owner, at) = *slot;
        match op.kind() {
            Kind::Allocate | Kind::AllocateZeroed => {
                *slot = (stream, heaps[stream].allocate(size, align));
                blocks[stream].push(*slot);
            }
            Kind::Reallocate => {
                let old = units(op.old_size());
                *slot = (owner, heaps[owner].reallocate(at, old, size, align));
                blocks[stream].push(*slot);
            }
            Kind::Free => heaps[owner].free(at, size),
            Kind::Send => mailboxes[op.mailbox()] = *slot,
            Kind::Receive => *slot = mailboxes[op.mailbox()],
            _ => {}
        }
    }
    // One heap behind the other, each from a page of its own.
    let mut end = 0;
    let mut starts = Vec::new();
    for heap in &heaps {
        starts.push(end);
        end = (end + heap.end).next_multiple_of(PAGE_UNITS);
    }
    let place = |(owner, at): (usize, usize)| starts[owner] + at;
    (blocks.into_iter().map(|blocks| blocks.into_iter().map(place).collect()).collect(), end)
}

const PAGE_UNITS: usize = 4096 / UNIT;

/// A heap of which only the addresses exist. All in units.
#[derive(Default)]
struct Heap {
    /// Free blocks by address, and by size and address. No two touch, and none touches the end.
    by_address: BTreeMap<usize, usize>,
    by_size: BTreeSet<(usize, usize)>,
    /// The addresses that are in use or were, at the most.
    end: usize,
    /// Below it all is in use or free; above it nothing is.
    top: usize,
}

impl Heap {
    fn insert(&mut self, at: usize, size: usize) {
        if size > 0 {
            self.by_address.insert(at, size);
            self.by_size.insert((size, at));
        }
    }

    fn remove(&mut self, at: usize, size: usize) {
        self.by_address.remove(&at);
        self.by_size.remove(&(size, at));
    }

    /// The smallest block that is large enough, of several the lowest, or new memory.
    fn allocate(&mut self, size: usize, align: usize) -> usize {
        let found = self.by_size.range((size, 0)..).copied().find(|&(free, at)| {
            let start = at.next_multiple_of(align);
            start + size <= at + free
        });
        let (at, start) = match found {
            Some((free, at)) => {
                self.remove(at, free);
                let start = at.next_multiple_of(align);
                self.insert(start + size, at + free - start - size);
                (at, start)
            }
            None => {
                let start = self.top.next_multiple_of(align);
                let at = std::mem::replace(&mut self.top, start + size);
                self.end = self.end.max(self.top);
                (at, start)
            }
        };
        self.insert(at, start - at);
        start
    }

    fn free(&mut self, mut at: usize, mut size: usize) {
        if let Some((&before, &length)) = self.by_address.range(..at).next_back()
            && before + length == at
        {
            self.remove(before, length);
            (at, size) = (before, size + length);
        }
        if let Some(&length) = self.by_address.get(&(at + size)) {
            self.remove(at + size, length);
            size += length;
        }
        if at + size == self.top {
            self.top = at;
        } else {
            self.insert(at, size);
        }
    }

    /// In place where that can be.
    fn reallocate(&mut self, at: usize, old: usize, new: usize, align: usize) -> usize {
        if new <= old {
            if new < old {
                self.free(at + new, old - new);
            }
            return at;
        }
        let more = new - old;
        if at + old == self.top {
            self.top += more;
            self.end = self.end.max(self.top);
            return at;
        }
        match self.by_address.get(&(at + old)) {
            Some(&free) if free >= more => {
                self.remove(at + old, free);
                self.insert(at + new, free - more);
                at
            }
            _ => {
                let moved = self.allocate(new, align);
                self.free(at, old);
                moved
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::generators::GENERATORS;
    use crate::replay::{Table, Unobserved};
    use crate::script::Script;

    fn script(name: &str) -> Script {
        let generator = GENERATORS.iter().find(|generator| generator.name == name).unwrap();
        generator.generate(5, 60_000).unwrap()
    }

    #[test]
    fn live_blocks_of_one_stream_never_overlap_and_are_aligned() {
        for name in ["pareto", "vectors", "robson"] {
            let script = script(name);
            let ops = script.streams()[0];
            let floor = Floor::new(&[ops]).unwrap();
            let mut live: BTreeMap<usize, usize> = BTreeMap::new();
            let mut slots = vec![ptr::null_mut::<u8>(); script.slots()];
            for op in ops {
                let slot = &mut slots[op.slot()];
                let layout = Layout::from_size_align(op.size(), op.align()).unwrap();
                let old = Layout::from_size_align(op.old_size(), op.align()).unwrap();
                if op.kind() != Kind::Allocate {
                    live.remove(&(*slot as usize)).unwrap();
                }
                // SAFETY: nothing is written, and the floor asks nothing of what it is given.
                *slot = unsafe {
                    match op.kind() {
                        Kind::Allocate => floor.alloc(layout),
                        Kind::Reallocate => floor.realloc(*slot, old, op.size()),
                        _ => continue,
                    }
                };
                let (start, end) = (*slot as usize, *slot as usize + op.size());
                assert_eq!(start % op.align(), 0);
                let before = live.range(..end).next_back();
                assert!(before.is_none_or(|(_, &before)| before <= start), "{name}");
                live.insert(start, end);
            }
            assert!(live.is_empty());
        }
    }

    #[test]
    fn not_much_more_memory_is_used_than_is_live_at_the_most() {
        for (name, most) in [("fixed-64", 1.01), ("pareto", 1.2), ("vectors", 1.5)] {
            let script = script(name);
            let ratio =
                play(&script.streams()).1 as f64 * UNIT as f64 / script.facts().peak_live as f64;
            assert!((0.99..=most).contains(&ratio), "{name}: {ratio}");
        }
    }

    #[test]
    fn every_workload_runs_on_its_floor() {
        for generator in GENERATORS {
            let script = generator.generate(5, 60_000).unwrap();
            let streams = script.streams();
            let floor = Floor::leak(&streams).unwrap();
            let mut tables: Vec<_> =
                streams.iter().map(|_| Table::new(script.slots()).unwrap()).collect();
            let mut observers: Vec<_> = streams.iter().map(|_| Unobserved).collect();
            let stop = AtomicBool::new(false);
            let done = replay::run(floor, &streams, &mut tables, &stop, &mut observers).unwrap();
            assert_eq!(done.operations, script.facts().operations, "{}", generator.name);
        }
    }
}
