//! What this allocator does in its own way.

use core::alloc::Layout;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use heapwright_backends::{Arena, Counting, Lent, Mmap};
use heapwright_buddy::BuddyHeap;
use heapwright_core::{BlockState, Engine, HeapBackend, HeapError};

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

fn allocate<B: HeapBackend>(heap: &mut BuddyHeap<B>, size: usize) -> NonNull<u8> {
    let block = heap.allocate(layout(size, 1)).unwrap();
    // SAFETY: just allocated.
    unsafe { block.write_bytes(0xA7, heap.usable_size(block)) };
    heap.check().unwrap();
    block
}

/// # Safety
///
/// As `Engine::deallocate` of a heap with checks.
unsafe fn free<B: HeapBackend>(
    heap: &mut BuddyHeap<B>,
    block: NonNull<u8>,
) -> Result<(), HeapError> {
    // SAFETY: the caller promises the same.
    let result = unsafe { heap.deallocate(block) };
    heap.check().unwrap();
    result
}

/// Sizes of all free blocks, the largest first.
fn free_blocks<B: HeapBackend>(heap: &BuddyHeap<B>) -> Vec<usize> {
    let mut sizes = Vec::new();
    heap.walk(&mut |block| {
        if block.state == BlockState::Free {
            sizes.push(block.size);
        }
    });
    sizes.sort_by(|one, two| two.cmp(one));
    sizes
}

#[test]
fn blocks_are_powers_of_two_without_a_header_at_multiples_of_their_size() {
    let mut heap = BuddyHeap::over(Mmap::new());
    for power in 4..22 {
        let whole = 1_usize << power;
        for size in [whole / 2 + 1, whole - 1, whole] {
            let block = allocate(&mut heap, if power == 4 { size.min(16) } else { size });
            // SAFETY: in use.
            assert_eq!(unsafe { heap.usable_size(block) }, whole, "for {size}");
            assert!(block.addr().get().is_multiple_of(whole));
        }
    }
    assert_eq!(heap.stats().misuses, 0);
}

#[test]
fn a_block_is_split_off_and_merged_back_at_once() {
    let mut heap = BuddyHeap::over(Mmap::new());
    let large = allocate(&mut heap, 64 << 10);
    // SAFETY: in use.
    unsafe { free(&mut heap, large).unwrap() };
    let whole = free_blocks(&heap);
    let small = allocate(&mut heap, 16);
    let split = free_blocks(&heap);
    assert!(split.len() > whole.len() && split.iter().sum::<usize>() + 16 == whole.iter().sum());
    let other = allocate(&mut heap, 16);
    assert_eq!(other.addr().get(), small.addr().get() ^ 16, "the other half comes next");
    // SAFETY: in use.
    unsafe {
        free(&mut heap, small).unwrap();
        free(&mut heap, other).unwrap();
    }
    assert_eq!(free_blocks(&heap), whole);
}

#[test]
fn double_frees_are_told_from_invalid_ones() {
    let mut heap = BuddyHeap::over(Mmap::new());
    let blocks: Vec<_> = (0..8).map(|_| allocate(&mut heap, 64)).collect();
    let addrs: Vec<_> = blocks.iter().map(|block| block.addr().get()).collect();
    // SAFETY: in use at first; the heap finds what is not.
    unsafe {
        for &block in &blocks[..4] {
            free(&mut heap, block).unwrap();
        }
        // Merged into each other, or not: all of them began a block.
        for at in 0..4 {
            assert_eq!(free(&mut heap, blocks[at]), Err(HeapError::DoubleFree(addrs[at])));
        }
        // Within a block in use, within a free one, and misaligned.
        for addr in [addrs[5] + 16, addrs[5] + 48, addrs[5] + 8, addrs[5] + 1] {
            let inside = blocks[5].add(addr - addrs[5]);
            assert_eq!(free(&mut heap, inside), Err(HeapError::InvalidFree(addr)));
        }
        let never = blocks[0].add(16);
        assert_eq!(free(&mut heap, never), Err(HeapError::InvalidFree(addrs[0] + 16)));
        // A block that began here serves another one now: this one is within that.
        for block in &blocks[4..] {
            free(&mut heap, *block).unwrap();
        }
        let whole = allocate(&mut heap, 512);
        for (&block, &addr) in blocks.iter().zip(&addrs) {
            if addr > whole.addr().get() && addr < whole.addr().get() + 512 {
                assert_eq!(free(&mut heap, block), Err(HeapError::InvalidFree(addr)));
            }
        }
        free(&mut heap, whole).unwrap();
    }
    assert!(heap.stats().misuses >= 9);
}

#[test]
fn resizing_splits_in_place_and_joins_free_buddies() {
    let mut heap = BuddyHeap::over(Mmap::new());
    let block = allocate(&mut heap, 4096);
    // SAFETY: in use, and followed where it moves.
    unsafe {
        assert_eq!(heap.reallocate(block, layout(4096, 1), 100), Ok(block));
        heap.check().unwrap();
        assert_eq!(heap.usable_size(block), 128);
        assert_eq!(heap.reallocate(block, layout(100, 1), 3000), Ok(block), "the rest is free");
        heap.check().unwrap();
        assert_eq!(heap.usable_size(block), 4096);
        assert_eq!(heap.reallocate(block, layout(3000, 1), 128), Ok(block));
        let buddy = allocate(&mut heap, 128);
        assert_eq!(buddy.addr().get(), block.addr().get() ^ 128);
        let moved = heap.reallocate(block, layout(128, 1), 200).unwrap();
        heap.check().unwrap();
        assert_ne!(moved, block, "the buddy is in use");
        let bytes = core::slice::from_raw_parts(moved.as_ptr(), 128);
        assert!(bytes.iter().all(|&byte| byte == 0xA7));
        let refused = heap.reallocate(moved, layout(200, 1), isize::MAX as usize);
        assert_eq!(refused, Err(HeapError::OutOfMemory));
    }
}

#[test]
fn fresh_memory_is_not_zeroed_again_and_used_memory_is() {
    let mut heap = BuddyHeap::over(Mmap::new());
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/statm").unwrap();
        status.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let before = resident();
    let block = heap.allocate_zeroed(layout(64 << 20, 1)).unwrap();
    assert!(resident() < before + (16 << 20), "64 MiB of zeros were not touched");
    // SAFETY: in use.
    unsafe {
        assert_eq!(block.add((64 << 20) - 1).read(), 0);
        free(&mut heap, block).unwrap();
        let dirty = allocate(&mut heap, 5000);
        free(&mut heap, dirty).unwrap();
        let block = heap.allocate_zeroed(layout(20_000, 1)).unwrap();
        let bytes = core::slice::from_raw_parts(block.as_ptr(), 20_000);
        assert!(bytes.iter().all(|&byte| byte == 0));
    }
}

#[test]
fn arenas_of_any_size_and_place_serve() {
    let mut memory = vec![MaybeUninit::uninit(); 70_000];
    for (skip, length) in [(0, 65_536), (1, 65_536), (7, 300), (16, 1024), (3, 5000), (9, 69_991)] {
        let mut arena = Arena::new(&mut memory[skip..skip + length]);
        let mut heap = BuddyHeap::over(Lent(&mut arena));
        let mut blocks = Vec::new();
        while let Some(block) = heap.allocate(layout(16, 1)) {
            // SAFETY: just allocated.
            unsafe { block.write_bytes(1, 16) };
            blocks.push(block);
        }
        heap.check().unwrap();
        let given = blocks.len() * 16;
        // The table takes a seventeenth, the head 80 bytes, and each further zone as much.
        assert!(given + 900 > length * 16 / 17, "{given} of {length} bytes at {skip}");
        for block in blocks.into_iter().rev() {
            // SAFETY: in use.
            unsafe { heap.deallocate(block).unwrap() };
        }
        heap.check().unwrap();
        heap.trim();
        assert_eq!(heap.stats().footprint, 0);
        drop(heap);
        assert!(arena.given() < 16);
    }
}

/// Small enough for an interpreter that looks for undefined behaviour.
#[test]
fn a_tiny_arena_is_divided_and_made_whole_again() {
    let mut memory = vec![MaybeUninit::uninit(); 4096];
    let mut heap = BuddyHeap::over(Arena::new(&mut memory));
    let mut blocks: Vec<(NonNull<u8>, usize)> = Vec::new();
    let mut whole = Vec::new();
    for step in 0..200_usize {
        let size = step * 37 % 300;
        if step % 5 < 3
            && let Some(block) = heap.allocate_zeroed(layout(size, 1 << (step % 7)))
        {
            // SAFETY: in use.
            unsafe {
                assert!((0..size).all(|at| block.add(at).read() == 0));
                block.write_bytes(0xA7, heap.usable_size(block));
            }
            blocks.push((block, size));
        } else if !blocks.is_empty() {
            let (block, size) = blocks.swap_remove(step * 31 % blocks.len());
            // SAFETY: in use, and followed where it moves.
            unsafe {
                match heap.reallocate(block, layout(size, 1), step) {
                    Ok(block) if step % 2 == 0 => blocks.push((block, step)),
                    Ok(block) => heap.deallocate(block).unwrap(),
                    Err(error) => {
                        assert_eq!(error, HeapError::OutOfMemory);
                        heap.deallocate(block).unwrap();
                    }
                }
            }
        }
        heap.check().unwrap();
        if blocks.is_empty() {
            whole = free_blocks(&heap);
        }
    }
    for (block, _) in blocks {
        // SAFETY: in use.
        unsafe { heap.deallocate(block).unwrap() };
    }
    assert!(whole.is_empty() || free_blocks(&heap) == whole);
    heap.trim();
    assert_eq!(heap.stats().footprint, 0);
}

#[test]
fn a_small_arena_serves_a_block_of_a_quarter_of_it() {
    let mut memory = vec![MaybeUninit::uninit(); 65_536 + 16];
    for skip in 0..16 {
        let mut heap = BuddyHeap::over(Arena::new(&mut memory[skip..skip + 65_536]));
        let block = heap.allocate(layout(16 << 10, 16 << 10)).unwrap();
        assert!(block.addr().get().is_multiple_of(16 << 10));
        heap.check().unwrap();
    }
}

#[test]
fn empty_zones_go_back_but_for_one() {
    let mut heap = BuddyHeap::over(Counting::over(Mmap::new()));
    let small = allocate(&mut heap, 100);
    let large: Vec<_> = (0..12).map(|_| allocate(&mut heap, 8 << 20)).collect();
    assert!(heap.stats().regions >= 4);
    // SAFETY: in use.
    unsafe {
        for block in large {
            free(&mut heap, block).unwrap();
        }
        assert!(heap.stats().regions <= 2, "{:?}", heap.stats());
        free(&mut heap, small).unwrap();
        // A reserve that is too large for the little that is in use goes back once it is empty again.
        for _ in 0..2 {
            let block = allocate(&mut heap, 100);
            free(&mut heap, block).unwrap();
        }
        assert_eq!(heap.stats().regions, 1);
        let grows = heap.backend().counts().grows;
        for _ in 0..10 {
            let block = allocate(&mut heap, 100);
            free(&mut heap, block).unwrap();
        }
        assert_eq!(heap.backend().counts().grows, grows, "the reserve serves");
    }
    assert_eq!(heap.stats().live_bytes, 0);
    heap.trim();
    assert_eq!(heap.stats().footprint, 0);
}

#[test]
fn trimming_lets_go_of_pages_inside_free_blocks() {
    let mut heap = BuddyHeap::over(Mmap::new());
    let pin = allocate(&mut heap, 16);
    let block = allocate(&mut heap, 256 << 10);
    // SAFETY: in use.
    unsafe { free(&mut heap, block).unwrap() };
    assert!(heap.trim() >= 252 << 10);
    heap.check().unwrap();
    // SAFETY: in use.
    assert_eq!(unsafe { pin.read() }, 0xA7);
}
