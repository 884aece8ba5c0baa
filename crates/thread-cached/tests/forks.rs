//! A child process of a process with threads: what the threads had is the child's, which has none of them.

use core::alloc::Layout;
use core::ptr::NonNull;
use std::sync::{Barrier, Mutex};
use std::thread;

use heapwright_core::Strategy;
use heapwright_thread_cached::ThreadCached;

const BLOCKS: usize = 20_000;

/// A block that goes from the thread that asked for it to another.
struct Given(NonNull<u8>);

// SAFETY: the heap's blocks may be freed by any thread.
unsafe impl Send for Given {}

fn fill(heap: &ThreadCached, layout: Layout) -> Option<Vec<Given>> {
    (0..BLOCKS).map(|_| heap.allocate(layout).map(Given)).collect()
}

/// What the child does, and how far it came.
fn live_on(heap: &ThreadCached, layout: Layout, blocks: Vec<Given>) -> Result<(), i32> {
    let before = heap.stats();
    for Given(block) in blocks {
        // SAFETY: in use, and freed once.
        unsafe { heap.deallocate(block) }.map_err(|_| 2)?;
    }
    let again = fill(heap, layout).ok_or(3)?;
    heap.check().map_err(|_| 4)?;
    let after = heap.stats();
    if after.live_blocks != before.live_blocks {
        return Err(5);
    }
    // Without what the thread had, there would have to be as much once more.
    let held = |stats: heapwright_core::Stats| stats.live_bytes + stats.cached_bytes;
    if held(after) > held(before) + held(before) / 4 {
        return Err(6);
    }
    again.is_empty().then_some(7).map_or(Ok(()), Err)
}

/// Forks while a thread that filled the heap waits; the child, which has it not, lives on.
fn with_a_thread_that_waits(
    heap: &ThreadCached,
    layout: Layout,
    live_on: impl FnOnce(Vec<Given>) -> Result<(), i32>,
) {
    let (filled, done) = (Barrier::new(2), Barrier::new(2));
    let blocks = Mutex::new(Vec::new());
    thread::scope(|scope| {
        scope.spawn(|| {
            *blocks.lock().unwrap() = fill(heap, layout).expect("there is memory");
            filled.wait();
            done.wait();
        });
        filled.wait();
        let blocks = std::mem::take(&mut *blocks.lock().unwrap());
        heap.freeze();
        // SAFETY: the child calls the heap, which was frozen, and starts threads at most, and ends without cleaning up.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: frozen by the thread that this one is a copy of.
            unsafe { heap.thaw_in_child() };
            let result = live_on(blocks);
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(result.err().unwrap_or(0)) };
        }
        // SAFETY: frozen above.
        unsafe { heap.thaw() };
        let mut status = -1;
        // SAFETY: the status is writable.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        done.wait();
        assert!(libc::WIFEXITED(status), "the child was killed: {status}");
        assert_eq!(libc::WEXITSTATUS(status), 0, "how far the child came");
    });
    heap.check().expect("the parent's heap is whole");
}

#[test]
fn a_child_takes_over_what_threads_had_that_it_has_not() {
    static HEAP: ThreadCached = ThreadCached::new();
    let layout = Layout::from_size_align(200, 16).expect("a layout");
    with_a_thread_that_waits(&HEAP, layout, |blocks| live_on(&HEAP, layout, blocks));
}

#[test]
fn a_child_starts_a_thread_before_it_needs_memory() {
    static HEAP: ThreadCached = ThreadCached::new();
    let layout = Layout::from_size_align(200, 16).expect("a layout");
    let own = fill(&HEAP, layout).expect("there is memory");
    with_a_thread_that_waits(&HEAP, layout, |_| with_another_thread(&HEAP, layout, own));
}

/// The child's second thread is the first to need slabs; its first one's part stays its own, with what is at hand there.
fn with_another_thread(heap: &ThreadCached, layout: Layout, own: Vec<Given>) -> Result<(), i32> {
    let one = heap.allocate(layout).ok_or(2)?;
    let theirs = thread::scope(|scope| scope.spawn(|| fill(heap, layout)).join());
    let theirs = theirs.map_err(|_| 3)?.ok_or(4)?;
    heap.check().map_err(|_| 5)?;
    for Given(block) in theirs.into_iter().chain(own).chain([Given(one)]) {
        // SAFETY: in use, and freed once.
        unsafe { heap.deallocate(block) }.map_err(|_| 6)?;
    }
    let again = fill(heap, layout).ok_or(7)?;
    let mut places: Vec<_> = again.iter().map(|Given(block)| block.addr()).collect();
    places.sort_unstable();
    places.dedup();
    if places.len() < again.len() {
        return Err(8);
    }
    heap.check().map_err(|_| 9)
}
