//! Where a heap's memory comes from, and goes back to.
//!
//! | backend | memory | contiguous | gives back |
//! |---|---|---|---|
//! | [`Sbrk`] | the program break (Linux) | unless other code moved the break | its end |
//! | [`Mmap`] | anonymous mappings (Linux) | mostly, by hint | any pages |
//! | [`Arena`] | buffers of the caller, anywhere | within a buffer | its end |
//! | [`Fallback`] | from one source, and when that fails from another | as these are | to the right one |
//!
//! [`Counting`], [`Limited`] and [`Failing`] wrap a backend: to see what a heap asks of it, to hold the
//! heap to a number of bytes, and to let a call fail on purpose. [`Lent`] lends one to a heap.
//! [`grow_between`] and [`Pile`] serve engines that take as much as there is, and give back all they have.
//!
//! None of them holds a lock: the lock of the heap guards its backend. None allocates. All keep
//! `errno` as it was, whatever comes of the call: the C face sets it by itself.
//!
//! ```
//! use core::mem::MaybeUninit;
//! use heapwright_backends::{Arena, Counting};
//! use heapwright_core::HeapBackend;
//!
//! let mut buffer = [MaybeUninit::uninit(); 4096];
//! let mut backend = Counting::over(Arena::new(&mut buffer));
//! let region = backend.grow(1000, 64)?;
//! assert!(region.size >= 1000 && region.addr() % 64 == 0);
//! assert!(backend.grow(4096, 16).is_err());
//! assert_eq!(backend.counts().grows, 1);
//! # Ok::<(), heapwright_core::OutOfMemory>(())
//! ```
#![no_std]

#[cfg(test)]
extern crate std;

mod arena;
mod counting;
mod failing;
mod fallback;
mod gap;
#[cfg(target_os = "linux")]
mod huge_pages;
mod lent;
mod limited;
#[cfg(target_os = "linux")]
mod mmap;
mod pile;
#[cfg(target_os = "linux")]
mod sbrk;
#[cfg(target_os = "linux")]
mod sys;
#[cfg(test)]
mod tests;

pub use arena::{Arena, Full};
pub use counting::{Counting, Counts};
pub use failing::{Failing, Switch};
pub use fallback::{Fallback, Owns, Stretch};
#[cfg(target_os = "linux")]
pub use huge_pages::HugePages;
pub use lent::Lent;
pub use limited::Limited;
#[cfg(target_os = "linux")]
pub use mmap::Mmap;
pub use pile::Pile;
#[cfg(target_os = "linux")]
pub use sbrk::Sbrk;

use heapwright_core::{HeapBackend, OutOfMemory, Region};

/// Asks for `most` bytes at a multiple of `align`, and, as long as that fails, for half of it, down to
/// `least`: how an engine takes from a small or nearly empty source what it still has.
///
/// ```
/// use core::mem::MaybeUninit;
/// use heapwright_backends::{Arena, grow_between};
///
/// let mut buffer = [MaybeUninit::uninit(); 5000];
/// let region = grow_between(&mut Arena::new(&mut buffer), 100, 65536, 16)?;
/// assert_eq!(region.size, 4096);
/// # Ok::<(), heapwright_core::OutOfMemory>(())
/// ```
///
/// # Errors
///
/// [`OutOfMemory`] when the backend does not even have `least`.
#[cold]
pub fn grow_between<B: HeapBackend>(
    backend: &mut B,
    least: usize,
    most: usize,
    align: usize,
) -> Result<Region, OutOfMemory> {
    let mut size = most;
    while size > least {
        if let Ok(region) = backend.grow(size, align) {
            return Ok(region);
        }
        size /= 2;
    }
    backend.grow(least, align)
}

/// `value` rounded up to a multiple of `to`, a power of two; `None` where that overflows.
#[inline]
const fn round_up(value: usize, to: usize) -> Option<usize> {
    match value.checked_add(to - 1) {
        Some(sum) => Some(sum & !(to - 1)),
        None => None,
    }
}

/// `value` rounded down to a multiple of `to`, a power of two.
#[cfg(target_os = "linux")]
#[inline]
const fn round_down(value: usize, to: usize) -> usize {
    value & !(to - 1)
}
