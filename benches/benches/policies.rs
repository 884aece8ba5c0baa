//! What each policy's operations cost as the number of free blocks grows: one group an operation, one line a policy.
//!
//! `find` is asked for what only the largest block serves; `insert` and `remove` are of random blocks.
//!
//! `cargo bench -p heapwright-benches`, or `… -- find` for one group, `… -- find/tlsf` for one line.

use std::alloc::Layout;
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use heapwright_backends::Arena;
use heapwright_core::{BoundaryTags, Engine, FreeBlock, Heap, Policy, Request};
use heapwright_policies::{
    AddressOrder, BestFit, BestFitTree, FifoOrder, FirstFit, FirstFitTree, Lifo, LifoOrder,
    NextFit, Segregated, Tlsf, WorstFit,
};
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

/// Numbers of free blocks.
const COUNTS: [usize; 4] = [10, 100, 1_000, 10_000];

/// Payload sizes of free blocks.
const SIZES: std::ops::RangeInclusive<usize> = 32..=1024;

/// Calls `$visit` with the name and the type of every policy.
macro_rules! for_each_policy {
    ($visit:ident($($argument:expr),*)) => {
        $visit::<FirstFit<LifoOrder>>("first-fit-lifo", $($argument),*);
        $visit::<FirstFit<FifoOrder>>("first-fit-fifo", $($argument),*);
        $visit::<FirstFit<AddressOrder>>("first-fit-address", $($argument),*);
        $visit::<FirstFitTree>("first-fit-tree", $($argument),*);
        $visit::<NextFit>("next-fit", $($argument),*);
        $visit::<BestFit<LifoOrder>>("best-fit-lifo", $($argument),*);
        $visit::<BestFit<FifoOrder>>("best-fit-fifo", $($argument),*);
        $visit::<BestFit<AddressOrder>>("best-fit-address", $($argument),*);
        $visit::<BestFitTree>("best-fit-tree", $($argument),*);
        $visit::<WorstFit>("worst-fit", $($argument),*);
        $visit::<Lifo>("lifo", $($argument),*);
        $visit::<Segregated>("segregated", $($argument),*);
        $visit::<Tlsf>("tlsf", $($argument),*);
    };
}

/// A policy whose index holds free blocks of random sizes, freed in random order, with blocks in use between them.
///
/// Invariant: between two calls of a method all blocks are in the index. A policy may rely on that, and find the
/// neighbour of a block by looking at the memory behind it.
struct Index<P: Policy + 'static> {
    policy: &'static mut P,
    blocks: Vec<FreeBlock>,
    random: Xoshiro256PlusPlus,
}

impl<P: Policy + 'static> Index<P> {
    fn new(count: usize) -> Self {
        const SIGNPOST: usize = 4 << 10;
        let mut random = Xoshiro256PlusPlus::seed_from_u64(count as u64);
        // Whatever an index refers to stays for ever: nothing here is worth the bookkeeping.
        let memory = vec![MaybeUninit::uninit(); (64 << 10) + count * 1200];
        let arena = Arena::new(Box::leak(memory.into_boxed_slice()));
        let heap = Box::leak(Box::new(Heap::<_, P, BoundaryTags>::over(arena)));
        let mut allocate = |size| {
            let layout = Layout::from_size_align(size, 16).expect("a small size");
            let block = heap.allocate(layout).expect("the arena is large enough");
            let apart = Layout::from_size_align(16, 16).expect("a small size");
            heap.allocate(apart).expect("the arena is large enough");
            block
        };
        let signpost = allocate(SIGNPOST);
        let mut freed: Vec<_> = (0..count).map(|_| allocate(random.random_range(SIZES))).collect();
        freed.shuffle(&mut random);
        freed.push(signpost);
        for block in freed {
            // SAFETY: it is in use and freed once.
            unsafe { heap.deallocate(block) }.expect("the heap is in order");
        }
        // SAFETY: the heap is not used any more, so nobody minds what is in its index.
        let policy = unsafe { heap.policy_mut() };
        // The lowest block, and the only one that large. It leads to the others, and then goes for good: no policy
        // finds it by looking behind a block.
        let lowest = policy.find(Request::new(SIGNPOST)).expect("it was freed");
        let mut random_order: Vec<FreeBlock> =
            // SAFETY: the heap is in order; two free blocks have one in use between them.
            std::iter::successors(Some(lowest), |block| unsafe { block.free_block_behind(2) })
                .skip(1)
                .collect();
        assert_eq!(random_order.len(), count, "all blocks that were freed are found");
        // SAFETY: it is in the index.
        unsafe { policy.remove(lowest) };
        random_order.shuffle(&mut random);
        Self { policy, blocks: random_order, random }
    }

    /// A request that only the largest block serves.
    fn largest(&self) -> Request {
        Request::new(self.blocks.iter().map(|block| block.size()).max().unwrap_or(0))
    }

    /// Takes a random block out of the index and puts it back in; says how long each took.
    fn cycle(&mut self) -> (Duration, Duration) {
        let block = self.blocks[self.random.random_range(0..self.blocks.len())];
        // SAFETY: the block is in the index, and then it is not.
        unsafe {
            let start = Instant::now();
            self.policy.remove(block);
            let removed = Instant::now();
            self.policy.insert(block);
            (removed - start, removed.elapsed())
        }
    }
}

/// What a look at the clock costs by itself.
fn clock() -> Duration {
    let mut looks: Vec<Duration> = (0..1001).map(|_| Instant::now().elapsed()).collect();
    looks.sort();
    looks[looks.len() / 2]
}

fn find<P: Policy + 'static>(name: &str, criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("find");
    for count in COUNTS {
        let index = Index::<P>::new(count);
        let request = index.largest();
        group.bench_function(BenchmarkId::new(name, count), |bencher| {
            bencher.iter(|| index.policy.find(black_box(request)));
        });
    }
    group.finish();
}

/// Times one half of a cycle, less what the clock costs.
fn change<P: Policy + 'static>(
    operation: &str,
    name: &str,
    criterion: &mut Criterion,
    half: impl Fn((Duration, Duration)) -> Duration,
) {
    let mut group = criterion.benchmark_group(operation);
    let clock = clock();
    for count in COUNTS {
        let mut index = Index::<P>::new(count);
        group.bench_function(BenchmarkId::new(name, count), |bencher| {
            bencher.iter_custom(|iterations| {
                let spent: Duration = (0..iterations).map(|_| half(index.cycle())).sum();
                // Never nothing at all, of which criterion can make no sense.
                spent
                    .saturating_sub(clock * iterations as u32)
                    .max(Duration::from_nanos(iterations))
            });
        });
    }
    group.finish();
}

fn insert<P: Policy + 'static>(name: &str, criterion: &mut Criterion) {
    change::<P>("insert", name, criterion, |(_, inserted)| inserted);
}

fn remove<P: Policy + 'static>(name: &str, criterion: &mut Criterion) {
    change::<P>("remove", name, criterion, |(removed, _)| removed);
}

fn all(criterion: &mut Criterion) {
    for_each_policy!(find(criterion));
    for_each_policy!(insert(criterion));
    for_each_policy!(remove(criterion));
}

criterion_group! {
    name = policies;
    // Growth shows after a moment; a line more exact than that is not worth a minute.
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(50))
        .measurement_time(Duration::from_millis(100))
        .without_plots();
    targets = all
}
criterion_main!(policies);
