//! How a thread finds its cache of a heap: a few words of thread-local storage, reached without a call.
//!
//! Each thread has a short list of the heaps that it used, the last one first, with its cache of each. A heap is known
//! by a number that no other heap ever gets, so an entry of a heap that is gone is never mistaken for another's.

use core::arch::{asm, global_asm};
use core::hint;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::local::Local;
use crate::registry;

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("thread-local storage is reached by instructions known for Linux on x86-64 only");

/// How many heaps a thread remembers.
const HEAPS: usize = 8;

/// A heap that the thread used.
#[derive(Clone, Copy)]
#[repr(C)]
struct Entry {
    heap: u64,
    local: *mut Local,
}

// The initial-exec model, whatever the library is built as: no call to find it, and it cannot be loaded late with
// less than the surplus that the C library keeps for such (128 bytes are a small part of it).
global_asm!(
    ".pushsection .tbss.heapwright_thread_caches,\"awT\",@nobits",
    ".p2align 6",
    ".hidden heapwright_thread_caches",
    ".globl heapwright_thread_caches",
    ".type heapwright_thread_caches,@object",
    ".size heapwright_thread_caches,128",
    "heapwright_thread_caches:",
    ".zero 128",
    ".popsection",
);

const _: () = assert!(HEAPS * size_of::<Entry>() == 128);

/// The list of this thread.
#[inline(always)]
fn entries() -> *mut Entry {
    let entries;
    // SAFETY: reads the thread's own pointer and the distance of the list from it, neither of which ever changes.
    unsafe {
        asm!(
            "mov {0}, qword ptr [rip + heapwright_thread_caches@GOTTPOFF]",
            "add {0}, qword ptr fs:[0]",
            out(reg) entries,
            options(pure, nomem, nostack),
        );
    }
    entries
}

/// This thread's cache of the heap that it used last, if that is this one.
#[inline(always)]
pub(crate) fn last(heap: u64) -> Option<NonNull<Local>> {
    let (first, local): (u64, *mut Local);
    // SAFETY: reads the first entry of the thread's own list; one with a number has a cache.
    unsafe {
        asm!(
            "mov {1}, qword ptr [rip + heapwright_thread_caches@GOTTPOFF]",
            "mov {0}, qword ptr fs:[{1}]",
            "mov {1}, qword ptr fs:[{1} + 8]",
            out(reg) first,
            out(reg) local,
            options(pure, readonly, nostack, preserves_flags),
        );
        if first != heap {
            return None;
        }
        // Said, or compilers look whether it is null once more.
        hint::assert_unchecked(!local.is_null());
        NonNull::new(local)
    }
}

/// This thread's cache of a heap, if it has one; it is found at once from now on.
#[cold]
pub(crate) fn find(heap: u64) -> Option<NonNull<Local>> {
    let first = entries();
    // SAFETY: the list is this thread's alone, and has that many entries.
    unsafe {
        let at = (0..HEAPS).find(|&at| (*first.add(at)).heap == heap)?;
        let found = first.add(at).read();
        ptr::copy(first, first.add(1), at);
        first.write(found);
        NonNull::new(found.local)
    }
}

/// Remembers a cache; that of the heap not used for longest is handed back, if there are too many.
pub(crate) fn remember(heap: u64, local: NonNull<Local>) {
    let first = entries();
    // SAFETY: as above.
    unsafe {
        let Entry { heap: oldest, local: forgotten } = first.add(HEAPS - 1).read();
        ptr::copy(first, first.add(1), HEAPS - 1);
        first.write(Entry { heap, local: local.as_ptr() });
        if let Some(forgotten) = NonNull::new(forgotten) {
            registry::retire(oldest, forgotten);
        }
    }
    watch_for_the_end();
}

/// Forgets a heap.
pub(crate) fn forget(heap: u64) {
    let first = entries();
    for at in 0..HEAPS {
        // SAFETY: as above.
        unsafe {
            if (*first.add(at)).heap == heap {
                first.add(at).write(Entry { heap: 0, local: ptr::null_mut() });
            }
        }
    }
}

/// The key whose destructor the C library calls when a thread ends.
static KEY: AtomicU32 = AtomicU32::new(NO_KEY);
const NO_KEY: u32 = u32::MAX;

/// Has the caches of this thread handed back when it ends. By then a library that this is linked into must be there
/// still: such are linked with `-z nodelete`.
fn watch_for_the_end() {
    let mut key = KEY.load(Relaxed);
    if key == NO_KEY {
        let mut made: libc::pthread_key_t = 0;
        // SAFETY: the place is writable, the function lives as long as the program.
        if unsafe { libc::pthread_key_create(&raw mut made, Some(at_the_end)) } != 0 {
            // No key is left: this thread's caches are lost to others when it ends.
            return;
        }
        match KEY.compare_exchange(NO_KEY, made, Relaxed, Relaxed) {
            Ok(_) => key = made,
            Err(earlier) => {
                // SAFETY: just made, and used by nobody.
                unsafe { libc::pthread_key_delete(made) };
                key = earlier;
            }
        }
    }
    // SAFETY: a key. Any value but null makes the destructor be called.
    unsafe { libc::pthread_setspecific(key, entries().cast()) };
}

/// In the last entry of a thread whose caches were handed back.
const ENDED: u64 = u64::MAX;

/// Whether this thread ends, and has no caches any more. What the C library frees at the very end, when it calls no
/// destructors any more, must not get it another one, which nobody would take over.
#[cold]
pub(crate) fn has_ended() -> bool {
    // SAFETY: the list is this thread's alone, and has that many entries.
    unsafe { (*entries().add(HEAPS - 1)).heap == ENDED }
}

/// Hands back all caches of this thread. Should it allocate after this, it gets new ones, and this is called once more.
unsafe extern "C" fn at_the_end(_: *mut libc::c_void) {
    let first = entries();
    for at in 0..HEAPS {
        // SAFETY: the list is this thread's alone. An entry is taken out before its cache is handed back.
        unsafe {
            let Entry { heap, local } = first.add(at).read();
            first.add(at).write(Entry { heap: 0, local: ptr::null_mut() });
            if let Some(local) = NonNull::new(local) {
                registry::retire(heap, local);
            }
        }
    }
    // SAFETY: as above.
    unsafe { (*first.add(HEAPS - 1)).heap = ENDED };
}
