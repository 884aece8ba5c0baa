//! Blocks with mappings of their own: they grow without being copied, and what they leave serves the next.

use std::alloc::Layout;
use std::collections::BTreeSet;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, mpsc};
use std::thread;

use heapwright_backends::{Limited, Mmap};
use heapwright_core::{HeapBackend, HeapError, OutOfMemory, Region, Strategy, hand_on};
use heapwright_testkit::Rng;
use heapwright_thread_cached::ThreadCached;

const MIB: usize = 1 << 20;

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 16).unwrap()
}

/// One byte in each page tells where it is.
fn mark(block: NonNull<u8>, pages: std::ops::Range<usize>, name: usize) {
    for page in pages {
        // SAFETY: the caller has the block.
        unsafe { block.add(page * 4096).write((page * 7 + name) as u8) };
    }
}

fn has_marks(block: NonNull<u8>, pages: usize, name: usize) -> bool {
    // SAFETY: as above.
    (0..pages).all(|page| unsafe { block.add(page * 4096).read() == (page * 7 + name) as u8 })
}

#[test]
fn blocks_that_grow_past_each_other_keep_their_contents() {
    let heap = ThreadCached::<Mmap>::new();
    let mut blocks = [(); 3].map(|()| heap.allocate(layout(5 * MIB)).unwrap());
    let mut pages = 5 * MIB / 4096;
    (0..3).for_each(|name| mark(blocks[name], 0..pages, name));
    for size in [5 * MIB + 1, 9 * MIB, 31 * MIB, 32 * MIB, 33 * MIB, 70 * MIB, 150 * MIB] {
        for (name, block) in blocks.iter_mut().enumerate() {
            // SAFETY: in use, of the size before.
            *block = unsafe { heap.resize(*block, size) }.unwrap();
            mark(*block, pages..size / 4096, name);
        }
        pages = size / 4096;
        heap.check().unwrap();
    }
    for size in [149 * MIB, 60 * MIB, 20 * MIB, 4 * MIB, MIB] {
        for (name, block) in blocks.iter_mut().enumerate() {
            // SAFETY: as above.
            *block = unsafe { heap.resize(*block, size) }.unwrap();
            assert!(has_marks(*block, size / 4096, name), "block {name} at {} MiB", size / MIB);
        }
        heap.check().unwrap();
    }
    // SAFETY: in use.
    blocks.into_iter().for_each(|block| unsafe { heap.deallocate(block) }.unwrap());
    heap.trim();
    heap.check().unwrap();
    let stats = heap.stats();
    assert_eq!((stats.live_bytes, stats.mapped_blocks), (0, 0));
    assert!(stats.footprint <= 64 * MIB, "the chunks alone are left: {stats:?}");
}

#[test]
fn what_a_large_block_leaves_serves_the_next() {
    let heap = ThreadCached::<Mmap>::new();
    let mut held: Vec<_> =
        (5..13).map(|size| heap.allocate_zeroed(layout(size * MIB)).unwrap()).collect();
    let grows = heap.stats().grows;
    for round in 0..200 {
        let size = (4 + round * 7 % 21) * MIB;
        // SAFETY: in use.
        unsafe { heap.deallocate(held.remove(round % held.len())) }.unwrap();
        let block = heap.allocate_zeroed(layout(size)).unwrap();
        // SAFETY: as long as that.
        let bytes = unsafe { std::slice::from_raw_parts_mut(block.as_ptr(), size) };
        assert!(bytes.iter().step_by(1000).all(|&byte| byte == 0), "zeroed anew");
        bytes.fill(1);
        held.push(block);
    }
    heap.check().unwrap();
    assert_eq!(heap.stats().grows, grows, "the backend was asked for nothing more");
}

/// Mappings whose pages cannot be discarded.
struct Clinging(Mmap);

// SAFETY: the mappings are the inner backend's.
unsafe impl HeapBackend for Clinging {
    hand_on! { 0: page_size, grow, map, shrink, resize }
}

/// Whether what is long is discarded, or has to be cleared.
fn zeros_where_a_block_was<B: HeapBackend>(backend: B) {
    let heap = ThreadCached::<B>::over(backend);
    let before = heap.allocate(layout(90 * MIB)).unwrap();
    // SAFETY: in use.
    unsafe { heap.deallocate(before) }.unwrap();
    // All of a spare, a little less, more than it has, little of a long one, and much beyond what is worth clearing.
    for size in [90 * MIB, 85 * MIB - 1, 96 * MIB, 13 * MIB + 1, 60 * MIB, 31 * MIB, 100_000_001] {
        let block = heap.allocate_zeroed(layout(size)).unwrap();
        assert_eq!(block, before, "{size} bytes are where a block was");
        // SAFETY: as long as that.
        let bytes = unsafe { std::slice::from_raw_parts_mut(block.as_ptr(), size) };
        assert!(bytes.iter().all(|&byte| byte == 0), "{size} bytes");
        bytes.fill(0xa5);
        heap.check().unwrap();
        // SAFETY: in use.
        unsafe { heap.deallocate(block) }.unwrap();
    }
}

#[test]
fn a_spare_of_any_length_is_zero_where_it_is_to_be() {
    zeros_where_a_block_was(Mmap::new());
}

#[test]
fn so_it_is_where_nothing_can_be_discarded() {
    zeros_where_a_block_was(Clinging(Mmap::new()));
}

#[test]
fn spare_mappings_go_back_before_memory_is_refused() {
    let heap = ThreadCached::<Limited<Mmap>>::over(Limited::over(Mmap::new(), 120 * MIB));
    for round in 1..=3 {
        let large = heap.allocate(layout(50 * MIB)).unwrap();
        // SAFETY: in use.
        unsafe { heap.deallocate(large) }.unwrap();
        let count = 60 * MIB / 20_000;
        let small: Vec<_> = (0..count).filter_map(|_| heap.allocate(layout(20_000))).collect();
        assert_eq!(small.len(), count, "round {round}");
        let another = heap.allocate(layout(80 * MIB));
        assert!(another.is_none(), "beyond the limit");
        // SAFETY: in use.
        small.into_iter().for_each(|block| unsafe { heap.deallocate(block) }.unwrap());
        heap.trim();
        heap.check().unwrap();
    }
}

#[test]
fn what_small_blocks_leave_goes_back_before_a_large_one_is_refused() {
    let heap = ThreadCached::<Limited<Mmap>>::over(Limited::over(Mmap::new(), 200 * MIB));
    for (size, most) in [(1000, 80 * MIB), (1000, usize::MAX), (20_000, usize::MAX)] {
        let blocks = std::iter::from_fn(|| heap.allocate(layout(size)));
        let blocks: Vec<_> = blocks.take(most / size).collect();
        assert!(blocks.len() * size > 79 * MIB, "{} of {size} bytes", blocks.len());
        // SAFETY: in use.
        blocks.into_iter().for_each(|block| unsafe { heap.deallocate(block) }.unwrap());
        let large = heap.allocate(layout(150 * MIB)).expect("nothing else is in use");
        // SAFETY: in use.
        unsafe { heap.deallocate(large) }.unwrap();
        heap.check().unwrap();
    }
}

#[test]
fn what_was_in_a_chunk_that_went_is_no_block_any_more() {
    let heap = ThreadCached::<Limited<Mmap>>::over(Limited::over(Mmap::new(), 200 * MIB));
    let blocks: Vec<_> = std::iter::from_fn(|| heap.allocate(layout(1000))).collect();
    // SAFETY: in use.
    blocks.iter().for_each(|&block| unsafe { heap.deallocate(block) }.unwrap());
    assert!(heap.allocate(layout(150 * MIB)).is_some(), "nothing else is in use");
    let last = blocks[blocks.len() - 1];
    // SAFETY: any pointer is tolerated.
    let freed = unsafe { heap.deallocate(last) };
    assert!(matches!(freed, Err(HeapError::InvalidFree(_) | HeapError::DoubleFree(_))));
    heap.check().unwrap();
}

#[test]
fn what_lies_in_many_chunks_is_freed_in_any_order() {
    let mut rng = Rng::new(5);
    // Twice as many chunks as are near at a time.
    let heap = ThreadCached::<Mmap>::over(Mmap::new());
    let (mut blocks, mut small) = (Vec::new(), Vec::new());
    for _ in 0..2100 {
        blocks.push(heap.allocate(layout(MIB)).unwrap());
        small.extend((0..60).map(|_| heap.allocate(layout(1000)).unwrap()));
    }
    let first = small.iter().min().unwrap().addr().get();
    let last = small.iter().max().unwrap().addr().get();
    assert!(last - first > 2000 * MIB);
    small.append(&mut blocks);
    for left in (1..=small.len()).rev() {
        let block = small.swap_remove(rng.below(left));
        // SAFETY: in use.
        unsafe { heap.deallocate(block) }.unwrap();
        if left % 20_000 == 0 {
            heap.check().unwrap();
        }
    }
    assert_eq!(heap.stats().live_blocks, 0);
}

#[test]
fn a_chunk_that_goes_is_near_no_thread_any_more() {
    let heap = &ThreadCached::<Mmap>::over(Mmap::new());
    let (to_thread, frees) = mpsc::channel::<Vec<usize>>();
    let (freed, to_us) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            for blocks in frees {
                for block in blocks {
                    let block = NonNull::new(ptr::with_exposed_provenance_mut(block)).unwrap();
                    // SAFETY: in use, and this thread's now.
                    unsafe { heap.deallocate(block) }.unwrap();
                }
                freed.send(()).unwrap();
            }
        });
        for _ in 0..3 {
            let blocks = (0..100_000).map(|_| heap.allocate(layout(1000)).unwrap());
            let exposed = blocks.map(|block| block.as_ptr().expose_provenance());
            to_thread.send(exposed.collect()).unwrap();
            to_us.recv().unwrap();
            let before = heap.stats().regions;
            heap.trim();
            assert!(heap.stats().regions < before);
            // That thread waits, and has freed in all chunks.
            heap.check().unwrap();
        }
        drop(to_thread);
    });
}

/// Mappings that note how much of them may have huge pages, and are present as a whole or not at all.
struct Noting(Mmap, &'static AtomicUsize, bool);

// SAFETY: the mappings are the inner backend's.
unsafe impl HeapBackend for Noting {
    unsafe fn offer_huge_pages(&mut self, region: Region) {
        self.1.fetch_add(region.size, Relaxed);
    }

    fn is_present(&self, _: usize) -> bool {
        self.2
    }

    hand_on! { 0: page_size, grow, shrink, map }
}

#[test]
fn what_is_filled_gets_huge_pages() {
    /// Allocates blocks, which are filled or not; how many MiB were offered huge pages by the end.
    fn offered(blocks: usize, size: usize, filled: bool) -> usize {
        let offered: &'static AtomicUsize = Box::leak(Box::default());
        let heap = ThreadCached::<Noting>::over(Noting(Mmap::new(), offered, filled));
        for _ in 0..blocks {
            heap.allocate(layout(size)).unwrap();
        }
        offered.load(Relaxed) / MIB
    }
    assert!(offered(5 * MIB / 4 / 200, 200, true) < 1, "a small heap");
    assert!(offered(96 * MIB / 200, 200, true) > 64, "small objects");
    assert!(offered(96 * MIB / 200, 200, false) > 64, "whatever is present");
    assert!(offered(200, MIB, true) > 64, "blocks that are filled");
    assert!(offered(200, MIB, false) < 1, "beginnings of blocks");
    assert!(offered(20, 10 * MIB, true) > 150, "mappings that are filled");
    let shortest = 2 * MIB / 9 * 8;
    assert!(offered(20, shortest, true) >= 38, "the shortest of their own");
    assert!(offered(20, 10 * MIB, false) < 1, "beginnings of mappings");
}

#[test]
fn a_heap_of_a_few_mib_gets_huge_pages_while_it_keeps_its_pace() {
    /// Allocates 12 MiB that stay, the second half of it with so many objects for each that do not; how many MiB were
    /// offered huge pages by the end.
    fn offered(passing: usize) -> usize {
        let offered: &'static AtomicUsize = Box::leak(Box::default());
        let heap = ThreadCached::<Noting>::over(Noting(Mmap::new(), offered, true));
        let objects = 12 * MIB / 200;
        for at in 0..objects {
            heap.allocate(layout(200)).unwrap();
            for _ in 0..if at > objects / 2 { passing } else { 0 } {
                let passing = heap.allocate(layout(200)).unwrap();
                // SAFETY: in use.
                unsafe { heap.deallocate(passing) }.unwrap();
            }
        }
        heap.check().unwrap();
        offered.load(Relaxed) / MIB
    }
    let (steady, slow) = (offered(0), offered(9));
    assert_eq!(steady, 12, "of 13 MiB with the beginning of the chunk: all from 2 MiB on");
    assert!(slow <= 6, "of 12 MiB, {steady} at a steady pace and {slow} of what went slowly");
}

#[test]
fn a_heap_of_3_mib_gets_a_huge_page_if_most_of_what_it_takes_stays() {
    /// Allocates 3 MiB by batches, each of which goes but for a part; how many MiB were offered huge pages by the end.
    fn offered(batch: usize, stays: usize) -> usize {
        let offered: &'static AtomicUsize = Box::leak(Box::default());
        let heap = ThreadCached::<Noting>::over(Noting(Mmap::new(), offered, true));
        for _ in 0..3 * MIB / 200 / stays {
            let blocks: Vec<_> = (0..batch).map(|_| heap.allocate(layout(200)).unwrap()).collect();
            for &passing in &blocks[stays..] {
                // SAFETY: in use.
                unsafe { heap.deallocate(passing) }.unwrap();
            }
        }
        heap.check().unwrap();
        offered.load(Relaxed) / MIB
    }
    assert_eq!(offered(1000, 1000), 2, "all of it");
    assert_eq!(offered(1000, 800), 2, "most of it");
    assert_eq!(offered(1000, 600), 0, "six tenths");
    assert_eq!(offered(1000, 200), 0, "little of it");
}

/// Small pages, by their addresses.
#[derive(Default)]
struct Known {
    /// Those that may be part of a huge page, and those that may not because that was said.
    offered: BTreeSet<usize>,
    withdrawn: BTreeSet<usize>,
    /// Those that were written to and not discarded since, and the contrary.
    written: BTreeSet<usize>,
    discarded: BTreeSet<usize>,
}

impl Known {
    /// How many discarded pages the kernel may make present again: those that may be part of a huge page, of which another
    /// part is.
    fn in_danger(&self) -> usize {
        let in_danger = |&&page: &&usize| {
            let huge = page / (2 * MIB) * 2 * MIB;
            self.offered.contains(&page)
                && self.written.range(huge..huge + 2 * MIB).next().is_some()
        };
        self.discarded.iter().filter(in_danger).count()
    }
}

/// Mappings that note what is known of their pages.
struct Knowing {
    mappings: Mmap,
    known: &'static Mutex<Known>,
    /// Whether the kernel has huge pages for all, asked or not.
    always: bool,
}

fn small_pages(region: Region) -> impl Iterator<Item = usize> {
    (region.addr()..region.end()).step_by(4096)
}

// SAFETY: the mappings are the inner backend's.
unsafe impl HeapBackend for Knowing {
    fn grow(&mut self, size: usize, align: usize) -> Result<Region, OutOfMemory> {
        let region = self.mappings.grow(size, align)?;
        if self.always {
            self.known.lock().unwrap().offered.extend(small_pages(region));
        }
        Ok(region)
    }

    unsafe fn shrink(&mut self, region: Region) -> usize {
        let mut known = self.known.lock().unwrap();
        for page in small_pages(region) {
            known.offered.remove(&page);
            known.withdrawn.remove(&page);
            known.written.remove(&page);
            known.discarded.remove(&page);
        }
        // SAFETY: the caller promises the same.
        unsafe { self.mappings.shrink(region) }
    }

    unsafe fn discard(&mut self, region: Region) -> bool {
        let mut known = self.known.lock().unwrap();
        for page in small_pages(region) {
            known.written.remove(&page);
            known.discarded.insert(page);
        }
        // SAFETY: the caller promises the same.
        unsafe { self.mappings.discard(region) }
    }

    unsafe fn offer_huge_pages(&mut self, region: Region) {
        let mut known = self.known.lock().unwrap();
        for page in small_pages(region) {
            known.offered.insert(page);
            known.withdrawn.remove(&page);
        }
    }

    unsafe fn withdraw_huge_pages(&mut self, region: Region) {
        let mut known = self.known.lock().unwrap();
        for page in small_pages(region) {
            known.offered.remove(&page);
            assert!(known.withdrawn.insert(page), "what is withdrawn need not be again");
        }
    }

    fn is_present(&self, _: usize) -> bool {
        true
    }

    hand_on! { mappings: page_size }
}

/// Whether huge pages are for all or not.
fn discards_beside_what_is_in_use(always: bool) {
    let known: &'static Mutex<Known> = Box::leak(Box::default());
    let heap = ThreadCached::<Knowing>::over(Knowing { mappings: Mmap::new(), known, always });
    let filled_with = |bytes: usize| -> Vec<_> {
        let objects: Vec<_> =
            (0..bytes / 200).map(|_| heap.allocate(layout(200)).unwrap()).collect();
        let mut known = known.lock().unwrap();
        for page in objects.iter().flat_map(|object| [0, 199].map(|at| object.addr().get() + at)) {
            known.written.insert(page / 4096 * 4096);
            known.discarded.remove(&(page / 4096 * 4096));
        }
        objects
    };
    let free = |block| {
        // SAFETY: in use.
        unsafe { heap.deallocate(block) }.unwrap();
    };
    let mut rng = Rng::new(7);
    for seldom in [1000, 10_000, 50_000] {
        let objects = filled_with(100 * MIB);
        let offered = known.lock().unwrap().offered.len();
        assert!(offered > 80 * MIB / 4096, "{offered} pages are offered");
        let (kept, freed): (Vec<_>, Vec<_>) =
            objects.into_iter().partition(|_| rng.below(seldom) == 0);
        freed.into_iter().for_each(free);
        heap.trim();
        heap.check().unwrap();
        {
            let known = known.lock().unwrap();
            let stay = known.written.len();
            assert!(stay < offered / 2, "{stay} stay: most were discarded, or went by chunks");
            let discarded = known.discarded.len();
            // Of the last few objects that are kept, not each chunk has one.
            assert!(seldom == 50_000 || discarded > offered / 2, "{discarded} were discarded");
            assert!(known.offered.len() < offered, "what is in use is among others that went");
            assert_eq!(known.in_danger(), 0);
        }
        // Of what is taken anew the last is a huge page of which little is in use so far, or two.
        let more = filled_with(9 * MIB);
        heap.check().unwrap();
        let in_danger = known.lock().unwrap().in_danger();
        assert!(in_danger <= 2 * 512, "{in_danger} pages beside what was taken anew");
        kept.into_iter().chain(more).for_each(free);
    }
}

#[test]
fn what_was_discarded_beside_what_is_in_use_is_not_made_present_again() {
    discards_beside_what_is_in_use(false);
}

#[test]
fn nor_is_it_where_all_that_is_present_may_be_huge_anyhow() {
    discards_beside_what_is_in_use(true);
}

/// Mappings of at most 1 MiB, which a huge page does not fit in, and where they are.
struct Short(Mmap, Vec<Region>);

// SAFETY: the mappings are the inner backend's.
unsafe impl HeapBackend for Short {
    fn grow(&mut self, size: usize, align: usize) -> Result<Region, OutOfMemory> {
        let region = if size > MIB { Err(OutOfMemory) } else { self.0.grow(size, align) }?;
        self.1.push(region);
        Ok(region)
    }

    unsafe fn shrink(&mut self, region: Region) -> usize {
        self.1.retain(|given| given.addr() != region.addr());
        // SAFETY: the caller promises the same.
        unsafe { self.0.shrink(region) }
    }

    unsafe fn withdraw_huge_pages(&mut self, region: Region) {
        let holds = |given: &Region| given.addr() <= region.addr() && region.end() <= given.end();
        assert!(self.1.iter().any(holds), "what is withdrawn is the heap's");
    }

    hand_on! { 0: page_size, discard }
}

#[test]
fn where_chunks_are_short_nothing_behind_them_is_withdrawn() {
    let heap = ThreadCached::<Short>::over(Short(Mmap::new(), Vec::new()));
    let objects: Vec<_> =
        (0..8 * MIB / 1000).map(|_| heap.allocate(layout(1000)).unwrap()).collect();
    for (_, object) in objects.into_iter().enumerate().filter(|(index, _)| index / 100 % 2 == 0) {
        // SAFETY: in use.
        unsafe { heap.deallocate(object) }.unwrap();
    }
    assert!(heap.trim() > MIB, "some was given back");
    heap.check().unwrap();
}

#[test]
fn what_lies_in_front_of_an_aligned_block_is_no_huge_page() {
    let known: &'static Mutex<Known> = Box::leak(Box::default());
    let heap =
        ThreadCached::<Knowing>::over(Knowing { mappings: Mmap::new(), known, always: false });
    let layout = Layout::from_size_align(32 * MIB, 4 * MIB).unwrap();
    for _ in 0..8 {
        let block = heap.allocate(layout).unwrap().addr().get();
        let known = known.lock().unwrap();
        let offered = known.offered.range(block..block + 32 * MIB).count();
        assert!(offered == 0 || offered >= 30 * MIB / 4096, "all of a block but its end");
        assert!(!known.offered.contains(&(block - 4096)), "what lies before it");
    }
    let offered = known.lock().unwrap().offered.len();
    assert!(offered > 6 * 32 * MIB / 4096, "blocks like those before are filled: {offered} pages");
}

#[test]
fn a_short_block_leaves_a_long_spare_as_it_is() {
    let known: &'static Mutex<Known> = Box::leak(Box::default());
    let heap =
        ThreadCached::<Knowing>::over(Knowing { mappings: Mmap::new(), known, always: false });
    let mut discarded = 0;
    for _ in 0..8 {
        for mib in [64, 2] {
            let block = heap.allocate(layout(mib * MIB)).unwrap();
            // SAFETY: in use.
            unsafe { heap.deallocate(block) }.unwrap();
        }
        let known = known.lock().unwrap();
        discarded = discarded.max(known.discarded.len() * 4096);
    }
    heap.check().unwrap();
    assert!(discarded <= 20 * MIB, "{discarded} bytes of 64 MiB that are needed again");
}

#[test]
fn slabs_that_were_full_once_are_not_taken_for_untouched() {
    let offered: &'static AtomicUsize = Box::leak(Box::default());
    let heap = ThreadCached::<Noting>::over(Noting(Mmap::new(), offered, true));
    let objects: Vec<_> =
        (0..14 * MIB / 200).map(|_| heap.allocate(layout(200)).unwrap()).collect();
    let before = offered.load(Relaxed) / MIB;
    for (at, object) in objects.into_iter().enumerate() {
        if at % 4 > 0 {
            // SAFETY: in use.
            unsafe { heap.deallocate(object) }.unwrap();
        }
    }
    for _ in 0..8 * MIB / 400 {
        heap.allocate(layout(400)).unwrap();
    }
    heap.check().unwrap();
    let more = offered.load(Relaxed) / MIB - before;
    assert!(more > 8, "{more} MiB, beside slabs of which a quarter is in use");
}

#[test]
fn alignments_beyond_a_unit_are_kept() {
    let heap = ThreadCached::<Mmap>::new();
    for power in [12, 16, 21, 25, 26, 28] {
        let layout = Layout::from_size_align(6 * MIB, 1 << power).unwrap();
        let blocks = [(); 3].map(|()| heap.allocate(layout).unwrap());
        assert!(blocks.iter().all(|block| block.addr().get().is_multiple_of(1 << power)));
        (0..3).for_each(|name| mark(blocks[name], 0..1536, name));
        heap.check().unwrap();
        assert!((0..3).all(|name| has_marks(blocks[name], 1536, name)));
        // SAFETY: in use, with this layout.
        let grown =
            blocks.map(|block| unsafe { heap.reallocate(block, layout, 40 * MIB) }.unwrap());
        assert!(grown.iter().all(|block| block.addr().get().is_multiple_of(1 << power)));
        assert!((0..3).all(|name| has_marks(grown[name], 1536, name)));
        heap.check().unwrap();
        // SAFETY: in use.
        grown.into_iter().for_each(|block| unsafe { heap.deallocate(block) }.unwrap());
        heap.check().unwrap();
    }
}

#[test]
fn a_block_grows_where_spares_were_in_the_way_of_a_limit() {
    let heap = ThreadCached::<Limited<Mmap>>::over(Limited::over(Mmap::new(), 140 * MIB));
    let (spare, block) = (heap.allocate(layout(40 * MIB)), heap.allocate(layout(50 * MIB)));
    // SAFETY: both are in use.
    unsafe {
        heap.deallocate(spare.unwrap()).unwrap();
        heap.resize(block.unwrap(), 90 * MIB).unwrap();
    }
    heap.check().unwrap();
}

/// Blocks of two threads come, change their sizes and go, near a limit, and every one keeps what is in it.
#[test]
fn large_blocks_of_threads_near_a_limit_keep_their_contents() {
    let heap = &ThreadCached::<Limited<Mmap>>::over(Limited::over(Mmap::new(), 300 * MIB));
    let size = |rng: &mut Rng| match rng.below(4) {
        0 => 1024 + rng.below(4 * MIB),
        1 => 2 * MIB * (1 + rng.below(90)) - 4096 * rng.below(3),
        _ => 4 * MIB + rng.below(30 * MIB),
    };
    std::thread::scope(|scope| {
        for name in 0..2 {
            scope.spawn(move || {
                let mut rng = Rng::new(name as u64 + 1);
                let mut held: Vec<(NonNull<u8>, usize)> = Vec::new();
                for step in 0..1500 {
                    let new_size = size(&mut rng);
                    if held.len() < 8 && rng.below(3) > 0 {
                        let align = 1 << (4 + rng.below(24));
                        let layout = Layout::from_size_align(new_size, align).unwrap();
                        if let Some(block) = heap.allocate(layout) {
                            assert!(block.addr().get().is_multiple_of(align));
                            mark(block, 0..new_size / 4096, name);
                            held.push((block, new_size));
                        }
                    } else if !held.is_empty() {
                        let at = rng.below(held.len());
                        let (block, old_size) = held.swap_remove(at);
                        assert!(has_marks(block, old_size / 4096, name));
                        if rng.below(2) > 0 {
                            // SAFETY: in use.
                            unsafe { heap.deallocate(block) }.unwrap();
                            continue;
                        }
                        // SAFETY: in use.
                        match unsafe { heap.resize(block, new_size) } {
                            Ok(block) => {
                                assert!(has_marks(block, new_size.min(old_size) / 4096, name));
                                mark(block, 0..new_size / 4096, name);
                                held.push((block, new_size));
                            }
                            Err(error) => {
                                assert_eq!(error, HeapError::OutOfMemory);
                                assert!(has_marks(block, old_size / 4096, name));
                                held.push((block, old_size));
                            }
                        }
                    }
                    if step % 10 == 0 {
                        heap.check().unwrap();
                    }
                }
            });
        }
    });
}

/// Replaces blocks at random, as many as are held; what the heap holds when all are there, and in the end.
fn held_by_aligned_blocks(align: usize, size: usize, live: usize) -> [usize; 2] {
    let heap = ThreadCached::<Mmap>::new();
    let (layout, mut rng) = (Layout::from_size_align(size, align).unwrap(), Rng::new(1));
    let allocate = || heap.allocate(layout).unwrap();
    let mut blocks: Vec<_> = (0..live).map(|_| allocate()).collect();
    let at_first = heap.stats().footprint;
    for _ in 0..4000 {
        let block = &mut blocks[rng.below(live)];
        // SAFETY: in use.
        unsafe { heap.deallocate(*block) }.unwrap();
        *block = allocate();
        assert!(block.addr().get().is_multiple_of(align));
    }
    heap.check().unwrap();
    [at_first, heap.stats().footprint]
}

#[test]
fn aligned_blocks_are_where_others_were() {
    let kib = 1 << 10;
    for (align, size, live) in [
        (64 * kib, 100, 500),
        (64 * kib, 40_000, 500),
        (256 * kib, 4096, 200),
        (MIB, 4096, 100),
        (2 * MIB, 4 * MIB, 10),
        (16 * MIB, 100, 4),
    ] {
        let [at_first, in_the_end] = held_by_aligned_blocks(align, size, live);
        assert!(
            in_the_end <= 2 * at_first + 32 * MIB,
            "{size} bytes at {align}: {at_first} bytes held at first, {in_the_end} in the end"
        );
    }
}

/// Mappings that count how often something is to be discarded.
struct Asked(Mmap, &'static AtomicUsize);

// SAFETY: the mappings are the inner backend's.
unsafe impl HeapBackend for Asked {
    unsafe fn discard(&mut self, region: Region) -> bool {
        self.1.fetch_add(1, Relaxed);
        // SAFETY: the caller promises the same.
        unsafe { self.0.discard(region) }
    }

    hand_on! { 0: page_size, grow, shrink, map, resize }
}

#[test]
fn what_is_freed_at_random_is_not_discarded_page_by_page() {
    let asked: &AtomicUsize = Box::leak(Box::default());
    let heap = ThreadCached::<Asked>::over(Asked(Mmap::new(), asked));
    let (mut rng, bytes) = (Rng::new(3), 300 * MIB);
    let mut blocks: Vec<_> =
        (0..bytes / 4000).map(|_| heap.allocate(layout(4000)).unwrap()).collect();
    while !blocks.is_empty() {
        let block = blocks.swap_remove(rng.below(blocks.len()));
        // SAFETY: in use.
        unsafe { heap.deallocate(block) }.unwrap();
    }
    let asked = asked.load(Relaxed);
    println!("asked {asked} times");
    // Short runs are discarded if they are not needed for some time, which a slow machine may take.
    assert!((1..bytes / (32 << 10)).contains(&asked), "asked {asked} times");
    heap.check().unwrap();
}

/// Mappings of which one page cannot be discarded, as if it were locked into memory; and how much was, or went back.
struct Refusing(Mmap, &'static AtomicUsize, &'static AtomicUsize);

// SAFETY: the mappings are the inner backend's.
unsafe impl HeapBackend for Refusing {
    unsafe fn discard(&mut self, region: Region) -> bool {
        if (region.addr()..region.end()).contains(&self.1.load(Relaxed)) {
            return false;
        }
        self.2.fetch_add(region.size, Relaxed);
        // SAFETY: the caller promises the same.
        unsafe { self.0.discard(region) }
    }

    unsafe fn shrink(&mut self, region: Region) -> usize {
        self.2.fetch_add(region.size, Relaxed);
        // SAFETY: the caller promises the same.
        unsafe { self.0.shrink(region) }
    }

    hand_on! { 0: page_size, grow, map, resize }
}

#[test]
fn a_page_that_cannot_be_discarded_keeps_no_others() {
    let (locked, discarded): (&AtomicUsize, &AtomicUsize) =
        (Box::leak(Box::default()), Box::leak(Box::default()));
    let heap = ThreadCached::<Refusing>::over(Refusing(Mmap::new(), locked, discarded));
    let free = |block| {
        // SAFETY: in use.
        unsafe { heap.deallocate(block) }.unwrap();
    };
    let block = heap.allocate(layout(100_000)).unwrap();
    locked.store(block.addr().get() + 50_000, Relaxed);
    free(block);
    for round in 1..=2 {
        // One in a hundred stays, and the chunks with it.
        let blocks: Vec<_> = (0..2000).map(|_| heap.allocate(layout(40_000)).unwrap()).collect();
        let (stay, go): (Vec<_>, Vec<_>) =
            blocks.into_iter().enumerate().partition(|(number, _)| number % 100 == 0);
        let before = discarded.load(Relaxed);
        go.into_iter().for_each(|(_, block)| free(block));
        heap.trim();
        let given = discarded.load(Relaxed) - before;
        assert!(given > 60 * MIB, "round {round}: {} MiB were discarded", given / MIB);
        stay.into_iter().for_each(|(_, block)| free(block));
        heap.check().unwrap();
    }
}

#[test]
fn what_is_freed_and_soon_filled_again_is_not_discarded_each_time() {
    fills_again(5000, 40_000);
    fills_again(1, 200 * MIB);
    fills_again(40, 5 * MIB);
}

/// With so many blocks as long.
fn fills_again(count: usize, size: usize) {
    let discarded: &AtomicUsize = Box::leak(Box::default());
    let nothing: &AtomicUsize = Box::leak(Box::default());
    let heap = ThreadCached::<Refusing>::over(Refusing(Mmap::new(), nothing, discarded));
    let cycle = || {
        let before = discarded.load(Relaxed);
        let blocks: Vec<_> = (0..count).map(|_| heap.allocate(layout(size)).unwrap()).collect();
        for block in blocks {
            // SAFETY: in use.
            unsafe { heap.deallocate(block) }.unwrap();
        }
        discarded.load(Relaxed) - before
    };
    let first = cycle();
    assert!(first > 100 * MIB, "of a single peak {} MiB go at once", first / MIB);
    let later: usize = (0..20).map(|_| cycle()).sum();
    assert!(later < 8 * first, "of twenty more that follow at once, {} MiB", later / MIB);
    heap.check().unwrap();
}
