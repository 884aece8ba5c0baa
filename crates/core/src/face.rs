//! Faces: how a Rust program calls a strategy.
//!
//! * [`GlobalAlloc`]: `#[global_allocator] static HEAP: FirstFitSbrk = FirstFitSbrk::new();`
//! * [`Allocator`] of `allocator-api2` 0.2, for `&Locked<…>`: the collections of that crate,
//!   `hashbrown`, `bumpalo` and others take a heap instance by reference.
//!
//! The C face is the `preload` crate.
//!
//! A face cannot hand a [`HeapError`] of a free on to its caller, so it ends in
//! [`misuse::report`].

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};

use allocator_api2::alloc::{AllocError, Allocator};
use lock_api::RawMutex;

use crate::{Engine, HeapError, Locked, Strategy, misuse};

// SAFETY: `Strategy` promises what `GlobalAlloc` asks for; `Sync` is asked for by the static that a
// global allocator is.
unsafe impl<R: RawMutex, E: Engine> GlobalAlloc for Locked<R, E> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.allocate(layout).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.allocate_zeroed(layout).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller promises a block of this allocator, which is not null.
        if let Err(error) = unsafe { self.deallocate_sized(NonNull::new_unchecked(block), layout) }
        {
            misuse::report(error);
        }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: as for `dealloc`.
        match unsafe { self.reallocate(NonNull::new_unchecked(block), layout, new_size) } {
            Ok(block) => block.as_ptr(),
            Err(HeapError::OutOfMemory) => ptr::null_mut(),
            Err(error) => {
                misuse::report(error);
                ptr::null_mut()
            }
        }
    }
}

// SAFETY: blocks stay valid while the heap is borrowed; copies of the reference are the same heap.
unsafe impl<R: RawMutex, E: Engine> Allocator for &Locked<R, E> {
    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        slice(Strategy::allocate(*self, layout), layout)
    }

    #[inline]
    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        slice(Strategy::allocate_zeroed(*self, layout), layout)
    }

    #[inline]
    unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller promises the same.
        if let Err(error) = unsafe { self.deallocate_sized(block, layout) } {
            misuse::report(error);
        }
    }

    #[inline]
    unsafe fn grow(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller promises the same.
        unsafe { resize(*self, block, old, new) }
    }

    #[inline]
    unsafe fn grow_zeroed(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller promises the same; the bytes beyond the old size are ours to write.
        unsafe {
            let grown = resize(*self, block, old, new)?;
            let rest = grown.cast::<u8>().add(old.size());
            ptr::write_bytes(rest.as_ptr(), 0, new.size() - old.size());
            Ok(grown)
        }
    }

    #[inline]
    unsafe fn shrink(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller promises the same.
        unsafe { resize(*self, block, old, new) }
    }
}

fn slice(block: Option<NonNull<u8>>, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
    block.map(|block| NonNull::slice_from_raw_parts(block, layout.size())).ok_or(AllocError)
}

/// Resizes, and moves by hand where the alignment rises, which `reallocate` does not promise.
unsafe fn resize<S: Strategy>(
    strategy: &S,
    block: NonNull<u8>,
    old: Layout,
    new: Layout,
) -> Result<NonNull<[u8]>, AllocError> {
    if new.align() <= old.align() {
        // SAFETY: the caller promises a block of `old`.
        return match unsafe { strategy.reallocate(block, old, new.size()) } {
            Ok(block) => slice(Some(block), new),
            Err(HeapError::OutOfMemory) => Err(AllocError),
            Err(error) => {
                misuse::report(error);
                Err(AllocError)
            }
        };
    }
    let to = strategy.allocate(new).ok_or(AllocError)?;
    // SAFETY: two blocks in use are disjoint, each as long as its layout.
    unsafe {
        ptr::copy_nonoverlapping(block.as_ptr(), to.as_ptr(), old.size().min(new.size()));
        if let Err(error) = strategy.deallocate_sized(block, old) {
            misuse::report(error);
        }
    }
    slice(Some(to), new)
}
