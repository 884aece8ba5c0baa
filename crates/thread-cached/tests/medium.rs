//! Blocks of 32 to 128 KiB: in a large heap they have classes, and are runs of pages elsewhere.

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::mpsc;
use std::thread;

use heapwright_backends::Mmap;
use heapwright_core::{BlockState, HeapError, Strategy};
use heapwright_testkit::Rng;
use heapwright_thread_cached::{Checked, ThreadCached};

const KIB: usize = 1 << 10;

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 16).unwrap()
}

/// A block in use: its first and its last byte have its name.
struct Named {
    block: NonNull<u8>,
    size: usize,
    name: u8,
}

// SAFETY: whoever has it has the block.
unsafe impl Send for Named {}

impl Named {
    fn new(heap: &impl Strategy, size: usize, name: u8) -> Self {
        let block = heap.allocate(layout(size)).unwrap();
        let named = Self { block, size, name };
        named.write();
        named
    }

    fn write(&self) {
        // SAFETY: the block has that many bytes.
        unsafe {
            self.block.write(self.name);
            self.block.add(self.size - 1).write(self.name);
        }
    }

    fn verify(&self) {
        // SAFETY: as above.
        let ends = unsafe { [self.block.read(), self.block.add(self.size - 1).read()] };
        assert_eq!(ends, [self.name; 2], "a block of {} bytes keeps what was written", self.size);
    }

    fn free(self, heap: &impl Strategy) {
        self.verify();
        // SAFETY: in use.
        unsafe { heap.deallocate(self.block) }.unwrap();
    }

    fn resize(&mut self, heap: &impl Strategy, size: usize) {
        // SAFETY: in use.
        unsafe {
            self.block = heap.resize(self.block, size).unwrap();
            assert_eq!(self.block.read(), self.name, "the beginning is kept");
        }
        self.size = size;
        self.write();
    }
}

/// A heap with so many MiB in use, in blocks of a length that no test here asks for.
fn large(mebibytes: usize) -> ThreadCached<Mmap> {
    let heap = ThreadCached::new();
    (0..mebibytes).for_each(|_| _ = heap.allocate(layout(KIB * KIB)).unwrap());
    // Which the thread hears of when it takes a run.
    let block = heap.allocate(layout(200 * KIB)).unwrap();
    // SAFETY: in use.
    unsafe { heap.deallocate(block) }.unwrap();
    heap
}

/// Blocks of random sizes come and go, some of them resized, some of them on the way from one thread to another.
fn exercise(heap: &(impl Strategy + Sync), steps: usize) {
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..3).map(|_| mpsc::channel::<Named>()).unzip();
    thread::scope(|scope| {
        for (number, from_others) in receivers.into_iter().enumerate() {
            let to_others = senders.clone();
            scope.spawn(move || {
                let mut rng = Rng::new(number as u64);
                let mut held = Vec::new();
                let size = |rng: &mut Rng| 20 * KIB + rng.below(120 * KIB);
                for step in 0..steps {
                    match rng.below(8) {
                        0..3 => held.push(Named::new(heap, size(&mut rng), step as u8)),
                        3 if !held.is_empty() => {
                            let at = rng.below(held.len());
                            let new_size = size(&mut rng);
                            held[at].resize(heap, new_size);
                        }
                        4 if !held.is_empty() => {
                            let named = held.swap_remove(rng.below(held.len()));
                            to_others[rng.below(to_others.len())].send(named).unwrap();
                        }
                        5 => from_others.try_iter().for_each(|named| named.free(heap)),
                        _ if held.len() > 100 || step % 2 == 0 && !held.is_empty() => {
                            held.swap_remove(rng.below(held.len())).free(heap);
                        }
                        _ => {}
                    }
                }
                drop(to_others);
                held.into_iter().chain(from_others).for_each(|named| named.free(heap));
            });
        }
        drop(senders);
    });
    heap.check().unwrap();
}

#[test]
fn blocks_keep_what_was_written_whoever_frees_them() {
    let heap = large(64);
    let live = heap.stats().live_bytes;
    exercise(&heap, 20_000);
    heap.trim();
    heap.check().unwrap();
    let stats = heap.stats();
    assert_eq!((stats.live_bytes, stats.cached_bytes), (live, 0), "{stats:?}");
}

#[test]
fn so_they_do_where_every_free_is_verified() {
    let heap = ThreadCached::<Mmap, heapwright_core::FutexMutex, Checked>::new();
    (0..64).for_each(|_| _ = heap.allocate(layout(KIB * KIB)).unwrap());
    exercise(&heap, 5_000);
}

#[test]
fn what_is_kept_of_them_is_a_part_of_what_is_in_use_and_goes_back() {
    for mebibytes in [0, 16, 256] {
        let heap = large(mebibytes);
        let live = heap.stats().live_bytes;
        for size in (5..=16).map(|pages| pages * 8 * KIB) {
            let blocks: Vec<_> = (0..40).map(|name| Named::new(&heap, size, name)).collect();
            blocks.into_iter().for_each(|block| block.free(&heap));
        }
        heap.check().unwrap();
        let stats = heap.stats();
        assert_eq!(stats.live_bytes, live);
        let kept = stats.cached_bytes;
        // Three eighths of what was in use, 12 MiB at most.
        let most = ((mebibytes + 5) * KIB * KIB * 3 / 8).min(12 << 20);
        assert!((1..=most).contains(&kept), "{kept} bytes are kept beside {mebibytes} MiB");
        heap.trim();
        assert_eq!(heap.stats().cached_bytes, 0);
    }
}

#[test]
fn what_was_freed_is_shown_and_serves_next() {
    let heap = large(64);
    let blocks = [1, 2, 3].map(|name| Named::new(&heap, 100 * KIB, name));
    let starts = blocks.each_ref().map(|named| named.block);
    let state = |at: NonNull<u8>| {
        let mut found = None;
        heap.walk(&mut |shown| {
            if shown.address == at.addr().get() {
                found = Some(shown.state);
            }
        });
        found
    };
    assert_eq!(starts.map(state), [Some(BlockState::Used); 3]);
    let [first, second, _third] = blocks;
    first.free(&heap);
    second.free(&heap);
    let states = [BlockState::Cached, BlockState::Cached, BlockState::Used];
    assert_eq!(starts.map(state), states.map(Some));
    let next = [(); 2].map(|()| heap.allocate(layout(97 * KIB)).unwrap());
    assert_eq!(next, [starts[1], starts[0]], "what was freed last is used first");
}

#[test]
fn what_is_no_block_is_refused() {
    let heap = large(64);
    for size in [40 * KIB, 100 * KIB, 128 * KIB] {
        let named = Named::new(&heap, size, 1);
        let block = named.block;
        for offset in [16, 4 * KIB, 8 * KIB, 12 * KIB, size - 16] {
            // SAFETY: any pointer is tolerated.
            let inner = unsafe { heap.deallocate(block.add(offset)) };
            assert!(matches!(inner, Err(HeapError::InvalidFree(_) | HeapError::DoubleFree(_))));
        }
        named.free(&heap);
        // SAFETY: as above.
        let again = unsafe { heap.deallocate(block) };
        assert_eq!(again, Err(HeapError::DoubleFree(block.addr().get())), "{size} bytes");
        heap.check().unwrap();
    }
}

#[test]
fn zeros_are_zeros_where_something_was() {
    const COUNT: usize = 20;
    let heap = large(64);
    for size in (0..12).map(|step| (33 + step * 8) * KIB) {
        // SAFETY: blocks are that long, and in use until they are freed.
        unsafe {
            let blocks = [(); COUNT].map(|()| heap.allocate(layout(size)).unwrap());
            blocks.iter().for_each(|block| block.write_bytes(0xA5, size));
            blocks.into_iter().for_each(|block| heap.deallocate(block).unwrap());
            let zeros = [(); COUNT].map(|()| heap.allocate_zeroed(layout(size)).unwrap());
            for block in zeros {
                let bytes = std::slice::from_raw_parts(block.as_ptr(), size);
                assert!(bytes.iter().all(|&byte| byte == 0), "{size} bytes");
                heap.deallocate(block).unwrap();
            }
        }
    }
}

#[test]
fn less_is_kept_where_the_heap_has_become_small() {
    let heap = ThreadCached::<Mmap>::new();
    let come_and_go = || {
        for size in (5..=16).map(|pages| pages * 8 * KIB) {
            let blocks: Vec<_> = (0..40).map(|name| Named::new(&heap, size, name)).collect();
            blocks.into_iter().for_each(|block| block.free(&heap));
        }
        heap.stats().cached_bytes
    };
    let much: Vec<_> = (0..100).map(|name| Named::new(&heap, KIB * KIB, name)).collect();
    let kept = (come_and_go(), come_and_go()).1;
    assert!(kept > 5 << 19, "{kept} bytes are kept in a large heap");
    much.into_iter().for_each(|block| block.free(&heap));
    let kept = [(); 100].map(|()| come_and_go())[99];
    assert!(kept <= 1 << 20, "{kept} bytes are kept in a small one");
    heap.check().unwrap();
}

#[test]
fn what_a_thread_left_serves_whoever_frees_it() {
    let heap = &large(16);
    let blocks: Vec<_> = thread::scope(|scope| {
        let fill = || (0..600).map(|name| Named::new(heap, 100 * KIB, name as u8)).collect();
        scope.spawn(fill).join().unwrap()
    });
    let footprint = heap.stats().footprint;
    blocks.into_iter().for_each(|block| block.free(heap));
    let longer: Vec<_> = (0..50).map(|name| Named::new(heap, KIB * KIB, name)).collect();
    assert_eq!(heap.stats().footprint, footprint, "it is not asked for anew");
    longer.into_iter().for_each(|block| block.free(heap));
    heap.check().unwrap();
}

#[test]
fn what_is_resized_where_it_stands_has_no_class() {
    let heap = large(64);
    for (before, after) in [(100 * KIB, 90 * KIB), (128 * KIB, 40 * KIB), (64 * KIB, 200 * KIB)] {
        let mut named = Named::new(&heap, before, 7);
        let block = named.block;
        named.resize(&heap, after);
        assert!(after > before || named.block == block, "what shrinks stays where it is");
        // SAFETY: in use.
        let usable = unsafe { heap.usable_size(named.block) };
        assert!((after..after + 8 * KIB).contains(&usable), "{usable} bytes of {after}");
        named.free(&heap);
        heap.check().unwrap();
    }
}
