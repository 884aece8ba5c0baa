//! How long single calls take.
//!
//! # Method
//!
//! The contender is called through `Timed`, which reads a clock before and after each call; the call alone lies
//! between, not the touching of the block that it gives, so a page fault counts here only if the contender itself
//! writes to the page first. The clock is the processor's time stamp counter where that runs at one rate for ever
//! (CPUID says so), fenced so that neither reading overlaps the call, and the system's monotonic clock elsewhere. The
//! counter's rate is calibrated against the monotonic clock for [`CALIBRATION`] before the replay.
//!
//! Times go into histograms that are made and touched before, 36 KiB for each kind of call and stream, so that the
//! harness allocates nothing meanwhile. They lie in the heap of the C library, below what its row allocates.
//!
//! # Error
//!
//! What reading the clock takes, the mean of many empty measurements, is subtracted from every time; it varies by a few
//! nanoseconds. Some processors advance the counter in steps (AMD Zen: 10 ns), so that single times come in such steps,
//! percentiles are exact to one of them, and only means are finer. Histograms keep times to within 1 %, and all up to 256 ticks (100 ns at 2.6 GHz) exactly. The time
//! is wall time: what interrupts the thread (other programs, the kernel's timer) shows in the longest calls, so `max`
//! says something only of a contender that often shows the same. Between the calls the harness notes their times,
//! which leaves less of the processor's caches to the contender: single calls look slower here than in the pass that
//! times the whole replay.
//!
//! # Cost
//!
//! 50 to 100 ns an operation, 10 to 20 ms for what a script has ready before.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::replay::{Allocator, Observer};
use crate::script::{Kind, Op};

/// The times of single calls, by kind. What a kind that never occurred took is `None`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// What reading the clock takes, in nanoseconds. It is subtracted already.
    pub timer_ns: f64,
    /// Allocations, zeroed ones too.
    pub allocate: Option<Distribution>,
    /// Frees.
    pub free: Option<Distribution>,
    /// Reallocations.
    pub reallocate: Option<Distribution>,
}

/// How the times of many calls are distributed. All times are in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Distribution {
    /// Calls.
    pub count: u64,
    /// Half of the calls took at most this.
    pub p50: u64,
    /// 99 % of the calls took at most this.
    pub p99: u64,
    /// 99.9 % of the calls took at most this.
    pub p999: u64,
    /// The longest call.
    pub max: u64,
    /// Upper bounds, each with how many calls took at most that and more than the bound before. Rising; buckets
    /// without calls are left out. A bucket is a nanosecond wide up to 32, and a sixteenth of a power of two beyond.
    pub buckets: Vec<[u64; 2]>,
}

/// How long the time stamp counter is compared with the monotonic clock: its rate is then off by some 10⁻⁵.
pub const CALIBRATION: Duration = Duration::from_millis(5);

/// A clock for single calls.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    /// By the time stamp counter.
    counter: bool,
    /// Nanoseconds in a tick.
    tick: f64,
    /// Ticks between two readings with nothing between them.
    cost: u64,
}

impl Clock {
    /// The cheapest that is precise, calibrated.
    pub(crate) fn new() -> Self {
        let mut clock = Self { counter: has_steady_counter(), tick: 1.0, cost: 0 };
        if clock.counter {
            let (start, first) = (Instant::now(), clock.before());
            while start.elapsed() < CALIBRATION {
                std::hint::spin_loop();
            }
            let (ticks, elapsed) = (clock.after() - first, start.elapsed());
            clock.tick = elapsed.as_nanos() as f64 / ticks as f64;
        }
        let mut empty = [0; 4001];
        for time in &mut empty {
            let start = clock.before();
            *time = clock.after().saturating_sub(start);
        }
        empty.sort_unstable();
        let usual = &empty[..empty.len() * 9 / 10]; // not those that were interrupted
        clock.cost = (usual.iter().sum::<u64>() as f64 / usual.len() as f64).round() as u64;
        clock
    }

    /// Ticks, read after all that stands before and before all that stands after.
    #[inline(always)]
    fn before(self) -> u64 {
        if self.counter { counter_before() } else { monotonic() }
    }

    /// The same, for the end of what is timed.
    #[inline(always)]
    fn after(self) -> u64 {
        if self.counter { counter_after() } else { monotonic() }
    }

    fn nanoseconds(self, ticks: u64) -> u64 {
        (ticks as f64 * self.tick).round() as u64
    }
}

#[inline(always)]
fn monotonic() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills in the structure.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(target_arch = "x86_64")]
mod counter {
    use std::arch::x86_64::{__cpuid, __rdtscp, _mm_lfence, _rdtsc};

    /// Whether the counter runs at one rate in all states of the processor, and can be read in order.
    pub(super) fn has_steady_counter() -> bool {
        const FEATURES: u32 = 0x8000_0001;
        const POWER: u32 = 0x8000_0007;
        __cpuid(0x8000_0000).eax >= POWER
            && __cpuid(FEATURES).edx >> 27 & 1 == 1
            && __cpuid(POWER).edx >> 8 & 1 == 1
    }

    #[inline(always)]
    pub(super) fn counter_before() -> u64 {
        // SAFETY: every x86-64 processor has these instructions, which touch no memory.
        unsafe {
            _mm_lfence();
            let ticks = _rdtsc();
            _mm_lfence();
            ticks
        }
    }

    #[inline(always)]
    pub(super) fn counter_after() -> u64 {
        let mut processor = 0;
        // SAFETY: called only where `has_steady_counter` found the instruction.
        unsafe {
            let ticks = __rdtscp(&mut processor);
            _mm_lfence();
            ticks
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod counter {
    pub(super) fn has_steady_counter() -> bool {
        false
    }

    pub(super) fn counter_before() -> u64 {
        super::monotonic()
    }

    pub(super) fn counter_after() -> u64 {
        super::monotonic()
    }
}

use counter::{counter_after, counter_before, has_steady_counter};

thread_local! {
    /// What the last call in this thread took, in ticks.
    static LAST: Cell<u64> = const { Cell::new(0) };
}

/// A contender whose every call is timed.
pub(crate) struct Timed<'a> {
    heap: &'a Allocator,
    clock: Clock,
}

impl<'a> Timed<'a> {
    pub(crate) fn new(heap: &'a Allocator, clock: Clock) -> Self {
        Self { heap, clock }
    }

    #[inline(always)]
    fn time<R>(&self, call: impl FnOnce() -> R) -> R {
        let start = self.clock.before();
        let result = call();
        let end = self.clock.after();
        LAST.set(end.saturating_sub(start));
        result
    }
}

// SAFETY: hands on to the contender.
unsafe impl GlobalAlloc for Timed<'_> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller promises the same.
        self.time(|| unsafe { self.heap.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller promises the same.
        self.time(|| unsafe { self.heap.alloc_zeroed(layout) })
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller promises the same.
        self.time(|| unsafe { self.heap.realloc(block, layout, new_size) })
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller promises the same.
        self.time(|| unsafe { self.heap.dealloc(block, layout) });
    }
}

/// Notes the times of one stream.
pub(crate) struct Stopwatch {
    clock: Clock,
    allocate: Times,
    free: Times,
    reallocate: Times,
}

impl Stopwatch {
    pub(crate) fn new(clock: Clock) -> Result<Self> {
        let (allocate, free, reallocate) = (Times::new()?, Times::new()?, Times::new()?);
        Ok(Self { clock, allocate, free, reallocate })
    }

    /// The times of all streams together.
    pub(crate) fn finish(streams: Vec<Self>) -> Result<Latency> {
        let mut streams = streams.into_iter();
        let mut all = streams.next().context("a script without streams")?;
        for stream in streams {
            all.allocate.add(&stream.allocate)?;
            all.free.add(&stream.free)?;
            all.reallocate.add(&stream.reallocate)?;
        }
        let Self { clock, allocate, free, reallocate } = all;
        Ok(Latency {
            timer_ns: clock.cost as f64 * clock.tick,
            allocate: allocate.distribution(clock),
            free: free.distribution(clock),
            reallocate: reallocate.distribution(clock),
        })
    }
}

impl Observer for Stopwatch {
    #[inline]
    fn after(&mut self, op: &Op) {
        let times = match op.kind() {
            Kind::Allocate | Kind::AllocateZeroed => &mut self.allocate,
            Kind::Free => &mut self.free,
            Kind::Reallocate => &mut self.reallocate,
            _ => return, // no call of the contender
        };
        times.note(LAST.get().saturating_sub(self.clock.cost));
    }
}

/// Times of one kind of call, in ticks.
struct Times {
    histogram: Histogram<u64>,
    max: u64,
}

impl Times {
    /// Longer times, more than an hour, count as this.
    const LONGEST: u64 = 1 << 44;

    fn new() -> Result<Self> {
        let mut histogram = Histogram::new_with_bounds(1, Self::LONGEST, 2)
            .context("making a histogram of latencies")?;
        histogram.reset(); // writes to all of it
        Ok(Self { histogram, max: 0 })
    }

    #[inline]
    fn note(&mut self, ticks: u64) {
        self.histogram.saturating_record(ticks);
        self.max = self.max.max(ticks);
    }

    fn add(&mut self, other: &Self) -> Result<()> {
        self.histogram.add(&other.histogram).context("adding up histograms")?;
        self.max = self.max.max(other.max);
        Ok(())
    }

    fn distribution(&self, clock: Clock) -> Option<Distribution> {
        if self.histogram.is_empty() {
            return None;
        }
        let max = clock.nanoseconds(self.max);
        let at = |share| clock.nanoseconds(self.histogram.value_at_quantile(share).min(self.max));
        let mut buckets: Vec<[u64; 2]> = Vec::new();
        for value in self.histogram.iter_recorded() {
            let bound = bucket(clock.nanoseconds(value.value_iterated_to())).min(max);
            let count = value.count_since_last_iteration();
            match buckets.last_mut() {
                Some([last, sum]) if *last == bound => *sum += count,
                _ => buckets.push([bound, count]),
            }
        }
        Some(Distribution {
            count: self.histogram.len(),
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max,
            buckets,
        })
    }
}

/// The upper bound of the bucket that a time lies in.
fn bucket(nanoseconds: u64) -> u64 {
    let width = (nanoseconds.max(1).ilog2()).saturating_sub(4);
    if nanoseconds <= 32 { nanoseconds } else { nanoseconds | ((1 << width) - 1) }
}

#[cfg(test)]
mod tests {
    use std::alloc::System;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

    use super::*;
    use crate::registry;
    use crate::replay::{self, Table};
    use crate::script::{Builder, Script};

    fn measure(heap: &'static Allocator, script: &Script) -> Latency {
        let clock = Clock::new();
        let streams = script.streams();
        let mut tables: Vec<_> =
            streams.iter().map(|_| Table::new(script.slots()).unwrap()).collect();
        let mut watches: Vec<_> = streams.iter().map(|_| Stopwatch::new(clock).unwrap()).collect();
        let stop = AtomicBool::new(false);
        replay::run(&Timed::new(heap, clock), &streams, &mut tables, &stop, &mut watches).unwrap();
        Stopwatch::finish(watches).unwrap()
    }

    fn churn(rounds: usize, reallocate: bool) -> Script {
        let mut builder = Builder::default();
        for _ in 0..rounds {
            let object = builder.allocate(48).unwrap();
            if reallocate {
                builder.reallocate(object, 96).unwrap();
            }
            builder.free(object);
        }
        builder.finish().unwrap()
    }

    /// Every hundredth free takes 200 µs.
    struct Sluggish(AtomicU64);

    const NAP: Duration = Duration::from_micros(200);

    // SAFETY: hands on to the system's allocator.
    unsafe impl GlobalAlloc for Sluggish {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            // SAFETY: the caller promises the same.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            if self.0.fetch_add(1, Relaxed).is_multiple_of(100) {
                let start = Instant::now();
                while start.elapsed() < NAP {}
            }
            // SAFETY: the caller promises the same.
            unsafe { System.dealloc(block, layout) }
        }
    }

    #[test]
    fn rare_slow_frees_show_in_the_tail_of_frees_alone() {
        static SLUGGISH: Sluggish = Sluggish(AtomicU64::new(0));
        let latency = measure(&SLUGGISH, &churn(10_000, false));
        let (allocate, free) = (latency.allocate.unwrap(), latency.free.unwrap());
        assert_eq!((allocate.count, free.count), (10_000, 10_000));
        assert!(free.p50 < 20_000, "{free:?}");
        // A hundred of ten thousand: just beyond the 99th percentile. The clocks agree within a hundredth.
        assert!(free.p999 >= 198_000 && free.max >= free.p999, "{free:?}");
        assert!(allocate.p99 < 198_000, "{allocate:?}");
        assert_eq!(latency.reallocate, None);
    }

    #[test]
    fn buckets_hold_every_call_once_and_rise() {
        let tlsf = registry::contender("tlsf").unwrap().allocator.unwrap();
        for heap in [tlsf, &System] {
            let latency = measure(heap, &churn(5_000, true));
            for kind in [latency.allocate, latency.reallocate, latency.free] {
                let Distribution { count, p50, p99, p999, max, buckets } = kind.unwrap();
                assert_eq!(count, 5_000);
                assert_eq!(buckets.iter().map(|[_, count]| count).sum::<u64>(), count);
                assert!(buckets.is_sorted_by(|one, other| one[0] < other[0]), "{buckets:?}");
                assert_eq!(buckets.last().unwrap()[0], max);
                assert!(p50 <= p99 && p99 <= p999 && p999 <= max);
                assert!(p50 < 10_000, "{p50} ns for a call");
            }
        }
    }

    #[test]
    fn streams_are_added_up() {
        let stream = || (0..500).flat_map(|_| [Op::allocate(0, 64, 8), Op::free(0, 64, 8)]);
        let script = Script::concurrent(vec![stream().collect(), stream().collect()], 1).unwrap();
        let latency = measure(&System, &script);
        assert_eq!(latency.allocate.unwrap().count, 1000);
        assert_eq!(latency.free.unwrap().count, 1000);
    }

    #[test]
    fn the_clock_keeps_time_and_its_own_cost_is_small() {
        let clock = Clock::new();
        let (start, first) = (Instant::now(), clock.before());
        while start.elapsed() < Duration::from_millis(20) {}
        let (measured, true_time) =
            (clock.nanoseconds(clock.after() - first), start.elapsed().as_nanos() as u64);
        let ratio = measured as f64 / true_time as f64;
        assert!((0.98..=1.01).contains(&ratio), "{measured} ns of {true_time}");
        assert!(clock.nanoseconds(clock.cost) < 2_000, "{clock:?}");
    }

    #[test]
    fn bucket_bounds_are_a_sixteenth_of_a_power_of_two_apart() {
        assert_eq!([0, 1, 31, 32].map(bucket), [0, 1, 31, 32]);
        assert_eq!([33, 34, 63, 64, 67, 68].map(bucket), [33, 35, 63, 67, 67, 71]);
        assert_eq!([1024, 1087, 1088].map(bucket), [1087, 1087, 1151]);
    }
}
