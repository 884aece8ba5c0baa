//! The heaps that there are, so that a thread that ends can tell which of those it used are there still.
//!
//! Threads that end do so side by side: if they waited for each other, one would work while hundreds that began after it
//! worked too, and they would become ever more. Each enters a room that is locked as long as anyone is inside; who takes a
//! heap out of the list, or stops the world, keeps the door shut and waits until the room is empty (the readers' and
//! writers' problem of Courtois, Heymans and Parnas, 1971).
//!
//! Invariants: the list leads through heaps that live; a heap leaves it before it gives anything back, and when no thread
//! is inside. The room is locked exactly when threads are inside or one keeps others out of it.

use core::cell::UnsafeCell;
use core::iter;
use core::ptr::{self, NonNull};
use core::sync::atomic::{
    AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Relaxed, SeqCst},
};

use heapwright_core::FutexMutex;
use lock_api::{GuardSend, RawMutex};

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
    /// Who enters passes it, who changes the list holds it.
    door: FutexMutex,
    room: FutexMutex,
    /// Threads in the room.
    inside: AtomicUsize,
    /// The thread that froze the registry, and how often.
    frozen_by: AtomicUsize,
    freezes: AtomicUsize,
    first: UnsafeCell<*mut Member>,
}

// SAFETY: the list is read and written by who holds the door only.
unsafe impl Sync for Registry {}

static REGISTRY: Registry = Registry {
    door: FutexMutex::INIT,
    room: FutexMutex::INIT,
    inside: AtomicUsize::new(0),
    frozen_by: AtomicUsize::new(0),
    freezes: AtomicUsize::new(0),
    first: UnsafeCell::new(ptr::null_mut()),
};

impl Registry {
    /// Calls `with` with the place of the first member.
    fn at_the_door<T>(&self, with: impl FnOnce(*mut *mut Member) -> T) -> T {
        self.door.lock();
        let result = with(self.first.get());
        // SAFETY: locked above.
        unsafe { self.door.unlock(GuardSend::new()) };
        result
    }

    /// The heap of this number, if it lives still. It does until this thread [goes out](Self::go_out).
    fn enter(&self, heap: u64) -> Option<NonNull<Member>> {
        self.at_the_door(|first| {
            // SAFETY: the list leads through members.
            let mut members = unsafe {
                iter::successors(NonNull::new(*first), |here| NonNull::new(here.as_ref().next))
            };
            // SAFETY: as above.
            let found = members.find(|here| unsafe { here.as_ref().heap == heap });
            if found.is_some() && self.inside.fetch_add(1, Relaxed) == 0 {
                self.room.lock();
            }
            found
        })
    }

    /// What this thread did in the room is seen by whoever finds it empty.
    ///
    /// # Safety
    ///
    /// This thread [entered](Self::enter).
    unsafe fn go_out(&self) {
        if self.inside.fetch_sub(1, AcqRel) == 1 {
            // SAFETY: the caller promises that this thread was inside, and the first who was locked it.
            unsafe { self.room.unlock(GuardSend::new()) };
        }
    }

    /// Waits until the room is empty, and keeps others out.
    fn clear(&self) {
        self.door.lock();
        self.room.lock();
    }

    /// As [`clear`](Self::clear), if that takes no waiting.
    fn try_clear(&self) -> bool {
        if self.door.try_lock().is_none() {
            return false;
        }
        let empty = self.room.try_lock().is_some();
        if !empty {
            // SAFETY: locked above.
            unsafe { self.door.unlock(GuardSend::new()) };
        }
        empty
    }

    /// # Safety
    ///
    /// This thread [cleared](Self::clear) the room.
    unsafe fn open(&self) {
        // SAFETY: the caller promises that it has locked both.
        unsafe {
            self.room.unlock(GuardSend::new());
            self.door.unlock(GuardSend::new());
        }
    }
}

/// Adds a heap.
///
/// # Safety
///
/// It stays where it is until [`leave`].
pub(crate) unsafe fn join(member: NonNull<Member>) {
    REGISTRY.at_the_door(|first| {
        // SAFETY: the list is ours at the door.
        unsafe {
            (*member.as_ptr()).next = *first;
            *first = member.as_ptr();
        }
    });
}

/// Takes a heap out. No thread hands back anything to it any more.
pub(crate) fn leave(member: NonNull<Member>) {
    REGISTRY.clear();
    let mut link = REGISTRY.first.get();
    // SAFETY: the list is ours, as we hold the door, and leads through members.
    unsafe {
        while !(*link).is_null() {
            if *link == member.as_ptr() {
                *link = (*member.as_ptr()).next;
                break;
            }
            link = &raw mut (**link).next;
        }
        REGISTRY.open();
    }
}

/// Hands back a thread's cache to its heap, if that lives still.
pub(crate) fn retire(heap: u64, local: NonNull<Local>) {
    if let Some(member) = REGISTRY.enter(heap) {
        // SAFETY: the cache is one of the heap of that number, and the heap lives while we are inside.
        unsafe {
            (member.as_ref().retire)(member, local);
            REGISTRY.go_out();
        }
    }
}

/// What tells this thread from others.
fn this_thread() -> usize {
    // SAFETY: a plain question.
    unsafe { libc::pthread_self() as usize }
}

/// Keeps threads from ending, until [`thaw`]. A thread may freeze more than once, for each of its heaps.
pub(crate) fn freeze() {
    if !is_frozen_by_this_thread() {
        REGISTRY.clear();
    }
    note_freeze();
}

/// As [`freeze`], if that takes no waiting.
pub(crate) fn try_freeze() -> bool {
    let frozen = is_frozen_by_this_thread() || REGISTRY.try_clear();
    if frozen {
        note_freeze();
    }
    frozen
}

fn is_frozen_by_this_thread() -> bool {
    REGISTRY.frozen_by.load(SeqCst) == this_thread()
}

/// A signal handler that comes in between, and tries to freeze, finds the registry shut, not frozen by its thread.
fn note_freeze() {
    REGISTRY.freezes.fetch_add(1, SeqCst);
    REGISTRY.frozen_by.store(this_thread(), SeqCst);
}

/// Undoes a freeze of this thread.
///
/// # Safety
///
/// There is one.
pub(crate) unsafe fn thaw() {
    if REGISTRY.freezes.load(SeqCst) > 1 {
        REGISTRY.freezes.fetch_sub(1, SeqCst);
        return;
    }
    // For signal handlers, in this order too.
    REGISTRY.frozen_by.store(0, SeqCst);
    REGISTRY.freezes.store(0, SeqCst);
    // SAFETY: cleared by the first freeze.
    unsafe { REGISTRY.open() };
}
