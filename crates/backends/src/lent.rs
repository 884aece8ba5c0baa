//! A backend on loan.

use heapwright_core::{HeapBackend, hand_on};

use crate::fallback::{Owns, Stretch};

/// A backend that a heap has only for a while: when the heap is gone, its owner has it back, to look at
/// or to put under the next heap.
///
/// ```
/// use core::mem::MaybeUninit;
/// use heapwright_backends::{Arena, Lent};
///
/// let mut buffer = [MaybeUninit::uninit(); 1024];
/// let mut arena = Arena::new(&mut buffer);
/// let heap_backend = Lent(&mut arena);
/// // … a heap over `heap_backend` lives and is dropped …
/// # drop(heap_backend);
/// assert_eq!(arena.given(), 0);
/// ```
#[derive(Debug)]
pub struct Lent<'a, B>(pub &'a mut B);

// SAFETY: everything is left to the backend that is lent.
unsafe impl<B: HeapBackend> HeapBackend for Lent<'_, B> {
    hand_on! {
        0:
            page_size, grow, map, shrink, resize, relocate, discard, populate,
            offer_huge_pages, withdraw_huge_pages, is_readable, is_present, entropy,
    }
}

impl<B: Owns> Owns for Lent<'_, B> {
    fn stretch_below(&self, end: usize) -> Stretch {
        self.0.stretch_below(end)
    }
}
