//! What the backends promise, one by one.

use core::mem::MaybeUninit;
use core::ptr;
use std::vec::Vec;

use heapwright_core::{HeapBackend, New, OutOfMemory, Region};

use crate::*;

fn fill(region: Region, byte: u8) {
    // SAFETY: a region of the test's own.
    unsafe { ptr::write_bytes(region.start.as_ptr(), byte, region.size) };
}

fn bytes(region: &Region) -> &[u8] {
    // SAFETY: a region of the test's own, all of it written.
    unsafe { core::slice::from_raw_parts(region.start.as_ptr(), region.size) }
}

fn all(region: &Region, byte: u8) -> bool {
    bytes(region).iter().all(|&found| found == byte)
}

/// The part of a region from `from` to `to`, counted in bytes from its start.
fn part(region: Region, from: usize, to: usize) -> Region {
    // SAFETY: within the region.
    let start = unsafe { region.start.add(from) };
    Region { start, size: to - from, zeroed: false }
}

fn buffer(size: usize) -> Vec<MaybeUninit<u8>> {
    std::vec![MaybeUninit::uninit(); size]
}

#[cfg(target_os = "linux")]
mod mapped {
    use super::*;

    const MIB: usize = 1 << 20;

    fn errno() -> i32 {
        // SAFETY: this thread's own.
        unsafe { *libc::__errno_location() }
    }

    fn set_errno(to: i32) {
        // SAFETY: this thread's own.
        unsafe { *libc::__errno_location() = to };
    }

    #[test]
    fn mappings_are_whole_zeroed_pages() {
        let mut backend = Mmap::new();
        let page = backend.page_size();
        for size in [0, 1, page - 1, page, page + 1, 10 * page] {
            let region = backend.grow(size, 16).unwrap();
            assert!(region.size >= size.max(1) && region.size < size.max(1) + page);
            assert!(region.addr().is_multiple_of(page) && region.size.is_multiple_of(page));
            assert!(region.zeroed && all(&region, 0));
            fill(region, 0xA5);
            // SAFETY: nobody uses it.
            assert_eq!(unsafe { backend.shrink(region) }, region.size);
        }
    }

    #[test]
    fn mappings_continue_each_other() {
        let mut backend = Mmap::new();
        let regions: Vec<_> = (0..8).map(|_| backend.grow(MIB, 16).unwrap()).collect();
        let continued = regions.windows(2).filter(|two| two[0].end() == two[1].addr()).count();
        // A wish, which the kernel grants where there is room; there is, but for bad luck.
        assert!(continued >= 6, "{continued} of 7 continue");
        for region in regions {
            // SAFETY: nobody uses it.
            assert_eq!(unsafe { backend.shrink(region) }, region.size);
        }
    }

    #[test]
    fn a_taken_place_is_not_mapped_over() {
        let mut backend = Mmap::new();
        let first = backend.grow(MIB, 16).unwrap();
        let mut other = Mmap::new();
        // Something else sits right behind.
        // SAFETY: a new mapping replaces no other.
        let there = unsafe {
            libc::mmap(
                ptr::without_provenance_mut(first.end()),
                4096,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
                -1,
                0,
            )
        };
        assert_ne!(there, libc::MAP_FAILED);
        // SAFETY: just mapped.
        unsafe { there.cast::<u8>().write(7) };
        let second = backend.grow(MIB, 16).unwrap();
        assert_ne!(second.addr(), first.end());
        fill(second, 1);
        // SAFETY: mapped above.
        assert_eq!(unsafe { there.cast::<u8>().read() }, 7);
        let third = backend.grow(MIB, 16).unwrap();
        let fourth = backend.grow(MIB, 16).unwrap();
        assert_eq!(third.end(), fourth.addr(), "a new place with room behind was found");
        let elsewhere = other.grow(MIB, 16).unwrap();
        for region in [first, second, third, fourth, elsewhere] {
            // SAFETY: nobody uses it; all are mappings of this process.
            assert_eq!(unsafe { backend.shrink(region) }, region.size);
        }
        // SAFETY: mapped above.
        unsafe { libc::munmap(there, 4096) };
    }

    #[test]
    fn alignment_wastes_no_mapping() {
        let mut backend = Mmap::new();
        let page = backend.page_size();
        let mut align = 1;
        while align <= 1 << 30 {
            let region = backend.grow(3 * page, align).unwrap();
            assert!(region.addr().is_multiple_of(align) && region.size == 3 * page);
            assert!(all(&region, 0));
            // SAFETY: nobody uses it.
            assert_eq!(unsafe { backend.shrink(region) }, region.size);
            align *= 2;
        }
    }

    #[test]
    fn alignment_is_cut_out_where_the_wish_fails() {
        // As `map_aligned` does when the kernel gives another place.
        for shift in 13..=30 {
            let start = mmap::map_and_cut(8192, 1 << shift).unwrap();
            let region = Region { start, size: 8192, zeroed: true };
            assert!(region.addr().is_multiple_of(1 << shift) && all(&region, 0));
            let mut backend = Mmap::new();
            // SAFETY: nobody uses it.
            assert_eq!(unsafe { backend.shrink(region) }, 8192);
        }
    }

    #[test]
    fn any_pages_go_back() {
        let mut backend = Mmap::new();
        let page = backend.page_size();
        let region = backend.grow(16 * page, 16).unwrap();
        fill(region, 9);
        // SAFETY: the test uses only what it has not given back.
        unsafe {
            // The end, cut at a page.
            assert_eq!(backend.shrink(part(region, 14 * page - 100, 16 * page)), 2 * page);
            // The middle.
            assert_eq!(backend.shrink(part(region, 4 * page, 8 * page)), 4 * page);
            // The start.
            assert_eq!(backend.shrink(part(region, 0, 2 * page)), 2 * page);
            // Less than a page, and an end within a page: nothing.
            assert_eq!(backend.shrink(part(region, 3 * page + 1, 4 * page)), 0);
            assert_eq!(backend.shrink(part(region, 2 * page, 4 * page - 1)), 0);
            assert!(all(&part(region, 2 * page, 4 * page), 9));
            assert!(all(&part(region, 8 * page, 14 * page), 9));
            for (index, there) in [(0, false), (1, false), (2, true), (3, true), (4, false)] {
                assert_eq!(
                    backend.is_readable(region.addr() + index * page),
                    there,
                    "page {index}"
                );
            }
            assert!(!backend.is_readable(region.addr() + 14 * page));
            assert_eq!(backend.shrink(part(region, 2 * page, 4 * page)), 2 * page);
            assert_eq!(backend.shrink(part(region, 8 * page, 14 * page)), 6 * page);
        }
    }

    #[test]
    fn remapping_keeps_contents() {
        let mut backend = Mmap::new();
        let page = backend.page_size();
        let region = backend.grow(4 * page, 16).unwrap();
        fill(region, 3);
        // SAFETY: the test follows the region where it moves.
        unsafe {
            let grown = backend.resize(region, 1000 * page + 1, true).unwrap();
            assert_eq!(grown.size, 1001 * page);
            assert!(grown.zeroed);
            assert!(all(&part(grown, 0, 4 * page), 3));
            assert!(all(&part(grown, 4 * page, 1001 * page), 0));
            let less = backend.resize(grown, page, false).unwrap();
            assert_eq!((less.start, less.size), (grown.start, page));
            assert!(all(&less, 3));
            assert!(!backend.is_readable(less.end()));
            // In place again, where nothing is in the way now.
            let more = backend.resize(less, 3 * page, false).unwrap();
            assert_eq!(more.start, less.start);
            assert!(all(&part(more, page, 3 * page), 0), "pages given back come back zero");
            // In place, with a neighbour in the way: not done, and nothing lost.
            let blocked = backend.grow(2 * page, 16).unwrap();
            let behind = loop {
                let next = backend.grow(page, 16).unwrap();
                if next.addr() == blocked.end() {
                    break next;
                }
                assert_eq!(backend.shrink(next), page);
            };
            fill(blocked, 5);
            assert_eq!(backend.resize(blocked, 3 * page, false), None);
            assert!(all(&blocked, 5));
            let moved = backend.resize(blocked, 3 * page, true).unwrap();
            assert!(moved.start != blocked.start && all(&part(moved, 0, 2 * page), 5));
            assert_eq!(backend.resize(moved, usize::MAX, true), None);
            assert_eq!(backend.resize(moved, isize::MAX as usize, true), None);
            assert!(all(&part(moved, 0, 2 * page), 5));
            for region in [more, behind, moved] {
                assert_eq!(backend.shrink(region), region.size);
            }
        }
    }

    #[test]
    fn regions_apart_have_room_to_grow_and_can_take_each_others_place() {
        let mut backend = Mmap::new();
        let (page, unit) = (backend.page_size(), 1 << 25);
        let [first, second] = [(); 2].map(|()| backend.map(3 * page, unit).unwrap());
        assert!([first, second].iter().all(|region| region.addr().is_multiple_of(unit)));
        assert_eq!(second.addr() - first.addr(), unit);
        fill(first, 7);
        fill(second, 8);
        // SAFETY: the test follows contents where they move.
        unsafe {
            let first = backend.resize(first, 5 * page, false).unwrap();
            let second = backend.resize(second, 9 * page, false).unwrap();
            assert!(backend.relocate(first, second));
            assert!(!backend.is_readable(first.addr()));
            assert!(
                all(&part(second, 0, 3 * page), 7) && all(&part(second, 3 * page, 9 * page), 0)
            );
            assert_eq!(backend.shrink(second), second.size);
        }
    }

    #[test]
    fn regions_apart_stay_together_when_one_grows_into_the_next_place() {
        let mut backend = Mmap::new();
        let unit = 1 << 25;
        let [first, second] = [(); 2].map(|()| backend.map(4096, unit).unwrap());
        // SAFETY: nobody uses them.
        unsafe {
            assert_eq!(backend.shrink(second), 4096);
            let first = backend.resize(first, unit + 4096, false).unwrap();
            let third = backend.map(4096, unit).unwrap();
            assert_eq!(third.addr() - first.addr(), 2 * unit);
            for region in [first, third] {
                assert_eq!(backend.shrink(region), region.size);
            }
        }
    }

    #[test]
    fn discarded_pages_read_as_zero() {
        let mut backend = Mmap::new();
        let page = backend.page_size();
        let region = backend.grow(6 * page, 16).unwrap();
        fill(region, 8);
        // SAFETY: nobody needs the contents.
        unsafe {
            assert!(backend.discard(part(region, page - 1, 4 * page + 1)));
            assert!(all(&part(region, 0, page), 8), "a page only half inside is kept");
            assert!(all(&part(region, page, 4 * page), 0));
            assert!(all(&part(region, 4 * page, 6 * page), 8));
            assert!(!backend.discard(part(region, 1, page)), "no whole page, nothing zeroed");
            assert_eq!(backend.shrink(region), region.size);
        }
    }

    #[test]
    fn populated_pages_are_present_and_unchanged() {
        let mut backend = Mmap::new();
        let page = backend.page_size();
        let region = backend.grow(64 * page, 16).unwrap();
        fill(part(region, 0, page), 6);
        let present = |backend: &Mmap| {
            let mut pages = [0_u8; 64];
            // SAFETY: one byte for each page of the region.
            let done = unsafe {
                libc::mincore(region.start.as_ptr().cast(), region.size, pages.as_mut_ptr())
            };
            assert!(done == 0 && backend.is_readable(region.addr()));
            pages.iter().filter(|&page| page & 1 != 0).count()
        };
        assert!(present(&backend) < 64);
        assert!(backend.is_present(region.addr() + 1) && !backend.is_present(region.end() - 1));
        set_errno(42);
        // SAFETY: a part of the region.
        unsafe { backend.populate(part(region, 1, 40 * page + 1)) };
        assert_eq!(errno(), 42);
        // Kernels before Linux 5.14 cannot, and leave it at the page that was written.
        assert!([1, 40].contains(&present(&backend)), "{} pages", present(&backend));
        assert!(all(&part(region, 0, page), 6) && all(&part(region, page, 40 * page), 0));
        // SAFETY: nobody uses it.
        assert_eq!(unsafe { backend.shrink(region) }, region.size);
    }

    #[test]
    fn regions_that_stand_alone_leave_room_behind_the_others() {
        let mut backend = Mmap::new();
        let page = backend.page_size();
        let first = backend.grow(page, 16).unwrap();
        let alone = [16, 1 << 14, 1 << 21, 1 << 30].map(|align| {
            let region = backend.map(5 * page - 1, align).unwrap();
            assert!(region.addr().is_multiple_of(align) && region.size == 5 * page);
            assert!(region.zeroed && all(&region, 0));
            fill(region, 1);
            region
        });
        assert_eq!(backend.grow(page, 16).unwrap().addr(), first.end());
        // SAFETY: nobody uses them.
        unsafe {
            for region in alone {
                assert_eq!(backend.shrink(region), region.size);
            }
            let both = Region { size: 2 * page, ..first };
            assert_eq!(backend.shrink(both), 2 * page);
        }
        for size in [usize::MAX, isize::MAX as usize, 1 << 62] {
            assert_eq!(backend.map(size, 16), Err(OutOfMemory));
            assert_eq!(backend.map(size, 1 << 30), Err(OutOfMemory));
        }
        assert_eq!(backend.map(page, 1 << 63), Err(OutOfMemory));
        assert_eq!(Arena::<1>::empty().map(16, 16), Err(OutOfMemory));
    }

    #[test]
    fn readable_is_what_can_be_read() {
        let mut backend = Mmap::new();
        let page = backend.page_size();
        let region = backend.grow(3 * page, 16).unwrap();
        let local = 5_u8;
        assert!(backend.is_readable((&raw const local).addr()));
        for addr in [0, 1, 8, page - 1, usize::MAX, usize::MAX - 7, isize::MAX as usize, 1 << 47] {
            assert!(!backend.is_readable(addr), "{addr:#x}");
        }
        for at in [0, 1, page - 1, page, 3 * page - 1] {
            assert!(backend.is_readable(region.addr() + at));
        }
        // SAFETY: nobody uses the page in the middle.
        unsafe {
            let middle = region.start.as_ptr().add(page);
            assert_eq!(libc::mprotect(middle.cast(), page, libc::PROT_NONE), 0);
            assert!(!backend.is_readable(region.addr() + page), "mapped, but not readable");
            assert!(backend.is_readable(region.addr() + page - 1));
            assert!(backend.is_readable(region.addr() + 2 * page));
            assert_eq!(backend.shrink(region), region.size);
        }
        assert!(!backend.is_readable(region.addr()));
    }

    #[test]
    fn what_cannot_be_is_refused_and_changes_nothing() {
        let mut backend = Mmap::new();
        set_errno(4711);
        let page = backend.page_size();
        for size in [usize::MAX, usize::MAX - page, isize::MAX as usize, 1 << 62] {
            assert_eq!(backend.grow(size, 16), Err(OutOfMemory), "{size:#x}");
            assert_eq!(backend.grow(size, 1 << 30), Err(OutOfMemory), "{size:#x}");
        }
        assert_eq!(backend.grow(page, 1 << 63), Err(OutOfMemory));
        assert_eq!(backend.grow(page, 1 << 62), Err(OutOfMemory));
        assert_eq!(errno(), 4711, "errno is as it was");
    }

    #[test]
    fn errno_is_kept() {
        let mut backend = Mmap::new();
        let region = backend.grow(1, 1).unwrap();
        set_errno(42);
        assert!(!backend.is_readable(1));
        assert!(backend.is_readable(region.addr()));
        assert_ne!(backend.entropy(), 0);
        assert_ne!(backend.entropy(), backend.entropy());
        // SAFETY: nobody uses it.
        unsafe {
            assert_eq!(backend.resize(region, isize::MAX as usize - 4096, true), None);
            backend.discard(region);
            backend.shrink(region);
        }
        assert_eq!(errno(), 42);
    }

    #[test]
    fn a_full_arena_falls_back_on_mappings() {
        let mut memory = buffer(64 << 10);
        let mut backend = Fallback::over(Arena::new(&mut memory), Counting::over(Mmap::new()));
        let first = backend.grow(40 << 10, 16).unwrap();
        let second = backend.grow(40 << 10, 16).unwrap();
        assert_eq!(backend.second().counts().grows, 1);
        let third = backend.grow(8 << 10, 16).unwrap();
        assert_eq!(third.addr(), first.end(), "what fits is served by the arena still");
        fill(second, 2);
        // SAFETY: the test uses only what it has not given back.
        unsafe {
            assert!(!backend.discard(third));
            assert!(backend.discard(second));
            assert_eq!(backend.second().counts().discards, 1);
            let second = backend.resize(second, 1 << 20, true).unwrap();
            assert!(backend.is_readable(second.addr()) && backend.is_readable(first.addr()));
            fill(second, 3);
            let other = backend.map(2 << 20, 1 << 21).unwrap();
            assert!(!backend.relocate(first, other), "from one source to the other");
            assert!(backend.relocate(second, other));
            let second = other;
            assert!(all(&part(second, 0, 1 << 20), 3) && all(&part(second, 1 << 20, 2 << 20), 0));
            assert_eq!(backend.shrink(second), second.size);
            assert_eq!(backend.second().counts().held(), 0);
            assert_eq!(backend.shrink(third), third.size);
            assert_eq!(backend.shrink(first), first.size);
        }
        assert_eq!(backend.first().given(), 0);
    }
}

#[test]
fn an_arena_gives_contiguously_and_takes_back_from_its_end() {
    let mut memory = buffer(4096);
    let start = memory.as_ptr().addr();
    let mut arena = Arena::new(&mut memory);
    let first = arena.grow(100, 1).unwrap();
    assert_eq!(first.addr(), start.next_multiple_of(16));
    assert_eq!(first.size, 112);
    assert!(!first.zeroed);
    let second = arena.grow(16, 16).unwrap();
    assert_eq!(second.addr(), first.end());
    fill(first, 1);
    fill(second, 2);
    assert!(all(&first, 1));
    // SAFETY: the test uses only what it has not given back.
    unsafe {
        assert_eq!(arena.shrink(first), 0, "not at the end");
        assert!(arena.is_readable(first.addr()) && !arena.is_readable(start + 4096));
        // Both as one region.
        let both = Region { size: first.size + second.size, ..first };
        assert_eq!(arena.shrink(part(both, 64, both.size)), 64);
        assert_eq!(arena.shrink(part(both, 33, 64)), 16, "the mark stays at a granule");
        assert_eq!(arena.grow(16, 16).unwrap().addr(), first.addr() + 48);
        assert_eq!(arena.shrink(part(both, 0, 64)), 64);
    }
    assert!(arena.given() < 16);
}

#[test]
fn an_odd_arena_is_used_to_its_last_byte() {
    let mut memory = buffer(4096);
    for (skip, length) in [(1, 1000), (3, 77), (15, 17), (8, 24), (7, 0), (9, 6)] {
        let slice = &mut memory[skip..skip + length];
        let (start, end) = (slice.as_ptr().addr(), slice.as_ptr().addr() + length);
        let mut arena = Arena::new(slice);
        let room = end.saturating_sub(start.next_multiple_of(16));
        assert_eq!(arena.grow(room + 1, 1), Err(OutOfMemory));
        if room > 0 {
            let region = arena.grow(room, 1).unwrap();
            assert_eq!((region.addr() % 16, region.end()), (0, end));
            fill(region, 7);
            assert_eq!(arena.grow(0, 1), Err(OutOfMemory));
            // SAFETY: nobody uses it.
            assert_eq!(unsafe { arena.shrink(region) }, region.size);
            assert_eq!(arena.grow(1, 1).unwrap().start, region.start);
        } else {
            assert_eq!(arena.grow(1, 1), Err(OutOfMemory));
        }
    }
}

#[test]
fn an_arena_takes_gaps_back_with_the_regions_behind_them() {
    let mut memory = buffer(64 << 10);
    let mut arena = Arena::new(&mut memory);
    let small = arena.grow(16, 16).unwrap();
    let before = arena.given();
    let aligned: Vec<_> = (0..4).map(|_| arena.grow(32, 4096).unwrap()).collect();
    for region in &aligned {
        assert!(region.addr().is_multiple_of(4096));
        fill(*region, 0xFF);
    }
    for region in aligned.into_iter().rev() {
        // SAFETY: nobody uses it.
        assert_eq!(unsafe { arena.shrink(region) }, 32);
    }
    assert_eq!(arena.given(), before);
    let continued = arena.grow(16, 16).unwrap();
    assert_eq!(continued.addr(), small.end());
}

#[test]
fn an_arena_resizes_at_its_end() {
    let mut memory = buffer(4096);
    let mut arena = Arena::new(&mut memory);
    let first = arena.grow(64, 16).unwrap();
    let last = arena.grow(64, 16).unwrap();
    fill(last, 4);
    // SAFETY: the test uses only what it has not given back.
    unsafe {
        assert_eq!(arena.resize(first, 128, true), None, "not at the end");
        assert_eq!(arena.resize(first, 16, true), Some(Region { zeroed: true, ..first }));
        let grown = arena.resize(last, 1024, false).unwrap();
        assert_eq!((grown.start, grown.size), (last.start, 1024));
        assert!(all(&part(grown, 0, 64), 4));
        assert_eq!(arena.resize(grown, 1 << 20, true), None);
        assert_eq!(arena.resize(grown, usize::MAX, true), None);
        let less = arena.resize(grown, 10, false).unwrap();
        assert_eq!(less.size, 16);
        assert_eq!(arena.grow(16, 16).unwrap().addr(), less.end());
    }
}

#[test]
fn several_buffers_serve_one_after_the_other() {
    let (mut one, mut two, mut three) = (buffer(1024), buffer(4096), buffer(16));
    let mut arena = Arena::<2>::NEW;
    assert_eq!(arena.grow(16, 16), Err(OutOfMemory));
    arena.add(&mut one).unwrap();
    arena.add(&mut two).unwrap();
    assert_eq!(arena.add(&mut three), Err(Full));
    assert_eq!(arena.capacity(), 5120);
    let in_one = arena.grow(500, 16).unwrap();
    let in_two = arena.grow(2000, 16).unwrap();
    let also_two = arena.grow(100, 16).unwrap();
    assert_eq!(also_two.addr(), in_two.end(), "the last buffer goes on");
    let back_in_one = loop {
        match arena.grow(200, 16) {
            Ok(region) if region.addr() == in_one.end() => break region,
            Ok(region) => assert_ne!(region.addr(), in_one.end()),
            Err(OutOfMemory) => panic!("the first buffer has room still"),
        }
    };
    // SAFETY: nobody uses them.
    unsafe {
        assert_eq!(arena.shrink(back_in_one), back_in_one.size);
        assert_eq!(arena.shrink(in_one), in_one.size);
        assert_eq!(arena.shrink(in_two), 0);
    }
    for size in [usize::MAX, usize::MAX - 15, isize::MAX as usize] {
        assert_eq!(arena.grow(size, 16), Err(OutOfMemory));
        assert_eq!(arena.grow(16, 1 << 63), Err(OutOfMemory));
    }
}

/// Two arenas in one buffer, so that their regions continue each other.
#[test]
fn a_region_across_two_sources_goes_back_in_parts() {
    let mut memory = buffer(8192);
    let skip = memory.as_ptr().align_offset(16);
    let (low, high) = memory[skip..skip + 8000].split_at_mut(4000);
    for swap in [false, true] {
        let (first, second) = (Arena::new(&mut *low), Arena::new(&mut *high));
        let mut backend =
            if swap { Fallback::over(second, first) } else { Fallback::over(first, second) };
        let one = backend.grow(4000, 16).unwrap();
        let two = backend.grow(4000, 16).unwrap();
        let start = if swap { two.start } else { one.start };
        let both = Region { start, size: 8000, zeroed: false };
        assert_eq!(one.end().max(two.end()), both.end());
        assert_eq!(
            backend.stretch_below(both.end()),
            Stretch { own: true, start: both.addr() + 4000 }
        );
        assert_eq!(backend.stretch_below(both.end() + 9).start, both.end());
        // SAFETY: nobody uses it.
        unsafe {
            assert_eq!(backend.resize(both, 9000, true), None);
            assert!(!backend.discard(both));
            assert_eq!(backend.shrink(part(both, 3200, 8000)), 4800);
            assert_eq!(backend.first().given() + backend.second().given(), 3200);
            assert_eq!(backend.shrink(part(both, 0, 3200)), 3200);
        }
        assert_eq!(backend.first().given() + backend.second().given(), 0);
    }
}

#[test]
fn counting_counts_everything() {
    let mut memory = buffer(4096);
    let skip = memory.as_ptr().align_offset(16);
    let mut backend = Counting::over(Arena::new(&mut memory[skip..]));
    let first = backend.grow(100, 16).unwrap();
    let second = backend.grow(64, 16).unwrap();
    assert!(backend.grow(1 << 20, 16).is_err());
    // SAFETY: nobody uses them.
    unsafe {
        assert_eq!(backend.shrink(first), 0);
        let second = backend.resize(second, 128, true).unwrap();
        assert!(backend.resize(second, 1 << 20, true).is_none());
        let second = backend.resize(second, 32, true).unwrap();
        backend.discard(second);
        assert_eq!(backend.shrink(second), 32);
    }
    let expected = Counts {
        grows: 2,
        grown: 176,
        failed_grows: 1,
        shrinks: 1,
        shrunk: 32,
        failed_shrinks: 1,
        resizes: 2,
        moves: 0,
        resized_up: 64,
        resized_down: 96,
        failed_resizes: 1,
        discards: 1,
        discarded: 32,
        high_water: 240,
    };
    assert_eq!(backend.counts(), expected);
    assert_eq!(backend.counts().held(), 112);
}

#[test]
fn a_limit_holds_and_can_be_moved() {
    let mut memory = buffer(4096);
    let mut backend = Limited::over(Arena::new(&mut memory), 256);
    let first = backend.grow(200, 16).unwrap();
    assert_eq!((first.size, backend.held()), (208, 208));
    assert_eq!(backend.grow(49, 16), Err(OutOfMemory), "rounded up it is too much");
    assert_eq!(backend.grow(usize::MAX, 16), Err(OutOfMemory));
    // SAFETY: nobody uses it.
    unsafe {
        assert_eq!(backend.resize(first, 257, false), None);
        assert_eq!(backend.resize(first, usize::MAX, false), None);
        let first = backend.resize(first, 256, false).unwrap();
        assert_eq!(backend.held(), 256);
        backend.set_limit(128);
        assert_eq!((backend.limit(), backend.grow(1, 1)), (128, Err(OutOfMemory)));
        let first = backend.resize(first, 64, false).unwrap();
        assert_eq!((first.size, backend.held()), (64, 64));
        assert_eq!(backend.shrink(first), 64);
    }
    assert_eq!(backend.held(), 0);
    assert!(backend.grow(128, 16).is_ok());
}

#[test]
fn the_nth_call_fails_and_the_next_works() {
    static SWITCH: Switch = Switch::new();
    let (mut one, mut two) = (buffer(4096), buffer(4096));
    let mut backend = Failing::over(Arena::new(&mut one));
    let grow = |backend: &mut Failing<Arena>| backend.grow(16, 16).is_ok();
    assert_eq!([0; 3].map(|_| grow(&mut backend)), [true; 3]);
    backend.switch().fail_once(2);
    assert_eq!([0; 4].map(|_| grow(&mut backend)), [true, false, true, true]);
    backend.switch().fail_from(2);
    assert_eq!([0; 4].map(|_| grow(&mut backend)), [true, false, false, false]);
    backend.switch().repair();
    let region = backend.grow(16, 16).unwrap();
    backend.switch().fail_once(1);
    // SAFETY: nobody uses it.
    unsafe {
        assert_eq!(backend.resize(region, 32, true), None);
        assert!(backend.resize(region, 32, true).is_some());
    }
    assert_eq!(backend.switch().failures(), 5);
    assert_eq!(backend.switch().calls(), 14);

    let mut shared = Failing::by(Arena::new(&mut two), &SWITCH);
    SWITCH.fail_once(1);
    assert!(!grow(&mut shared) && grow(&mut shared));
    assert_eq!(SWITCH.failures(), 1);
}

#[test]
fn a_pile_is_sorted_and_loses_nothing() {
    let mut memory = buffer(64 << 10);
    let mut arena = Arena::new(&mut memory);
    for count in [0, 1, 2, 3, 7, 8, 100, 1000] {
        let regions: Vec<_> = (0..count).map(|_| arena.grow(32, 16).unwrap()).collect();
        let mut pile = Pile::new();
        for step in 0..count {
            // SAFETY: nobody uses it. 7919 is prime, so each is pushed once.
            unsafe { pile.push(regions[(step * 7919 + 5) % count]) };
        }
        pile.sort();
        for wanted in regions.iter().rev() {
            let found = pile.pop().unwrap();
            assert_eq!((found.start, found.size), (wanted.start, wanted.size));
            // SAFETY: nobody uses it.
            assert_eq!(unsafe { arena.shrink(found) }, 32);
        }
        assert_eq!(pile.pop(), None);
    }
    assert!(arena.given() < 16);
}
