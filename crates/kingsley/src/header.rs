//! The word in front of a payload: the class of its block, a seal, and what the block is being used for.
//!
//! The seal is made of the payload's address and of a number that is the heap's own, so a header that is
//! copied elsewhere is none, and neither is that of another heap. The class is in
//! the highest byte: the first byte that a write past the end of the block before hits is the seal's.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes of a header.
pub(crate) const WORD: usize = size_of::<usize>();

/// The program has it.
pub(crate) const USED: usize = 1;
/// It waits in the list of its class.
pub(crate) const FREE: usize = 2;
/// The program has an aligned address inside it.
pub(crate) const OUTER: usize = 3;
/// The aligned address inside an outer block.
pub(crate) const INNER: usize = 4;
/// The aligned address inside a block that was an outer block and was freed.
pub(crate) const STALE: usize = 5;
/// The program has it, and it is a region of its own.
pub(crate) const LARGE: usize = 6;
/// It is a region of its own, and waits in the list of its class.
pub(crate) const KEPT: usize = 7;

const CLASS_SHIFT: u32 = usize::BITS - 8;
const BELOW_CLASS: usize = usize::MAX >> 8;
const STATES: usize = 15;

/// How many heaps have drawn a key.
static HEAPS: AtomicUsize = AtomicUsize::new(0);

/// What the seals of one heap are made with; zero before it is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key(usize);

impl Key {
    pub(crate) const NONE: Self = Self(0);

    /// A key that no other heap of the process has.
    #[cold]
    pub(crate) fn draw(entropy: u64) -> Self {
        // Odd, hence never zero; the count is mixed into all bits, and different counts stay different.
        let count = HEAPS.fetch_add(1, Relaxed) << 5;
        let mixed =
            (count ^ (entropy as usize) << 24).wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as usize);
        Self(mixed | 1)
    }

    #[inline(always)]
    fn seal(self, payload: NonNull<u8>) -> usize {
        (payload.addr().get() ^ self.0) & BELOW_CLASS & !STATES
    }
}

/// A header, as it is found in front of any address at all.
#[derive(Clone, Copy)]
pub(crate) struct Header(usize);

impl Header {
    /// The state of the block, or some other number where no header stands.
    #[inline(always)]
    pub(crate) fn state(self) -> usize {
        self.0 & BELOW_CLASS
    }

    /// The class of the block: it has `2^class` bytes, header included. Less than 64 in any case.
    #[inline(always)]
    pub(crate) fn class(self) -> usize {
        self.0 >> CLASS_SHIFT & 63
    }

    /// Reads what stands in front of a payload.
    ///
    /// # Safety
    ///
    /// The word in front of the payload can be read, and the payload is aligned to 16 bytes.
    #[inline(always)]
    pub(crate) unsafe fn read(payload: NonNull<u8>, key: Key) -> Self {
        // SAFETY: the caller promises the word.
        Self(unsafe { payload.sub(WORD).cast::<usize>().read() } ^ key.seal(payload))
    }

    /// Writes a header in front of a payload.
    ///
    /// # Safety
    ///
    /// The word in front of the payload is the heap's, and the payload is aligned to 16 bytes.
    #[inline(always)]
    pub(crate) unsafe fn write(payload: NonNull<u8>, key: Key, class: usize, state: usize) {
        let word = class << CLASS_SHIFT | key.seal(payload) | state;
        // SAFETY: the caller promises the word.
        unsafe { payload.sub(WORD).cast::<usize>().write(word) };
    }
}
