//! C++'s `operator new` and `operator delete` in all their forms, so that a C++ program reaches the strategy in one
//! call.
//!
//! When there is no memory, C++ wants its new-handler called until there is, and `std::bad_alloc` thrown if there is no
//! handler; the forms that do not throw want that caught. The C++ library's own operator does all this around
//! `malloc`, which is ours. So a failed operator hands over to the next operator of its name (`dlsym` with
//! `RTLD_NEXT`), by a *jump*: its own frame is gone when an exception flies, as exceptions must not pass through
//! frames of Rust. That it is a jump is the compiler's doing (a call at the end of a function whose arguments fit into
//! registers), and a test looks at every library that it did it.

use core::arch::naked_asm;
use core::ffi::CStr;

use heapwright_core::Strategy;
use libc::{c_char, c_void};

use crate::family;

/// A form of `new`: try, and else hand over.
macro_rules! new {
    ($($(#[$doc:meta])* $name:ident($($align:ident)?; $($tag:ident)?) = $symbol:literal, $next:ident;)*) => { $(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name<S: Strategy>(
            heap: &S,
            size: usize,
            $($align: usize,)?
            $($tag: *const c_void,)?
        ) -> *mut c_void {
            match allocate!(heap, size $(, $align)?) {
                Some(block) => block.as_ptr().cast(),
                // Some C++ libraries round a size up without looking, and end at nothing.
                None => $next(size.min(isize::MAX as usize), $($align,)? $($tag,)?),
            }
        }

        /// Goes on in the next operator of this name, with the caller's arguments in their registers.
        #[cold]
        #[unsafe(naked)]
        extern "C" fn $next(_size: usize, $(_: replace!($align usize),)? $(_: replace!($tag *const c_void),)?) -> *mut c_void {
            extern "C" fn find() -> *mut c_void {
                find_next($symbol)
            }
            naked_asm!(
                ".cfi_startproc",
                "push rdi",
                ".cfi_adjust_cfa_offset 8",
                "push rsi",
                ".cfi_adjust_cfa_offset 8",
                "push rdx",
                ".cfi_adjust_cfa_offset 8",
                "call {find}",
                "pop rdx",
                ".cfi_adjust_cfa_offset -8",
                "pop rsi",
                ".cfi_adjust_cfa_offset -8",
                "pop rdi",
                ".cfi_adjust_cfa_offset -8",
                "jmp rax",
                ".cfi_endproc",
                find = sym find,
            )
        }
    )* };
}

macro_rules! allocate {
    ($heap:ident, $size:ident) => {
        $heap.allocate_bytes($size)
    };
    ($heap:ident, $size:ident, $align:ident) => {
        family::allocate_aligned($heap, $size, $align)
    };
}

macro_rules! replace {
    ($_:ident $type:ty) => {
        $type
    };
}

new! {
    new(;) = c"_Znwm", next_new;
    new_array(;) = c"_Znam", next_new_array;
    new_nothrow(; tag) = c"_ZnwmRKSt9nothrow_t", next_new_nothrow;
    new_array_nothrow(; tag) = c"_ZnamRKSt9nothrow_t", next_new_array_nothrow;
    new_aligned(align;) = c"_ZnwmSt11align_val_t", next_new_aligned;
    new_array_aligned(align;) = c"_ZnamSt11align_val_t", next_new_array_aligned;
    new_aligned_nothrow(align; tag) = c"_ZnwmSt11align_val_tRKSt9nothrow_t", next_new_aligned_nothrow;
    new_array_aligned_nothrow(align; tag) =
        c"_ZnamSt11align_val_tRKSt9nothrow_t", next_new_array_aligned_nothrow;
}

/// The operator that would have been called without us, or one that returns NULL, for programs without a C++ library.
#[cold]
fn find_next(symbol: &CStr) -> *mut c_void {
    extern "C" fn none() -> *mut c_void {
        core::ptr::null_mut()
    }
    // SAFETY: a name that ends with a zero.
    let next = unsafe { libc::dlsym(libc::RTLD_NEXT, symbol.as_ptr().cast::<c_char>()) };
    if next.is_null() { none as *mut c_void } else { next }
}

/// # Safety
///
/// NULL, or an object in use from `new`.
#[inline(always)]
pub unsafe fn delete<S: Strategy>(heap: &S, block: *mut c_void) {
    // SAFETY: the caller promises the same.
    unsafe { family::free(heap, block) }
}

/// # Safety
///
/// As [`delete`].
#[inline(always)]
pub unsafe fn delete_nothrow<S: Strategy>(heap: &S, block: *mut c_void, _tag: *const c_void) {
    // SAFETY: the caller promises the same.
    unsafe { family::free(heap, block) }
}

/// # Safety
///
/// As [`delete`]; it was asked for with this size.
#[inline(always)]
pub unsafe fn delete_sized<S: Strategy>(heap: &S, block: *mut c_void, size: usize) {
    // SAFETY: the caller promises the same.
    unsafe { family::free_sized(heap, block, size) }
}

/// # Safety
///
/// As [`delete`]; it was asked for with this alignment.
#[inline(always)]
pub unsafe fn delete_aligned<S: Strategy>(heap: &S, block: *mut c_void, _align: usize) {
    // SAFETY: the caller promises the same.
    unsafe { family::free(heap, block) }
}

/// # Safety
///
/// As [`delete_aligned`].
#[inline(always)]
pub unsafe fn delete_aligned_nothrow<S: Strategy>(
    heap: &S,
    block: *mut c_void,
    _align: usize,
    _tag: *const c_void,
) {
    // SAFETY: the caller promises the same.
    unsafe { family::free(heap, block) }
}

/// # Safety
///
/// As [`delete`]; it was asked for with this size and alignment.
#[inline(always)]
pub unsafe fn delete_sized_aligned<S: Strategy>(
    heap: &S,
    block: *mut c_void,
    size: usize,
    align: usize,
) {
    // SAFETY: the caller promises the same.
    unsafe { family::free_aligned_sized(heap, block, align, size) }
}
