//! A slab, found by an address, and its objects.

use core::ptr::NonNull;

use heapwright_core::HeapError;

use super::Local;
use crate::chunk::{Chunk, Desc};
use crate::classes::TABLE;
use crate::shown::Shown;

/// A slab, with what it takes to find its objects.
pub(super) struct Place {
    start: usize,
    bytes: usize,
    reciprocal: u32,
    bits: *const Shown<u64>,
    pub(super) desc: NonNull<Desc>,
    /// How many objects were freed in it.
    freed: u16,
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
            Self {
                start: Chunk::page(chunk, head).addr().get(),
                bytes: Desc::capacity(desc) * fixed.size as usize,
                reciprocal: fixed.reciprocal,
                bits: (&raw const (*desc.as_ptr()).bits).cast(),
                desc,
                freed: 0,
            }
        }
    }

    /// The word and the bit of the object at an address.
    #[inline(always)]
    pub(super) fn bit(&self, addr: usize) -> Result<(*const Shown<u64>, u64), HeapError> {
        let offset = addr.wrapping_sub(self.start);
        if offset < self.bytes
            && let Some(index) = divided(offset, self.reciprocal)
        {
            Ok((self.bits.wrapping_add(index / 64), 1 << (index % 64)))
        } else {
            Err(HeapError::InvalidFree(addr))
        }
    }

    /// Sets the bit of an object. The slab knows when it is [`put_down`](Self::put_down).
    pub(super) unsafe fn free(&mut self, addr: usize) -> Result<(), HeapError> {
        let (word, bit) = self.bit(addr)?;
        // SAFETY: the caller promises a slab of its own; the word is one of its bits.
        unsafe {
            let bits = (*word).get();
            if bits & bit != 0 {
                return Err(HeapError::DoubleFree(addr));
            }
            (*word).set(bits | bit);
        }
        self.freed += 1;
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
            let Self { start, bytes, reciprocal, bits, .. } = *self;
            let first = *at;
            let mut next = first;
            let mut wrong = false;
            // What is freed together mostly has its bits in one word, which is written when another one's turn comes.
            let (mut at_word, mut word) = (0, (*bits).get());
            while next < count {
                let offset = objects.add(next).read().addr().wrapping_sub(start);
                if offset >= bytes {
                    break;
                }
                let Some(index) = divided(offset, reciprocal) else {
                    wrong = true;
                    break;
                };
                if index / 64 != at_word {
                    (*bits.add(at_word)).set(word);
                    at_word = index / 64;
                    word = (*bits.add(at_word)).get();
                }
                let bit = 1 << (index % 64);
                if word & bit != 0 {
                    wrong = true;
                    break;
                }
                word |= bit;
                next += 1;
            }
            (*bits.add(at_word)).set(word);
            self.freed += (next - first) as u16;
            *at = next;
            if wrong { self.free(objects.add(next).read().addr()) } else { Ok(()) }
        }
    }

    /// Lets the slab know what was freed in it, and says whether it is to be listed anew: it has its first free objects,
    /// or all are free.
    #[inline]
    pub(super) unsafe fn put_down(&self) -> bool {
        if self.freed == 0 {
            return false;
        }
        // SAFETY: the caller promises a slab of its own.
        unsafe {
            let desc = self.desc.as_ptr();
            (*desc).free += self.freed;
            (*desc).free == self.freed || Local::is_idle(self.desc)
        }
    }
}

/// The quotient of an offset in a slab and the size whose reciprocal this is, if there is no remainder: then what is
/// behind the point is less than the reciprocal (Lemire, Kaser and Kurz, *Faster Remainder by Direct Computation*, 2019).
#[inline(always)]
pub(crate) const fn divided(offset: usize, reciprocal: u32) -> Option<usize> {
    let product = (offset as u64).wrapping_mul(reciprocal as u64);
    if (product as u32) < reciprocal { Some((product >> 32) as usize) } else { None }
}
