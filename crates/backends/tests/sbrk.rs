//! The program break, moved by the backend and by others.
//!
//! Runs without the test harness, hence in one thread: the C library's `sbrk` is not made for more.

#[cfg(target_os = "linux")]
fn main() {
    linux::main();
}

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
mod linux {
    use core::ptr;

    use heapwright_backends::{Counting, Fallback, Limited, Mmap, Owns, Sbrk};
    use heapwright_core::{HeapBackend, New, OutOfMemory, Region};

    type Test = (&'static str, fn());

    pub(crate) fn main() {
        let tests: [Test; 10] = [
            ("regions_continue_each_other", regions_continue_each_other),
            (
                "a_misaligned_break_is_aligned_and_restored",
                a_misaligned_break_is_aligned_and_restored,
            ),
            ("a_foreign_move_starts_a_new_region", a_foreign_move_starts_a_new_region),
            ("what_others_put_on_top_stays", what_others_put_on_top_stays),
            ("several_values_share_the_break", several_values_share_the_break),
            ("memory_given_back_comes_back_zero", memory_given_back_comes_back_zero),
            ("gaps_of_alignment_are_taken_back", gaps_of_alignment_are_taken_back),
            ("resizing_stays_in_place", resizing_stays_in_place),
            ("what_cannot_be_is_refused", what_cannot_be_is_refused),
            ("a_blocked_break_falls_back_on_mappings", a_blocked_break_falls_back_on_mappings),
        ];
        for (name, test) in tests {
            let before = now();
            test();
            assert_eq!(now(), before, "{name} left the break as it found it");
            println!("test {name} ... ok");
        }
    }

    fn now() -> usize {
        shift(0)
    }

    /// Moves the break as other code does.
    fn shift(by: isize) -> usize {
        // SAFETY: the test puts the break back, and uses nothing beyond it.
        let was = unsafe { libc::sbrk(by) };
        assert_ne!(was.addr(), usize::MAX, "the break moves by {by}");
        was.addr()
    }

    fn fill(region: Region, byte: u8) {
        // SAFETY: a region of the test's own.
        unsafe { ptr::write_bytes(region.start.as_ptr(), byte, region.size) };
    }

    fn all(region: Region, byte: u8) -> bool {
        // SAFETY: a region of the test's own.
        let bytes = unsafe { core::slice::from_raw_parts(region.start.as_ptr(), region.size) };
        bytes.iter().all(|&found| found == byte)
    }

    /// The part of a region from `from` bytes on.
    fn end_of(region: Region, from: usize) -> Region {
        // SAFETY: within the region.
        let start = unsafe { region.start.add(from) };
        Region { start, size: region.size - from, zeroed: false }
    }

    fn give_back(backend: &mut impl HeapBackend, region: Region) {
        // SAFETY: nobody uses it.
        assert_eq!(unsafe { backend.shrink(region) }, region.size);
    }

    /// Raises the break to a multiple of a page, and says by how much.
    fn align_break() -> isize {
        let by = (now().wrapping_neg() & 4095) as isize;
        shift(by);
        by
    }

    fn regions_continue_each_other() {
        let mut backend = Sbrk::new();
        let page = backend.page_size();
        let first = backend.grow(1, 1).unwrap();
        assert!(first.addr().is_multiple_of(page) && first.size == page && first.zeroed);
        let second = backend.grow(10 * page + 1, 16).unwrap();
        assert_eq!((second.addr(), second.size), (first.end(), 11 * page));
        assert_eq!(now(), second.end());
        fill(first, 1);
        fill(second, 2);
        assert!(all(first, 1));
        // SAFETY: nobody uses it.
        assert_eq!(unsafe { backend.shrink(first) }, 0, "not at the end");
        let mut both = Region { size: first.size + second.size, ..first };
        // SAFETY: nobody uses the end.
        let taken = unsafe { backend.shrink(end_of(both, 4 * page + 1)) };
        assert_eq!(taken, 7 * page, "cut at a page");
        both.size -= taken;
        assert_eq!(now(), both.end());
        let third = backend.grow(page, 16).unwrap();
        assert_eq!(third.addr(), both.end());
        both.size += third.size;
        give_back(&mut backend, both);
    }

    fn a_misaligned_break_is_aligned_and_restored() {
        for odd in [1, 8, 15, 16, 24, 100, 4000, 4095] {
            let aligned = align_break();
            shift(odd);
            let mut backend = Sbrk::new();
            let page = backend.page_size();
            let was = now();
            let first = backend.grow(1, 1).unwrap();
            assert!(first.addr().is_multiple_of(page) && now().is_multiple_of(page));
            assert!(first.zeroed && all(first, 0));
            fill(first, 3);
            let second = backend.grow(3 * page, 16).unwrap();
            assert_eq!(second.addr(), first.end());
            give_back(&mut backend, second);
            give_back(&mut backend, first);
            // A gap too short for its note stays.
            let left = now() - was;
            assert!(left < 16, "{left} bytes left of {odd}");
            shift(-(left as isize) - odd - aligned);
        }
    }

    fn a_foreign_move_starts_a_new_region() {
        let mut backend = Sbrk::new();
        let first = backend.grow(4096, 16).unwrap();
        let foreign = shift(1000);
        assert_eq!(foreign, first.end());
        // SAFETY: the test moved the break over it.
        unsafe { ptr::write_bytes(ptr::with_exposed_provenance_mut::<u8>(foreign), 0xEE, 1000) };
        let second = backend.grow(4096, 16).unwrap();
        assert!(second.addr() >= foreign + 1000, "the foreign memory is left alone");
        assert!(all(second, 0));
        fill(first, 1);
        fill(second, 2);
        let kept = ptr::with_exposed_provenance::<[u8; 1000]>(foreign);
        // SAFETY: the test moved the break over it and wrote it.
        assert!(unsafe { kept.read() }.iter().all(|&byte| byte == 0xEE));
        // SAFETY: nobody uses it.
        assert_eq!(unsafe { backend.shrink(first) }, 0);
        give_back(&mut backend, second);
        assert_eq!(now(), foreign + 1000, "with the gap in front");
        // SAFETY: nobody uses it.
        assert_eq!(unsafe { backend.shrink(first) }, 0, "the foreign memory is on top");
        shift(-1000);
        give_back(&mut backend, first);
    }

    fn what_others_put_on_top_stays() {
        let mut backend = Sbrk::new();
        let region = backend.grow(8 * 4096, 16).unwrap();
        fill(region, 5);
        let foreign = shift(16);
        // SAFETY: the test moved the break over it; nobody uses the region's end.
        unsafe {
            let word = ptr::with_exposed_provenance_mut::<u64>(foreign);
            word.write(0x1122_3344);
            assert_eq!(backend.shrink(end_of(region, 4096)), 0);
            assert_eq!(backend.resize(region, 9 * 4096, true), None);
            let same = backend.resize(region, 4096, true).unwrap();
            assert_eq!((same.start, same.size), (region.start, region.size), "no end to cut off");
            assert_eq!(word.read(), 0x1122_3344);
        }
        assert!(all(region, 5));
        shift(-16);
        // The break below the region's end: as if by a broken program, but nothing worse follows.
        shift(-4096);
        // SAFETY: nobody uses it.
        assert_eq!(unsafe { backend.shrink(region) }, 0);
        shift(4096);
        give_back(&mut backend, region);
    }

    fn several_values_share_the_break() {
        let (mut one, mut two) = (Sbrk::new(), Sbrk::NEW);
        let first = one.grow(4096, 16).unwrap();
        let second = two.grow(4096, 16).unwrap();
        let third = one.grow(4096, 16).unwrap();
        let fourth = two.grow(4096, 16).unwrap();
        let regions = [first, second, third, fourth];
        for (region, byte) in regions.into_iter().zip(1..) {
            fill(region, byte);
        }
        for (region, byte) in regions.into_iter().zip(1..) {
            assert!(all(region, byte));
        }
        // SAFETY: nobody uses it.
        assert_eq!(unsafe { one.shrink(third) }, 0);
        give_back(&mut two, fourth);
        give_back(&mut one, third);
        give_back(&mut two, second);
        give_back(&mut one, first);
    }

    fn memory_given_back_comes_back_zero() {
        let mut backend = Sbrk::new();
        let page = backend.page_size();
        for size in [1, page, 5 * page, 64 * page] {
            for lowered in [0, 1, 100, page] {
                let region = backend.grow(size, 16).unwrap();
                assert!(region.zeroed && all(region, 0));
                fill(region, 0xFF);
                // SAFETY: nobody uses the end.
                let taken = unsafe { backend.shrink(end_of(region, lowered.min(region.size))) };
                let kept = Region { size: region.size - taken, ..region };
                let more = backend.grow(size, 16).unwrap();
                assert!(more.zeroed && all(more, 0));
                assert!(kept.size == 0 || all(kept, 0xFF));
                // SAFETY: nobody needs it.
                unsafe {
                    fill(more, 0xFF);
                    assert!(backend.discard(more) && all(more, 0));
                }
                give_back(&mut backend, more);
                if kept.size > 0 {
                    give_back(&mut backend, kept);
                }
            }
        }
    }

    fn gaps_of_alignment_are_taken_back() {
        let mut backend = Sbrk::new();
        let plain = backend.grow(4096, 16).unwrap();
        let regions = [1 << 13, 1 << 16, 1 << 14, 1 << 20, 1 << 26].map(|align| {
            let region = backend.grow(5000, align).unwrap();
            assert!(region.addr().is_multiple_of(align) && all(region, 0));
            fill(region, 0xAA);
            region
        });
        for region in regions.into_iter().rev() {
            give_back(&mut backend, region);
        }
        assert_eq!(now(), plain.end());
        give_back(&mut backend, plain);
    }

    fn resizing_stays_in_place() {
        let mut backend = Sbrk::new();
        let page = backend.page_size();
        let region = backend.grow(2 * page, 16).unwrap();
        fill(region, 7);
        // SAFETY: the test follows the region's size.
        unsafe {
            let grown = backend.resize(region, 9 * page - 1, false).unwrap();
            assert_eq!((grown.start, grown.size, grown.zeroed), (region.start, 9 * page, true));
            assert!(all(end_of(grown, 2 * page), 0) && all(region, 7));
            let less = backend.resize(grown, page + 1, false).unwrap();
            assert_eq!((less.start, less.size), (region.start, 2 * page));
            assert_eq!(now(), less.end());
            assert!(all(less, 7));
            assert_eq!(backend.resize(less, usize::MAX, true), None);
            assert_eq!(backend.resize(less, isize::MAX as usize, true), None);
            assert_eq!(now(), less.end());
            give_back(&mut backend, less);
        }
    }

    fn what_cannot_be_is_refused() {
        let mut backend = Sbrk::new();
        let before = now();
        // SAFETY: this thread's own.
        unsafe { *libc::__errno_location() = 99 };
        for size in [usize::MAX, usize::MAX - 4096, isize::MAX as usize, 1 << 63, 1 << 62, 1 << 47]
        {
            assert_eq!(backend.grow(size, 16), Err(OutOfMemory), "{size:#x}");
        }
        assert_eq!(backend.grow(16, 1 << 63), Err(OutOfMemory));
        assert_eq!(backend.grow(16, 1 << 62), Err(OutOfMemory));
        // SAFETY: this thread's own.
        assert_eq!(unsafe { *libc::__errno_location() }, 99, "errno is as it was");
        assert_eq!(now(), before, "nothing has changed");
        let region = backend.grow(16, 16).unwrap();
        assert!(backend.is_readable(region.addr()) && !backend.is_readable(8));
        assert_ne!(backend.entropy(), 0);
        give_back(&mut backend, region);
        // SAFETY: this thread's own.
        assert_eq!(unsafe { *libc::__errno_location() }, 99, "errno is as it was");
    }

    fn a_blocked_break_falls_back_on_mappings() {
        type Broken = Fallback<Limited<Sbrk>, Counting<Mmap>>;
        let mut backend =
            Broken::over(Limited::over(Sbrk::new(), 64 << 10), Counting::over(Mmap::new()));
        let first = backend.grow(32 << 10, 16).unwrap();
        let second = backend.grow(64 << 10, 16).unwrap();
        let third = backend.grow(16 << 10, 16).unwrap();
        assert_eq!(third.addr(), first.end());
        assert_eq!(backend.second().counts().grown, 64 << 10);
        assert!(backend.first().stretch_below(third.end()).own);
        assert!(!backend.first().stretch_below(second.end()).own);
        for region in [first, second, third] {
            fill(region, 4);
        }
        // SAFETY: the test follows the region where it moves.
        let second = unsafe { backend.resize(second, 1 << 20, true) }.unwrap();
        let both = Region { size: first.size + third.size, ..first };
        give_back(&mut backend, both);
        give_back(&mut backend, second);
        assert_eq!((backend.first().held(), backend.second().counts().held()), (0, 0));

        // A whole heap's way up, with the real limit of the break: a mapping in its way.
        let mut backend = Fallback::<Sbrk, Mmap>::NEW;
        let low = backend.grow(4096, 16).unwrap();
        let wall = (now() + (1 << 20)) & !4095;
        // SAFETY: a new mapping replaces no other.
        let mapped = unsafe {
            libc::mmap(
                ptr::without_provenance_mut(wall),
                4096,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
                -1,
                0,
            )
        };
        assert_eq!(mapped.addr(), wall);
        let beyond = backend.grow(2 << 20, 16).unwrap();
        assert!(!backend.first().stretch_below(beyond.end()).own);
        fill(beyond, 1);
        let below = backend.grow(4096, 16).unwrap();
        assert_eq!(below.addr(), low.end());
        give_back(&mut backend, beyond);
        give_back(&mut backend, below);
        give_back(&mut backend, low);
        // SAFETY: mapped above.
        unsafe { libc::munmap(mapped, 4096) };
    }
}
