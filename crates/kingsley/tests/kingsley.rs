//! What this allocator does in its own way.

use core::alloc::Layout;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use heapwright_backends::{Arena, Counting, Lent, Limited, Mmap};
use heapwright_core::{BlockState, Engine, HeapBackend, HeapError};
use heapwright_kingsley::KingsleyHeap;

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

fn allocate<B: HeapBackend>(heap: &mut KingsleyHeap<B>, size: usize) -> NonNull<u8> {
    let block = heap.allocate(layout(size, 16)).unwrap();
    // SAFETY: just allocated.
    unsafe {
        assert!(heap.usable_size(block) >= size);
        block.write_bytes(0xA7, heap.usable_size(block));
    }
    heap.check().unwrap();
    block
}

/// # Safety
///
/// As `Engine::deallocate` of a heap with checks.
unsafe fn free<B: HeapBackend>(
    heap: &mut KingsleyHeap<B>,
    block: NonNull<u8>,
) -> Result<(), HeapError> {
    // SAFETY: the caller promises the same.
    let result = unsafe { heap.deallocate(block) };
    heap.check().unwrap();
    result
}

const WORD: usize = size_of::<usize>();

#[test]
fn blocks_are_powers_of_two_less_a_word() {
    let mut heap = KingsleyHeap::over(Mmap::new());
    for power in 4..17 {
        let whole = 1_usize << power;
        for size in [whole / 2 - WORD + 1, whole - WORD - 1, whole - WORD] {
            let size = if power == 4 { size.min(1) } else { size };
            let block = allocate(&mut heap, size);
            // SAFETY: in use.
            assert_eq!(unsafe { heap.usable_size(block) }, whole - WORD, "for {size}");
        }
    }
}

#[test]
fn a_page_is_carved_from_its_start_and_reused_last_freed_first() {
    let mut heap = KingsleyHeap::over(Mmap::new());
    let blocks: Vec<_> = (0..4096 / 64).map(|_| allocate(&mut heap, 50)).collect();
    for pair in blocks.windows(2) {
        assert_eq!(pair[1].addr().get() - pair[0].addr().get(), 64);
    }
    for at in [3, 40, 17] {
        // SAFETY: in use.
        unsafe { free(&mut heap, blocks[at]).unwrap() };
    }
    for at in [17, 40, 3] {
        assert_eq!(allocate(&mut heap, 50), blocks[at]);
    }
    // Nothing was left in the page: the next block is in another one.
    assert!(allocate(&mut heap, 50) > blocks[63]);
}

#[test]
fn a_write_past_the_end_is_found_when_the_neighbour_is_freed() {
    let mut heap = KingsleyHeap::over(Mmap::new());
    let (first, second) = (allocate(&mut heap, 24), allocate(&mut heap, 24));
    // SAFETY: in use, but for the byte behind the first, which is the heap's: the misuse under test.
    unsafe {
        let usable = heap.usable_size(first);
        assert_eq!(first.add(usable + WORD), second);
        let past = first.add(usable);
        let header = past.read();
        past.write(header ^ 0x10);
        let refused = heap.deallocate(second);
        assert_eq!(refused, Err(HeapError::InvalidFree(second.addr().get())));
        past.write(header);
        free(&mut heap, second).unwrap();
    }
}

#[test]
fn aligned_blocks_are_freed_once() {
    let mut heap = KingsleyHeap::over(Mmap::new());
    for (size, align) in [(1, 32), (100, 64), (5000, 4096), (1, 32768), (200_000, 64), (9, 1 << 20)]
    {
        for _ in 0..3 {
            let block = heap.allocate(layout(size, align)).unwrap();
            heap.check().unwrap();
            assert!(block.addr().get().is_multiple_of(align));
            // SAFETY: in use the first time; the heap finds the second.
            unsafe {
                block.write_bytes(0xFF, heap.usable_size(block));
                free(&mut heap, block).unwrap();
                let again = free(&mut heap, block);
                assert_eq!(again, Err(HeapError::DoubleFree(block.addr().get())));
            }
        }
    }
    assert_eq!((heap.stats().misuses, heap.stats().live_blocks), (18, 0));
}

#[test]
fn large_blocks_are_kept_and_reused_up_to_a_limit() {
    let mut heap = KingsleyHeap::over(Counting::over(Mmap::new()));
    let block = allocate(&mut heap, 900_000);
    assert_eq!(heap.stats().mapped_blocks, 1);
    // SAFETY: in use.
    unsafe { free(&mut heap, block).unwrap() };
    assert_eq!((heap.stats().cached_blocks, heap.backend().counts().shrinks), (1, 0));
    assert_eq!(allocate(&mut heap, 600_000), block, "the region serves again");
    let blocks: Vec<_> = (0..16).map(|_| allocate(&mut heap, 900_000)).collect();
    for block in blocks {
        // SAFETY: in use.
        unsafe { free(&mut heap, block).unwrap() };
    }
    let stats = heap.stats();
    assert!(stats.cached_bytes <= 4 << 20 && stats.cached_blocks >= 2, "{stats:?}");
    assert!(heap.trim() >= stats.cached_bytes);
    heap.check().unwrap();
    assert_eq!(heap.stats().cached_blocks, 0);
}

#[test]
fn large_blocks_are_resized_by_remapping() {
    let mut heap = KingsleyHeap::over(Counting::over(Mmap::new()));
    let mut block = allocate(&mut heap, 200_000);
    let mut size = 200_000;
    // SAFETY: in use, and followed where it moves.
    unsafe {
        for new_size in [300_000, 2 << 20, 40 << 20, 3 << 20, 250_000] {
            block = heap.reallocate(block, layout(size, 16), new_size).unwrap();
            heap.check().unwrap();
            let kept = size.min(new_size).min(200_000);
            let bytes = core::slice::from_raw_parts(block.as_ptr(), kept);
            assert!(bytes.iter().all(|&byte| byte == 0xA7));
            assert!(heap.usable_size(block) >= new_size);
            assert!(heap.usable_size(block) < 2 * new_size + 4096, "and its end was let go");
            size = new_size;
        }
        assert!(heap.backend().counts().resizes >= 4);
        // So small that it is worth a copy.
        block = heap.reallocate(block, layout(size, 16), 100).unwrap();
        assert!(heap.usable_size(block) < 200);
        assert!(core::slice::from_raw_parts(block.as_ptr(), 100).iter().all(|&byte| byte == 0xA7));
        free(&mut heap, block).unwrap();
    }
}

#[test]
fn what_is_left_of_a_region_is_used_when_memory_is_short() {
    let (mut low, mut high) =
        (vec![MaybeUninit::uninit(); 10_000], vec![MaybeUninit::uninit(); 10_000]);
    let mut arena = Arena::<2>::empty();
    arena.add(&mut low).unwrap();
    arena.add(&mut high).unwrap();
    let mut heap = KingsleyHeap::over(arena);
    let mut bytes = 0;
    while heap.allocate(layout(504, 16)).is_some() {
        bytes += 512;
        heap.check().unwrap();
    }
    while heap.allocate(layout(8, 8)).is_some() {
        bytes += 16;
        heap.check().unwrap();
    }
    assert!(bytes > 19_600, "{bytes} of 20000 bytes were given out");
    assert!(heap.stats().free_bytes < 16);
}

#[test]
fn an_unused_region_serves_another_class_when_memory_is_short() {
    let mut heap = KingsleyHeap::over(Limited::over(Mmap::new(), 256 << 10));
    for size in [40, 2000, 40, 200_000, 500, 60_000] {
        let mut blocks = Vec::new();
        while let Some(block) = heap.allocate(layout(size, 16)) {
            blocks.push(block);
        }
        heap.check().unwrap();
        assert!(blocks.len() * size > 100_000, "{} blocks of {size} bytes", blocks.len());
        for block in blocks {
            // SAFETY: in use.
            unsafe { heap.deallocate(block).unwrap() };
        }
    }
}

#[test]
fn an_arena_goes_back_whole() {
    let mut buffer = vec![MaybeUninit::uninit(); 4 << 20];
    let mut arena = Arena::new(&mut buffer);
    {
        let mut heap = KingsleyHeap::over(Lent(&mut arena));
        let blocks: Vec<_> = [40, 300_000, 5000, 150_000, 40, 60_000, 1 << 20]
            .map(|size| allocate(&mut heap, size))
            .into();
        for at in [1, 6, 0, 2] {
            // SAFETY: in use.
            unsafe { free(&mut heap, blocks[at]).unwrap() };
        }
        let cached = |heap: &KingsleyHeap<_>| {
            let mut count = 0;
            heap.walk(&mut |block| count += usize::from(block.state == BlockState::Cached));
            count
        };
        assert!(cached(&heap) > 0, "an arena takes back from its end only");
    }
    assert!(arena.given() < 16, "{} bytes are left", arena.given());
}
