//! The heaps that there are, so that a thread that ends can tell which of those it used are there still.
//!
//! Invariant: the list leads through heaps that live; a heap leaves it before it gives anything back.

use core::cell::UnsafeCell;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use heapwright_core::FutexMutex;
use lock_api::RawMutex;

use crate::local::Local;

/// A heap in the list, inside what its threads share.
pub(crate) struct Member {
    /// Its number.
    pub(crate) heap: u64,
    /// Hands back a thread's cache to it.
    pub(crate) retire: unsafe fn(NonNull<Member>, NonNull<Local>),
    next: *mut Member,
}

impl Member {
    pub(crate) fn new(retire: unsafe fn(NonNull<Self>, NonNull<Local>)) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(FIRST);
        Self { heap: NUMBERS.fetch_add(1, Relaxed), retire, next: ptr::null_mut() }
    }
}

/// The number that no heap has: of one that was not used yet.
pub(crate) const NOBODY: u64 = 1;
/// Zero is that of an empty entry.
const FIRST: u64 = 2;

struct Registry {
    lock: FutexMutex,
    /// The thread that froze the registry, and how often.
    frozen_by: AtomicUsize,
    freezes: AtomicUsize,
    first: UnsafeCell<*mut Member>,
}

// SAFETY: the list is read and written under the lock only.
unsafe impl Sync for Registry {}

static REGISTRY: Registry = Registry {
    lock: FutexMutex::INIT,
    frozen_by: AtomicUsize::new(0),
    freezes: AtomicUsize::new(0),
    first: UnsafeCell::new(ptr::null_mut()),
};

/// Calls `with` with the place of the first member, under the lock.
fn locked<T>(with: impl FnOnce(*mut *mut Member) -> T) -> T {
    REGISTRY.lock.lock();
    let result = with(REGISTRY.first.get());
    // SAFETY: locked above.
    unsafe { REGISTRY.lock.unlock(lock_api::GuardSend::new()) };
    result
}

/// Adds a heap.
///
/// # Safety
///
/// It stays where it is until [`leave`].
pub(crate) unsafe fn join(member: NonNull<Member>) {
    locked(|first| {
        // SAFETY: the list is ours under the lock.
        unsafe {
            (*member.as_ptr()).next = *first;
            *first = member.as_ptr();
        }
    });
}

/// Takes a heap out. No thread hands back anything to it any more.
pub(crate) fn leave(member: NonNull<Member>) {
    locked(|first| {
        let mut link = first;
        // SAFETY: the list is ours under the lock, and leads through members.
        unsafe {
            while !(*link).is_null() {
                if *link == member.as_ptr() {
                    *link = (*member.as_ptr()).next;
                    return;
                }
                link = &raw mut (**link).next;
            }
        }
    });
}

/// Hands back a thread's cache to its heap, if that lives still.
pub(crate) fn retire(heap: u64, local: NonNull<Local>) {
    locked(|first| {
        // SAFETY: as above. The cache is one of the heap of that number, and the heap lives while we hold the lock.
        unsafe {
            let mut member = *first;
            while let Some(here) = NonNull::new(member) {
                if here.as_ref().heap == heap {
                    return (here.as_ref().retire)(here, local);
                }
                member = here.as_ref().next;
            }
        }
    });
}

/// What tells this thread from others.
fn this_thread() -> usize {
    // SAFETY: a plain question.
    unsafe { libc::pthread_self() as usize }
}

/// Keeps threads from ending, until [`thaw`]. A thread may freeze more than once, for each of its heaps.
pub(crate) fn freeze() {
    if REGISTRY.frozen_by.load(Relaxed) != this_thread() {
        REGISTRY.lock.lock();
        REGISTRY.frozen_by.store(this_thread(), Relaxed);
    }
    REGISTRY.freezes.fetch_add(1, Relaxed);
}

/// As [`freeze`], if that takes no waiting.
pub(crate) fn try_freeze() -> bool {
    if REGISTRY.frozen_by.load(Relaxed) != this_thread() {
        if REGISTRY.lock.try_lock().is_none() {
            return false;
        }
        REGISTRY.frozen_by.store(this_thread(), Relaxed);
    }
    REGISTRY.freezes.fetch_add(1, Relaxed);
    true
}

/// Undoes a freeze of this thread.
///
/// # Safety
///
/// There is one.
pub(crate) unsafe fn thaw() {
    if REGISTRY.freezes.fetch_sub(1, Relaxed) == 1 {
        REGISTRY.frozen_by.store(0, Relaxed);
        // SAFETY: locked by the first freeze.
        unsafe { REGISTRY.lock.unlock(lock_api::GuardSend::new()) };
    }
}
