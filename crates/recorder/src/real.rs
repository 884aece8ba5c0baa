//! The functions that the recorder stands in front of, found with `dlsym`.
//!
//! `dlsym` may itself allocate. What is asked of us while this thread is inside it comes from a small static buffer,
//! is not recorded, and is never freed.

use std::cell::UnsafeCell;
use std::ffi::{CStr, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use crate::thread;

/// Defines a pointer to each function and an accessor of the same name, which looks it up first if need be.
macro_rules! real {
    ($($name:ident $symbol:literal ($($argument:ty),*) -> $result:ty;)*) => {
        mod pointers {
            use super::*;
            $(
                #[allow(non_upper_case_globals, reason = "named as the function that it points to")]
                pub(super) static $name: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
            )*
        }
        $(
            /// The real function; `None` while it is being looked up, or if there is none.
            #[inline(always)]
            pub(crate) fn $name() -> Option<unsafe extern "C" fn($($argument),*) -> $result> {
                let mut pointer = pointers::$name.load(Ordering::Relaxed);
                if pointer.is_null() {
                    find_all();
                    pointer = pointers::$name.load(Ordering::Relaxed);
                }
                // SAFETY: null is `None`, and what `dlsym` found under this name has the type that C gives it.
                unsafe { std::mem::transmute(pointer) }
            }
        )*
        /// Looks up every function that was not found yet. Two threads that do so at once find the same.
        fn look_up() {
            $(pointers::$name.store(next($symbol), Ordering::Relaxed);)*
        }
    };
}

real! {
    malloc c"malloc" (usize) -> *mut c_void;
    calloc c"calloc" (usize, usize) -> *mut c_void;
    realloc c"realloc" (*mut c_void, usize) -> *mut c_void;
    free c"free" (*mut c_void) -> ();
    memalign c"memalign" (usize, usize) -> *mut c_void;
    aligned_alloc c"aligned_alloc" (usize, usize) -> *mut c_void;
    posix_memalign c"posix_memalign" (*mut *mut c_void, usize, usize) -> c_int;
    valloc c"valloc" (usize) -> *mut c_void;
    pvalloc c"pvalloc" (usize) -> *mut c_void;
}

/// Whether all lookups were made, so that a function which is missing is not sought again on each call.
static FOUND: AtomicBool = AtomicBool::new(false);

#[cold]
#[inline(never)]
fn find_all() {
    let thread = thread::current();
    // SAFETY: the state belongs to this thread, and no reference to it is held across the lookups.
    unsafe {
        if FOUND.load(Ordering::Acquire) || (*thread).busy {
            return;
        }
        (*thread).busy = true;
        look_up();
        (*thread).busy = false;
    }
    FOUND.store(true, Ordering::Release);
}

/// The function that the program would have called if we were not there.
fn next(symbol: &CStr) -> *mut c_void {
    // SAFETY: the symbol's name ends with a zero byte.
    unsafe { libc::dlsym(libc::RTLD_NEXT, symbol.as_ptr()) }
}

const BUFFER_BYTES: usize = 16 << 10;

#[repr(align(16))]
struct Buffer(UnsafeCell<[u8; BUFFER_BYTES]>);

// SAFETY: the recorder itself never touches the bytes; it only hands out disjoint parts of them.
unsafe impl Sync for Buffer {}

static BUFFER: Buffer = Buffer(UnsafeCell::new([0; BUFFER_BYTES]));
static USED: AtomicUsize = AtomicUsize::new(0);

/// Zeroed memory for requests that come while there is no allocator yet. It is never given back.
#[cold]
pub(crate) fn early(size: usize, align: usize) -> *mut c_void {
    let base = BUFFER.0.get().cast::<u8>();
    // Room for the block wherever its alignment puts it.
    let Some(needed) = size.checked_add(align.max(16)).filter(|&needed| needed <= BUFFER_BYTES)
    else {
        return ptr::null_mut();
    };
    let start = USED.fetch_add(needed.next_multiple_of(16), Ordering::Relaxed);
    if start.saturating_add(needed) > BUFFER_BYTES {
        USED.store(BUFFER_BYTES, Ordering::Relaxed); // full: keep the counter from ever wrapping
        return ptr::null_mut();
    }
    let padding = (base as usize + start).next_multiple_of(align.max(16)) - (base as usize + start);
    base.wrapping_add(start + padding).cast()
}

/// If `block` came from [`early`]: the bytes that may be read from it on.
#[inline(always)]
pub(crate) fn early_bytes(block: *mut c_void) -> Option<usize> {
    let offset = (block as usize).wrapping_sub(BUFFER.0.get() as usize);
    (offset < BUFFER_BYTES).then(|| BUFFER_BYTES - offset)
}
