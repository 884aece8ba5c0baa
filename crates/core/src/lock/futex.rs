//! A mutex of one word that never allocates, so that it can stand beneath the global allocator.
//!
//! Three states, after Ulrich Drepper, *Futexes Are Tricky* (2004/2011), mutex 2. Invariant: the
//! state is [`FREE`] exactly when nobody holds the lock, and a thread that sleeps has left it
//! [`CONTENDED`], so that whoever unlocks wakes one sleeper. An uncontended lock and unlock cost
//! one atomic exchange each and no system call.

use core::sync::atomic::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

use lock_api::{GuardSend, RawMutex};

const FREE: u32 = 0;
const HELD: u32 = 1;
const CONTENDED: u32 = 2;

/// How often a thread looks again before it sleeps: about as long as a short critical section.
const SPINS: u32 = 100;

/// A mutex over the kernel's futex; on systems without one, a spin lock that yields.
#[derive(Debug)]
pub struct FutexMutex {
    state: AtomicU32,
}

impl FutexMutex {
    #[cold]
    fn lock_contended(&self) {
        for _ in 0..SPINS {
            let seen = self.state.load(Relaxed);
            if seen == FREE && self.state.compare_exchange(FREE, HELD, Acquire, Relaxed).is_ok() {
                return;
            }
            if seen == CONTENDED {
                break;
            }
            core::hint::spin_loop();
        }
        while self.state.swap(CONTENDED, Acquire) != FREE {
            wait(&self.state, CONTENDED);
        }
    }
}

// SAFETY: only the thread that moved the state away from FREE holds the lock, by the atomic
// exchange; Acquire and Release order what happens under it.
unsafe impl RawMutex for FutexMutex {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = Self { state: AtomicU32::new(FREE) };

    type Guard = GuardSend;

    #[inline]
    fn lock(&self) -> GuardSend {
        self.try_lock().unwrap_or_else(|| {
            self.lock_contended();
            GuardSend::new()
        })
    }

    #[inline]
    fn try_lock(&self) -> Option<GuardSend> {
        let taken = self.state.compare_exchange(FREE, HELD, Acquire, Relaxed);
        taken.is_ok().then(GuardSend::new)
    }

    #[inline]
    unsafe fn unlock(&self, _held: GuardSend) {
        if self.state.swap(FREE, Release) == CONTENDED {
            wake_one(&self.state);
        }
    }

    #[inline]
    fn is_locked(&self) -> bool {
        self.state.load(Relaxed) != FREE
    }
}

#[cfg(target_os = "linux")]
fn wait(state: &AtomicU32, seen: u32) {
    // errno is the program's: a lock must not be seen in it.
    // SAFETY: the word outlives the call; FUTEX_WAIT reads it and sleeps only while it is `seen`.
    unsafe {
        let errno = libc::__errno_location();
        let kept = *errno;
        libc::syscall(
            libc::SYS_futex,
            state.as_ptr(),
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            seen,
            core::ptr::null::<libc::timespec>(),
        );
        *errno = kept;
    }
}

#[cfg(target_os = "linux")]
#[cold]
#[inline(never)] // so that unlocking needs no registers kept
fn wake_one(state: &AtomicU32) {
    // SAFETY: FUTEX_WAKE takes the address as a name and does not read it.
    unsafe {
        let errno = libc::__errno_location();
        let kept = *errno;
        libc::syscall(
            libc::SYS_futex,
            state.as_ptr(),
            libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
            1,
        );
        *errno = kept;
    }
}

#[cfg(not(target_os = "linux"))]
fn wait(state: &AtomicU32, seen: u32) {
    while state.load(Relaxed) == seen {
        core::hint::spin_loop();
    }
}

#[cfg(not(target_os = "linux"))]
fn wake_one(_state: &AtomicU32) {}
