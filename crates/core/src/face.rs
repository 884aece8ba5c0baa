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

#[doc(hidden)]
pub use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};

#[doc(hidden)]
pub use allocator_api2::alloc::{AllocError, Allocator};
use lock_api::RawMutex;

use crate::{Engine, HeapError, Locked, Strategy, misuse};

/// Gives a strategy its Rust faces, `GlobalAlloc` and, by reference, `Allocator`: the parameters of its type in brackets,
/// and the type.
///
/// ```text
/// heapwright_core::faces! { [B: HeapBackend, L: RawMutex] ThreadCached<B, L> }
/// ```
#[macro_export]
macro_rules! faces {
    ([$($parameters:tt)*] $type:ty) => {
        // SAFETY: `Strategy` promises what `GlobalAlloc` asks for; `Sync` is asked for by the static that a
        // global allocator is.
        unsafe impl<$($parameters)*> $crate::face::GlobalAlloc for $type {
            #[inline]
            unsafe fn alloc(&self, layout: $crate::face::Layout) -> *mut u8 {
                $crate::Strategy::allocate(self, layout).map_or(::core::ptr::null_mut(), ::core::ptr::NonNull::as_ptr)
            }

            #[inline]
            unsafe fn alloc_zeroed(&self, layout: $crate::face::Layout) -> *mut u8 {
                $crate::Strategy::allocate_zeroed(self, layout).map_or(::core::ptr::null_mut(), ::core::ptr::NonNull::as_ptr)
            }

            #[inline]
            unsafe fn dealloc(&self, block: *mut u8, layout: $crate::face::Layout) {
                // SAFETY: the caller promises a block of this allocator, which is not null.
                unsafe { $crate::Strategy::free_sized(self, ::core::ptr::NonNull::new_unchecked(block), layout) }
            }

            #[inline]
            unsafe fn realloc(&self, block: *mut u8, layout: $crate::face::Layout, new_size: usize) -> *mut u8 {
                // SAFETY: as for `dealloc`.
                match unsafe { $crate::Strategy::reallocate(self, ::core::ptr::NonNull::new_unchecked(block), layout, new_size) } {
                    Ok(block) => block.as_ptr(),
                    Err($crate::HeapError::OutOfMemory) => ::core::ptr::null_mut(),
                    Err(error) => {
                        $crate::misuse::report(error);
                        ::core::ptr::null_mut()
                    }
                }
            }
        }

        // SAFETY: blocks stay valid while the heap is borrowed; copies of the reference are the same heap.
        unsafe impl<$($parameters)*> $crate::face::Allocator for &$type {
            #[inline]
            fn allocate(&self, layout: $crate::face::Layout) -> ::core::result::Result<::core::ptr::NonNull<[u8]>, $crate::face::AllocError> {
                $crate::face::slice($crate::Strategy::allocate(*self, layout), layout)
            }

            #[inline]
            fn allocate_zeroed(&self, layout: $crate::face::Layout) -> ::core::result::Result<::core::ptr::NonNull<[u8]>, $crate::face::AllocError> {
                $crate::face::slice($crate::Strategy::allocate_zeroed(*self, layout), layout)
            }

            #[inline]
            unsafe fn deallocate(&self, block: ::core::ptr::NonNull<u8>, layout: $crate::face::Layout) {
                // SAFETY: the caller promises the same.
                unsafe { $crate::Strategy::free_sized(*self, block, layout) }
            }

            #[inline]
            unsafe fn grow(
                &self,
                block: ::core::ptr::NonNull<u8>,
                old: $crate::face::Layout,
                new: $crate::face::Layout,
            ) -> ::core::result::Result<::core::ptr::NonNull<[u8]>, $crate::face::AllocError> {
                // SAFETY: the caller promises the same.
                unsafe { $crate::face::resize(*self, block, old, new) }
            }

            #[inline]
            unsafe fn grow_zeroed(
                &self,
                block: ::core::ptr::NonNull<u8>,
                old: $crate::face::Layout,
                new: $crate::face::Layout,
            ) -> ::core::result::Result<::core::ptr::NonNull<[u8]>, $crate::face::AllocError> {
                // SAFETY: the caller promises the same; the bytes beyond the old size are ours to write.
                unsafe {
                    let grown = $crate::face::resize(*self, block, old, new)?;
                    let rest = grown.cast::<u8>().add(old.size());
                    ::core::ptr::write_bytes(rest.as_ptr(), 0, new.size() - old.size());
                    Ok(grown)
                }
            }

            #[inline]
            unsafe fn shrink(
                &self,
                block: ::core::ptr::NonNull<u8>,
                old: $crate::face::Layout,
                new: $crate::face::Layout,
            ) -> ::core::result::Result<::core::ptr::NonNull<[u8]>, $crate::face::AllocError> {
                // SAFETY: the caller promises the same.
                unsafe { $crate::face::resize(*self, block, old, new) }
            }
        }
    };
}

faces! { [R: RawMutex, E: Engine] Locked<R, E> }

#[doc(hidden)]
#[inline]
pub fn slice(block: Option<NonNull<u8>>, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
    block.map(|block| NonNull::slice_from_raw_parts(block, layout.size())).ok_or(AllocError)
}

/// Resizes, and moves by hand where the alignment rises, which `reallocate` does not promise; where it falls, the block
/// is one of the lower alignment from then on.
///
/// # Errors
///
/// There is no memory.
///
/// # Safety
///
/// `block` is in use, of the layout `old`.
#[doc(hidden)]
#[inline]
pub unsafe fn resize<S: Strategy>(
    strategy: &S,
    block: NonNull<u8>,
    old: Layout,
    new: Layout,
) -> Result<NonNull<[u8]>, AllocError> {
    if new.align() <= old.align() {
        // SAFETY: the caller promises a block of `old`; so is the size valid for a lower alignment.
        return match unsafe {
            let old = Layout::from_size_align_unchecked(old.size(), new.align());
            strategy.reallocate(block, old, new.size())
        } {
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
        strategy.free_sized(block, old);
    }
    slice(Some(to), new)
}
