//! A slab, found by an address, and its objects.

use core::ptr::{self, NonNull};

use heapwright_core::HeapError;

use crate::chunk::{Chunk, Desc};
use crate::classes::TABLE;

/// A slab, with what it takes to find its objects.
pub(super) struct Place {
    pub(super) start: usize,
    bytes: usize,
    size: usize,
    reciprocal: u64,
    bits: *mut u64,
    pub(super) desc: NonNull<Desc>,
    /// How many objects were freed in it, and the lowest word with one of them.
    freed: u16,
    lowest: *mut u64,
}

impl Place {
    /// The slab that a page is of.
    ///
    /// # Safety
    ///
    /// The page is one of a slab of this class.
    #[inline]
    pub(super) unsafe fn of(class: usize, chunk: NonNull<Chunk>, page: usize) -> Self {
        // SAFETY: the caller promises a page of a slab.
        unsafe {
            let fixed = TABLE.get_unchecked(class);
            let head = Chunk::head(chunk, page);
            let desc = Chunk::desc(chunk, head);
            let start = Chunk::page(chunk, head);
            let size = fixed.size as usize;
            let bits = (&raw mut (*desc.as_ptr()).bits).cast();
            Self {
                start: start.addr().get(),
                bytes: usize::from(desc.as_ref().capacity) * size,
                size,
                reciprocal: u64::from(fixed.reciprocal),
                bits,
                desc,
                freed: 0,
                lowest: ptr::without_provenance_mut(usize::MAX),
            }
        }
    }

    /// The word and the bit of the object at an address.
    #[inline(always)]
    pub(super) fn bit(&self, addr: usize) -> Result<(*mut u64, u64), HeapError> {
        let offset = addr.wrapping_sub(self.start);
        let index = ((offset as u64).wrapping_mul(self.reciprocal) >> 32) as usize;
        if offset >= self.bytes || index * self.size != offset {
            return Err(HeapError::InvalidFree(addr));
        }
        Ok((self.bits.wrapping_add(index / 64), 1 << (index % 64)))
    }

    /// Sets the bit of an object. The slab knows when it is [`put_down`](Self::put_down).
    pub(super) unsafe fn free(&mut self, addr: usize) -> Result<(), HeapError> {
        let (word, bit) = self.bit(addr)?;
        // SAFETY: the caller promises a slab of its own; the word is one of its bits.
        unsafe {
            if *word & bit != 0 {
                return Err(HeapError::DoubleFree(addr));
            }
            *word |= bit;
        }
        self.freed += 1;
        self.lowest = self.lowest.min(word);
        Ok(())
    }

    /// Sets the bits of objects from `at` on, up to the first that lies elsewhere.
    ///
    /// # Errors
    ///
    /// The object at `at` is free already, or none.
    #[inline(always)]
    pub(super) unsafe fn free_all(
        &mut self,
        objects: *const *mut u8,
        at: &mut usize,
        count: usize,
    ) -> Result<(), HeapError> {
        // SAFETY: the caller promises that many objects, and a slab of its own.
        unsafe {
            let Self { start, bytes, size, reciprocal, bits, .. } = *self;
            let (first, mut lowest, mut result) = (*at, usize::MAX, Ok(()));
            while *at < count {
                let addr = objects.add(*at).read().addr();
                let offset = addr.wrapping_sub(start);
                if offset >= bytes {
                    break;
                }
                let index = ((offset as u64).wrapping_mul(reciprocal) >> 32) as usize;
                let word = bits.add(index / 64);
                let bit = 1 << (index % 64);
                if index * size != offset || *word & bit != 0 {
                    result = self.free(addr);
                    break;
                }
                *word |= bit;
                lowest = lowest.min(index);
                *at += 1;
            }
            self.freed += (*at - first) as u16;
            if *at > first {
                self.lowest = self.lowest.min(bits.add(lowest / 64));
            }
            result
        }
    }

    /// Lets the slab know what was freed in it, and says whether it is to be listed anew: it has its first free objects,
    /// or all are free.
    #[inline]
    pub(super) unsafe fn put_down(&self) -> bool {
        if self.freed == 0 {
            return false;
        }
        // SAFETY: the caller promises a slab of its own; `lowest` is one of its words.
        unsafe {
            let desc = &mut *self.desc.as_ptr();
            let lowest = self.lowest.offset_from_unsigned(self.bits) as u16;
            desc.hint = desc.hint.min(lowest);
            desc.free += self.freed;
            desc.free == self.freed || desc.free == desc.capacity
        }
    }
}
