//! The C functions, with glibc's semantics and `errno`, generic over the strategy.
//!
//! Each is inlined into the exported function of its name; what seldom happens is a cold function of its own.

use core::alloc::Layout;
use core::ptr::{self, NonNull};

use heapwright_core::misuse::{self, OnMisuse};
use heapwright_core::{GRANULE, HeapError, Strategy};
use libc::{FILE, c_int, c_void};

use crate::report::{self, Usage};

/// A request as C makes it. `None` where it is larger than any object may be.
#[inline(always)]
fn layout(size: usize, align: usize) -> Option<Layout> {
    Layout::from_size_align(size, align).ok()
}

/// What was made, or NULL, with `errno` saying why.
#[inline(always)]
fn answer(block: Option<NonNull<u8>>) -> *mut c_void {
    match block {
        Some(block) => block.as_ptr().cast(),
        None => refuse(libc::ENOMEM),
    }
}

#[cold]
#[inline(never)]
fn refuse(why: c_int) -> *mut c_void {
    // SAFETY: the place of this thread's errno.
    unsafe { *libc::__errno_location() = why };
    // Were it known to be null, callers would come back to return that themselves, for which they would keep a frame.
    core::hint::black_box(ptr::null_mut())
}

#[inline(always)]
pub fn malloc<S: Strategy>(heap: &S, size: usize) -> *mut c_void {
    answer(heap.allocate_bytes(size))
}

#[inline(always)]
pub fn calloc<S: Strategy>(heap: &S, count: usize, size: usize) -> *mut c_void {
    let layout = count.checked_mul(size).and_then(|size| layout(size, GRANULE));
    answer(layout.and_then(|layout| heap.allocate_zeroed(layout)))
}

/// # Safety
///
/// NULL, or a block in use.
#[inline(always)]
pub unsafe fn free<S: Strategy>(heap: &S, block: *mut c_void) {
    if let Some(block) = NonNull::new(block.cast()) {
        // SAFETY: the caller promises a block in use.
        unsafe { heap.free(block) }
    }
}

/// # Safety
///
/// NULL, or a block in use that was asked for with this size and alignment.
#[inline(always)]
unsafe fn free_as<S: Strategy>(heap: &S, block: *mut c_void, size: usize, align: usize) {
    let Some(block) = NonNull::new(block.cast()) else { return };
    // SAFETY: the caller promises such a block in use; where there can be none, its size is not believed.
    unsafe {
        match layout(size, align) {
            Some(layout) => heap.free_sized(block, layout),
            None => free_otherwise(heap, block),
        }
    }
}

/// For a size that no block has: seldom, so that the path of the others holds no second copy.
///
/// # Safety
///
/// A block in use.
#[cold]
#[inline(never)]
unsafe fn free_otherwise<S: Strategy>(heap: &S, block: NonNull<u8>) {
    // SAFETY: the caller promises the same.
    unsafe { heap.free(block) }
}

/// # Safety
///
/// NULL, or a block in use of this size from `malloc`, `calloc` or `realloc`.
#[inline(always)]
pub unsafe fn free_sized<S: Strategy>(heap: &S, block: *mut c_void, size: usize) {
    // SAFETY: the caller promises the same.
    unsafe { free_as(heap, block, size, GRANULE) }
}

/// # Safety
///
/// NULL, or a block in use of this size and alignment from `aligned_alloc`.
#[inline(always)]
pub unsafe fn free_aligned_sized<S: Strategy>(
    heap: &S,
    block: *mut c_void,
    align: usize,
    size: usize,
) {
    // SAFETY: the caller promises the same.
    unsafe { free_as(heap, block, size, align.max(GRANULE)) }
}

/// As glibc does it: resizing to nothing frees.
///
/// # Safety
///
/// NULL, or a block in use.
#[inline(always)]
pub unsafe fn realloc<S: Strategy>(heap: &S, block: *mut c_void, size: usize) -> *mut c_void {
    let Some(old) = NonNull::new(block.cast()) else { return malloc(heap, size) };
    if size == 0 {
        // SAFETY: the caller promises a block in use.
        unsafe { free(heap, block) };
        return ptr::null_mut();
    }
    if size > isize::MAX as usize {
        return refuse(libc::ENOMEM);
    }
    // SAFETY: the caller promises a block in use.
    match unsafe { heap.resize(old, size) } {
        Ok(new) => new.as_ptr().cast(),
        Err(error) => not_resized(error),
    }
}

#[cold]
fn not_resized(error: HeapError) -> *mut c_void {
    if error != HeapError::OutOfMemory {
        misuse::report(error);
    }
    refuse(libc::ENOMEM)
}

/// # Safety
///
/// NULL, or a block in use.
#[inline(always)]
pub unsafe fn reallocarray<S: Strategy>(
    heap: &S,
    block: *mut c_void,
    count: usize,
    size: usize,
) -> *mut c_void {
    match count.checked_mul(size) {
        // SAFETY: the caller promises a block in use.
        Some(size) => unsafe { realloc(heap, block, size) },
        None => refuse(libc::ENOMEM),
    }
}

/// The old function: an alignment that is no power of two is rounded up to one.
#[inline]
pub fn memalign<S: Strategy>(heap: &S, align: usize, size: usize) -> *mut c_void {
    match align.checked_next_power_of_two() {
        Some(align) => answer(allocate_aligned(heap, size, align)),
        None => refuse(libc::EINVAL),
    }
}

/// One function for all that ask for an alignment.
#[inline(never)]
pub(crate) fn allocate_aligned<S: Strategy>(
    heap: &S,
    size: usize,
    align: usize,
) -> Option<NonNull<u8>> {
    layout(size, align.max(GRANULE)).and_then(|layout| heap.allocate(layout))
}

/// C17's: any power of two, whatever the size.
#[inline]
pub fn aligned_alloc<S: Strategy>(heap: &S, align: usize, size: usize) -> *mut c_void {
    if align.is_power_of_two() { memalign(heap, align, size) } else { refuse(libc::EINVAL) }
}

/// Says what went wrong by its result alone, and leaves `errno` and the result as they were then.
///
/// # Safety
///
/// `result` may be written.
#[inline]
pub unsafe fn posix_memalign<S: Strategy>(
    heap: &S,
    result: *mut *mut c_void,
    align: usize,
    size: usize,
) -> c_int {
    if !align.is_power_of_two() || align < size_of::<*mut c_void>() {
        return libc::EINVAL;
    }
    match allocate_aligned(heap, size, align) {
        Some(block) => {
            // SAFETY: the caller promises a place for the result.
            unsafe { *result = block.as_ptr().cast() };
            0
        }
        None => libc::ENOMEM,
    }
}

#[inline]
pub fn valloc<S: Strategy>(heap: &S, size: usize) -> *mut c_void {
    memalign(heap, page_size(), size)
}

#[inline]
pub fn pvalloc<S: Strategy>(heap: &S, size: usize) -> *mut c_void {
    let page = page_size();
    match size.max(1).checked_next_multiple_of(page) {
        Some(size) => memalign(heap, page, size),
        None => refuse(libc::ENOMEM),
    }
}

fn page_size() -> usize {
    // SAFETY: a plain question, which glibc answers without a system call.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}

/// # Safety
///
/// NULL, or a block in use.
#[inline]
pub unsafe fn malloc_usable_size<S: Strategy>(heap: &S, block: *mut c_void) -> usize {
    // SAFETY: the caller promises a block in use.
    NonNull::new(block.cast()).map_or(0, |block| unsafe { heap.usable_size(block) })
}

/// Gives back what can be; how much is to be kept at the top is for the strategy to say.
pub fn malloc_trim<S: Strategy>(heap: &S, _pad: usize) -> c_int {
    c_int::from(heap.trim() > 0)
}

pub fn mallinfo2<S: Strategy>(heap: &S) -> libc::mallinfo2 {
    Usage::of(heap).mallinfo2()
}

/// As `mallinfo2`, in a structure whose fields are too narrow; they are cut off.
pub fn mallinfo<S: Strategy>(heap: &S) -> libc::mallinfo {
    let wide = mallinfo2(heap);
    let narrow = |wide: usize| wide as c_int;
    libc::mallinfo {
        arena: narrow(wide.arena),
        ordblks: narrow(wide.ordblks),
        smblks: narrow(wide.smblks),
        hblks: narrow(wide.hblks),
        hblkhd: narrow(wide.hblkhd),
        usmblks: narrow(wide.usmblks),
        fsmblks: narrow(wide.fsmblks),
        uordblks: narrow(wide.uordblks),
        fordblks: narrow(wide.fordblks),
        keepcost: narrow(wide.keepcost),
    }
}

pub fn malloc_stats<S: Strategy>(heap: &S) {
    report::malloc_stats(&Usage::of(heap));
}

/// # Safety
///
/// `stream` is open for writing.
pub unsafe fn malloc_info<S: Strategy>(heap: &S, options: c_int, stream: *mut FILE) -> c_int {
    if options != 0 {
        return libc::EINVAL;
    }
    // The stream may allocate; the sums are taken before, and nothing is locked any more.
    // SAFETY: the caller promises the stream.
    unsafe { report::malloc_info(&Usage::of(heap), stream) }
}

/// A strategy's thresholds are parts of it, chosen when it was compiled: glibc's parameters are accepted as the hints
/// that they are, and change nothing, but for `M_CHECK_ACTION`, which chooses what a misuse does.
pub fn mallopt<S: Strategy>(_: &S, parameter: c_int, value: c_int) -> c_int {
    /// From `M_ARENA_MAX` up to `M_MXFAST`, with the gap at zero left out.
    const KNOWN: [c_int; 9] = [-8, -7, -6, -5, -4, -3, -2, -1, 1];
    const M_CHECK_ACTION: c_int = -5;
    if parameter == M_CHECK_ACTION {
        // Bit 0 is a message, bit 1 an abort.
        misuse::set_on_misuse(match value & 3 {
            0 => OnMisuse::Count,
            1 => OnMisuse::Report,
            _ => OnMisuse::Abort,
        });
    }
    c_int::from(KNOWN.contains(&parameter))
}
