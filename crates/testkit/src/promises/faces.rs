//! A strategy is an allocator for Rust programs.

use core::alloc::{GlobalAlloc, Layout};

use allocator_api2::alloc::Allocator;
use allocator_api2::boxed::Box as HeapBox;
use allocator_api2::vec::Vec as HeapVec;
use core::ptr::NonNull;
use heapwright_core::{Limits, Strategy};

use crate::model::{layout, require};
use crate::{Family, Kept, Nature, child, pattern};

/// The methods of `GlobalAlloc` do what they promise.
///
/// # Errors
///
/// What came back and should not have.
pub fn it_is_a_global_alloc<F: Family>() -> Kept
where
    F::Default: GlobalAlloc,
{
    let heap = F::new();
    serves_as_global_alloc(&heap, &heap, F::NATURE)
}

/// A heap serves through the methods of `GlobalAlloc`.
fn serves_as_global_alloc(face: &dyn GlobalAlloc, heap: &dyn Strategy, nature: Nature) -> Kept {
    let limits = heap.limits();
    for align in [1, 8, 64, 4096] {
        for size in [1, 24, 1000, 100_000] {
            let old = layout(size, align);
            let (new_size, small) = (size * 3, size / 2 + 1);
            if !limits.admit(layout(new_size, align)) {
                continue;
            }
            // SAFETY: the layouts have a size; each block is used with its own and freed once.
            unsafe {
                let block = face.alloc(old);
                let zeroed = face.alloc_zeroed(old);
                require!(!block.is_null() && !zeroed.is_null(), "alloc({old:?}) is null");
                require!(
                    pattern::find_nonzero(NonNull::new_unchecked(zeroed), size).is_none(),
                    "alloc_zeroed({old:?}) is not zero"
                );
                pattern::write(NonNull::new_unchecked(block), size, 91);
                let block = face.realloc(block, old, new_size);
                require!(!block.is_null(), "realloc({old:?}, {new_size}) is null");
                let grown = pattern::verify(NonNull::new_unchecked(block), size, 91, size);
                require!(grown.is_ok(), "realloc({old:?}, {new_size}) lost contents: {grown:?}");
                let block = face.realloc(block, layout(new_size, align), small);
                require!(!block.is_null(), "realloc to {small} is null");
                require!(
                    (block as usize).is_multiple_of(align),
                    "{block:p} is not aligned to {align}"
                );
                let shrunk = pattern::verify(NonNull::new_unchecked(block), size, 91, small);
                require!(shrunk.is_ok(), "realloc to {small} lost contents: {shrunk:?}");
                face.dealloc(block, layout(small, align));
                face.dealloc(zeroed, old);
            }
            let checked = heap.check();
            require!(checked.is_ok(), "check() says: {checked:?}");
        }
    }
    // SAFETY: a null pointer is the promised answer, and nothing is done with it.
    let impossible = unsafe { face.alloc(layout(isize::MAX as usize, 1)) };
    require!(impossible.is_null(), "alloc of isize::MAX bytes is {impossible:p}");
    let stats = heap.stats();
    require!(
        stats.live_blocks == 0 || nature.never_frees,
        "all was freed, and stats say: {stats:?}"
    );
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(align(128))]
struct Aligned([u64; 4]);

/// Collections of other crates live on a heap by reference: `Vec` and `Box` of allocator-api2, and
/// hashbrown's `HashMap`.
///
/// # Errors
///
/// What came back and should not have.
pub fn collections_live_on_it<F: Family>() -> Kept
where
    for<'a> &'a F::Default: Allocator,
{
    let heap = F::new();
    serves_collections(&&heap, &heap, F::NATURE)
}

/// A heap serves collections.
fn serves_collections(face: &dyn Allocator, heap: &dyn Strategy, nature: Nature) -> Kept {
    let limits = heap.limits();
    {
        let mut numbers = HeapVec::new_in(face);
        let reserved = numbers.try_reserve_exact(limits.max_size.min(64) / 8);
        require!(reserved.is_ok(), "a vector has no room for 64 bytes: {reserved:?}");
        // A vector doubles; where the limits are small, it keeps to what it has.
        let count = if limits.max_size < 1 << 17 { numbers.capacity() as u64 } else { 5000 };
        (0..count).for_each(|number| numbers.push(number * number));
        let right = numbers.iter().zip(0..).all(|(&found, number)| found == number * number);
        require!(right && numbers.len() as u64 == count, "a vector lost its elements: {numbers:?}");
        numbers.truncate(3);
        numbers.shrink_to_fit();
        require!(numbers.len() == 3.min(count as usize), "a vector lost its elements: {numbers:?}");

        let text = HeapBox::try_new_in(*b"a boxed text", face);
        require!(
            limits.max_size < 12 || text.as_deref().is_ok_and(|text| text == b"a boxed text"),
            "a box could not be had, or lost its contents"
        );

        let mut aligned = HeapVec::new_in(face);
        let fits = limits.admit(layout(size_of::<Aligned>() * 64, align_of::<Aligned>()));
        for number in 0..if fits { 50 } else { 0 } {
            aligned.push(Aligned([number; 4]));
            require!(
                (aligned.as_ptr() as usize).is_multiple_of(align_of::<Aligned>()),
                "elements that want 128 are at {:p}",
                aligned.as_ptr()
            );
        }
        let right = aligned.iter().zip(0..).all(|(&found, number)| found == Aligned([number; 4]));
        require!(right, "aligned elements were lost: {aligned:?}");

        let mut squares = hashbrown::HashMap::new_in(face);
        if limits.max_size >= 1 << 20 {
            squares.extend((0..3000_u64).map(|number| (number, number * number)));
            squares.retain(|number, _| number % 3 != 0);
            squares.shrink_to_fit();
            let right = (0..3000_u64).all(|number| {
                squares.get(&number).copied() == (number % 3 != 0).then_some(number * number)
            });
            require!(right && squares.len() == 2000, "a map lost its elements");
        } else {
            let reserved = squares.try_reserve(1 << 20);
            require!(reserved.is_err(), "a map of 2^20 elements was served beyond {limits:?}");
        }
    }
    let checked = heap.check();
    require!(checked.is_ok(), "check() says: {checked:?}");
    let stats = heap.stats();
    require!(
        stats.live_blocks == 0 || nature.never_frees,
        "all was dropped, and stats say: {stats:?}"
    );
    Ok(())
}

/// The methods of `Allocator` that collections seldom use: growing to a larger alignment, growing zeroed.
///
/// # Errors
///
/// What came back and should not have.
pub fn it_is_an_allocator<F: Family>() -> Kept
where
    for<'a> &'a F::Default: Allocator,
{
    let heap = F::new();
    serves_as_allocator(&&heap, &heap)
}

/// A heap serves through the methods of `Allocator`.
fn serves_as_allocator(face: &dyn Allocator, heap: &dyn Strategy) -> Kept {
    let limits = heap.limits();
    let align = limits.max_align.min(4096);
    let (small, large) = (40.min(limits.max_size / 2), 90.min(limits.max_size));
    let (old, new) = (layout(small, 1), layout(large, align));
    let failed = |_| crate::Complaint::new(format!("there is no memory for {old:?} or {new:?}"));
    let is_aligned = |block: NonNull<[u8]>, to: Layout| {
        block.cast::<u8>().addr().get().is_multiple_of(to.align())
    };
    // SAFETY: each block is used with the layout that it has at the time, and freed once.
    unsafe {
        let block = face.allocate(old).map_err(failed)?;
        pattern::write(block.cast(), small, 92);
        let block = face.grow(block.cast(), old, new).map_err(failed)?;
        require!(block.len() >= large && is_aligned(block, new), "grow to {new:?} gave {block:?}");
        let verified = pattern::verify(block.cast(), small, 92, small);
        require!(verified.is_ok(), "grow to {new:?} lost contents: {verified:?}");
        let block = face.shrink(block.cast(), new, old).map_err(failed)?;
        let verified = pattern::verify(block.cast(), small, 92, small);
        require!(verified.is_ok(), "shrink to {old:?} lost contents: {verified:?}");
        let block = face.grow_zeroed(block.cast(), old, new).map_err(failed)?;
        let verified = pattern::verify(block.cast(), small, 92, small);
        require!(verified.is_ok(), "grow_zeroed to {new:?} lost contents: {verified:?}");
        let dirty = pattern::find_nonzero(block.cast::<u8>().add(small), large - small);
        require!(dirty.is_none(), "grow_zeroed to {new:?} left dirt: {dirty:?}");
        face.deallocate(block.cast(), new);
        let zeroed = face.allocate_zeroed(new).map_err(failed)?;
        let dirty = pattern::find_nonzero(zeroed.cast(), large);
        require!(dirty.is_none(), "allocate_zeroed of {new:?} left dirt: {dirty:?}");
        face.deallocate(zeroed.cast(), new);
    }
    let checked = heap.check();
    require!(checked.is_ok(), "check() says: {checked:?}");
    Ok(())
}

/// A misuse through `GlobalAlloc` is said on standard error, and the program ends.
///
/// # Errors
///
/// It goes on, or says nothing.
pub fn misuse_through_a_face_aborts<F: Family>() -> Kept
where
    F::Default: GlobalAlloc,
{
    child::aborts(F::MODULE, "misuse_through_a_face_aborts", "double free", || {
        let heap = F::new();
        free_twice(&heap, heap.limits());
        Ok(())
    })
}

/// Frees a block twice.
fn free_twice(face: &dyn GlobalAlloc, limits: Limits) {
    let layout = layout(48.min(limits.max_size), 8);
    // SAFETY: the blocks are in use; what comes after that is a misuse, which a heap with checks
    // tolerates.
    unsafe {
        let blocks: Vec<*mut u8> = (0..64).map(|_| face.alloc(layout)).collect();
        face.dealloc(blocks[31], layout);
        face.dealloc(blocks[31], layout);
    }
}
