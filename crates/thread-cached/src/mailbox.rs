//! Where other threads leave what they freed for the owner of its slabs.
//!
//! A stack onto which any thread pushes and of which the owner takes all at once, so that there is no ABA (R. Kent
//! Treiber, *Systems Programming: Coping with Parallelism*, 1986). What is pushed are *parcels*, arrays of pointers, so
//! that neither side touches the objects: one exchange for each parcel on either side. A visitor in the owner's place
//! (`turn`) takes them one by one: there is no ABA then either, since nobody else takes any out meanwhile.

use core::mem;
use core::ptr::{self, NonNull};
use core::slice;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::meeting::AtomicPtr;

/// How many objects a parcel holds.
pub(crate) const PARCEL: usize = 126;
/// Up to so many need only the first bytes of one: in a crowd of threads each frees few of each other's at a time.
pub(crate) const FEW_OBJECTS: usize = 14;
/// So many bytes.
pub(crate) const FEW_BYTES: usize =
    mem::offset_of!(Parcel, objects) + FEW_OBJECTS * size_of::<*mut u8>();

/// Objects on their way home.
#[repr(C)]
pub(crate) struct Parcel {
    /// The parcel below in the stack.
    pub(crate) next: *mut Parcel,
    /// How many objects it holds. None, if the parcel is itself an object on its way home, for want of memory.
    pub(crate) count: usize,
    pub(crate) objects: [*mut u8; PARCEL],
}

impl Parcel {
    /// What it holds. It may be shorter than one of many objects.
    ///
    /// # Safety
    ///
    /// It is a parcel, or an object in the place of one.
    pub(crate) unsafe fn objects<'a>(this: NonNull<Self>) -> &'a [*mut u8] {
        // SAFETY: the caller promises as many as it counts.
        unsafe {
            let objects = (&raw const (*this.as_ptr()).objects).cast();
            slice::from_raw_parts(objects, (*this.as_ptr()).count.min(PARCEL))
        }
    }
}

/// A stack of parcels.
#[repr(align(64))]
pub(crate) struct Mailbox {
    top: AtomicPtr<Parcel>,
}

impl Mailbox {
    /// An empty mailbox.
    pub(crate) fn new() -> Self {
        Self { top: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Whether there is nothing in it, as far as can be seen without waiting.
    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.top.load(Relaxed).is_null()
    }

    /// The parcel left last; for the owner to look at.
    pub(crate) fn top(&self) -> *mut Parcel {
        self.top.load(Acquire)
    }

    /// Leaves a parcel.
    ///
    /// # Safety
    ///
    /// The parcel is the caller's, and is the receiver's from now on.
    pub(crate) unsafe fn push(&self, parcel: NonNull<Parcel>) {
        let mut top = self.top.load(Relaxed);
        loop {
            // SAFETY: the parcel is ours until the exchange succeeds.
            unsafe { (*parcel.as_ptr()).next = top };
            match self.top.compare_exchange_weak(top, parcel.as_ptr(), Release, Relaxed) {
                Ok(_) => return,
                Err(now) => top = now,
            }
        }
    }

    /// Takes all parcels, the last one first.
    pub(crate) fn take_all(&self) -> *mut Parcel {
        if self.is_empty() {
            return ptr::null_mut();
        }
        self.top.swap(ptr::null_mut(), Acquire)
    }

    /// Takes the parcel left last, if there is one.
    ///
    /// # Safety
    ///
    /// Nobody else takes any meanwhile.
    pub(crate) unsafe fn take_one(&self) -> Option<NonNull<Parcel>> {
        let mut top = self.top.load(Acquire);
        while let Some(parcel) = NonNull::new(top) {
            // SAFETY: it stays in the stack until we take it, and is written by nobody there.
            let next = unsafe { (*parcel.as_ptr()).next };
            match self.top.compare_exchange_weak(top, next, Acquire, Acquire) {
                Ok(_) => return Some(parcel),
                Err(now) => top = now,
            }
        }
        None
    }
}
