//! What every allocator of this workspace is.
//!
//! [`Engine`] is an allocator that one owner drives; [`Strategy`] is one that many threads may
//! drive at once. [`Locked`](crate::Locked) makes the second out of the first, and faces, test kit
//! and harness need no more than the second.

use core::alloc::Layout;
use core::ptr::{self, NonNull};

use crate::{BlockInfo, Broken, GRANULE, HeapError, Stats, misuse};

/// The largest requests that an allocator serves. Larger ones fail cleanly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest size in bytes.
    pub max_size: usize,
    /// Largest alignment in bytes.
    pub max_align: usize,
}

impl Limits {
    /// The limits of a general-purpose heap: any size that fits the address space, any alignment
    /// up to 1 GiB.
    pub const GENERAL: Self = Self { max_size: isize::MAX as usize, max_align: 1 << 30 };

    /// Whether a request is within the limits.
    #[inline]
    pub const fn admit(self, layout: Layout) -> bool {
        layout.size() <= self.max_size && layout.align() <= self.max_align
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::GENERAL
    }
}

/// An allocator with one owner at a time.
///
/// # For callers
///
/// Every pointer that comes from an engine is given back to the same engine. Zero-sized requests
/// are served with a block of the smallest size. An engine never panics and never allocates from
/// elsewhere; a request that cannot be served fails and changes nothing.
///
/// # For implementers
///
/// Implement the required methods; the provided ones are right for every engine, and are there to
/// be replaced by faster ones.
///
/// # Safety
///
/// A block that [`allocate`](Self::allocate) returned is readable and writable for `layout.size()`
/// bytes, starts at a multiple of `layout.align()`, and overlaps no other block in use, until it is
/// given to `deallocate` or moved by `reallocate`; moving the engine moves no block.
pub unsafe trait Engine {
    /// The largest requests that this engine serves.
    const LIMITS: Limits = Limits::GENERAL;

    /// A block for `layout`, or `None` when there is no memory for it or it exceeds the limits.
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>>;

    /// As [`allocate`](Self::allocate), with the first `layout.size()` bytes zero. Engines that
    /// know which pages are fresh do not zero those again.
    fn allocate_zeroed(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        let block = self.allocate(layout)?;
        // SAFETY: `allocate` returned at least `layout.size()` writable bytes.
        unsafe { ptr::write_bytes(block.as_ptr(), 0, layout.size()) };
        Some(block)
    }

    /// Frees a block whose size the caller does not know (C's `free`).
    ///
    /// # Errors
    ///
    /// What the engine's checks find; an engine without checks finds nothing.
    ///
    /// # Safety
    ///
    /// `block` is in use and came from this engine. An engine with checks tolerates the rest: any
    /// pointer at all, as far as its documentation promises.
    unsafe fn deallocate(&mut self, block: NonNull<u8>) -> Result<(), HeapError>;

    /// Frees a block of which the caller knows the layout (Rust's `dealloc`, C++'s sized delete).
    ///
    /// # Errors
    ///
    /// As [`deallocate`](Self::deallocate).
    ///
    /// # Safety
    ///
    /// As [`deallocate`](Self::deallocate); `layout` is the one that the block was asked for with.
    #[inline]
    unsafe fn deallocate_sized(
        &mut self,
        block: NonNull<u8>,
        layout: Layout,
    ) -> Result<(), HeapError> {
        let _ = layout;
        // SAFETY: the caller promises the same.
        unsafe { self.deallocate(block) }
    }

    /// Changes the size of a block, in place where possible, keeping the first
    /// `min(layout.size(), new_size)` bytes and the alignment.
    ///
    /// # Errors
    ///
    /// [`HeapError::OutOfMemory`], or what the engine's checks find. The block is as it was then.
    ///
    /// # Safety
    ///
    /// As [`deallocate`](Self::deallocate). `layout.align()` is at most what the block was asked for with, and is
    /// what it has afterwards; `layout.size()` is at most its usable size.
    unsafe fn reallocate(
        &mut self,
        block: NonNull<u8>,
        layout: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, HeapError> {
        // SAFETY: the caller promises what `reallocate_by_moving` asks for.
        unsafe { reallocate_by_moving(self, block, layout, new_size) }
    }

    /// As [`reallocate`](Self::reallocate), for callers that know neither the block's size nor its alignment (C's
    /// `realloc`). A block that moves is aligned to [`GRANULE`](crate::GRANULE).
    ///
    /// # Errors
    ///
    /// As [`reallocate`](Self::reallocate).
    ///
    /// # Safety
    ///
    /// As [`deallocate`](Self::deallocate). Engines that check frees check here too, before they look at the block.
    #[inline]
    unsafe fn resize(
        &mut self,
        block: NonNull<u8>,
        new_size: usize,
    ) -> Result<NonNull<u8>, HeapError> {
        // SAFETY: the caller promises a block in use, all of which may be kept; blocks are aligned to more than
        // they need be asked for.
        unsafe {
            let layout = Layout::from_size_align_unchecked(self.usable_size(block), GRANULE);
            self.reallocate(block, layout, new_size)
        }
    }

    /// How many bytes of a block in use the program may use: at least what it asked for.
    ///
    /// # Safety
    ///
    /// `block` is in use and came from this engine.
    unsafe fn usable_size(&self, block: NonNull<u8>) -> usize;

    /// Gives back to the backend what can be given back, and says how many bytes that was.
    fn trim(&mut self) -> usize {
        0
    }

    /// The sums of the heap. Costs a walk over all blocks.
    fn stats(&self) -> Stats;

    /// Shows every block, region by region; within a region by rising address.
    /// `visit` must not use the engine.
    fn walk(&self, visit: &mut dyn FnMut(BlockInfo));

    /// Verifies every invariant of the engine. Costs at least a walk over all blocks.
    ///
    /// # Errors
    ///
    /// The first invariant that is found broken.
    fn check(&self) -> Result<(), Broken>;
}

/// The way of resizing that always works: allocate, copy, free. For engines whose blocks cannot
/// change in place, and for the last resort of those whose can.
///
/// # Errors
///
/// As [`Engine::reallocate`].
///
/// # Safety
///
/// As [`Engine::reallocate`].
pub unsafe fn reallocate_by_moving<E: Engine + ?Sized>(
    engine: &mut E,
    block: NonNull<u8>,
    layout: Layout,
    new_size: usize,
) -> Result<NonNull<u8>, HeapError> {
    let new_layout =
        Layout::from_size_align(new_size, layout.align()).map_err(|_| HeapError::OutOfMemory)?;
    let new = engine.allocate(new_layout).ok_or(HeapError::OutOfMemory)?;
    // SAFETY: both blocks are in use, hence disjoint, and at least that long. The old one is the
    // caller's to free; should the checks refuse it, the new one, just made, goes back instead.
    unsafe {
        ptr::copy_nonoverlapping(block.as_ptr(), new.as_ptr(), layout.size().min(new_size));
        match engine.deallocate(block) {
            Ok(()) => Ok(new),
            Err(error) => {
                let _ = engine.deallocate(new);
                Err(error)
            }
        }
    }
}

/// An allocator that any number of threads may use at once: what faces, harness and test kit take.
///
/// The methods mean what those of [`Engine`] mean.
///
/// # Safety
///
/// As [`Engine`], and also when threads call it at the same time.
pub unsafe trait Strategy {
    /// The largest requests that this strategy serves.
    fn limits(&self) -> Limits {
        Limits::GENERAL
    }

    /// See [`Engine::allocate`].
    fn allocate(&self, layout: Layout) -> Option<NonNull<u8>>;

    /// A block of `size` bytes, any number, aligned to [`GRANULE`]: what C's `malloc` asks for.
    #[inline(always)]
    fn allocate_bytes(&self, size: usize) -> Option<NonNull<u8>> {
        self.allocate(Layout::from_size_align(size, GRANULE).ok()?)
    }

    /// See [`Engine::allocate_zeroed`].
    fn allocate_zeroed(&self, layout: Layout) -> Option<NonNull<u8>>;

    /// See [`Engine::deallocate`].
    ///
    /// # Errors
    ///
    /// See [`Engine::deallocate`].
    ///
    /// # Safety
    ///
    /// See [`Engine::deallocate`].
    unsafe fn deallocate(&self, block: NonNull<u8>) -> Result<(), HeapError>;

    /// See [`Engine::deallocate_sized`].
    ///
    /// # Errors
    ///
    /// See [`Engine::deallocate`].
    ///
    /// # Safety
    ///
    /// See [`Engine::deallocate_sized`].
    unsafe fn deallocate_sized(&self, block: NonNull<u8>, layout: Layout) -> Result<(), HeapError>;

    /// Frees as [`deallocate`](Self::deallocate) does, and [reports](misuse::report) what its checks find: for callers
    /// that cannot be told.
    ///
    /// # Safety
    ///
    /// See [`Engine::deallocate`].
    #[inline(always)]
    unsafe fn free(&self, block: NonNull<u8>) {
        // SAFETY: the caller promises the same.
        if let Err(error) = unsafe { self.deallocate(block) } {
            misuse::report(error);
        }
    }

    /// The same for [`deallocate_sized`](Self::deallocate_sized).
    ///
    /// # Safety
    ///
    /// See [`Engine::deallocate_sized`].
    #[inline(always)]
    unsafe fn free_sized(&self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller promises the same.
        if let Err(error) = unsafe { self.deallocate_sized(block, layout) } {
            misuse::report(error);
        }
    }

    /// See [`Engine::reallocate`].
    ///
    /// # Errors
    ///
    /// See [`Engine::reallocate`].
    ///
    /// # Safety
    ///
    /// See [`Engine::reallocate`].
    unsafe fn reallocate(
        &self,
        block: NonNull<u8>,
        layout: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, HeapError>;

    /// See [`Engine::resize`].
    ///
    /// # Errors
    ///
    /// See [`Engine::resize`].
    ///
    /// # Safety
    ///
    /// See [`Engine::resize`].
    unsafe fn resize(&self, block: NonNull<u8>, new_size: usize) -> Result<NonNull<u8>, HeapError>;

    /// See [`Engine::usable_size`].
    ///
    /// # Safety
    ///
    /// See [`Engine::usable_size`].
    unsafe fn usable_size(&self, block: NonNull<u8>) -> usize;

    /// See [`Engine::trim`].
    fn trim(&self) -> usize;

    /// See [`Engine::stats`].
    fn stats(&self) -> Stats;

    /// See [`Engine::walk`].
    fn walk(&self, visit: &mut dyn FnMut(BlockInfo));

    /// Shows the same blocks as [`walk`](Self::walk) for who asks how many there are: one for all of a size and state, or
    /// for some of them, with their number. Its address is any, and so is what follows it. Costs a walk, if the strategy
    /// knows no better.
    fn tally(&self, visit: &mut dyn FnMut(BlockInfo, usize)) {
        self.walk(&mut |block| visit(block, 1));
    }

    /// See [`Engine::check`].
    ///
    /// # Errors
    ///
    /// See [`Engine::check`].
    fn check(&self) -> Result<(), Broken>;

    /// The process begins, and has one thread so far: whatever is cheap now, and dear once there are more, may be done.
    fn prepare(&self) {}

    /// Takes every lock of the strategy and keeps it, so that no thread is in the middle of anything. For a process
    /// about to fork, whose child has only the thread that forks.
    fn freeze(&self);

    /// As [`freeze`](Self::freeze) if that takes no waiting, and says whether it did. For signal handlers, which may
    /// have interrupted the holder of a lock.
    fn try_freeze(&self) -> bool;

    /// Undoes a [`freeze`](Self::freeze).
    ///
    /// # Safety
    ///
    /// The strategy is frozen, by this thread, or by the thread of the parent process that became this one.
    unsafe fn thaw(&self);

    /// As [`thaw`](Self::thaw), in a child process: its other threads are gone, and what they had is nobody's.
    ///
    /// # Safety
    ///
    /// The strategy was frozen by the thread of the parent process that became this one.
    unsafe fn thaw_in_child(&self) {
        // SAFETY: the caller promises the same.
        unsafe { self.thaw() };
    }
}
