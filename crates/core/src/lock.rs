//! The lock is a part: anything that implements [`lock_api::RawMutex`].
//!
//! | lock | serves |
//! |---|---|
//! | [`FutexMutex`] | a strategy that replaces the program's own allocator: it never allocates |
//! | `parking_lot::RawMutex` | a heap that is an instance inside a program (it allocates when it is contended, so it cannot stand beneath the global allocator) |
//! | [`NoLock`] | one thread; and measures what locking costs |

mod futex;

use core::alloc::Layout;
use core::cell::Cell;
use core::mem;
use core::ptr::NonNull;

use lock_api::{GuardNoSend, Mutex, RawMutex};

pub use self::futex::FutexMutex;
use crate::{BlockInfo, Broken, Engine, HeapError, Limits, New, Stats, Strategy};

/// No lock, for one thread.
///
/// A strategy over it is not [`Sync`], so the compiler keeps it in its thread. Locking it twice
/// (from within a `walk`) is answered like a lock that is held: `try_lock` fails, `lock` never
/// returns.
#[derive(Debug)]
pub struct NoLock {
    held: Cell<bool>,
}

// SAFETY: the type is not Sync, so all calls come from one thread, and `held` keeps a second guard
// from being made in that thread.
unsafe impl RawMutex for NoLock {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = Self { held: Cell::new(false) };

    type Guard = GuardNoSend;

    #[inline]
    fn lock(&self) -> GuardNoSend {
        while self.held.replace(true) {
            core::hint::spin_loop();
        }
        GuardNoSend::new()
    }

    #[inline]
    fn try_lock(&self) -> Option<GuardNoSend> {
        (!self.held.replace(true)).then(GuardNoSend::new)
    }

    #[inline]
    unsafe fn unlock(&self, _held: GuardNoSend) {
        self.held.set(false);
    }

    #[inline]
    fn is_locked(&self) -> bool {
        self.held.get()
    }
}

/// An engine under one lock: the plainest way to make a [`Strategy`].
pub struct Locked<R, E> {
    inner: Mutex<R, E>,
}

impl<R: RawMutex, E> Locked<R, E> {
    /// Puts an engine under a lock.
    pub const fn with(engine: E) -> Self {
        Self { inner: Mutex::from_raw(R::INIT, engine) }
    }

    /// Locks, and lends the engine for more than one operation.
    pub fn lock(&self) -> lock_api::MutexGuard<'_, R, E> {
        self.inner.lock()
    }

    /// Takes the engine out from under the lock.
    pub fn into_inner(self) -> E {
        self.inner.into_inner()
    }
}

impl<R: RawMutex, E: New> Locked<R, E> {
    /// An empty heap; the first request makes it ask its backend for memory.
    pub const fn new() -> Self {
        Self::with(E::NEW)
    }
}

impl<R: RawMutex, E: New> Default for Locked<R, E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<R: RawMutex, E: New> New for Locked<R, E> {
    const NEW: Self = Self::new();
}

impl<R: RawMutex, E: Engine> core::fmt::Debug for Locked<R, E> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Locked").field("stats", &self.stats()).finish()
    }
}

/// A strategy taken apart into an engine, whose constructor `over` takes a backend, and a lock: how generic code, a
/// conformance suite, makes one over a backend of its choice.
pub trait Parts {
    /// The engine.
    type Engine;
    /// The lock.
    type Lock;

    /// Puts an engine under the lock.
    fn with(engine: Self::Engine) -> Self;
}

impl<R: RawMutex, E> Parts for Locked<R, E> {
    type Engine = E;
    type Lock = R;

    fn with(engine: E) -> Self {
        Self::with(engine)
    }
}

// SAFETY: the lock gives the engine one owner at a time, which is what an engine asks for.
unsafe impl<R: RawMutex, E: Engine> Strategy for Locked<R, E> {
    fn limits(&self) -> Limits {
        E::LIMITS
    }

    #[inline(always)] // one function, the face's, from the call to the policy
    fn allocate(&self, layout: Layout) -> Option<NonNull<u8>> {
        self.inner.lock().allocate(layout)
    }

    #[inline]
    fn allocate_zeroed(&self, layout: Layout) -> Option<NonNull<u8>> {
        self.inner.lock().allocate_zeroed(layout)
    }

    #[inline(always)]
    unsafe fn deallocate(&self, block: NonNull<u8>) -> Result<(), HeapError> {
        // SAFETY: the caller promises the same.
        unsafe { self.inner.lock().deallocate(block) }
    }

    #[inline(always)]
    unsafe fn deallocate_sized(&self, block: NonNull<u8>, layout: Layout) -> Result<(), HeapError> {
        // SAFETY: the caller promises the same.
        unsafe { self.inner.lock().deallocate_sized(block, layout) }
    }

    #[inline]
    unsafe fn reallocate(
        &self,
        block: NonNull<u8>,
        layout: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, HeapError> {
        // SAFETY: the caller promises the same.
        unsafe { self.inner.lock().reallocate(block, layout, new_size) }
    }

    #[inline]
    unsafe fn resize(&self, block: NonNull<u8>, new_size: usize) -> Result<NonNull<u8>, HeapError> {
        // SAFETY: the caller promises the same.
        unsafe { self.inner.lock().resize(block, new_size) }
    }

    #[inline]
    unsafe fn usable_size(&self, block: NonNull<u8>) -> usize {
        // SAFETY: the caller promises the same.
        unsafe { self.inner.lock().usable_size(block) }
    }

    fn trim(&self) -> usize {
        self.inner.lock().trim()
    }

    fn stats(&self) -> Stats {
        self.inner.lock().stats()
    }

    fn walk(&self, visit: &mut dyn FnMut(BlockInfo)) {
        self.inner.lock().walk(visit);
    }

    fn check(&self) -> Result<(), Broken> {
        self.inner.lock().check()
    }

    fn freeze(&self) {
        mem::forget(self.inner.lock());
    }

    fn try_freeze(&self) -> bool {
        self.inner.try_lock().map(mem::forget).is_some()
    }

    unsafe fn thaw(&self) {
        const { assert!(size_of::<R::Guard>() == 0, "a guard is a mark, not a value to be kept") };
        // SAFETY: the caller promises that `freeze` took the lock. It forgot the mark that goes with it, which has no
        // bytes, so that it is found again anywhere.
        unsafe { self.inner.force_unlock(NonNull::dangling().read()) }
    }
}
