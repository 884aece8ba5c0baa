//! Threads that come and go, and heaps that come and go under them.

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use heapwright_core::Strategy;
use heapwright_testkit::Rng;
use heapwright_thread_cached::ThreadCached;

/// A block and the byte that all of it holds.
struct Block(NonNull<u8>, Layout, u8);

// SAFETY: a block is its owner's alone, and its heap is used by many threads.
unsafe impl Send for Block {}

impl Block {
    /// Mostly small, now and then a run of pages.
    fn new(heap: &ThreadCached, rng: &mut Rng) -> Self {
        let size = if rng.below(50) == 0 { 1 << 17 } else { 2000 };
        let layout = Layout::from_size_align(1 + rng.below(size), 8).expect("a layout");
        Self::with(heap, layout, rng.below(256) as u8)
    }

    fn with(heap: &ThreadCached, layout: Layout, byte: u8) -> Self {
        let block = heap.allocate(layout).expect("memory");
        // SAFETY: the block is that long.
        unsafe { block.write_bytes(byte, layout.size()) };
        Self(block, layout, byte)
    }

    fn free(self, heap: &ThreadCached) {
        let Self(block, layout, byte) = self;
        // SAFETY: the block is in use and that long.
        unsafe {
            let bytes = NonNull::slice_from_raw_parts(block, layout.size());
            assert!(
                bytes.as_ref().iter().all(|&it| it == byte),
                "another block was given its bytes"
            );
            heap.deallocate(block).expect("a block in use");
        }
    }
}

/// Allocates and frees; what is left goes to whoever waits for it.
fn churn(heap: &ThreadCached, seed: u64, left: &mpsc::Sender<Block>) {
    let mut rng = Rng::new(seed);
    let mut blocks = Vec::new();
    for _ in 0..500 {
        blocks.push(Block::new(heap, &mut rng));
        if blocks.len() > 20 {
            blocks.swap_remove(rng.below(blocks.len())).free(heap);
        }
    }
    blocks.into_iter().for_each(|block| left.send(block).expect("a receiver"));
}

/// What the heap holds beside blocks when `rounds` of so many threads at once have come, and gone.
fn overhead_after(heap: &ThreadCached, rounds: usize, at_once: usize) -> usize {
    for round in 0..rounds {
        let (sender, left) = mpsc::channel();
        let all_are_there = Barrier::new(at_once);
        thread::scope(|scope| {
            let threads: Vec<_> = (0..at_once)
                .map(|thread| {
                    let (sender, barrier) = (sender.clone(), &all_are_there);
                    scope.spawn(move || {
                        let seed = (round * at_once + thread) as u64;
                        // No one ends before all have begun.
                        Block::new(heap, &mut Rng::new(seed)).free(heap);
                        barrier.wait();
                        churn(heap, seed, &sender);
                    })
                })
                .collect();
            // To the very end of each, which a scope does not wait for.
            threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        });
        drop(sender);
        // By a thread that ends too, when its owner has ended.
        let free = || left.into_iter().for_each(|block| block.free(heap));
        thread::scope(|scope| scope.spawn(free).join().expect("no panic"));
    }
    heap.check().expect("a whole heap");
    // The sums settle what was left for those that ended; then empty slabs are free pages.
    heap.trim();
    let stats = heap.stats();
    assert_eq!((stats.live_blocks, stats.misuses), (0, 0));
    stats.overhead
}

#[test]
fn the_parts_of_threads_that_ended_are_used_again() {
    let heap = ThreadCached::new();
    let after_8 = overhead_after(&heap, 8, 1);
    assert_eq!(overhead_after(&heap, 248, 1), after_8);
    let of_many = overhead_after(&heap, 2, 8);
    assert_eq!(overhead_after(&heap, 30, 8), of_many);
}

/// Its own bins always have what it asks for, and it never has to look for more.
#[test]
fn a_thread_that_does_little_takes_in_what_others_free_for_it() {
    let heap = &<ThreadCached>::new();
    let layout = Layout::from_size_align(1000, 8).expect("a layout");
    let (sender, receiver) = mpsc::channel();
    let freed = &Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..10_000 {
                sender
                    .send(Block(heap.allocate(layout).expect("memory"), layout, 0))
                    .expect("sent");
            }
            drop(sender);
            freed.wait();
            for _ in 0..1000 {
                let block = heap.allocate(layout).expect("memory");
                // SAFETY: in use.
                unsafe { heap.deallocate(block).expect("a block in use") };
            }
            let stats = heap.stats();
            assert!(stats.live_bytes < 100_000, "{stats:?}");
        });
        for Block(block, ..) in receiver {
            // SAFETY: in use.
            unsafe { heap.deallocate(block).expect("a block in use") };
        }
        freed.wait();
    });
}

#[test]
fn a_larger_object_serves_who_frees_it_and_takes_such_and_a_small_one_does_not() {
    /// Whether what a thread freed of another's serves it next; which has some of its own and uses others' now and then.
    fn serves(heap: &ThreadCached, size: usize, has_own: bool) -> bool {
        let layout = Layout::from_size_align(size, 8).unwrap();
        let of_another = Block::with(heap, layout, 1);
        let was = of_another.0.addr();
        let serves = thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let own = has_own.then(|| Block::with(heap, layout, 2));
                of_another.free(heap);
                let next = Block::with(heap, layout, 3);
                let serves = next.0.addr() == was;
                [Some(next), own].into_iter().flatten().for_each(|block| block.free(heap));
                serves
            });
            thread.join().unwrap()
        });
        heap.check().unwrap();
        serves
    }
    for size in [8 << 10, 32 << 10] {
        assert!(serves(&ThreadCached::new(), size, true), "{size} bytes");
        assert!(
            !serves(&ThreadCached::new(), size, false),
            "{size} bytes, the first of the thread"
        );
    }
    assert!(!serves(&ThreadCached::new(), 1 << 10, true), "a small one");
}

#[test]
fn a_thread_may_use_more_heaps_than_it_remembers_and_they_may_go_in_any_order() {
    const HEAPS: usize = 20;
    let heaps: Vec<_> = (0..HEAPS).map(|_| Arc::new(ThreadCached::new())).collect();
    let threads: Vec<_> = (0..4)
        .map(|seed| {
            let mut heaps = heaps.clone();
            thread::spawn(move || {
                let mut rng = Rng::new(seed);
                while !heaps.is_empty() {
                    let mut blocks = Vec::new();
                    for _ in 0..300 {
                        let heap = rng.below(heaps.len());
                        blocks.push((heap, Block::new(&heaps[heap], &mut rng)));
                        if blocks.len() > 100 {
                            let (heap, block) = blocks.swap_remove(rng.below(blocks.len()));
                            block.free(&heaps[heap]);
                        }
                    }
                    blocks.into_iter().for_each(|(heap, block)| block.free(&heaps[heap]));
                    // Whoever is the last to let go of a heap drops it; the others go on with the rest.
                    let heap = heaps.swap_remove(rng.below(heaps.len()));
                    heap.check().expect("a whole heap");
                }
            })
        })
        .collect();
    drop(heaps);
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
}

#[test]
fn a_heap_may_go_before_the_threads_that_used_it() {
    let heap = Arc::new(ThreadCached::new());
    let (used, gone) = (Barrier::new(5), Barrier::new(5));
    thread::scope(|scope| {
        for seed in 0..4 {
            let (heap, used, gone) = (Arc::clone(&heap), &used, &gone);
            scope.spawn(move || {
                Block::new(&heap, &mut Rng::new(seed)).free(&heap);
                drop(heap);
                used.wait();
                gone.wait();
                // Another may lie where that one lay.
                let other = ThreadCached::new();
                Block::new(&other, &mut Rng::new(seed)).free(&other);
            });
        }
        used.wait();
        assert_eq!(Arc::strong_count(&heap), 1);
        drop(heap);
        gone.wait();
    });
}

#[test]
fn a_heap_may_go_while_threads_that_used_it_end() {
    for _ in 0..300 {
        let heap = Arc::new(ThreadCached::new());
        let threads: Vec<_> = (0..8)
            .map(|seed| {
                let heap = Arc::clone(&heap);
                // The last to let go of the heap drops it, while the others hand back what they have of it, or may not any
                // more.
                thread::spawn(move || Block::new(&heap, &mut Rng::new(seed)).free(&heap))
            })
            .collect();
        drop(heap);
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    }
}

#[test]
fn threads_that_end_do_not_pile_up_behind_each_other() {
    const WORKING: usize = 30;
    static HEAP: ThreadCached = ThreadCached::new();
    let working = Arc::new(AtomicUsize::new(0));
    for _ in 0..2000 {
        while working.load(Relaxed) >= WORKING {
            thread::sleep(Duration::from_micros(200));
        }
        working.fetch_add(1, Relaxed);
        let working = Arc::clone(&working);
        thread::spawn(move || {
            let sizes = (0..100).map(|step| 1 + step * 300);
            let blocks: Vec<_> = sizes
                .map(|size| Block::with(&HEAP, Layout::from_size_align(size, 8).unwrap(), 1))
                .collect();
            blocks.into_iter().for_each(|block| block.free(&HEAP));
            // What it leaves is handed back after this.
            working.fetch_sub(1, Relaxed);
        });
    }
    while working.load(Relaxed) > 0 {
        thread::sleep(Duration::from_millis(1));
    }
    // Each has some 1.5 MiB at once.
    let footprint = HEAP.stats().footprint;
    assert!(footprint < 256 << 20, "{} MiB", footprint >> 20);
}

/// With many threads to a processor, most of them wait for their turn at one, and what others freed of theirs waits with
/// them.
#[test]
fn threads_in_a_crowd_use_again_what_they_free_of_each_others() {
    const SLOTS: usize = 10_000;
    let heap = &<ThreadCached>::new();
    let slots: &Vec<_> = &(0..SLOTS).map(|_| Mutex::new(None::<Block>)).collect();
    let most = thread::scope(|scope| {
        let swap = |seed| {
            let mut rng = Rng::new(seed);
            for _ in 0..50_000 {
                let layout = Layout::from_size_align(16 + rng.below(500), 8).expect("a layout");
                let block = Block::with(heap, layout, rng.below(256) as u8);
                let slot = slots[rng.below(SLOTS)].lock();
                let before = slot.expect("no panic").replace(block);
                before.into_iter().for_each(|block| block.free(heap));
            }
        };
        let threads: Vec<_> = (0..64).map(|seed| scope.spawn(move || swap(seed))).collect();
        let mut most = 0;
        while !threads.iter().all(|thread| thread.is_finished()) {
            most = most.max(heap.stats().footprint);
            thread::sleep(Duration::from_millis(5));
        }
        most
    });
    // What lives has 2.5 MiB; each thread has slabs of its own for each of thirty classes.
    assert!(most <= 96 << 20, "{} MiB", most >> 20);
    slots
        .iter()
        .filter_map(|slot| slot.lock().expect("no panic").take())
        .for_each(|block| block.free(heap));
    assert_eq!(heap.check(), Ok(()));
}
