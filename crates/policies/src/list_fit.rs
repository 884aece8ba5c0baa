//! What all policies over one list have in common: everything but the search.

use core::marker::PhantomData;

use heapwright_core::{Broken, FreeBlock, Indexed, LinkCode, New, Plain, Policy, Request};

use crate::list::{AddressOrder, List, Order};

/// How a policy over a list chooses a block.
///
/// # Safety
///
/// `find` returns only blocks of the list, and only such as fit.
pub unsafe trait Search: New + 'static {
    /// The block of the list that serves the request.
    fn find<C: LinkCode>(&mut self, list: &List<C>, request: Request) -> Option<FreeBlock>;

    /// `block` is about to leave the list, and `next` to take its place if there is one.
    #[inline(always)]
    fn forget<C: LinkCode>(&mut self, list: &List<C>, block: FreeBlock, next: Option<FreeBlock>) {
        let _ = (list, block, next);
    }
}

/// A policy over one list: a search `S` in a list of order `O`, with links written as `C`.
///
/// Invariant: the list holds the blocks that were inserted and not removed.
#[derive(Debug)]
pub struct ListFit<S, O = AddressOrder, C = Plain> {
    list: List<C>,
    search: S,
    order: PhantomData<fn() -> O>,
}

impl<S: New, O, C> New for ListFit<S, O, C> {
    const NEW: Self = Self { list: List::NEW, search: S::NEW, order: PhantomData };
}

// SAFETY: the list holds what was inserted and not removed, and a search finds what fits in it.
unsafe impl<S: Search, O: Order, C: LinkCode> Policy for ListFit<S, O, C> {
    const KEEPS_PLACE: bool = O::KEEPS_PLACE;

    #[inline]
    unsafe fn insert(&mut self, block: FreeBlock) {
        // SAFETY: the caller promises the same.
        unsafe { O::insert(&mut self.list, block) };
    }

    #[inline]
    unsafe fn remove(&mut self, block: FreeBlock) {
        self.search.forget(&self.list, block, None);
        // SAFETY: the caller promises the same.
        unsafe { self.list.remove(block) };
    }

    #[inline]
    fn find(&mut self, request: Request) -> Option<FreeBlock> {
        self.search.find(&self.list, request)
    }

    #[inline]
    unsafe fn replace(&mut self, old: FreeBlock, new: FreeBlock) {
        self.search.forget(&self.list, old, Some(new));
        // SAFETY: the caller promises the same.
        unsafe { O::replace(&mut self.list, old, new) };
    }

    unsafe fn next_free(&self, block: FreeBlock) -> Option<FreeBlock> {
        // SAFETY: the caller promises a block in the list.
        unsafe { self.list.after(block) }
    }

    fn check(&self) -> Result<Indexed, Broken> {
        self.list.check(O::KEEPS_PLACE)
    }
}
