//! What the literature found, found again on our traces, or not.
//!
//! Each finding is measured anew, and the verdict comes from the figures alone: *agree* where they show what was found,
//! *disagree* where they show the opposite, *not shown* where they show neither.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use heapwright_backends::Mmap;
use heapwright_core::{BoundaryTags, Engine, Heap, New, Policy};
use heapwright_policies::{
    AddressOrder, BestFit, BestFitTree, FirstFit, FirstFitTree, NextFit, Tlsf, WorstFit,
};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::contender::Contender;
use crate::measure::{self, Part, Plan};
use crate::progress::Progress;
use crate::registry;
use crate::statistics::{geometric_mean, median};
use crate::summary::{self, Row, Skipped};
use crate::workload::{Scale, Workload};

/// What the figures say of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// They show what was found.
    Agree,
    /// They show the opposite.
    Disagree,
    /// They show neither.
    NotShown,
}

impl Verdict {
    /// As it is printed.
    #[must_use]
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Agree => "agree",
            Self::Disagree => "DISAGREE",
            Self::NotShown => "not shown",
        }
    }

    /// From what must hold, and from what would be the opposite.
    fn of(holds: bool, opposite: bool) -> Self {
        match (holds, opposite) {
            (true, _) => Self::Agree,
            (false, true) => Self::Disagree,
            (false, false) => Self::NotShown,
        }
    }
}

/// A finding, measured.
pub struct Finding {
    /// Who found it, and when.
    source: &'static str,
    /// What was found.
    claim: &'static str,
    /// The figures, a line each.
    figures: String,
    verdict: Verdict,
}

/// Measures all findings, and prints each with its figures and its verdict.
///
/// # Errors
///
/// When a workload cannot be prepared or workers not started.
pub fn run(seed: u64) -> Result<()> {
    let findings: [fn(u64) -> Result<Finding>; 5] =
        [fragmentation, worst_cases, fifty_percent, bleeding, false_sharing];
    let mut summary = String::new();
    for find in findings {
        let Finding { source, claim, figures, verdict } = find(seed)?;
        let verdict = verdict.in_words();
        println!("{source}\n  {claim}\n\n{figures}\n  -> {verdict}\n");
        let _ = writeln!(summary, "  {verdict:<9}  {source}");
    }
    print!("In short\n\n{summary}");
    Ok(())
}

/// One measurement of some workloads against some contenders.
fn rows(
    workloads: &[Workload],
    names: &[&str],
    operations: usize,
    rounds: usize,
    seed: u64,
) -> Result<Vec<Row>> {
    let folder = tempfile::tempdir().context("making a folder for compiled workloads")?;
    let prepared = Workload::prepare_all(workloads, Scale { seed, operations }, folder.path())?;
    let contenders: Vec<&'static Contender> =
        names.iter().filter_map(|name| registry::contender(name)).collect();
    let plan = Plan::rounds(rounds, Duration::from_secs(30), seed);
    let samples = measure::measure(&prepared, &contenders, &plan)?;
    Ok(summary::summarise(&prepared, &contenders, &samples, &Skipped::new(), seed, Part::WHOLE))
}

fn generated(name: &str) -> Result<Workload> {
    let found = Workload::generated().into_iter().find(|workload| workload.name == name);
    found.with_context(|| format!("there is no generator {name}"))
}

/// The geometric mean of a figure over all workloads.
fn mean(rows: &[Row], contender: &str, figure: impl Fn(&Row) -> Option<f64>) -> Option<f64> {
    let of_it = rows.iter().filter(|row| row.contender == contender);
    let figures: Vec<f64> = of_it.filter_map(figure).collect();
    geometric_mean(&figures)
}

fn fragmentation(seed: u64) -> Result<Finding> {
    const LEAST: [&str; 2] =
        ["mmap/best-fit-tree/at-once/futex", "mmap/first-fit-tree/at-once/futex"];
    const MOST: [&str; 3] = ["mmap/next-fit/at-once/futex", "buddy", "kingsley"];
    let traces: Vec<Workload> =
        Workload::recorded().into_iter().filter(Workload::is_everyday).collect();
    let names: Vec<&str> = LEAST.into_iter().chain(MOST).collect();
    let rows = rows(&traces, &names, 0, 1, seed)?;
    let mut figures = String::new();
    let mut ratio = |name: &'static str| {
        let ratio = mean(&rows, name, |row| row.footprint_ratio).unwrap_or(f64::NAN);
        let _ = writeln!(figures, "  {name:<36} {ratio:.3}");
        ratio
    };
    let least = LEAST.map(&mut ratio).into_iter().fold(f64::MIN, f64::max);
    let most = MOST.map(&mut ratio).into_iter().fold(f64::MAX, f64::min);
    Ok(Finding {
        source: "Johnstone and Wilson, The Memory Fragmentation Problem: Solved? (1998)",
        claim: "best fit and address-ordered first fit fragment least; next fit and powers of two most\n  \
                (peak footprint over peak live bytes, geometric mean over the recorded traces)",
        figures,
        // A hundredth is what two runs differ by.
        verdict: Verdict::of(least < 0.99 * most, most < 0.99 * least),
    })
}

/// Time of the request that is hardest to serve, over the number of free blocks, in nanoseconds.
fn worst_case<P: Policy + New>(counts: &[usize]) -> Vec<f64> {
    const SAMPLES: usize = 201;
    let layout = |size| Layout::from_size_align(size, 16).expect("a size far from overflow");
    let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
    counts
        .iter()
        .map(|&count| {
            let mut heap: Heap<Mmap, P, BoundaryTags> = New::NEW;
            // Free blocks of many sizes, with blocks in use between them; none is large enough.
            let blocks: Vec<_> = (0..2 * count)
                .filter_map(|_| heap.allocate(layout(random.random_range(32..1024))))
                .collect();
            for block in blocks.iter().step_by(2) {
                // SAFETY: each is freed once.
                let _ = unsafe { heap.deallocate(*block) };
            }
            let times: Vec<f64> = (0..SAMPLES)
                .filter_map(|_| {
                    let start = Instant::now();
                    let block = heap.allocate(layout(2000))?;
                    let time = start.elapsed().as_nanos() as f64;
                    // SAFETY: just allocated.
                    let _ = unsafe { heap.deallocate(block) };
                    Some(time)
                })
                .collect();
            median(&times).unwrap_or(f64::NAN)
        })
        .collect()
}

fn worst_cases(_seed: u64) -> Result<Finding> {
    const COUNTS: [usize; 4] = [16, 256, 4096, 32_768];
    let mut figures = format!("  {:<22}", "free blocks");
    COUNTS.iter().for_each(|count| _ = write!(figures, "{count:>10}"));
    figures.push('\n');
    let progress = Progress::new(4);
    let mut growth = |name: &str, times: fn(&[usize]) -> Vec<f64>| {
        let times = progress.step("worst cases", || times(&COUNTS));
        let _ = write!(figures, "  {:<22}", format!("{name}, ns"));
        times.iter().for_each(|time| _ = write!(figures, "{time:>10.0}"));
        figures.push('\n');
        times[COUNTS.len() - 1] / times[0]
    };
    let flat = growth("tlsf", worst_case::<Tlsf>);
    let grows = [
        growth("first fit by address", worst_case::<FirstFit<AddressOrder>>),
        growth("best fit", worst_case::<BestFit<AddressOrder>>),
        growth("worst fit", worst_case::<WorstFit>),
    ];
    progress.finish();
    let least = grows.into_iter().fold(f64::MAX, f64::min);
    Ok(Finding {
        source: "Masmano, Ripoll, Crespo and Real, TLSF: A New Dynamic Memory Allocator for Real-Time Systems (2004)",
        claim: "TLSF's worst case is flat, while that of first fit and best fit over lists grows with the free blocks\n  \
                (a request that no free block serves, median of 201)",
        figures,
        verdict: Verdict::of(flat < 3.0 && least > 10.0, flat > least),
    })
}

/// Free over used blocks, in the middle of random allocations and frees.
fn holes<P: Policy + New>(seed: u64) -> f64 {
    const LIVE: usize = 10_000;
    const STEPS: usize = 400_000;
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut heap: Heap<Mmap, P, BoundaryTags> = New::NEW;
    let mut blocks = Vec::with_capacity(LIVE);
    let (mut free, mut used) = (0, 0);
    for step in 0..STEPS {
        if blocks.len() == LIVE {
            let block = blocks.swap_remove(random.random_range(0..LIVE));
            // SAFETY: in use, and freed once.
            let _ = unsafe { heap.deallocate(block) };
        }
        // Many sizes, so that a block seldom fits exactly.
        let layout = Layout::from_size_align(random.random_range(32..4096), 16);
        blocks.extend(layout.ok().and_then(|layout| heap.allocate(layout)));
        if step > STEPS / 2 && step.is_multiple_of(STEPS / 40) {
            let stats = heap.stats();
            free += stats.free_blocks;
            used += stats.live_blocks;
        }
    }
    free as f64 / used.max(1) as f64
}

fn fifty_percent(seed: u64) -> Result<Finding> {
    let progress = Progress::new(3);
    let mut figures = String::new();
    let mut ratios = Vec::new();
    for (name, holes) in [
        ("first fit by address", holes::<FirstFitTree> as fn(u64) -> f64),
        ("best fit", holes::<BestFitTree>),
        ("next fit", holes::<NextFit>),
    ] {
        let ratio = progress.step("the fifty-percent rule", || holes(seed));
        let _ = writeln!(figures, "  {name:<22} {ratio:.3} free blocks for each in use");
        ratios.push(ratio);
    }
    progress.finish();
    // The rule is derived for first fit; with sizes in steps of sixteen bytes few requests fit exactly.
    let first = ratios[0];
    Ok(Finding {
        source: "Knuth, The Art of Computer Programming 1, section 2.5 (1968): the fifty-percent rule",
        claim: "in equilibrium there are about half as many free blocks as blocks in use\n  \
                (10,000 blocks of random sizes up to 4 KiB, freed at random, merged at once)",
        figures,
        verdict: Verdict::of((0.4..=0.6).contains(&first), !(0.25..=0.75).contains(&first)),
    })
}

fn bleeding(seed: u64) -> Result<Finding> {
    const LENGTHS: [usize; 2] = [100_000, 400_000];
    const ONE_HEAP: [&str; 3] = ["segregated-fit", "tlsf", "best-fit"];
    const OWNERS: [&str; 3] = ["glibc", "mimalloc", "snmalloc"];
    let workload = [generated("producer-consumer")?];
    let names: Vec<&str> = ONE_HEAP.into_iter().chain(OWNERS).collect();
    let mut peaks = Vec::new();
    for operations in LENGTHS {
        peaks.push(rows(&workload, &names, operations, 1, seed)?);
    }
    let mut figures = String::new();
    let mut most: f64 = 0.0;
    for name in &names {
        let peak =
            |rows: &[Row]| mean(rows, name, |row| row.peak_footprint.map(|bytes| bytes as f64));
        if let (Some(short), Some(long)) = (peak(&peaks[0]), peak(&peaks[1])) {
            let growth = long / short;
            most = most.max(growth);
            let _ = writeln!(
                figures,
                "  {name:<22} {growth:.2} times the footprint for four times the operations"
            );
        }
    }
    let private = private_heaps_grow(LENGTHS);
    let _ = writeln!(figures, "  {:<22} {private:.2} times", "pure private heaps");
    Ok(Finding {
        source: "Larson and Krishnan, Memory Allocation for Long-Running Server Applications (1998): bleeding",
        claim: "where what a thread frees stays with it, memory bleeds from those who allocate to those who free;\n  \
                one heap for all, or owners who get their blocks back, do not bleed\n  \
                (producer and consumer; pure private heaps are a model of such a design)",
        figures,
        verdict: Verdict::of(most < 1.5 && private > 3.0, most > private),
    })
}

/// A model of private heaps: a list of free blocks for each thread, where a thread puts what it frees. Here a producer and
/// a consumer, one block at a time; returns how much more memory four times as many hand-overs take.
fn private_heaps_grow(lengths: [usize; 2]) -> f64 {
    /// Bytes from the system.
    static HELD: AtomicUsize = AtomicUsize::new(0);
    const SIZE: usize = 64;
    let held = |operations: usize| {
        HELD.store(0, Relaxed);
        let layout = Layout::new::<[u8; SIZE]>();
        // What each of the two has free. The producer frees nothing, the consumer asks for nothing.
        let (mut producers, mut consumers): (Vec<*mut u8>, Vec<*mut u8>) = (Vec::new(), Vec::new());
        for _ in 0..operations / 2 {
            let block = producers.pop().unwrap_or_else(|| {
                HELD.fetch_add(SIZE, Relaxed);
                // SAFETY: the layout is not empty.
                unsafe { System.alloc(layout) }
            });
            consumers.push(block);
        }
        for block in producers.into_iter().chain(consumers).filter(|block| !block.is_null()) {
            // SAFETY: each came from there, and is freed once.
            unsafe { System.dealloc(block, layout) };
        }
        HELD.load(Relaxed) as f64
    };
    held(lengths[1]) / held(lengths[0])
}

fn false_sharing(seed: u64) -> Result<Finding> {
    const ONE_HEAP: [&str; 4] = ["tlsf", "best-fit", "kingsley", "talc"];
    const THREADS: [&str; 4] = ["mimalloc", "jemalloc", "snmalloc", "rpmalloc"];
    let names: Vec<&str> = ["glibc"].into_iter().chain(ONE_HEAP).chain(THREADS).collect();
    let rows = rows(&[generated("cache-thrash")?], &names, 400_000, 9, seed)?;
    let mut figures = String::new();
    let mut times = |names: &[&str]| {
        let mut times = Vec::new();
        for name in names {
            let row = rows.iter().find(|row| row.contender == *name);
            if let Some((row, time)) = row.and_then(|row| Some((row, row.relative_time?))) {
                let [low, high] = row.relative_time_interval.unwrap_or([time; 2]);
                let _ = writeln!(
                    figures,
                    "  {name:<22} {time:.2} of glibc's time ({low:.2} to {high:.2})"
                );
                times.push(time);
            }
        }
        median(&times).unwrap_or(f64::NAN)
    };
    let (shared, own) = (times(&ONE_HEAP), times(&THREADS));
    let _ = writeln!(
        figures,
        "  medians                one heap {shared:.2}, a cache for each thread {own:.2}"
    );
    Ok(Finding {
        source: "Berger, McKinley, Blumofe and Wilson, Hoard (2000): false sharing",
        claim: "one heap gives neighbours on a cache line to different threads, which then slow each other down\n  \
                (cache-thrash: two threads allocate, write often and free)",
        figures,
        verdict: Verdict::of(shared > 1.1 * own, own > 1.1 * shared),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_what_the_figures_say() {
        assert_eq!(Verdict::of(true, false), Verdict::Agree);
        assert_eq!(Verdict::of(false, true), Verdict::Disagree);
        assert_eq!(Verdict::of(false, false), Verdict::NotShown);
    }

    #[test]
    fn private_heaps_bleed_in_proportion_to_what_is_handed_over() {
        assert_eq!(private_heaps_grow([1000, 4000]), 4.0);
    }

    #[test]
    fn about_half_as_many_blocks_are_free_as_are_in_use() {
        let ratio = holes::<FirstFitTree>(3);
        assert!((0.3..0.7).contains(&ratio), "{ratio}");
    }
}
