//! What one thread alone writes, and others look at.

use core::sync::atomic::{
    AtomicPtr, AtomicU8, AtomicU16, AtomicU64, AtomicUsize, Ordering::Relaxed,
};

/// A value that its owner alone writes. Others may look at it; what they see may be stale and no more.
///
/// The owner reads it as if nothing here were atomic, which compilers make better code of, and which races with no
/// write, as there is none but its own. Who the owner is, and how a value changes hands, is said where it lies.
#[repr(transparent)]
pub(crate) struct Shown<T: Word>(T::Atomic);

impl<T: Word> Shown<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(value.atomic())
    }

    /// What the owner wrote last.
    ///
    /// # Safety
    ///
    /// The caller is the owner.
    #[inline(always)]
    pub(crate) unsafe fn get(&self) -> T {
        // SAFETY: the caller promises that nobody else writes.
        unsafe { T::place(&self.0).read() }
    }

    /// Writes it.
    ///
    /// # Safety
    ///
    /// The caller is the owner.
    #[inline(always)]
    pub(crate) unsafe fn set(&self, value: T) {
        T::store(&self.0, value);
    }

    /// What the owner wrote at some time.
    #[inline(always)]
    pub(crate) fn look(&self) -> T {
        T::load(&self.0)
    }
}

/// Values that are written at once.
pub(crate) trait Word: Copy {
    type Atomic;
    fn atomic(self) -> Self::Atomic;
    fn place(atomic: &Self::Atomic) -> *mut Self;
    fn load(atomic: &Self::Atomic) -> Self;
    fn store(atomic: &Self::Atomic, value: Self);
}

macro_rules! words {
    ($($word:ty: $atomic:ty),*) => {$(
        impl Word for $word {
            type Atomic = $atomic;

            fn atomic(self) -> $atomic {
                <$atomic>::new(self)
            }

            #[inline(always)]
            fn place(atomic: &$atomic) -> *mut Self {
                atomic.as_ptr()
            }

            #[inline(always)]
            fn load(atomic: &$atomic) -> Self {
                atomic.load(Relaxed)
            }

            #[inline(always)]
            fn store(atomic: &$atomic, value: Self) {
                atomic.store(value, Relaxed);
            }
        }
    )*};
}

words!(u8: AtomicU8, u16: AtomicU16, u64: AtomicU64, usize: AtomicUsize, *mut u8: AtomicPtr<u8>);
