//! The footprint over time, and what it is made of.
//!
//! # Method
//!
//! The observer of the first stream takes a sample each so many operations, and there is one more at the end of the
//! replay. A sample reads:
//!
//! * live bytes from the operations themselves, each stream counting its own (where there are several, the others run
//!   on meanwhile, so their counts are a little older or newer than the rest of the sample);
//! * resident memory from the kernel, as in [`footprint`](crate::footprint), exact to the page;
//! * for a strategy of ours, its own sums and a walk over its blocks, under its lock;
//! * whether the pages of free blocks are resident from `/proc/self/pagemap`.
//!
//! All that is noted has its place before the replay begins, and nothing allocates.
//!
//! # Cost
//!
//! Two walks over the heap a sample, about 10 ns a block each, and 50 to 100 µs for what the kernel is asked. Where samples would take
//! more than [`BUDGET`] together, every second one is dropped and the others are twice as far apart, until they fit,
//! but never fewer than [`LEAST_SAMPLES`].

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytemuck::{Pod, Zeroable};
use heapwright_core::{BlockState, Stats, Strategy};
use serde::{Deserialize, Serialize};

use super::heap_map::{COLUMNS, Draft, HeapMap};
use super::room::Room;
use crate::footprint::Resident;
use crate::replay::Observer;
use crate::script::{Kind, Op};

/// Samples of a replay, evenly by operations. All vectors are of equal length, at most [`SAMPLES`], the last sample
/// being the end of the replay. All but `operations` are in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeline {
    /// Operations carried out before each sample, over all streams.
    pub operations: Vec<u64>,
    /// Requested and not yet freed.
    pub live: Vec<u64>,
    /// Anonymous memory that is resident, over what was before the replay.
    pub resident: Vec<u64>,
    /// What the heap says that it holds from its backend; `None` for a peer, which does not say.
    pub held: Option<Vec<u64>>,
    /// What `held` is made of; `None` for a peer.
    pub parts: Option<Parts>,
}

/// What a heap of ours is made of, at each sample, in bytes: `held = live + internal + headers + free + cached`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    /// Internal fragmentation: usable bytes of blocks in use, beyond what was requested. A heap that never frees
    /// counts here what was freed.
    pub internal: Vec<u64>,
    /// Headers, tables, padding, ends of regions.
    pub headers: Vec<u64>,
    /// Free blocks, the wilderness among them.
    pub free: Vec<u64>,
    /// Freed blocks that are kept as they are.
    pub cached: Vec<u64>,
    /// Of `free`, bytes whose pages are resident; `None` where the kernel does not show the page tables.
    pub dirty_free: Option<Vec<u64>>,
    /// The largest free block.
    pub largest_free: Vec<u64>,
    /// For each sample, the bytes in free blocks of 2ⁿ up to 2ⁿ⁺¹ - 1 bytes, by n; as long as the largest needs.
    pub free_by_size: Vec<Vec<u64>>,
}

/// Samples of a replay at most.
pub const SAMPLES: usize = 200;

/// Samples of a replay that has so many operations, however long they take.
pub const LEAST_SAMPLES: usize = 25;

/// What all samples may take together.
pub const BUDGET: Duration = Duration::from_millis(200);

/// Sizes of free blocks that are told apart, by their power of two.
const SIZES: usize = 48;

/// What a stream has done so far. Written by its own thread only.
#[derive(Default)]
pub(crate) struct Tally {
    operations: AtomicU64,
    live: AtomicI64,
}

/// Counts the operations of one stream; that of the first stream also takes the samples.
pub(crate) struct Follow<'a> {
    tally: &'a Tally,
    sampler: Option<Sampler<'a>>,
}

impl<'a> Follow<'a> {
    pub(crate) fn new(tally: &'a Tally) -> Self {
        Self { tally, sampler: None }
    }

    /// Makes this stream, the first, take the samples.
    pub(crate) fn sample_by(&mut self, sampler: Sampler<'a>) {
        self.sampler = Some(sampler);
    }

    /// The sampler, after the replay.
    pub(crate) fn into_sampler(self) -> Option<Sampler<'a>> {
        self.sampler
    }
}

impl Observer for Follow<'_> {
    #[inline]
    fn after(&mut self, op: &Op) {
        let change = match op.kind() {
            Kind::Allocate | Kind::AllocateZeroed => op.size() as i64,
            Kind::Reallocate => op.size() as i64 - op.old_size() as i64,
            Kind::Free => -(op.size() as i64),
            _ => 0, // writing
        };
        let Tally { operations, live } = self.tally;
        let done = operations.load(Relaxed) + 1;
        operations.store(done, Relaxed);
        live.store(live.load(Relaxed) + change, Relaxed);
        if let Some(sampler) = &mut self.sampler
            && done == sampler.next
        {
            sampler.sample();
        }
    }
}

/// A sample; all in bytes but `operations`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Sample {
    operations: u64,
    live: u64,
    resident: u64,
    held: u64,
    /// Usable bytes of blocks in use.
    usable: u64,
    headers: u64,
    free: u64,
    cached: u64,
    dirty_free: u64,
    largest_free: u64,
    free_by_size: [u64; SIZES],
}

/// Takes samples.
pub(crate) struct Sampler<'a> {
    tallies: &'a [Tally],
    strategy: Option<&'a (dyn Strategy + Sync)>,
    resident: Resident,
    samples: Room<Sample>,
    pages: Option<PageMap>,
    map: Option<Draft>,
    /// Operations of the first stream.
    total: u64,
    /// Operations of the first stream from one sample to the next, and at the next.
    interval: u64,
    next: u64,
    /// A column of the map each so many samples.
    column_interval: u64,
    spent: Duration,
    /// What the last sample took.
    last: Duration,
    budget: Duration,
}

impl<'a> Sampler<'a> {
    /// Takes the baseline of resident memory; all else must be in its place before. `total` are the operations of the
    /// first stream.
    pub(crate) fn start(
        tallies: &'a [Tally],
        strategy: Option<&'a (dyn Strategy + Sync)>,
        total: u64,
        budget: Duration,
    ) -> Result<Self> {
        let samples = Room::new(SAMPLES)?;
        let (pages, map) = match strategy {
            Some(_) => (PageMap::open().ok(), Some(Draft::new()?)),
            None => (None, None),
        };
        let interval = total.div_ceil(SAMPLES as u64).max(1);
        let column_interval = total.div_ceil(interval).div_ceil(COLUMNS as u64 - 1).max(1);
        let resident = Resident::start()?;
        Ok(Self {
            tallies,
            strategy,
            resident,
            samples,
            pages,
            map,
            total,
            interval,
            next: interval,
            column_interval,
            spent: Duration::ZERO,
            last: Duration::ZERO,
            budget,
        })
    }

    /// Takes a sample, and sees to the next.
    fn sample(&mut self) {
        let start = Instant::now();
        let done = self.next;
        self.next += self.interval;
        self.take((done / self.interval).is_multiple_of(self.column_interval));
        let took = start.elapsed();
        self.spent += took;
        // The lesser of two, for one may have been interrupted.
        let usual = took.min(std::mem::replace(&mut self.last, took));
        loop {
            let left = (self.total - done) / self.interval;
            let all_samples = self.total / self.interval;
            if self.spent + usual * left as u32 <= self.budget
                || all_samples / 2 < LEAST_SAMPLES as u64
            {
                break;
            }
            self.thin(done);
        }
    }

    /// Drops every second sample. `done` operations are done, and a sample was taken there.
    fn thin(&mut self, done: u64) {
        let kept = self.samples.items().len() / 2;
        for sample in 0..kept {
            self.samples.items_mut()[sample] = self.samples.items()[2 * sample + 1];
        }
        self.samples.truncate(kept);
        self.interval *= 2;
        self.next = (done / self.interval + 1) * self.interval;
        if self.column_interval > 1 {
            self.column_interval /= 2;
        } else if let Some(map) = &mut self.map {
            map.thin();
        }
    }

    fn take(&mut self, with_column: bool) {
        let sum = |of: fn(&Tally) -> i64| self.tallies.iter().map(of).sum::<i64>().max(0) as u64;
        let mut sample = Sample {
            operations: sum(|tally| tally.operations.load(Relaxed) as i64),
            live: sum(|tally| tally.live.load(Relaxed)),
            // Where the kernel refuses, the last value is the best guess; it did not refuse the baseline.
            resident: self.resident.now().unwrap_or_else(|_| {
                self.samples.items().last().map_or(0, |sample| sample.resident)
            }),
            ..Sample::zeroed()
        };
        if let Some(strategy) = self.strategy {
            let column =
                with_column && self.map.as_mut().is_some_and(|map| map.begin(sample.operations));
            let mut map = self.map.as_mut().filter(|_| column);
            let pages = &mut self.pages;
            let mut readable = true;
            if let Some(pages) = pages {
                pages.forget();
            }
            strategy.walk(&mut |block| {
                if let Some(map) = &mut map {
                    map.add(block);
                }
                if matches!(block.state, BlockState::Free | BlockState::Wilderness)
                    && block.size > 0
                {
                    let size = (block.size.ilog2() as usize).min(SIZES - 1);
                    sample.free_by_size[size] += block.size as u64;
                    if let Some(pages) = pages {
                        match pages.resident(block.address as u64, block.size as u64) {
                            Some(bytes) => sample.dirty_free += bytes,
                            None => readable = false,
                        }
                    }
                }
            });
            if !readable {
                self.pages = None;
            }
            let stats: Stats = strategy.stats();
            sample.held = stats.footprint as u64;
            sample.usable = stats.live_bytes as u64;
            sample.headers = stats.overhead as u64;
            sample.free = stats.free_bytes as u64;
            sample.cached = stats.cached_bytes as u64;
            sample.largest_free = stats.largest_free as u64;
        }
        self.samples.push(sample);
    }

    /// The timeline and the map, with a last sample of how things are now. Allocates.
    pub(crate) fn finish(mut self) -> (Timeline, Option<HeapMap>) {
        let now: u64 = self.tallies.iter().map(|tally| tally.operations.load(Relaxed)).sum();
        if self.samples.items().last().is_none_or(|last| last.operations != now) {
            if self.samples.items().len() == SAMPLES {
                self.samples.truncate(SAMPLES - 1); // with several streams: the others went on
            }
            self.take(true);
        }
        let samples = self.samples.items();
        let each = |of: fn(&Sample) -> u64| samples.iter().map(of).collect::<Vec<u64>>();
        let free_by_size = |sample: &Sample| {
            let largest = sample.free_by_size.iter().rposition(|&bytes| bytes > 0);
            sample.free_by_size[..largest.map_or(0, |last| last + 1)].to_vec()
        };
        let parts = self.strategy.map(|_| Parts {
            internal: each(|sample| sample.usable.saturating_sub(sample.live)),
            headers: each(|sample| sample.headers),
            free: each(|sample| sample.free),
            cached: each(|sample| sample.cached),
            dirty_free: self.pages.as_ref().map(|_| each(|sample| sample.dirty_free)),
            largest_free: each(|sample| sample.largest_free),
            free_by_size: samples.iter().map(free_by_size).collect(),
        });
        let timeline = Timeline {
            operations: each(|sample| sample.operations),
            live: each(|sample| sample.live),
            resident: each(|sample| sample.resident),
            held: self.strategy.map(|_| each(|sample| sample.held)),
            parts,
        };
        (timeline, self.map.map(Draft::finish))
    }
}

/// Which pages of this process are resident, by `/proc/self/pagemap`: eight bytes a page, of which the highest bit
/// says it. Read in windows, which are kept until [`PageMap::forget`].
struct PageMap {
    file: File,
    /// [`WINDOWS`] of [`WINDOW`] entries.
    entries: Room<u64>,
    /// Which window of the address space is in each place, plus one; zero for none.
    held: [u64; WINDOWS],
}

const PAGE: u64 = 4096;
/// Pages in a window: 2 MiB, what one page of the page table describes.
const WINDOW: usize = 512;
const WINDOWS: usize = 128;
const PRESENT: u32 = 63;

impl PageMap {
    fn open() -> Result<Self> {
        let file = File::open("/proc/self/pagemap").context("opening /proc/self/pagemap")?;
        let mut map = Self { file, entries: Room::new(WINDOWS * WINDOW)?, held: [0; WINDOWS] };
        map.resident(&raw const map as u64, 1).context("reading /proc/self/pagemap")?;
        Ok(map)
    }

    fn forget(&mut self) {
        self.held = [0; WINDOWS];
    }

    /// How many of these bytes are in pages that are resident; `None` when the kernel does not say.
    fn resident(&mut self, address: u64, size: u64) -> Option<u64> {
        let (mut at, end) = (address, address + size);
        let mut bytes = 0;
        while at < end {
            let (number, place) = ((at / PAGE) / WINDOW as u64, (at / PAGE) as usize % WINDOW);
            let window = self.window(number)?;
            let window_end = (number + 1) * WINDOW as u64 * PAGE;
            let stop = end.min(window_end);
            let pages = &window[place..place + (stop - at / PAGE * PAGE).div_ceil(PAGE) as usize];
            let (first, last) = (*pages.first()?, *pages.last()?);
            bytes += PAGE * pages.iter().map(|entry| entry >> PRESENT).sum::<u64>();
            // Of the first page and the last, only a part.
            bytes -= (first >> PRESENT) * (at % PAGE);
            bytes -= (last >> PRESENT) * (stop.next_multiple_of(PAGE) - stop);
            at = stop;
        }
        Some(bytes)
    }

    fn window(&mut self, number: u64) -> Option<&[u64]> {
        let place = number as usize % WINDOWS;
        let entries = &mut self.entries.whole()[place * WINDOW..][..WINDOW];
        if self.held[place] != number + 1 {
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(entries);
            let read = self.file.read_at(bytes, number * WINDOW as u64 * 8).ok()?;
            bytes[read..].fill(0); // beyond the address space
            self.held[place] = number + 1;
        }
        Some(entries)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use memmap2::MmapMut;

    use super::*;
    use crate::footprint::tests::alone;
    use crate::registry;
    use crate::replay::{self, Table};
    use crate::script::{Builder, Script};

    fn record(name: &str, script: &Script, budget: Duration) -> (Timeline, Option<HeapMap>) {
        let contender = registry::contender(name).unwrap();
        let streams = script.streams();
        let mut tables: Vec<_> =
            streams.iter().map(|_| Table::new(script.slots()).unwrap()).collect();
        let stop = AtomicBool::new(false);
        let tallies: Vec<_> = streams.iter().map(|_| Tally::default()).collect();
        let mut follow: Vec<_> = tallies.iter().map(Follow::new).collect();
        let total = streams[0].iter().filter(|op| op.kind().counts()).count() as u64;
        let sampler = Sampler::start(&tallies, contender.strategy, total, budget).unwrap();
        follow[0].sample_by(sampler);
        let heap = contender.allocator.unwrap();
        replay::run(heap, &streams, &mut tables, &stop, &mut follow).unwrap();
        follow.swap_remove(0).into_sampler().unwrap().finish()
    }

    const ALWAYS: Duration = Duration::from_secs(3600);

    /// Blocks of many sizes, some resized, most freed. With what is live at the end.
    fn mixed() -> (Script, u64) {
        let mut builder = Builder::default();
        let mut live = 0;
        for round in 0..2011 {
            let size = 1 + round * 7919 % 5000;
            let object = builder.allocate(size).unwrap();
            if round % 3 == 0 {
                builder.reallocate(object, size + 100).unwrap();
            }
            if round % 10 > 0 {
                builder.free(object);
            } else {
                live += size + if round % 3 == 0 { 100 } else { 0 };
            }
        }
        (builder.finish().unwrap(), live as u64)
    }

    #[test]
    fn the_parts_of_every_heap_of_ours_add_up_to_what_it_holds() {
        alone(
            "passes::timeline::tests::the_parts_of_every_heap_of_ours_add_up_to_what_it_holds",
            || {
                let (script, live) = mixed();
                let facts = script.facts();
                for contender in registry::STRATEGIES {
                    if contender.unfit_for(facts).is_some() {
                        continue;
                    }
                    let (timeline, map) = record(contender.name, &script, ALWAYS);
                    let Timeline { operations, live: lives, resident, held, parts } = timeline;
                    let (held, parts) = (held.unwrap(), parts.unwrap());
                    let count = operations.len();
                    assert!((100..=SAMPLES).contains(&count), "{count} samples");
                    assert!(operations.is_sorted_by(|one, other| one < other));
                    assert_eq!(operations.last(), Some(&facts.operations));
                    assert_eq!(lives.last(), Some(&live), "{}", contender.name);
                    assert!(lives.iter().max().unwrap() <= &facts.peak_live);
                    let dirty = parts.dirty_free.expect("the page map of one's own process");
                    for at in 0..count {
                        let sum = lives[at]
                            + parts.internal[at]
                            + parts.headers[at]
                            + parts.free[at]
                            + parts.cached[at];
                        assert_eq!(sum, held[at], "{} at {at}", contender.name);
                        let by_size: u64 = parts.free_by_size[at].iter().sum();
                        assert_eq!(by_size, parts.free[at], "{} at {at}", contender.name);
                        assert!(
                            dirty[at] <= parts.free[at] && parts.largest_free[at] <= parts.free[at]
                        );
                        // What is not resident is free; all that is resident is held.
                        assert!(resident[at] <= held[at] + 16 * PAGE, "{} at {at}", contender.name);
                        assert!(
                            resident[at] + 16 * PAGE >= lives[at],
                            "{} at {at}",
                            contender.name
                        );
                    }
                    let map = map.unwrap();
                    assert!((50..=COLUMNS).contains(&map.operations.len()));
                    assert!(map.cells.iter().flatten().any(|&cell| cell > 0));
                    assert_eq!(map.operations.last(), operations.last());
                }
            },
        );
    }

    #[test]
    fn a_peer_shows_live_and_resident_bytes_alone() {
        alone("passes::timeline::tests::a_peer_shows_live_and_resident_bytes_alone", || {
            let mut builder = Builder::default();
            let objects: Vec<_> = (0..5000).map(|_| builder.allocate(5000).unwrap()).collect();
            objects.iter().step_by(5).for_each(|&object| builder.free(object));
            let (timeline, map) = record(registry::REFERENCE, &builder.finish().unwrap(), ALWAYS);
            assert_eq!((timeline.held, timeline.parts, map), (None, None, None));
            let most = *timeline.live.iter().max().unwrap(); // within a sample's operations
            assert!((24_800_000..=25_000_000).contains(&most), "{most}");
            assert_eq!(timeline.live.last(), Some(&20_000_000));
            // What the test freed before is in the baseline, and is used again.
            let resident = *timeline.resident.last().unwrap();
            assert!((24_000_000..26_000_000).contains(&resident), "{resident}");
        });
    }

    #[test]
    fn freed_blocks_are_dirty_until_their_pages_are_given_back() {
        alone(
            "passes::timeline::tests::freed_blocks_are_dirty_until_their_pages_are_given_back",
            || {
                let mut builder = Builder::default();
                let objects: Vec<_> = (0..2000).map(|_| builder.allocate(4000).unwrap()).collect();
                builder.allocate(16).unwrap(); // keeps the end of the heap in use
                objects.into_iter().for_each(|object| builder.free(object));
                let script = builder.finish().unwrap();
                let (timeline, _) = record("first-fit", &script, ALWAYS);
                let Parts { free, dirty_free, .. } = timeline.parts.unwrap();
                let (free, dirty) = (free.last().unwrap(), dirty_free.unwrap());
                let dirty = dirty.last().unwrap();
                assert!((7_900_000..8_200_000).contains(dirty), "{dirty} of {free} are dirty");
            },
        );
    }

    #[test]
    fn samples_that_take_too_long_become_fewer_and_stay_even() {
        alone(
            "passes::timeline::tests::samples_that_take_too_long_become_fewer_and_stay_even",
            || {
                let (script, _) = mixed();
                let (timeline, map) = record("kingsley", &script, Duration::ZERO);
                let Timeline { operations, .. } = timeline;
                let range = LEAST_SAMPLES as u64 / 2..=2 * LEAST_SAMPLES as u64 + 1;
                assert!(range.contains(&(operations.len() as u64)), "{operations:?}");
                let first = operations[0];
                let steps = operations.windows(2).map(|pair| pair[1] - pair[0]);
                let uneven = steps.take(operations.len() - 2).filter(|&step| step != first).count();
                assert_eq!(uneven, 0, "{operations:?}");
                let map = map.unwrap();
                assert!(map.operations.iter().all(|column| operations.contains(column)));
                assert_eq!(map.operations.len(), operations.len());
            },
        );
    }

    #[test]
    fn all_streams_are_counted_together() {
        alone("passes::timeline::tests::all_streams_are_counted_together", || {
            let stream = |size| {
                let allocate = (0..300).map(move |slot| Op::allocate(slot, size, 8));
                let free = (0..100).map(move |slot| Op::free(slot, size + 1 - 2 * (size % 2), 8));
                allocate.chain([Op::rotate()]).chain(free).collect::<Vec<_>>()
            };
            // Each frees what the other one allocated.
            let script = Script::concurrent(vec![stream(100), stream(101)], 300).unwrap();
            let (timeline, _) = record("tlsf", &script, ALWAYS);
            assert_eq!(timeline.operations.last(), Some(&800));
            assert_eq!(timeline.live.last(), Some(&(200 * 201)));
        });
    }

    #[test]
    fn resident_pages_are_told_to_the_byte() {
        let page = PAGE as usize;
        let mut map = MmapMut::map_anon(1000 * page).unwrap();
        let start = map.as_ptr() as u64;
        let mut pages = PageMap::open().unwrap();
        assert_eq!(pages.resident(start, 1000 * PAGE), Some(0));
        for touched in [3, 4, 700] {
            map[touched * page] = 1;
        }
        assert_eq!(pages.resident(start, 1000 * PAGE), Some(0), "the kernel is asked once");
        pages.forget();
        assert_eq!(pages.resident(start, 1000 * PAGE), Some(3 * PAGE));
        assert_eq!(pages.resident(start + 3 * PAGE + 10, 100), Some(100));
        assert_eq!(pages.resident(start + 3 * PAGE + 10, 2 * PAGE), Some(2 * PAGE - 10));
        assert_eq!(pages.resident(start + 2 * PAGE, PAGE + 7), Some(7));
        assert_eq!(pages.resident(start + 5 * PAGE, 695 * PAGE + 1), Some(1));
        assert_eq!(pages.resident(start, 0), Some(0));
    }
}
