//! For tests: an allocator that looks closely.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Hands on to the system's allocator, and panics where a block is not live or its layout is not the one it was asked
/// for with. A thread that comes before the one that it should have waited for is found by it.
#[derive(Default)]
pub(crate) struct Careful {
    live: Mutex<BTreeMap<usize, Layout>>,
}

impl Careful {
    fn live<T>(&self, look: impl FnOnce(&mut BTreeMap<usize, Layout>) -> T) -> T {
        look(&mut self.live.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Frees all that is live; says how many blocks those were.
    pub(crate) fn clear(&self) -> usize {
        let live = self.live(std::mem::take);
        for (&block, &layout) in &live {
            // SAFETY: the block is live, came from the system's allocator, and nobody else knows of it any more.
            unsafe { System.dealloc(block as *mut u8, layout) };
        }
        live.len()
    }
}

// SAFETY: hands on to the system's allocator.
unsafe impl GlobalAlloc for Careful {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller promises the same.
        let block = unsafe { System.alloc(layout) };
        assert_eq!(self.live(|live| live.insert(block as usize, layout)), None);
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        assert_eq!(self.live(|live| live.remove(&(block as usize))), Some(layout));
        // SAFETY: the caller promises the same.
        unsafe { System.dealloc(block, layout) };
    }
}
