//! The floor: what a replay costs before any allocator does anything.
//!
//! A [`Floor`] is called as a contender is, but it only hands out addresses. What is left of the time is the harness's
//! own: the loop over the script, the call through `&dyn GlobalAlloc`, touching the blocks, waiting for other streams, and
//! the kernel's work for the pages that are touched for the first time. No contender can be faster by more than better
//! addresses make it: blocks that lie closer together, or on huge pages.
//!
//! * **A script of one stream** is played once beforehand on a simulated heap: best fit, neighbours merged at once, blocks
//!   in units of 16 bytes with no headers. The n-th request is answered with the n-th address from there. So as much memory
//!   is touched as such a heap has, about as much as is live at the most, and a request costs one load.
//! * **Of several streams** nobody knows which asks first, so that nothing can be played beforehand. Each thread walks
//!   around in an arena of its own; together they are as large as what is live at the most. Blocks that live long are
//!   overlaid by later ones.
//!
//! It is for timing alone. Frees do nothing, a moved block's contents are not copied, and zeroed blocks are not zeroed:
//! a verifying replay finds that out.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use anyhow::{Context, Result};
use memmap2::{MmapMut, MmapOptions, MmapRaw};

use crate::script::{Kind, Op, Schedule};

/// Hands out addresses; see the module.
pub struct Floor {
    memory: MmapRaw,
    places: Places,
}

enum Places {
    /// One for each request of one stream, in units from the start of the memory; present before the replay.
    Known { map: MmapMut, requests: usize, next: AtomicUsize },
    /// An arena for each thread: so many bytes, and how far each is used.
    Arenas { bytes: usize, used: Vec<Position> },
}

/// On a cache line of its own.
#[repr(align(128))]
#[derive(Default)]
struct Position(AtomicUsize);

/// Bytes that blocks are multiples of.
const UNIT: usize = 16;
const PAGE: usize = 4096;

impl Floor {
    /// For one replay of these streams. Plays them beforehand, which takes about as long as a replay; maps memory for
    /// them, of which no page is present yet.
    ///
    /// # Errors
    ///
    /// When there is no memory for it, or more than 64 GiB would be needed.
    pub fn new(streams: &[&[Op]]) -> Result<Self> {
        if let [ops] = streams {
            let (places, units) = play(ops)?;
            let mut map = MmapOptions::new()
                .len((places.len() * size_of::<u32>()).max(1))
                .populate()
                .map_anon()
                .context("mapping the table of addresses")?;
            map[..places.len() * size_of::<u32>()].copy_from_slice(bytemuck::cast_slice(&places));
            let places = Places::Known { map, requests: places.len(), next: AtomicUsize::new(0) };
            return Ok(Self { memory: reserve(units * UNIT)?, places });
        }
        let (mut live, mut peak, mut largest) = (0, 0, 0);
        for step in Schedule::new(streams) {
            let (size, old) = (step.op.size(), step.op.old_size());
            match step.op.kind() {
                Kind::Allocate | Kind::AllocateZeroed => live += size,
                Kind::Reallocate => live = live - old + size,
                Kind::Free => live -= size,
                _ => {}
            }
            peak = peak.max(live);
            // Wherever a block begins, its alignment can be had within.
            largest = largest.max(size + step.op.align());
        }
        let bytes = (peak / streams.len().max(1)).max(largest).next_multiple_of(PAGE).max(PAGE);
        let used = streams.iter().map(|_| Position::default()).collect();
        let places = Places::Arenas { bytes, used };
        Ok(Self { memory: reserve(bytes * streams.len())?, places })
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
    fn next(&self, layout: Layout) -> *mut u8 {
        let start = self.memory.as_mut_ptr();
        match &self.places {
            Places::Known { map, requests, next } => {
                let request = next.load(Relaxed);
                if request >= *requests {
                    return ptr::null_mut();
                }
                next.store(request + 1, Relaxed);
                // SAFETY: the table has so many places, is page-aligned, and any bytes make a number.
                let place = unsafe { *map.as_ptr().cast::<u32>().add(request) };
                start.wrapping_add(place as usize * UNIT)
            }
            Places::Arenas { bytes, used } => {
                let arena = arena(used.len());
                let used = &used[arena].0;
                let start = start as usize + arena * bytes;
                let mut block = (start + used.load(Relaxed)).next_multiple_of(layout.align());
                if block + layout.size() > start + bytes {
                    block = start.next_multiple_of(layout.align());
                }
                used.store(block + layout.size() - start, Relaxed);
                self.memory.as_mut_ptr().with_addr(block)
            }
        }
    }
}

// SAFETY: it is not quite an allocator, see the module: what it returns is mapped, aligned and writable for the whole
// life of the floor, but blocks of several streams may overlap, and contents are neither kept nor zeroed. A timed replay
// trusts none of that, and nothing else is run on a floor.
unsafe impl GlobalAlloc for Floor {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.next(layout)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.next(layout)
    }

    unsafe fn dealloc(&self, _block: *mut u8, _layout: Layout) {}

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        match &self.places {
            Places::Arenas { .. } if new_size <= layout.size() => block,
            // SAFETY: the caller promises a size that makes a layout.
            _ => self.next(unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) }),
        }
    }
}

/// The arena of the calling thread, of so many. Threads take them in turn.
#[inline]
fn arena(count: usize) -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    const NONE: usize = usize::MAX;
    thread_local! { static THREAD: Cell<usize> = const { Cell::new(NONE) } }
    let thread = THREAD.get();
    if thread < count {
        return thread;
    }
    let number = if thread == NONE { THREADS.fetch_add(1, Relaxed) } else { thread };
    THREAD.set(number % count);
    number % count
}

/// Memory whose pages appear as they are touched.
fn reserve(bytes: usize) -> Result<MmapRaw> {
    let map =
        MmapOptions::new().len(bytes.max(1)).map_anon().context("mapping the floor's memory")?;
    Ok(MmapRaw::from(map))
}

/// Plays one stream on a simulated heap: where each allocation and reallocation places its block, and how large the heap
/// becomes, in units.
fn play(ops: &[Op]) -> Result<(Vec<u32>, usize)> {
    let units = |size: usize| size.div_ceil(UNIT);
    let slots = ops.iter().map(|op| op.slot() + 1).max().unwrap_or(0);
    let (mut heap, mut slots, mut places) = (Heap::default(), vec![0; slots], Vec::new());
    for op in ops {
        let (size, align) = (units(op.size()), units(op.align()));
        let slot = &mut slots[op.slot()];
        match op.kind() {
            Kind::Allocate | Kind::AllocateZeroed => *slot = heap.allocate(size, align),
            Kind::Reallocate => *slot = heap.reallocate(*slot, units(op.old_size()), size, align),
            Kind::Free => {
                heap.free(*slot, size);
                continue;
            }
            _ => continue,
        }
        places.push(u32::try_from(*slot).context("the floor's addresses are of 64 GiB at most")?);
    }
    Ok((places, heap.end))
}

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
    use crate::replay::{self, Table, Unobserved};
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
        for (name, most) in [("fixed-64", 1.0), ("pareto", 1.2), ("vectors", 1.5)] {
            let script = script(name);
            let ratio = play(script.streams()[0]).unwrap().1 as f64 * UNIT as f64
                / script.facts().peak_live as f64;
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
