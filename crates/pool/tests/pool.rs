//! What this allocator does in its own way.

use core::alloc::Layout;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use heapwright_backends::{Arena, Counting, Failing, Lent, Mmap};
use heapwright_core::{BlockState, Engine, HeapBackend, HeapError};
use heapwright_pool::PoolHeap;

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

fn fill<const SIZE: usize, B: HeapBackend>(
    heap: &mut PoolHeap<SIZE, B>,
    most: usize,
) -> Vec<NonNull<u8>> {
    let objects: Vec<_> = (0..most).map_while(|_| heap.allocate(layout(SIZE, 1))).collect();
    for (number, object) in objects.iter().enumerate() {
        // SAFETY: just allocated.
        unsafe { object.write_bytes(number as u8, SIZE) };
    }
    heap.check().unwrap();
    objects
}

/// # Safety
///
/// As `Engine::deallocate` of a heap with checks.
unsafe fn free_all<const SIZE: usize, B: HeapBackend>(
    heap: &mut PoolHeap<SIZE, B>,
    objects: &[NonNull<u8>],
) {
    for &object in objects {
        // SAFETY: the caller promises the same.
        unsafe { heap.deallocate(object).unwrap() };
    }
    heap.check().unwrap();
}

fn objects_of_every_size_are_apart<const SIZE: usize>() {
    let mut heap = PoolHeap::<SIZE, _>::over(Mmap::new());
    let limits = PoolHeap::<SIZE, Mmap>::LIMITS;
    assert_eq!(limits.max_size, SIZE);
    assert_eq!(limits.max_align, 1 << SIZE.next_multiple_of(16).trailing_zeros());
    let objects = fill(&mut heap, 9000);
    assert_eq!(objects.len(), 9000);
    for (number, object) in objects.iter().enumerate() {
        assert!(object.addr().get().is_multiple_of(limits.max_align));
        // SAFETY: in use, and filled.
        let bytes = unsafe { core::slice::from_raw_parts(object.as_ptr(), SIZE) };
        assert!(bytes.iter().all(|&byte| byte == number as u8), "object {number} of {SIZE} bytes");
    }
    assert_eq!(heap.allocate(layout(SIZE + 1, 1)), None);
    assert_eq!(heap.allocate(layout(1, limits.max_align * 2)), None);
    // SAFETY: in use at first; the heap finds what is not.
    unsafe {
        let (even, odd): (Vec<_>, Vec<_>) =
            objects.iter().partition(|object| object.addr().get() / limits.max_align % 2 == 0);
        free_all(&mut heap, &even);
        for &object in &even {
            let addr = object.addr().get();
            assert_eq!(heap.deallocate(object), Err(HeapError::DoubleFree(addr)));
        }
        for &object in &odd {
            let inside = object.add(SIZE.min(8));
            let addr = inside.addr().get();
            assert_eq!(heap.deallocate(inside), Err(HeapError::InvalidFree(addr)));
        }
        free_all(&mut heap, &odd);
    }
    assert_eq!(heap.stats().live_blocks, 0);
    heap.trim();
    heap.check().unwrap();
    assert_eq!(heap.stats().footprint, 0);
}

#[test]
fn objects_are_apart() {
    objects_of_every_size_are_apart::<1>();
    objects_of_every_size_are_apart::<16>();
    objects_of_every_size_are_apart::<40>();
    objects_of_every_size_are_apart::<64>();
    objects_of_every_size_are_apart::<100>();
    objects_of_every_size_are_apart::<640>();
    objects_of_every_size_are_apart::<4096>();
    objects_of_every_size_are_apart::<5000>();
}

#[test]
fn large_objects_are_objects_too() {
    let mut heap = PoolHeap::<{ 3 << 20 }, _>::over(Mmap::new());
    let objects: Vec<_> =
        (0..40).map(|_| heap.allocate(layout(3 << 20, 1 << 20)).unwrap()).collect();
    heap.check().unwrap();
    // SAFETY: in use.
    unsafe { free_all(&mut heap, &objects) };
}

#[test]
fn an_object_that_was_never_used_is_neither_freed_nor_zeroed() {
    let mut heap = PoolHeap::<4096, _>::over(Mmap::new());
    let first = heap.allocate_zeroed(layout(4096, 1)).unwrap();
    // SAFETY: in use, and the next place is within the same slab.
    unsafe {
        let never = first.add(4096);
        let addr = never.addr().get();
        assert_eq!(heap.deallocate(never), Err(HeapError::InvalidFree(addr)));
        assert_eq!(heap.allocate_zeroed(layout(4096, 1)), Some(never));
        never.write_bytes(0xEE, 4096);
        heap.deallocate(never).unwrap();
        assert_eq!(heap.allocate_zeroed(layout(100, 1)), Some(never));
        let bytes = core::slice::from_raw_parts(never.as_ptr(), 101);
        assert!(bytes[..100].iter().all(|&byte| byte == 0));
        assert_eq!(bytes[100], 0xEE, "no more is zeroed than was asked for");
    }
}

#[test]
fn slabs_go_back_but_for_a_reserve() {
    let mut heap = PoolHeap::<64, _>::over(Counting::over(Mmap::new()));
    let objects = fill(&mut heap, 200_000);
    let slabs = heap.stats().regions;
    assert!((48..=60).contains(&slabs), "{slabs} slabs for 200000 objects of 64 bytes");
    // SAFETY: in use.
    unsafe { free_all(&mut heap, &objects) };
    let stats = heap.stats();
    assert!(stats.regions >= 1 && stats.regions <= 8, "{} of {slabs} are kept", stats.regions);
    let grows = heap.backend().counts().grows;
    let objects = fill(&mut heap, 3000);
    assert_eq!(heap.backend().counts().grows, grows, "the reserve serves");
    // SAFETY: in use.
    unsafe { free_all(&mut heap, &objects) };
    heap.trim();
    assert_eq!(heap.stats().footprint, 0);
    assert_eq!(heap.backend().counts().held(), 0);
}

#[test]
fn objects_are_used_again_before_new_ones() {
    let mut heap = PoolHeap::<64, _>::over(Mmap::new());
    let objects = fill(&mut heap, 1000);
    // SAFETY: in use.
    unsafe { free_all(&mut heap, &objects[100..200]) };
    let mut again = fill(&mut heap, 100);
    again.sort();
    assert_eq!(again, objects[100..200]);
}

#[test]
fn small_arenas_of_any_size_and_place_serve() {
    let mut memory = vec![MaybeUninit::uninit(); 300_000];
    for (skip, length) in [(0, 5000), (1, 9000), (7, 20_000), (9, 65_536), (3, 299_000)] {
        let mut arena = Arena::new(&mut memory[skip..skip + length]);
        let mut heap = PoolHeap::<64, _>::over(Lent(&mut arena));
        for _ in 0..3 {
            let objects = fill(&mut heap, usize::MAX);
            // A slab may be lost at each end, and where the table moved to.
            assert!(objects.len() * 70 + 14_000 > length, "{} in {length}", objects.len());
            assert!(!objects.is_empty() || length < 8192);
            // SAFETY: in use.
            unsafe { free_all(&mut heap, &objects) };
        }
        drop(heap);
        assert!(arena.given() < 16, "{} of {length} bytes are left", arena.given());
    }
}

#[test]
fn a_tiny_arena_is_divided_into_smaller_slabs() {
    let mut memory = vec![MaybeUninit::uninit(); 6000];
    let mut heap = PoolHeap::<64, _>::over(Arena::new(&mut memory));
    let objects = fill(&mut heap, usize::MAX);
    assert!(objects.len() >= 28, "{} objects of 64 bytes in 6000", objects.len());
    // SAFETY: in use at first; the heap finds what is not.
    unsafe {
        let outside = objects[0].sub(64);
        let addr = outside.addr().get();
        assert_eq!(heap.deallocate(outside), Err(HeapError::InvalidFree(addr)));
        free_all(&mut heap, &objects);
        let addr = objects[7].addr().get();
        assert_eq!(heap.deallocate(objects[7]), Err(HeapError::DoubleFree(addr)));
    }
    heap.trim();
    assert_eq!(heap.stats().footprint, 0);
}

#[test]
fn an_arena_takes_slabs_back_in_any_order_of_frees() {
    let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
    let mut arena = Arena::new(&mut memory);
    let mut heap = PoolHeap::<128, _>::over(Lent(&mut arena));
    let objects = fill(&mut heap, usize::MAX);
    // SAFETY: in use.
    unsafe { free_all(&mut heap, &objects) };
    heap.trim();
    heap.check().unwrap();
    assert_eq!(heap.stats().footprint, 0);
}

#[test]
fn a_table_that_cannot_grow_costs_one_request() {
    let mut heap = PoolHeap::<4096, _>::over(Failing::over(Mmap::new()));
    let mut objects = fill(&mut heap, 100);
    for call in 1..20 {
        heap.backend().switch().fail_once(call);
        let mut failures = 0;
        for _ in 0..600 {
            match heap.allocate(layout(10, 1)) {
                Some(object) => objects.push(object),
                None => failures += 1,
            }
        }
        heap.check().unwrap();
        assert!(failures <= 1, "{failures} requests failed");
    }
    // SAFETY: in use.
    unsafe { free_all(&mut heap, &objects) };
    let mut used = 0;
    heap.walk(&mut |block| used += usize::from(block.state == BlockState::Used));
    assert_eq!(used, 0);
}
