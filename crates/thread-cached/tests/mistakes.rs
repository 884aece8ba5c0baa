//! What went wrong once where threads meet, or blocks are large.

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::mpsc;
use std::thread;

use heapwright_backends::Mmap;
use heapwright_core::misuse::{OnMisuse, set_on_misuse};
use heapwright_core::{FutexMutex, HeapBackend, HeapError, New, Region, Strategy, hand_on};
use heapwright_policies::BestFitTree;
use heapwright_testkit::Rng;
use heapwright_thread_cached::{Design, ThreadCached};

/// A block on its way to another thread.
struct Sent(NonNull<u8>);

// SAFETY: whoever has it has the block.
unsafe impl Send for Sent {}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 16).unwrap()
}

#[test]
fn what_is_at_hand_and_idle_goes_back() {
    let heap = ThreadCached::<Mmap>::new();
    let come_and_go = |size: usize| {
        let block = heap.allocate(layout(size)).unwrap();
        // SAFETY: in use.
        unsafe { heap.deallocate(block).unwrap() };
    };
    (1..=60).for_each(|class| come_and_go(class * 500));
    let cached = heap.stats().cached_bytes;
    (0..200_000).for_each(|_| come_and_go(48));
    let left = heap.stats().cached_bytes;
    heap.check().unwrap();
    assert!(cached > 256 << 10, "much is at hand: {cached}");
    // Sixteen pages of runs stay until time has passed.
    assert!(left < (1 << 10) + (16 << 13), "{left} bytes are at hand still, {cached} were");
}

#[test]
fn what_comes_in_at_the_end_of_a_thread_goes_back() {
    let heap = &ThreadCached::<Mmap>::new();
    thread::scope(|scope| {
        let (to_us, from_thread) = mpsc::channel();
        let (to_thread, from_us) = mpsc::channel::<()>();
        let owner = scope.spawn(move || {
            for _ in 0..100 {
                to_us.send(Sent(heap.allocate(layout(100)).unwrap())).unwrap();
            }
            drop(to_us);
            from_us.recv().unwrap_err();
        });
        for Sent(block) in from_thread {
            // SAFETY: in use.
            unsafe { heap.deallocate(block) }.unwrap();
        }
        heap.trim();
        drop(to_thread);
        owner.join().unwrap();
    });
    heap.trim();
    let stats = heap.stats();
    assert_eq!((stats.live_blocks, stats.cached_blocks), (0, 0), "{stats:?}");
}

#[test]
fn who_only_frees_gets_back_what_it_sends_home_in() {
    let heap = &ThreadCached::<Mmap>::new();
    thread::scope(|scope| {
        let (to_us, from_thread) = mpsc::sync_channel(4);
        scope.spawn(move || {
            for _ in 0..300 {
                let batch: Vec<_> =
                    (0..4000).map(|_| Sent(heap.allocate(layout(64)).unwrap())).collect();
                to_us.send(batch).unwrap();
            }
        });
        for Sent(block) in from_thread.into_iter().flatten() {
            // SAFETY: in use.
            unsafe { heap.deallocate(block) }.unwrap();
        }
        // What is in another thread's mailbox counts as live.
        let stats = heap.stats();
        assert!(stats.live_bytes + stats.cached_bytes < 2 << 20, "{stats:?}");
    });
}

/// Frees a block in a thread of its own, which sends it home.
fn free_elsewhere(heap: &ThreadCached, block: NonNull<u8>) -> Result<(), HeapError> {
    let sent = Sent(block);
    thread::scope(|scope| {
        scope
            .spawn(|| {
                let Sent(block) = { sent };
                // SAFETY: in use, or a misuse that the caller wants.
                unsafe { heap.deallocate(block) }
            })
            .join()
            .unwrap()
    })
}

#[test]
fn an_object_that_two_others_free_is_not_given_out_twice() {
    set_on_misuse(OnMisuse::Count);
    let heap: ThreadCached = ThreadCached::new();
    let block = heap.allocate(layout(64)).unwrap();
    assert_eq!(free_elsewhere(&heap, block), Ok(()));
    assert_eq!(free_elsewhere(&heap, block), Ok(()), "found when it comes home");
    let mut given: Vec<_> = (0..2000).map(|_| heap.allocate(layout(64)).unwrap()).collect();
    given.sort();
    given.dedup();
    assert_eq!((given.len(), heap.stats().misuses), (2000, 1));
}

/// What lies behind the last object of a slab is in a page of it, and no object. Two such addresses in a row were looked at
/// for ever.
#[test]
fn the_end_of_a_slab_behind_its_objects_is_no_object() {
    // So that 32 bytes are left in a page of 8 KiB.
    const SIZE: usize = 48;
    set_on_misuse(OnMisuse::Count);
    let heap: ThreadCached = ThreadCached::new();
    let blocks: Vec<_> = (0..4000).map(|_| heap.allocate(layout(SIZE)).unwrap()).collect();
    let end = blocks.iter().find(|block| (block.addr().get() + SIZE) % (8 << 10) == (8 << 10) - 32);
    let end = end.unwrap().addr().saturating_add(SIZE);
    for wrong in [end, end.saturating_add(16)] {
        // SAFETY: no block, which is what this is about: nothing is at stake, as these bytes are nobody's.
        let _ = unsafe { heap.deallocate(NonNull::without_provenance(wrong)) };
    }
    // SAFETY: in use.
    blocks.into_iter().for_each(|block| unsafe { heap.deallocate(block) }.unwrap());
    heap.trim();
    heap.check().unwrap();
    assert_eq!(heap.stats().misuses, 2);
}

/// Frees blocks in a thread of its own, which sends them home together and has ended then.
fn free_all_elsewhere(heap: &ThreadCached, blocks: &[NonNull<u8>]) {
    let sent: Vec<_> = blocks.iter().map(|&block| Sent(block)).collect();
    let free = move || {
        for Sent(block) in sent {
            // SAFETY: in use, or a misuse that the caller wants.
            unsafe { heap.deallocate(block) }.unwrap();
        }
    };
    thread::scope(|scope| scope.spawn(free).join().unwrap());
}

#[test]
fn an_object_that_two_others_free_among_others_is_found_when_it_goes_back_to_its_slab() {
    set_on_misuse(OnMisuse::Count);
    let heap: ThreadCached = ThreadCached::new();
    let blocks: Vec<_> = (0..3).map(|_| heap.allocate(layout(64)).unwrap()).collect();
    free_all_elsewhere(&heap, &[blocks[0], blocks[1]]);
    free_all_elsewhere(&heap, &[blocks[0], blocks[2]]);
    heap.trim();
    let stats = heap.stats();
    assert_eq!((stats.live_blocks, stats.misuses), (0, 1), "{stats:?}");
    heap.check().unwrap();
}

#[test]
fn what_comes_home_side_by_side_or_scattered_finds_its_slab() {
    set_on_misuse(OnMisuse::Count);
    for stride in [1, 2, 509] {
        let heap: ThreadCached = ThreadCached::new();
        // Many more than bins hold, of classes whose slabs lie between each other.
        let count = 4999;
        let sizes = [16, 64, 200, 1000];
        let blocks: Vec<_> =
            (0..count).map(|at| heap.allocate(layout(sizes[at % sizes.len()])).unwrap()).collect();
        let mut order: Vec<_> = (0..count).map(|at| blocks[at * stride % count]).collect();
        // Freed twice by two threads; and no object, but an address in one.
        let twice = order[100];
        free_all_elsewhere(&heap, &[twice]);
        let within = order[200].map_addr(|addr| addr.saturating_add(8));
        order.insert(300, within);
        free_all_elsewhere(&heap, &order);
        heap.trim();
        let stats = heap.stats();
        assert_eq!((stats.live_blocks, stats.misuses), (0, 2), "stride {stride}: {stats:?}");
        heap.check().unwrap();
    }
}

#[test]
fn an_object_freed_twice_in_a_row_elsewhere_is_found_at_once() {
    let heap: ThreadCached = ThreadCached::new();
    for (size, has_own) in [(64, false), (64, true), (32 << 10, false), (32 << 10, true)] {
        let sent = Sent(heap.allocate(layout(size)).unwrap());
        thread::scope(|scope| {
            scope.spawn(|| {
                let Sent(block) = { sent };
                if has_own {
                    heap.allocate(layout(size)).unwrap();
                }
                // SAFETY: in use; the second free is refused.
                unsafe {
                    assert_eq!(heap.deallocate(block), Ok(()));
                    let double = HeapError::DoubleFree(block.addr().get());
                    assert_eq!(heap.deallocate(block), Err(double));
                }
            });
        });
    }
}

#[test]
fn an_object_freed_twice_in_a_row_is_found_when_it_goes_home_in_between() {
    for size in [64, 2000, 5000] {
        for (ends, has_own) in [(false, false), (false, true), (true, false), (true, true)] {
            let heap = &<ThreadCached>::new();
            thread::scope(|scope| {
                let (give, given) = mpsc::channel();
                let (wake, sleep) = mpsc::channel::<()>();
                let owner = scope.spawn(move || {
                    for _ in 0..1000 {
                        give.send(Sent(heap.allocate(layout(size)).unwrap())).unwrap();
                    }
                    drop(give);
                    if !ends {
                        sleep.recv().unwrap_err();
                    }
                });
                let blocks: Vec<_> = given.into_iter().collect();
                if ends {
                    owner.join().unwrap();
                }
                if has_own {
                    heap.allocate(layout(size)).unwrap();
                }
                for Sent(block) in blocks {
                    // SAFETY: in use; the second free is refused.
                    unsafe {
                        assert_eq!(heap.deallocate(block), Ok(()));
                        let double = HeapError::DoubleFree(block.addr().get());
                        assert_eq!(
                            heap.deallocate(block),
                            Err(double),
                            "{size}, {ends}, {has_own}"
                        );
                    }
                }
                drop(wake);
            });
        }
    }
}

#[test]
fn an_object_that_stays_and_goes_later_is_not_freed_twice() {
    // Where the owner has not taken what went home, the last that was to go may stay, alone in its bin.
    for before in 240..260 {
        let heap = &<ThreadCached>::new();
        let free = |Sent(block): Sent| {
            // SAFETY: in use.
            unsafe { heap.deallocate(block).unwrap() };
        };
        thread::scope(|scope| {
            let (give, given) = mpsc::channel();
            let (wake, sleep) = mpsc::channel::<()>();
            scope.spawn(move || {
                for size in [64].repeat(before).into_iter().chain([32]) {
                    give.send(Sent(heap.allocate(layout(size)).unwrap())).unwrap();
                }
                drop(give);
                sleep.recv().unwrap_err();
            });
            scope.spawn(move || given.into_iter().for_each(free)).join().unwrap();
            drop(wake);
        });
        heap.trim();
        let stats = heap.stats();
        assert_eq!((stats.live_blocks, stats.misuses), (0, 0), "after {before}");
        heap.check().unwrap();
    }
}

#[test]
fn an_object_that_went_home_and_came_again_may_be_freed_again() {
    let heap = &<ThreadCached>::new();
    let free = |block: NonNull<u8>| {
        // SAFETY: in use.
        unsafe { heap.deallocate(block).unwrap() };
    };
    thread::scope(|scope| {
        let (give, given) = mpsc::sync_channel(0);
        let (ask, asked) = mpsc::sync_channel::<usize>(0);
        scope.spawn(move || {
            // All is sent home by an unknown number of objects: few of those freed last are the last to go.
            let (mut last, mut met) = (None, 0);
            while let Ok(count) = asked.recv() {
                // What came home is looked at when none is at hand; that which went home last goes first.
                let mut blocks = Vec::new();
                while blocks.len() < count || blocks.len() < 2000 && blocks.last().copied() != last
                {
                    blocks.push(heap.allocate(layout(64)).unwrap());
                }
                met += usize::from(blocks.last().copied() == last);
                blocks.reverse();
                blocks.drain(count..).for_each(free);
                last = blocks.last().copied();
                give.send(blocks.into_iter().map(Sent).collect::<Vec<_>>()).unwrap();
            }
            assert!(met > 0, "some came again");
        });
        let mut rng = Rng::new(8);
        for _ in 0..3000 {
            ask.send(1 + rng.below(130)).unwrap();
            given.recv().unwrap().into_iter().for_each(|Sent(block)| free(block));
        }
        drop(ask);
    });
    heap.check().unwrap();
}

/// A backend that keeps what it gave, and gives nothing but zeros.
#[derive(Default)]
struct Keeping(Mmap);

// SAFETY: mappings that are never unmapped.
unsafe impl HeapBackend for Keeping {
    unsafe fn shrink(&mut self, _region: Region) -> usize {
        0
    }

    hand_on! { 0: page_size, grow }
}

impl New for Keeping {
    const NEW: Self = Self(Mmap::NEW);
}

#[test]
fn blocks_a_little_shorter_than_a_chunk_do_not_get_into_each_others_way() {
    // This backend gives each region right behind the last one.
    let heap = ThreadCached::<Keeping>::new();
    let short = layout((32 << 20) - (64 << 10));
    let aligned = Layout::from_size_align(17 << 20, 16 << 20).unwrap();
    let blocks: Vec<_> = (0..64)
        .map(|at| heap.allocate(if at < 32 || at % 2 == 0 { short } else { aligned }).unwrap())
        .collect();
    for block in blocks {
        // SAFETY: in use.
        assert_eq!(unsafe { heap.deallocate(block) }, Ok(()));
    }
}

#[test]
fn blocks_a_little_shorter_than_a_chunk_are_moved_by_their_pages() {
    let heap = ThreadCached::<Mmap>::new();
    let (short, long) = (layout((32 << 20) - (64 << 10)), layout(64 << 20));
    let mut blocks: Vec<_> = (0..64).map(|_| heap.allocate(short).unwrap()).collect();
    for block in &mut blocks {
        // SAFETY: in use, and of this layout.
        unsafe {
            *block = heap.reallocate(*block, short, long.size()).unwrap();
            *block = heap.reallocate(*block, long, short.size()).unwrap();
        }
    }
    for block in blocks {
        // SAFETY: in use.
        assert_eq!(unsafe { heap.deallocate(block) }, Ok(()));
    }
}

#[test]
fn what_a_backend_keeps_and_cannot_discard_is_not_taken_for_zero() {
    let heap = ThreadCached::<Keeping>::new();
    let layout = layout(20 << 20);
    // SAFETY: in use, and that long.
    unsafe {
        let blocks = [(); 4].map(|()| heap.allocate(layout).unwrap());
        blocks.iter().for_each(|block| block.write_bytes(1, layout.size()));
        blocks.iter().for_each(|&block| heap.deallocate(block).unwrap());
        heap.trim();
        for _ in 0..4 {
            let block = heap.allocate_zeroed(layout).unwrap();
            assert!(
                NonNull::slice_from_raw_parts(block, layout.size())
                    .as_ref()
                    .iter()
                    .all(|&byte| byte == 0)
            );
        }
    }
}

/// Nothing is kept at hand but one object of each class.
enum NothingKept {}

impl Design for NothingKept {
    type Runs = BestFitTree;
    const KEPT: usize = 0;
}

#[test]
fn no_more_parcels_are_at_hand_than_are_kept() {
    let heap = ThreadCached::<Mmap, FutexMutex, NothingKept>::new();
    for round in 0..40 {
        let blocks: Vec<_> = (0..4000).map(|_| Sent(heap.allocate(layout(64)).unwrap())).collect();
        thread::scope(|scope| {
            let (to_us, from_thread) = mpsc::channel();
            let heap = &heap;
            let other = scope.spawn(move || {
                for Sent(block) in blocks {
                    // SAFETY: in use.
                    unsafe { heap.deallocate(block) }.unwrap();
                    to_us.send(Sent(heap.allocate(layout(200)).unwrap())).unwrap();
                }
            });
            for Sent(block) in from_thread {
                // SAFETY: in use.
                unsafe { heap.deallocate(block) }.unwrap();
            }
            other.join().unwrap();
        });
        assert_eq!(heap.check(), Ok(()), "round {round}");
    }
    heap.trim();
    let stats = heap.stats();
    assert_eq!((stats.live_blocks, stats.cached_blocks), (0, 0), "{stats:?}");
}

#[test]
fn a_large_block_that_two_threads_free_at_once_is_freed_by_one() {
    let heap = &<ThreadCached>::new();
    for size in [40_000, 200_000] {
        let (to_us, from_thread) = mpsc::sync_channel(0);
        let (to_thread, from_us) = mpsc::sync_channel::<Sent>(0);
        thread::scope(|scope| {
            scope.spawn(move || {
                for Sent(block) in from_us {
                    // SAFETY: any pointer is tolerated.
                    to_us.send(unsafe { heap.deallocate(block) }.is_ok()).unwrap();
                }
            });
            for _ in 0..2000 {
                let block = heap.allocate(layout(size)).unwrap();
                to_thread.send(Sent(block)).unwrap();
                // SAFETY: as above.
                let ours = unsafe { heap.deallocate(block) }.is_ok();
                assert_ne!(ours, from_thread.recv().unwrap(), "one of them frees it");
            }
            drop(to_thread);
        });
        heap.check().unwrap();
    }
}
