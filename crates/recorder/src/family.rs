//! The C functions: forward, and record.
//!
//! An allocation is recorded after the real function returned and a free before it is called, so that the order
//! numbers are true when another thread is given the address again.

use std::ffi::{c_int, c_void};
use std::ptr;

use crate::{real, tape};

/// The alignment of plain `malloc`, in bytes.
const MALLOC_ALIGN: usize = 16;

/// C's `malloc`.
///
/// # Safety
/// As C demands it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc(size: usize) -> *mut c_void {
    let Some(real) = real::malloc() else { return real::early(size, MALLOC_ALIGN) };
    // SAFETY: the caller's arguments, passed on.
    let block = unsafe { real(size) };
    tape::allocated(block, size, MALLOC_ALIGN, false);
    block
}

/// C's `calloc`.
///
/// # Safety
/// As C demands it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    let Some(real) = real::calloc() else {
        return count
            .checked_mul(size)
            .map_or(ptr::null_mut(), |size| real::early(size, MALLOC_ALIGN));
    };
    // SAFETY: the caller's arguments, passed on.
    let block = unsafe { real(count, size) };
    // Where the product overflows, the real function has returned nothing.
    tape::allocated(block, count.wrapping_mul(size), MALLOC_ALIGN, true);
    block
}

/// C's `realloc`.
///
/// # Safety
/// As C demands it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realloc(block: *mut c_void, size: usize) -> *mut c_void {
    if let Some(readable) = real::early_bytes(block) {
        // SAFETY: `readable` bytes of the buffer are left there, and the new block is another one.
        unsafe {
            let new = malloc(size);
            if !new.is_null() {
                ptr::copy_nonoverlapping(block.cast::<u8>(), new.cast(), size.min(readable));
            }
            return new;
        }
    }
    let Some(real) = real::realloc() else {
        // Whoever asks while the functions are being looked up has nothing yet that could be moved.
        return if block.is_null() { real::early(size, MALLOC_ALIGN) } else { refuse() };
    };
    if block.is_null() {
        // SAFETY: the caller's arguments, passed on.
        let new = unsafe { real(block, size) };
        tape::allocated(new, size, MALLOC_ALIGN, false);
        return new;
    }
    tape::resize(block);
    // SAFETY: the caller's arguments, passed on.
    let new = unsafe { real(block, size) };
    tape::resized(new, size);
    new
}

/// The `reallocarray` of the BSDs and of glibc.
///
/// # Safety
/// As `realloc`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reallocarray(
    block: *mut c_void,
    count: usize,
    size: usize,
) -> *mut c_void {
    match count.checked_mul(size) {
        // SAFETY: the caller's arguments, passed on.
        Some(size) => unsafe { realloc(block, size) },
        None => refuse(),
    }
}

/// C's `free`.
///
/// # Safety
/// As C demands it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free(block: *mut c_void) {
    if block.is_null() || real::early_bytes(block).is_some() {
        return;
    }
    let Some(real) = real::free() else { return };
    tape::freed(block);
    // SAFETY: the caller's argument, passed on.
    unsafe { real(block) }
}

/// An old name of `free`.
///
/// # Safety
/// As `free`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cfree(block: *mut c_void) {
    // SAFETY: the caller's argument, passed on.
    unsafe { free(block) }
}

/// C23's `free_sized`, which may be implemented as `free`.
///
/// # Safety
/// As C demands it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_sized(block: *mut c_void, _size: usize) {
    // SAFETY: the caller's argument, passed on.
    unsafe { free(block) }
}

/// C23's `free_aligned_sized`, which may be implemented as `free`.
///
/// # Safety
/// As C demands it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_aligned_sized(block: *mut c_void, _align: usize, _size: usize) {
    // SAFETY: the caller's argument, passed on.
    unsafe { free(block) }
}

/// The old `memalign`.
///
/// # Safety
/// As its manual demands it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memalign(align: usize, size: usize) -> *mut c_void {
    let Some(real) = real::memalign() else { return missing(size, align) };
    // SAFETY: the caller's arguments, passed on.
    let block = unsafe { real(align, size) };
    tape::allocated(block, size, align, false);
    block
}

/// C11's `aligned_alloc`.
///
/// # Safety
/// As C demands it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    let Some(real) = real::aligned_alloc() else { return missing(size, align) };
    // SAFETY: the caller's arguments, passed on.
    let block = unsafe { real(align, size) };
    tape::allocated(block, size, align, false);
    block
}

/// POSIX's `posix_memalign`.
///
/// # Safety
/// As POSIX demands it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_memalign(
    result: *mut *mut c_void,
    align: usize,
    size: usize,
) -> c_int {
    let Some(real) = real::posix_memalign() else { return libc::ENOMEM };
    // SAFETY: the caller's arguments, passed on; the result is there to be read if the call says that it succeeded.
    unsafe {
        let error = real(result, align, size);
        if error == 0 {
            tape::allocated(*result, size, align, false);
        }
        error
    }
}

/// The old `valloc`: aligned to a page.
///
/// # Safety
/// As its manual demands it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn valloc(size: usize) -> *mut c_void {
    let page = page_size();
    let Some(real) = real::valloc() else { return missing(size, page) };
    // SAFETY: the caller's argument, passed on.
    let block = unsafe { real(size) };
    tape::allocated(block, size, page, false);
    block
}

/// The old `pvalloc`: whole pages.
///
/// # Safety
/// As its manual demands it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pvalloc(size: usize) -> *mut c_void {
    let page = page_size();
    let Some(real) = real::pvalloc() else { return missing(size, page) };
    // SAFETY: the caller's argument, passed on.
    let block = unsafe { real(size) };
    // Where rounding up overflows, the real function has returned nothing.
    tape::allocated(block, size.checked_next_multiple_of(page).unwrap_or(size), page, false);
    block
}

/// What a function that the C library does not have answers. While the functions are being looked up, none is there,
/// and memory comes from the buffer.
#[cold]
fn missing(size: usize, align: usize) -> *mut c_void {
    if align.is_power_of_two() && real::malloc().is_none() {
        real::early(size, align)
    } else {
        refuse()
    }
}

/// No memory, said as C says it.
#[cold]
fn refuse() -> *mut c_void {
    // SAFETY: the place of this thread's errno.
    unsafe { *libc::__errno_location() = libc::ENOMEM };
    ptr::null_mut()
}

fn page_size() -> usize {
    // SAFETY: a plain question, which glibc answers without a system call.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}
