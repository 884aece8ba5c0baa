//! What the bump allocator does that no other one does.

use core::alloc::Layout;
use core::mem::MaybeUninit;

use heapwright_backends::{Arena, Counting, Lent, Mmap};
use heapwright_bump::BumpHeap;
use heapwright_core::{Engine, HeapError};

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

#[test]
fn blocks_follow_each_other_with_one_word_between() {
    let mut heap = BumpHeap::over(Mmap::new());
    let word = size_of::<usize>();
    let mut last = heap.allocate(layout(1, 1)).unwrap();
    for size in [0, 1, 24, 40, 100, 4096] {
        // SAFETY: in use.
        let usable = unsafe { heap.usable_size(last) };
        let next = heap.allocate(layout(size, 16)).unwrap();
        assert_eq!(next.addr().get(), last.addr().get() + usable + word);
        heap.check().unwrap();
        last = next;
    }
}

#[test]
fn freeing_does_nothing_and_stats_say_so() {
    let mut heap = BumpHeap::over(Mmap::new());
    let block = heap.allocate(layout(100, 16)).unwrap();
    // SAFETY: in use, and not used again.
    unsafe { heap.deallocate(block).unwrap() };
    assert_ne!(heap.allocate(layout(100, 16)), Some(block));
    assert_eq!(heap.stats().live_blocks, 2);
}

#[test]
fn the_last_block_grows_where_it_stands() {
    let mut heap = BumpHeap::over(Mmap::new());
    let first = heap.allocate(layout(100, 16)).unwrap();
    // SAFETY: in use, and followed where they move.
    unsafe {
        assert_eq!(heap.reallocate(first, layout(100, 16), 5000), Ok(first));
        assert!(heap.usable_size(first) >= 5000);
        let second = heap.allocate(layout(8, 8)).unwrap();
        assert_eq!(heap.reallocate(first, layout(5000, 16), 10), Ok(first));
        let moved = heap.reallocate(first, layout(5000, 16), 6000).unwrap();
        assert!(moved > second);
        heap.check().unwrap();
        let refused = heap.reallocate(moved, layout(6000, 16), isize::MAX as usize);
        assert_eq!(refused, Err(HeapError::OutOfMemory));
    }
}

#[test]
fn an_arena_is_filled_to_its_end_and_goes_back_whole() {
    let mut buffer = vec![MaybeUninit::uninit(); 100_000];
    let mut backend = Counting::over(Arena::new(&mut buffer));
    {
        let mut heap = BumpHeap::over(Lent(&mut backend));
        let mut given = 0;
        while heap.allocate(layout(56, 16)).is_some() {
            given += 64;
            if given % 4096 == 0 {
                heap.check().unwrap();
            }
        }
        assert!(given > 99_800, "{given} of 100000 bytes were given out");
        assert!(heap.allocate(layout(1 << 20, 16)).is_none());
        heap.check().unwrap();
        assert_eq!(heap.stats().regions, 1);
    }
    assert_eq!(backend.counts().held(), 0);
}
