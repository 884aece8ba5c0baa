//! What is freed goes back to the kernel: when it is asked for, and by and by. One test, for it looks at the process.

use std::alloc::Layout;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::{Barrier, Mutex, mpsc};
use std::time::Duration;
use std::{array, env, fs, thread};

use heapwright_core::{Strategy, barrier_for_all};
use heapwright_testkit::Rng;
use heapwright_thread_cached::ThreadCached;

/// How much may be there still.
const SLACK: usize = 16 << 20;

/// Of what is no file's, exactly; other files of the kernel's are off by what each processor has not counted yet.
fn resident() -> usize {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").expect("the kernel tells");
    let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).expect("a line");
    let kibibytes = line.trim().strip_suffix(" kB").and_then(|it| it.parse::<usize>().ok());
    kibibytes.expect("a number") << 10
}

/// A block of so many bytes, the first of which are written to.
fn written(heap: &ThreadCached, size: usize, bytes: usize) -> NonNull<u8> {
    let layout = Layout::from_size_align(size, 8).expect("a layout");
    let block = heap.allocate(layout).expect("memory");
    // SAFETY: the block is that long.
    unsafe { block.write_bytes(1, bytes) };
    block
}

/// How many bytes a peak has.
fn bytes_of_a_peak() -> usize {
    if env::var_os("CI").is_some() { 256 << 20 } else { 1 << 30 }
}

/// Small blocks, all written to and all freed at random, so that those freed last, which are kept at hand, lie everywhere.
fn peak_of_small_blocks(heap: &ThreadCached) -> usize {
    let (mut rng, mut blocks, mut sum) = (Rng::new(4), Vec::new(), 0);
    while sum < bytes_of_a_peak() {
        let size = 16 + rng.below(1000);
        blocks.push(written(heap, size, size));
        sum += size;
    }
    let at_the_peak = resident();
    while !blocks.is_empty() {
        let block = blocks.swap_remove(rng.below(blocks.len()));
        // SAFETY: it is in use.
        unsafe { heap.deallocate(block).expect("a block in use") };
    }
    at_the_peak
}

/// Small and large blocks, and some with mappings of their own, all written to and all freed.
fn peak(heap: &ThreadCached) -> usize {
    let bytes = bytes_of_a_peak();
    let (mut rng, mut blocks, mut sum) = (Rng::new(1), Vec::new(), 0);
    while sum < bytes {
        let size = match rng.below(2000) {
            0 => bytes / 8,
            1..10 => 1 << 20,
            _ => 1 + rng.size(usize::MAX),
        };
        blocks.push(written(heap, size, size));
        sum += size;
    }
    let at_the_peak = resident();
    // SAFETY: each is in use.
    blocks.into_iter().for_each(|block| unsafe { heap.deallocate(block).expect("a block in use") });
    at_the_peak
}

/// What a fresh heap of 1 MiB in small objects of mixed sizes makes resident.
fn of_a_mebibyte() -> usize {
    let (heap, mut rng, mut sum) = (<ThreadCached>::new(), Rng::new(3), 0);
    let start = resident();
    while sum < 1 << 20 {
        let size = 1 + rng.below(1000);
        written(&heap, size, size);
        sum += size;
    }
    resident() - start
}

/// What blocks make resident of which the first byte is written.
fn of_beginnings(count: usize, size: usize) -> usize {
    let (heap, start) = (<ThreadCached>::new(), resident());
    for _ in 0..count {
        written(&heap, size, 1);
    }
    resident().saturating_sub(start)
}

/// What blocks that are to be zero make resident, one after the other, where one was that was filled.
fn of_zeros_where_a_block_was(size: usize) -> usize {
    let (heap, start) = (<ThreadCached>::new(), resident());
    let layout = Layout::from_size_align(size, 8).expect("a layout");
    let block = heap.allocate(layout).expect("memory");
    // SAFETY: the block is that long, and in use.
    unsafe {
        block.write_bytes(1, size);
        heap.deallocate(block).expect("a block in use");
    }
    for place in 0..100 {
        let block = heap.allocate_zeroed(layout).expect("memory");
        // SAFETY: as above.
        unsafe {
            let bytes = std::slice::from_raw_parts_mut(block.as_ptr(), size);
            assert!(bytes.iter().step_by(size / 50).all(|&byte| byte == 0), "place {place}");
            bytes[place * (size / 100)] = 1;
            heap.deallocate(block).expect("a block in use");
        }
    }
    resident() - start
}

/// What a block that is touched here and there makes resident, behind one that was filled.
fn of_a_block_behind_a_filled_one(zeroed: bool) -> usize {
    let heap = <ThreadCached>::new();
    let filled = Layout::from_size_align(5 << 20, 8).expect("a layout");
    // SAFETY: the block is that long.
    unsafe { heap.allocate(filled).expect("memory").write_bytes(1, filled.size()) };
    let start = resident();
    let layout = Layout::from_size_align(1 << 30, 8).expect("a layout");
    let allocate = if zeroed { ThreadCached::allocate_zeroed } else { ThreadCached::allocate };
    let block = allocate(&heap, layout).expect("memory");
    for place in 0..100 {
        // SAFETY: as above.
        unsafe { block.add(place * (layout.size() / 100)).write(1) };
    }
    resident() - start
}

/// A block that goes from the thread that asked for it to another.
struct Given(NonNull<u8>);

// SAFETY: the heap's blocks may be freed by any thread.
unsafe impl Send for Given {}

/// What four threads filled is freed by this one, while they do nothing; the most that was resident. They do nothing still
/// when `then` is called.
fn with_sleepers(heap: &ThreadCached, then: impl FnOnce(usize)) {
    const BYTES: usize = 48 << 20;
    let (give, given) = mpsc::channel();
    let doze = Mutex::new(());
    let dozing = doze.lock().expect("nobody panics");
    thread::scope(|scope| {
        for number in 0..4 {
            let (give, doze) = (give.clone(), &doze);
            scope.spawn(move || {
                let (mut rng, mut blocks, mut sum) = (Rng::new(number), Vec::new(), 0);
                while sum < BYTES {
                    let size = 1 + rng.below(4000);
                    let block = written(heap, size, size);
                    blocks.push(Given(block));
                    sum += size;
                }
                give.send(blocks).expect("somebody waits");
                drop(doze.lock());
            });
        }
        let blocks: Vec<_> = given.iter().take(4).collect();
        let at_the_peak = resident();
        for Given(block) in blocks.into_iter().flatten() {
            // SAFETY: each is in use.
            unsafe { heap.deallocate(block).expect("a block in use") };
        }
        then(at_the_peak);
        drop(dozing);
    });
}

/// Does something while threads sleep that had much and freed all of it themselves; it is told what was resident then.
fn with_dozers(heap: &ThreadCached, then: impl FnOnce(usize)) {
    const BYTES: usize = 32 << 20;
    const DOZERS: usize = 8;
    let all_have_it = Barrier::new(DOZERS + 1);
    let [may_free, have_freed] = [(); 2].map(|()| Barrier::new(DOZERS + 1));
    let doze = Mutex::new(());
    let dozing = doze.lock().expect("nobody panics");
    thread::scope(|scope| {
        for _ in 0..DOZERS {
            scope.spawn(|| {
                let blocks: Vec<_> = (0..BYTES / 4000).map(|_| written(heap, 4000, 4000)).collect();
                all_have_it.wait();
                may_free.wait();
                for block in blocks {
                    // SAFETY: it is in use.
                    unsafe { heap.deallocate(block).expect("a block in use") };
                }
                have_freed.wait();
                drop(doze.lock());
            });
        }
        all_have_it.wait();
        let at_the_peak = resident();
        may_free.wait();
        have_freed.wait();
        then(at_the_peak);
        drop(dozing);
    });
}

/// A second in which little is done, with blocks of at most so many bytes.
fn dawdle(heap: &ThreadCached, most: usize) {
    let mut rng = Rng::new(2);
    for _ in 0..1000 {
        let layout = Layout::from_size_align(1 + rng.below(most), 8).expect("a layout");
        let block = heap.allocate(layout).expect("memory");
        // SAFETY: the block is in use.
        unsafe { heap.deallocate(block).expect("a block in use") };
        thread::sleep(Duration::from_millis(1));
    }
}

/// What blocks of which the beginnings alone are used make resident behind so many bytes of small objects.
fn of_beginnings_behind(bytes: usize, count: usize, size: usize) -> usize {
    let heap = <ThreadCached>::new();
    for _ in 0..bytes / 200 {
        written(&heap, 200, 200);
    }
    let start = resident();
    for _ in 0..count {
        written(&heap, size, 1);
    }
    resident() - start
}

/// What threads make resident of which each has one object of every size up to 8,000 bytes, in steps of an eighth.
fn of_threads_with_little(count: usize) -> usize {
    let heap = &<ThreadCached>::new();
    let (start, all_have_it) = (resident(), &Barrier::new(count + 1));
    thread::scope(|scope| {
        let little = || {
            let mut size = 16;
            while size < 8000 {
                written(heap, size, 16);
                size += (size / 8).next_multiple_of(16);
            }
            all_have_it.wait();
            all_have_it.wait();
        };
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(little)).collect();
        all_have_it.wait();
        let held = resident() - start;
        all_have_it.wait();
        // What a thread itself has is gone when it is joined, which the scope does not wait for.
        threads.into_iter().for_each(|thread| thread.join().expect("it ends"));
        held
    })
}

/// What is resident of threads that had as many objects of each size at hand as they keep, and ended; after a trim, or
/// after so many seconds in which the heap was hardly used.
fn of_threads_that_were(count: usize, seconds: usize) -> usize {
    let heap = &<ThreadCached>::new();
    let (start, all_are_there) = (resident(), &Barrier::new(count));
    thread::scope(|scope| {
        let work = || {
            for size in (16..4000).step_by(48) {
                let blocks: [_; 300] = array::from_fn(|_| written(heap, size, 1));
                for block in blocks {
                    // SAFETY: in use.
                    unsafe { heap.deallocate(block).expect("a block in use") };
                }
            }
            all_are_there.wait();
        };
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(work)).collect();
        threads.into_iter().for_each(|thread| thread.join().expect("it ends"));
    });
    if seconds == 0 {
        heap.trim();
    }
    (0..seconds).for_each(|_| dawdle(heap, 100));
    // Stacks of earlier threads may have gone meanwhile.
    resident().saturating_sub(start)
}

/// What a fresh heap of so many bytes in objects of 1,000 makes resident beyond those, before and after a trim; the last few
/// were freed before.
fn of_rests(bytes: usize, freed: usize) -> [usize; 2] {
    let heap = <ThreadCached>::new();
    let start = resident();
    let mut blocks = Vec::with_capacity(bytes / 1000 + freed);
    for _ in 0..blocks.capacity() {
        blocks.push(written(&heap, 1000, 1000));
    }
    let last = blocks.drain(blocks.len() - freed..);
    // SAFETY: in use.
    last.for_each(|block| unsafe { heap.deallocate(block).expect("a block in use") });
    let beside = start + bytes + blocks.capacity() * size_of::<NonNull<u8>>();
    let before = resident().saturating_sub(beside);
    let given = heap.trim();
    let after = resident().saturating_sub(beside);
    let went = before.saturating_sub(after);
    // What a run has that was given back is dirty, whether it was present or not.
    assert!(given.abs_diff(went) <= 128 << 10, "it says what it gave back: {given} of {went}");
    heap.check().expect("a heap in order");
    [before, after]
}

/// Whether the kernel was told to make no huge pages around an address.
fn is_withdrawn(addr: usize) -> bool {
    let maps = fs::read_to_string("/proc/self/smaps").expect("the kernel tells");
    let mut here = false;
    for line in maps.lines() {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        if let Some((start, end)) = range {
            let number = |text| usize::from_str_radix(text, 16).expect("an address");
            here = (number(start)..number(end)).contains(&addr);
        } else if let Some(flags) = line.strip_prefix("VmFlags:").filter(|_| here) {
            return flags.split(' ').any(|flag| flag == "nh");
        }
    }
    panic!("nothing is mapped at {addr:x}");
}

/// Nothing may become huge of the first pages of a heap, or where every other part of what was used was given back: that
/// would be present again.
fn no_huge_pages_where_some_was_given_back() {
    let heap = <ThreadCached>::new();
    let blocks: Vec<_> = (0..3000).map(|_| written(&heap, 1000, 1000)).collect();
    assert!(is_withdrawn(blocks[0].addr().get()), "the first pages of a heap");
    let before = resident();
    let (kept, freed): (Vec<_>, Vec<_>) =
        blocks.into_iter().enumerate().partition(|(index, _)| index / 100 % 2 == 0);
    // SAFETY: each is in use.
    freed.iter().for_each(|&(_, block)| unsafe {
        heap.deallocate(block).expect("a block in use");
    });
    heap.trim();
    assert!(resident() + (1 << 20) < before, "some was given back");
    for (index, block) in kept.into_iter().step_by(50) {
        assert!(is_withdrawn(block.addr().get()), "block {index}: some around was given back");
    }
}

/// Whether larger pages come to those alone that ask for them.
fn huge_pages_are_asked_for() -> bool {
    let folder = "/sys/kernel/mm/transparent_hugepage";
    let sizes = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let modes = sizes.map(|size| size.join("enabled")).chain([Path::new(folder).join("enabled")]);
    modes
        .into_iter()
        .all(|mode| fs::read_to_string(mode).map_or(true, |mode| !mode.contains("[always]")))
}

#[test]
fn what_was_freed_goes_back_when_asked_for_and_by_and_by() {
    if huge_pages_are_asked_for() {
        let kib = |size: usize| size << 10;
        let blocks = [(9000, 12), (7000, 16), (3000, 32), (5000, 64), (1000, 1024), (100, 5120)];
        for (count, size) in blocks.into_iter().map(|(count, size)| (count, kib(size))) {
            let little = of_beginnings(count, size);
            println!("beginnings of {count} blocks of {size} bytes: {} KiB", little >> 10);
            // Two pages for each: its own, and that of its descriptor or head. And of what is made present by the step.
            assert!(little < (3 << 20) + count * (8 << 10), "{count} of {size}: {little} bytes");
        }
        for (mib, count, size) in [
            (5, 96, 64),
            (5, 150, 40),
            (8, 110, 64),
            (8, 60, 120),
            (8, 40, 240),
            (9, 20, 300),
            (9, 3, 1700),
            (9, 3, 2000),
        ] {
            let little = of_beginnings_behind(mib << 20, count, kib(size));
            println!("beginnings of {count} of {size} KiB behind {mib} MiB: {} KiB", little >> 10);
            assert!(
                little < (5 << 19) + count * (8 << 10),
                "{count} of {size} KiB: {little} bytes"
            );
        }
        let little = of_threads_with_little(24);
        println!("24 threads with one object of each class: {} KiB", little >> 10);
        assert!(little < 7 << 20, "{little} bytes");
        for seconds in [0, 2] {
            let little = of_threads_that_were(200, seconds);
            println!("200 threads that ended {seconds} s ago: {} KiB", little >> 10);
            assert!(little < 8 << 20, "{little} bytes");
        }
        let little = of_zeros_where_a_block_was(64 << 20);
        println!("zeros where a block was: {} KiB", little >> 10);
        assert!(little < 8 << 20, "{little} bytes");
        for zeroed in [false, true] {
            let little = of_a_block_behind_a_filled_one(zeroed);
            println!("a hundred places of a block: {} KiB", little >> 10);
            assert!(little < 1 << 20, "{little} bytes");
        }
    }
    for (mib, freed) in [(6, 0), (6, 64), (6, 256), (7, 0), (8, 200), (19, 0), (19, 100)] {
        let [before, after] = of_rests(mib << 20, freed);
        println!("beside {mib} MiB: {} KiB, after a trim {}", before >> 10, after >> 10);
        assert!(after < (mib << 20) / 10, "{after} bytes beside {mib} MiB");
    }
    if Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
        no_huge_pages_where_some_was_given_back();
    }
    let little = of_a_mebibyte();
    println!("a mebibyte: {} KiB", little >> 10);
    assert!(little < 2 << 20, "a program that asks for 1 MiB holds {little} bytes");

    let start = resident();
    let heap = ThreadCached::new();
    let is_back = |when: &str, at_the_peak: usize| {
        let now = resident();
        println!("{when}: {} MiB of {} MiB", now >> 20, at_the_peak >> 20);
        assert!(at_the_peak > start + (128 << 20), "there was a peak");
        assert!(now < start + SLACK, "{when}: {now} bytes are resident, {start} were at first");
    };

    let at_the_peak = peak(&heap);
    let held = heap.stats().footprint;
    let given = heap.trim();
    assert!((64 << 20..=held).contains(&given), "it says what it gave back: {given} of {held}");
    is_back("after a trim", at_the_peak);

    for most in [100, 40_000] {
        let at_the_peak = peak(&heap);
        dawdle(&heap, most);
        is_back(&format!("after a second with some blocks of at most {most} bytes"), at_the_peak);
    }

    let at_the_peak = peak_of_small_blocks(&heap);
    dawdle(&heap, 100);
    is_back("after a second, of small blocks that went at random", at_the_peak);
    // With one class: each that is used keeps a slab, which may lie in any chunk.
    dawdle(&heap, 16);
    let held = heap.stats().footprint;
    println!("chunks and mappings: {} MiB", held >> 20);
    assert!(held < at_the_peak / 2, "chunks that serve nothing go: {held} bytes stay");

    if !barrier_for_all() {
        println!("no barrier for all threads here: what sleepers had waits for them");
        return;
    }
    with_dozers(&heap, |at_the_peak| {
        dawdle(&heap, 100);
        is_back("after a second, while those sleep who freed it", at_the_peak);
    });
    with_sleepers(&heap, |at_the_peak| {
        heap.trim();
        is_back("after a trim, while those sleep whose it was", at_the_peak);
    });
    with_sleepers(&heap, |at_the_peak| {
        dawdle(&heap, 40_000);
        is_back("after a second, while those sleep whose it was", at_the_peak);
    });
    heap.check().expect("a heap in order");
}
