//! Huge pages have a price: a heap asks for few of them while they are dear, and for many again when they are cheap.

use std::alloc::Layout;
use std::collections::BTreeMap;
use std::hint;
use std::mem;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::time::Duration;

use heapwright_backends::Mmap;
use heapwright_core::{HeapBackend, Region, Strategy, hand_on};
use heapwright_thread_cached::ThreadCached;

const MIB: usize = 1 << 20;

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 16).unwrap()
}

/// What is known of a kernel that has huge pages, but for a price.
#[derive(Default)]
struct Priced {
    /// Where huge pages may be, by start and end.
    offered: BTreeMap<usize, usize>,
    dear: bool,
    /// How often pages were made present by wish: parts of huge ones, and small ones.
    huge: usize,
    small: usize,
}

impl Priced {
    fn withdraw(&mut self, region: Region) {
        for (start, end) in mem::take(&mut self.offered) {
            for (from, to) in [(start, end.min(region.addr())), (start.max(region.end()), end)] {
                if from < to {
                    self.offered.insert(from, to);
                }
            }
        }
    }
}

/// Mappings of such a kernel. All is present, but for the ends of huge pages: what is used anew was not used before.
struct Market(Mmap, &'static Mutex<Priced>);

// SAFETY: the mappings are the inner backend's.
unsafe impl HeapBackend for Market {
    unsafe fn shrink(&mut self, region: Region) -> usize {
        self.1.lock().unwrap().withdraw(region);
        // SAFETY: the caller promises the same.
        unsafe { self.0.shrink(region) }
    }

    unsafe fn resize(&mut self, region: Region, new_size: usize, may_move: bool) -> Option<Region> {
        // SAFETY: the caller promises the same.
        let resized = unsafe { self.0.resize(region, new_size, may_move) };
        if resized.is_some_and(|resized| resized.addr() != region.addr()) {
            self.1.lock().unwrap().withdraw(region);
        }
        resized
    }

    unsafe fn relocate(&mut self, from: Region, to: Region) -> bool {
        // SAFETY: the caller promises the same.
        let moved = unsafe { self.0.relocate(from, to) };
        if moved {
            self.1.lock().unwrap().withdraw(from);
        }
        moved
    }

    unsafe fn populate(&mut self, region: Region) {
        let mut priced = self.1.lock().unwrap();
        let before = priced.offered.range(..region.end()).next_back();
        if before.is_none_or(|(_, &end)| end <= region.addr()) {
            priced.small += 1;
            return;
        }
        priced.huge += 1;
        let start = time_taken();
        while priced.dear && time_taken() - start < Duration::from_millis(3) {
            hint::spin_loop();
        }
    }

    unsafe fn offer_huge_pages(&mut self, region: Region) {
        let mut priced = self.1.lock().unwrap();
        priced.withdraw(region);
        priced.offered.insert(region.addr(), region.end());
    }

    unsafe fn withdraw_huge_pages(&mut self, region: Region) {
        self.1.lock().unwrap().withdraw(region);
    }

    fn is_present(&self, addr: usize) -> bool {
        !(addr + 1).is_multiple_of(2 * MIB)
    }

    hand_on! { 0: page_size, grow, map, discard }
}

/// What this thread took of a processor.
fn time_taken() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A heap that has to do with such a kernel, and what it has so far.
struct Customer {
    heap: ThreadCached<Market>,
    priced: &'static Mutex<Priced>,
}

impl Customer {
    fn new(dear: bool) -> Self {
        let priced: &'static Mutex<Priced> = Box::leak(Box::default());
        priced.lock().unwrap().dear = dear;
        Self { heap: ThreadCached::over(Market(Mmap::new(), priced)), priced }
    }

    fn prices_become(&self, dear: bool) {
        self.priced.lock().unwrap().dear = dear;
    }

    /// How many MiB may be huge.
    fn mib_offered(&self) -> usize {
        self.priced.lock().unwrap().offered.iter().map(|(start, end)| (end - start) / MIB).sum()
    }

    /// Takes so many MiB, in blocks of so many bytes; how often huge pages were made present by wish, and small ones.
    fn grow(&self, mib: usize, size: usize) -> (Vec<NonNull<u8>>, usize, usize) {
        let made = || {
            let priced = self.priced.lock().unwrap();
            (priced.huge, priced.small)
        };
        let before = made();
        let blocks =
            (0..mib * MIB / size).map(|_| self.heap.allocate(layout(size)).unwrap()).collect();
        self.heap.check().unwrap();
        let after = made();
        (blocks, after.0 - before.0, after.1 - before.1)
    }
}

#[test]
fn while_huge_pages_are_dear_few_are_asked_for() {
    // In slabs of one page and of several, in runs of their own, in mappings of their own.
    for size in [200, 3000, 8000, 64 << 10, MIB, 10 * MIB] {
        let customer = Customer::new(false);
        let (_, huge, _) = customer.grow(300, size);
        let offered = customer.mib_offered();
        assert!(offered >= 120, "of 300 MiB in {size} bytes {offered} may be huge");
        let each = if size > 2 * MIB { size / MIB } else { 2 };
        assert!(huge * each + 64 >= offered, "{size}: {huge} of {offered} MiB were timed");
        customer.prices_become(true);
        let (_, huge, small) = customer.grow(1200, size);
        assert!((2..=6).contains(&huge), "{size}: {huge} at 0, 32, 96, 224, 480 and 992 MiB");
        let more = customer.mib_offered().saturating_sub(offered);
        // Beside each may be the beginning of its chunk.
        assert!(more <= 2 * each * huge, "{size}: {more} MiB more may be huge");
        assert!(size > 8000 || small > 800 * 16, "{size}: small ones come by the step: {small}");
        customer.prices_become(false);
        let (_, huge, _) = customer.grow(1500, size);
        assert!(huge * each >= 200, "{size}: {huge} huge ones, after another GiB at most");
    }
}

#[test]
fn a_small_heap_tries_no_more_than_one_dear_page() {
    let customer = Customer::new(true);
    let (_, huge, _) = customer.grow(15, 200);
    assert_eq!(huge, 1);
    assert!(customer.mib_offered() <= 2);
}

#[test]
fn where_there_are_threads_one_huge_page_in_many_is_timed() {
    for size in [200, 3000, 64 << 10, 3 * MIB] {
        let customer = Customer::new(false);
        customer.grow(1, 100);
        std::thread::scope(|scope| {
            scope.spawn(|| drop(customer.grow(1, 100)));
        });
        let (_, huge, _) = customer.grow(300, size);
        assert!((4..=12).contains(&huge), "{size}: {huge} of 300 MiB");
        customer.prices_become(true);
        let (_, huge, _) = customer.grow(1000, size);
        assert!((2..=6).contains(&huge), "{size}: {huge}");
    }
}

#[test]
fn of_a_long_run_in_a_chunk_one_huge_page_is_made_present() {
    let customer = Customer::new(false);
    customer.grow(100, 200);
    let before = customer.priced.lock().unwrap().huge;
    // Its alignment is too much for a mapping of its own.
    let layout = Layout::from_size_align(20 * MIB, 4 * MIB).unwrap();
    customer.heap.allocate(layout).unwrap();
    customer.heap.check().unwrap();
    assert!(customer.priced.lock().unwrap().huge <= before + 1);
}

#[test]
fn what_grows_anew_tries_few_dear_pages_and_has_huge_ones_again_when_they_are_cheap() {
    let customer = Customer::new(false);
    let (mut blocks, _, _) = customer.grow(400, 200);
    let mut offered = customer.mib_offered();
    assert!(offered > 340);
    for dear in [true, false, false] {
        // Some stays, so that chunks do.
        let (kept, freed): (Vec<_>, Vec<_>) =
            blocks.into_iter().enumerate().partition(|(index, _)| index % 50_000 == 0);
        // SAFETY: in use.
        freed
            .into_iter()
            .for_each(|(_, block)| unsafe { customer.heap.deallocate(block) }.unwrap());
        customer.heap.trim();
        customer.prices_become(dear);
        let (more, huge, _) = customer.grow(380, 200);
        let before = mem::replace(&mut offered, customer.mib_offered());
        if dear {
            assert!((1..=4).contains(&huge), "{huge}");
            assert!(offered < before / 2, "of {before} {offered} MiB may be huge");
        } else {
            assert!(offered > before, "of {before} {offered} MiB may be huge");
        }
        blocks = kept.into_iter().map(|(_, block)| block).chain(more).collect();
    }
    assert!(offered > 250, "{offered} MiB may be huge");
}

#[test]
fn a_block_that_grows_tries_few_dear_pages_and_stays_in_one_piece() {
    let customer = Customer::new(false);
    let mut block = customer.heap.allocate(layout(4 * MIB)).unwrap();
    let mut grow_to = |mib: usize| {
        let before = customer.priced.lock().unwrap().huge;
        // SAFETY: in use.
        block = unsafe { customer.heap.resize(block, mib * MIB) }.unwrap();
        customer.heap.check().unwrap();
        customer.priced.lock().unwrap().huge - before
    };
    let cheap: usize = (3..50).map(|pair| grow_to(2 * pair)).sum();
    assert!(cheap >= 40, "{cheap} steps were timed");
    assert!(customer.mib_offered() >= 90);
    customer.prices_become(true);
    let dear: usize = (50..300).map(|pair| grow_to(2 * pair)).sum();
    assert!((2..=5).contains(&dear), "{dear}");
    assert_eq!(customer.mib_offered(), 0, "all of it is alike");
}
