//! Threads that come and go hammer one heap, and every byte is looked at.

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use heapwright_backends::{Limited, Mmap};
use heapwright_core::{FutexMutex, HeapBackend, HeapError, Strategy};
use heapwright_testkit::Rng;
use heapwright_thread_cached::{Checked, Design, General, ThreadCached};

/// A block in use, filled with what follows from its seed.
struct Block {
    start: NonNull<u8>,
    layout: Layout,
    seed: u8,
}

// SAFETY: whoever has it has the block.
unsafe impl Send for Block {}

/// Bytes looked at: all of small blocks, the ends and some of each page of large ones.
fn places(size: usize) -> impl Iterator<Item = usize> {
    let step = if size <= 4096 {
        1
    } else if size <= 1 << 20 {
        509
    } else {
        65_521
    };
    (0..size).step_by(step).chain(size.checked_sub(1))
}

impl Block {
    fn byte(&self, at: usize) -> u8 {
        (at as u8).wrapping_mul(31) ^ self.seed
    }

    fn fill(&self) {
        for at in places(self.layout.size()) {
            // SAFETY: within the block, which is ours.
            unsafe { self.start.add(at).write(self.byte(at)) };
        }
    }

    fn verify(&self, size: usize) {
        for at in places(self.layout.size()).filter(|&at| at < size) {
            // SAFETY: as above.
            let found = unsafe { self.start.add(at).read() };
            assert_eq!(
                found,
                self.byte(at),
                "byte {at} of {self:p} {:?} at {:?}",
                self.layout,
                self.start
            );
        }
    }
}

fn layout(rng: &mut Rng, huge: bool) -> Layout {
    let size = match rng.below(1000) {
        0..700 => rng.below(600),
        700..900 => rng.below(9_000),
        900..980 => rng.below(70_000),
        980..997 => rng.below(1 << 20),
        _ if huge => rng.between(31 << 20, 48 << 20),
        _ => rng.below(1 << 20),
    };
    let align = match rng.below(20) {
        0 => 1 << rng.below(18),
        1..4 => 1 << rng.below(10),
        _ => 1 << rng.below(5),
    };
    Layout::from_size_align(size, align).unwrap()
}

/// A heap, and where its threads leave blocks for each other.
struct Ring<'a, B: HeapBackend, D: Design> {
    heap: &'a ThreadCached<B, FutexMutex, D>,
    post: [Mutex<Vec<Block>>; 4],
    over: AtomicBool,
    may_fail: bool,
    huge: bool,
}

impl<B: HeapBackend + Send, D: Design> Ring<'_, B, D> {
    fn allocate(&self, rng: &mut Rng) -> Option<Block> {
        let layout = layout(rng, self.huge);
        let zeroed = rng.percent(30);
        let start =
            if zeroed { self.heap.allocate_zeroed(layout) } else { self.heap.allocate(layout) };
        let Some(start) = start else {
            assert!(self.may_fail, "no memory for {layout:?}");
            return None;
        };
        assert_eq!(start.addr().get() % layout.align(), 0, "{layout:?}");
        if zeroed {
            for at in places(layout.size()) {
                // SAFETY: within the block.
                assert_eq!(unsafe { start.add(at).read() }, 0, "zeroed {layout:?} at {at}");
            }
        }
        // SAFETY: in use.
        assert!(unsafe { self.heap.usable_size(start) } >= layout.size());
        let block = Block { start, layout, seed: rng.next_u64() as u8 };
        block.fill();
        Some(block)
    }

    fn free(&self, rng: &mut Rng, block: Block) {
        block.verify(usize::MAX);
        // SAFETY: in use, and of this layout.
        unsafe {
            assert!(self.heap.usable_size(block.start) >= block.layout.size());
            if rng.percent(50) {
                self.heap.deallocate(block.start).unwrap();
            } else {
                self.heap.deallocate_sized(block.start, block.layout).unwrap();
            }
        }
    }

    fn resize(&self, rng: &mut Rng, block: &mut Block) {
        let small = Layout::from_size_align(
            layout(rng, self.huge && block.layout.size() > 1 << 20).size(),
            block.layout.align(),
        );
        let new = if block.layout.size() > 20 << 20 && rng.percent(80) {
            rng.between(30 << 20, 60 << 20)
        } else {
            small.unwrap().size()
        };
        // SAFETY: in use, and of this layout.
        match unsafe { self.heap.reallocate(block.start, block.layout, new) } {
            Ok(start) => {
                block.start = start;
                let old = block.layout.size();
                assert_eq!(start.addr().get() % block.layout.align(), 0);
                block.verify(old.min(new));
                block.layout = Layout::from_size_align(new, block.layout.align()).unwrap();
                block.fill();
            }
            Err(error) => {
                assert!(self.may_fail && error == HeapError::OutOfMemory, "{error}");
                block.verify(usize::MAX);
            }
        }
    }

    fn work(&self, seed: u64, steps: usize, depth: usize) {
        let mut rng = Rng::new(seed);
        let mut own: Vec<Block> = Vec::new();
        let most = rng.between(1, 400);
        for _ in 0..steps {
            if self.over.load(Relaxed) {
                break;
            }
            let at = rng.below(own.len().max(1));
            match rng.below(1000) {
                0..450 if own.len() < most => own.extend(self.allocate(&mut rng)),
                0..650 if at < own.len() => {
                    let block = own.swap_remove(at);
                    self.free(&mut rng, block);
                }
                650..750 if at < own.len() => self.resize(&mut rng, &mut own[at]),
                750..870 if at < own.len() => {
                    let to = rng.below(4);
                    self.post[to].lock().unwrap().push(own.swap_remove(at));
                }
                870..990 => {
                    let from = rng.below(4);
                    let mut post = self.post[from].lock().unwrap();
                    let count = if post.len() > 600 { 300 } else { 1 };
                    let rest = post.len().saturating_sub(count);
                    let taken: Vec<_> = post.drain(rest..).collect();
                    drop(post);
                    for mut block in taken {
                        if rng.percent(20) {
                            self.resize(&mut rng, &mut block);
                        }
                        self.free(&mut rng, block);
                    }
                }
                990..996 if depth > 0 => {
                    let seed = rng.next_u64();
                    let steps = rng.below(300);
                    thread::scope(|scope| {
                        let other = scope.spawn(|| self.work(seed, steps, depth - 1));
                        self.work(!seed, steps, 0);
                        other.join().unwrap();
                    });
                }
                996 if rng.percent(20) => {
                    self.heap.trim();
                }
                997 if rng.percent(20) => {
                    self.heap.stats();
                }
                998 if rng.percent(20) => self.heap.check().unwrap(),
                _ => {}
            }
        }
        for block in own {
            if rng.percent(50) {
                self.post[rng.below(4)].lock().unwrap().push(block);
            } else {
                self.free(&mut rng, block);
            }
        }
    }
}

/// Threads hammer a heap for a while, and each that ends is followed by a new one. At the end nothing is in use.
fn hammer<B: HeapBackend + Send, D: Design>(
    heap: &ThreadCached<B, FutexMutex, D>,
    may_fail: bool,
    huge: bool,
    threads: u64,
) {
    let post = [const { Mutex::new(Vec::new()) }; 4];
    let ring = Ring { heap, post, over: AtomicBool::new(false), may_fail, huge };
    let end = Instant::now() + TIME;
    thread::scope(|scope| {
        let ring = &ring;
        let all: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    for round in (0..).take_while(|_| Instant::now() < end) {
                        let work = move || ring.work(thread + round * threads, 20_000, 2);
                        thread::scope(|scope| scope.spawn(work).join().unwrap());
                    }
                })
            })
            .collect();
        while Instant::now() < end {
            thread::sleep(Duration::from_millis(3));
            heap.check().unwrap();
        }
        ring.over.store(true, Relaxed);
        all.into_iter().for_each(|thread| thread.join().unwrap());
    });
    let mut rng = Rng::new(1);
    for post in &ring.post {
        post.lock().unwrap().drain(..).for_each(|block| ring.free(&mut rng, block));
    }
    heap.trim();
    heap.check().unwrap();
    let stats = heap.stats();
    assert_eq!((stats.live_blocks, stats.misuses), (0, 0), "{stats:?}");
}

const TIME: Duration = Duration::from_millis(1200);

#[test]
fn threads_that_come_and_go_share_a_heap() {
    hammer(&ThreadCached::<Mmap, FutexMutex, General>::new(), false, true, 4);
}

#[test]
fn threads_that_come_and_go_share_a_heap_that_verifies_every_free() {
    hammer(&ThreadCached::<Mmap, FutexMutex, Checked>::new(), false, true, 4);
}

#[test]
fn threads_that_come_and_go_share_little_memory() {
    let backend = Limited::over(Mmap::new(), 200 << 20);
    hammer(&ThreadCached::<_, FutexMutex, General>::over(backend), true, true, 16);
}
