//! What the strategies share: the sums of a heap, and the helpers for copying and filling memory.

#![allow(clippy::missing_safety_doc, reason = "the comments are the C header's")]

use core::ffi::{c_int, c_void};
use core::{ptr, slice};

use heapwright_coalescing::duplicate;
use heapwright_core::Stats;

use crate::{coalescing, face};

/// The sums of a heap at one moment. Sizes are in bytes.
///
/// footprint = live_bytes + free_bytes + cached_bytes + overhead
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct HwStats {
    /// Payload of all blocks in use, in mappings of their own too.
    pub live_bytes: usize,
    /// How many blocks are in use.
    pub live_blocks: usize,
    /// Payload of all free blocks, the wilderness among them.
    pub free_bytes: usize,
    /// How many free blocks there are.
    pub free_blocks: usize,
    /// Payload of the largest free block: the largest request that needs no growth.
    pub largest_free: usize,
    /// Payload of freed blocks that are kept as they are, for requests of the same size.
    pub cached_bytes: usize,
    /// How many such blocks there are.
    pub cached_blocks: usize,
    /// Bookkeeping: headers, tables, padding, the ends of regions.
    pub overhead: usize,
    /// Held from the system now.
    pub footprint: usize,
    /// The most that was ever held from the system at once.
    pub peak_footprint: usize,
    /// Regions held from the system, mappings of single blocks not counted.
    pub regions: usize,
    /// Blocks that have a mapping of their own.
    pub mapped_blocks: usize,
    /// How often the system was asked for memory with success.
    pub grows: usize,
    /// How often memory was given back to the system.
    pub shrinks: usize,
    /// Misuses (double and invalid frees, corruptions) that were found.
    pub misuses: usize,
}

impl From<Stats> for HwStats {
    fn from(stats: Stats) -> Self {
        let Stats {
            live_bytes,
            live_blocks,
            free_bytes,
            free_blocks,
            largest_free,
            cached_bytes,
            cached_blocks,
            overhead,
            footprint,
            peak_footprint,
            regions,
            mapped_blocks,
            grows,
            shrinks,
            misuses,
        } = stats;
        Self {
            live_bytes,
            live_blocks,
            free_bytes,
            free_blocks,
            largest_free,
            cached_bytes,
            cached_blocks,
            overhead,
            footprint,
            peak_footprint,
            regions,
            mapped_blocks,
            grows,
            shrinks,
            misuses,
        }
    }
}

/// A new block with a copy of the `size` bytes at `bytes`, or NULL where there is no memory for it.
///
/// It comes from the strategy coalescing and goes back with hw_coalescing_free. `bytes` may be NULL
/// if `size` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hw_memdup(bytes: *const c_void, size: usize) -> *mut c_void {
    if size > isize::MAX as usize {
        return face::no_memory();
    }
    let bytes = if size == 0 {
        &[]
    } else {
        // SAFETY: the caller promises that there are as many bytes, and they are fewer than half of all.
        unsafe { slice::from_raw_parts(bytes.cast::<u8>(), size) }
    };
    face::pointer(duplicate(&coalescing::HEAP, bytes))
}

/// Sets each of the `size` bytes at `bytes` to `value`, converted to unsigned char; returns `bytes`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hw_memset(bytes: *mut c_void, value: c_int, size: usize) -> *mut c_void {
    if size > 0 {
        // SAFETY: the caller promises as many writable bytes. C's conversion keeps the lowest byte.
        unsafe { ptr::write_bytes(bytes.cast::<u8>(), value as u8, size) };
    }
    bytes
}
