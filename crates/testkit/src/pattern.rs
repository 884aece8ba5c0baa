//! Contents of blocks that tell whether anything wrote over them.
//!
//! Up to 128 KiB every byte of a block is written and verified. Of a longer block these are: the first
//! and the last 64 KiB, and of every page between them one word, up to 64 MiB. A block longer than that
//! is written at its ends only, for its pages would be memory that a test machine may not have.

use core::ops::Range;
use core::ptr::NonNull;

use crate::rng::mix;

const EDGE: usize = 64 << 10;
const PAGE: usize = 4096;
const TOUCHED: usize = 64 << 20;

/// The parts of a block of `length` bytes that are written, in rising order.
fn parts(length: usize) -> impl Iterator<Item = Range<usize>> {
    let short = length <= 2 * EDGE;
    let front = 0..if short { length } else { EDGE };
    let back = if short { length..length } else { length - EDGE..length };
    let pages = if length > TOUCHED || short { 0 } else { (length - 2 * EDGE) / PAGE };
    let words = (0..pages).map(move |page| {
        let at = EDGE + page * PAGE;
        at..at + 8
    });
    core::iter::once(front).chain(words).chain(core::iter::once(back))
}

/// The contents that a seed stands for: words that rise by a large odd number, so that no two places of a
/// block have the same, and those of two seeds have nothing in common.
#[derive(Clone, Copy)]
struct Contents {
    base: u64,
}

impl Contents {
    const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

    fn of(seed: u64) -> Self {
        Self { base: mix(seed) }
    }

    fn byte(self, offset: usize) -> u8 {
        let word = self.base.wrapping_add((offset as u64 >> 3).wrapping_mul(Self::STEP));
        word.to_le_bytes()[offset & 7]
    }

    /// The contents from `offset` on, a multiple of eight.
    fn fill(self, words: &mut [u64], offset: usize) {
        let mut word = self.base.wrapping_add((offset as u64 >> 3).wrapping_mul(Self::STEP));
        for place in words {
            *place = word.to_le();
            word = word.wrapping_add(Self::STEP);
        }
    }
}

/// Calls `each` with pieces of the first `kept` bytes of the parts of a block: where they begin, a multiple
/// of eight, and what is there. Says where `each` wanted no more. The loop over bytes is in the C library,
/// which is optimised where tests are not.
fn pieces(
    length: usize,
    kept: usize,
    seed: u64,
    mut each: impl FnMut(usize, &[u8]) -> bool,
) -> Option<usize> {
    let contents = Contents::of(seed);
    let mut buffer = [0_u64; 128];
    for part in parts(length) {
        let (mut at, end) = (part.start & !7, part.end.min(kept));
        while at < end {
            let size = (end - at).min(size_of_val(&buffer));
            contents.fill(&mut buffer[..size.div_ceil(8)], at);
            // SAFETY: that many bytes of the buffer were just written.
            let piece = unsafe { core::slice::from_raw_parts(buffer.as_ptr().cast(), size) };
            if !each(at, piece) {
                return Some(at);
            }
            at += size;
        }
    }
    None
}

/// Writes the contents that `seed` stands for.
///
/// # Safety
///
/// `block` is writable for `length` bytes and nobody else's.
pub unsafe fn write(block: NonNull<u8>, length: usize, seed: u64) {
    pieces(length, length, seed, |at, piece| {
        // SAFETY: within the length that the caller promises.
        unsafe { piece.as_ptr().copy_to_nonoverlapping(block.as_ptr().add(at), piece.len()) };
        true
    });
}

/// Where, among the first `kept` bytes, the contents that [`write()`] left in a block of `length` bytes
/// are not there any more: offset, what should be there, what is.
///
/// # Safety
///
/// `block` is readable for `kept` bytes.
pub unsafe fn verify(
    block: NonNull<u8>,
    length: usize,
    seed: u64,
    kept: usize,
) -> Result<(), (usize, u8, u8)> {
    // SAFETY: within the bytes that the caller promises.
    let found = |at: usize, length: usize| unsafe {
        core::slice::from_raw_parts(block.as_ptr().add(at), length)
    };
    let Some(at) = pieces(length, kept, seed, |at, piece| found(at, piece.len()) == piece) else {
        return Ok(());
    };
    let contents = Contents::of(seed);
    for offset in at..kept {
        let (wanted, found) = (contents.byte(offset), found(offset, 1)[0]);
        if wanted != found {
            return Err((offset, wanted, found));
        }
    }
    Ok(())
}

/// The first of `length` bytes that is not zero, and what it is.
///
/// # Safety
///
/// `block` is readable for `length` bytes.
pub unsafe fn find_nonzero(block: NonNull<u8>, length: usize) -> Option<(usize, u8)> {
    static ZEROS: [u8; PAGE] = [0; PAGE];

    // SAFETY: the caller promises the bytes.
    let bytes = unsafe { core::slice::from_raw_parts(block.as_ptr(), length) };
    // Whole pages are compared at the speed of memory, also where tests are hardly optimised.
    let page = bytes.chunks(PAGE).position(|page| page != &ZEROS[..page.len()])? * PAGE;
    let at = page + bytes[page..].iter().position(|&byte| byte != 0)?;
    Some((at, bytes[at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(length: usize) -> Vec<u8> {
        let mut block = vec![0; length];
        // SAFETY: the vector is that long.
        unsafe { write(NonNull::new(block.as_mut_ptr()).unwrap(), length, 7) };
        block
    }

    fn verify_vec(block: &[u8], length: usize, kept: usize) -> Result<(), (usize, u8, u8)> {
        // SAFETY: the slice has at least `kept` bytes, and `verify` only reads.
        unsafe { verify(NonNull::new(block.as_ptr().cast_mut()).unwrap(), length, 7, kept) }
    }

    #[test]
    fn every_changed_byte_of_a_short_block_is_found() {
        for length in [1, 7, 8, 9, 100, 2 * EDGE] {
            let mut block = written(length);
            assert_eq!(verify_vec(&block, length, length), Ok(()));
            for at in (0..length).step_by(1 + length / 200) {
                block[at] ^= 0x10;
                let found = verify_vec(&block, length, length).unwrap_err();
                assert_eq!((found.0, found.2), (at, block[at]));
                block[at] ^= 0x10;
            }
        }
    }

    #[test]
    fn a_long_block_is_verified_at_its_ends_and_on_every_page() {
        let length = (1 << 20) + 5;
        let mut block = written(length);
        for at in [0, EDGE - 1, EDGE + 5 * PAGE, length - EDGE, length - 1] {
            block[at] ^= 1;
            assert!(verify_vec(&block, length, length).is_err(), "byte {at} changed unseen");
            block[at] ^= 1;
        }
    }

    #[test]
    fn of_a_shrunk_block_the_kept_bytes_are_verified() {
        let mut block = written(1000);
        block[500] ^= 1;
        assert_eq!(verify_vec(&block, 1000, 500), Ok(()));
        assert_eq!(verify_vec(&block, 1000, 501).unwrap_err().0, 500);
    }

    #[test]
    fn the_first_byte_that_is_not_zero_is_found() {
        let mut block = vec![0; 3 * PAGE + 5];
        let start = NonNull::new(block.as_mut_ptr()).unwrap();
        // SAFETY: the vector is that long.
        let find = || unsafe { find_nonzero(start, 3 * PAGE + 5) };
        assert_eq!(find(), None);
        for at in [3 * PAGE + 4, 3 * PAGE, 2 * PAGE + 7, PAGE - 1, 0] {
            // SAFETY: as above.
            unsafe { start.add(at).write(9) };
            assert_eq!(find(), Some((at, 9)));
        }
    }

    #[test]
    fn two_seeds_have_nothing_in_common() {
        let (one, two) = (Contents::of(1), Contents::of(2));
        let equal = (0..4096).filter(|&at| one.byte(at) == two.byte(at)).count();
        assert!(equal < 64, "{equal} of 4096 bytes are equal, where 16 would be by chance");
    }
}
