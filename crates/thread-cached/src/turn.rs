//! Whose turn it is at a thread's part: its owner's, or that of a visitor who does for it what it left undone.
//!
//! The owner has a turn in each of its slow paths, and pays next to nothing for it: it says that it is busy, and looks
//! whether it is being visited. A visitor says that it comes, has every other thread pass a barrier, and looks whether the
//! owner is busy; if so, it goes away. Since one of the two looks after the other's word was out, they never both stay
//! (Dice, Moir and Scherer, *Quickly Reacquirable Locks*, 2003, have the cheap side likewise).
//!
//! Invariants: visitors come one at a time, under a lock of theirs; an owner that finds one waits for that lock.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

use crate::meeting::{AtomicBool, compiler_fence};

/// Who is at a part.
pub(crate) struct Turn {
    busy: AtomicBool,
    visited: AtomicBool,
}

impl Turn {
    /// Nobody's.
    pub(crate) fn new() -> Self {
        Self { busy: AtomicBool::new(false), visited: AtomicBool::new(false) }
    }

    /// The owner begins; `wait` is called as long as there is a visitor. A signal handler, and a fork in another thread,
    /// find it busy from now on.
    #[inline]
    pub(crate) fn begin(&self, mut wait: impl FnMut()) {
        self.busy.store(true, Relaxed);
        // The other side's barrier orders the two in the processor.
        compiler_fence(SeqCst);
        while self.visited.load(Acquire) {
            wait();
        }
    }

    /// The owner has done.
    #[inline]
    pub(crate) fn end(&self) {
        self.busy.store(false, Release);
    }

    /// Whether the owner is in the middle of something.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy.load(Acquire)
    }

    /// A visitor comes. Before it looks whether the owner [is busy](Self::is_busy), every thread passes a barrier.
    pub(crate) fn come(&self) {
        self.visited.store(true, Relaxed);
    }

    /// The visitor goes.
    pub(crate) fn go(&self) {
        self.visited.store(false, Release);
    }
}
