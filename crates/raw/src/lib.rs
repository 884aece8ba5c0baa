//! What the recorder leaves behind for each process: a raw file, of which `heapwright_trace::record` makes a trace.
//!
//! A raw file is never kept, so this layout has no promise beyond one version; the recorder and the converter are
//! built from this one description of it. It is a crate of its own for the recorder's sake, which is loaded into other
//! people's programs and is to be built without what traces are read and written with.
//!
//! The recorder maps the file shared and writes into the mapping, so that what was written is in the file whatever happens
//! to the process afterwards.
//!
//! ```text
//! 0                 HEAD_BYTES                HEAD_BYTES + CHUNK_BYTES
//! | Head | command  | chunk 0: records, zeros | chunk 1 | …
//! ```
//!
//! Each part of a chunk belongs to one thread, which fills it with records. The first byte of a record is never zero
//! and is written last: where it is zero, the record is not there, and nothing is behind it in the part. Pages are what
//! recording costs most, so records are short. All numbers have their lowest byte first.
//!
//! A [`THREAD`] record has the thread's number in four bytes and an order number in eight: what follows in this chunk is
//! by this thread, and counts from this order number and from address 0.
//!
//! The record of an event has, after the first byte ([`first_byte`]):
//!
//! | | bytes | |
//! |---|---|---|
//! | step | 0 or 2 | how much higher the event's order number is than that of the record before it; 1 if it is not there |
//! | distance | 2, 3, 4 or 8 | from the address in the record before it; zigzag |
//! | size | 0, 1, 2, 4 or 8 | only for the kinds that have one ([`has_size`]) |
//! | alignment | 0 or 1 | log2 of it, only for [`ALIGNED`] |
//!
//! Order numbers count from 1 over all threads. An allocation takes its number after the allocator returned, and a
//! free before the allocator is called: whoever gets an address again has the higher number.
//!
//! A `realloc` is two events, [`RESIZE`] before and [`RESIZED`] after. `RESIZED` with address 0 is a `realloc` that
//! returned nothing: with size 0 it freed the block, otherwise it failed and the block stayed.

use std::sync::atomic::{AtomicU32, AtomicU64};

/// The environment variable that names the directory for raw files. Without it the recorder records nothing.
pub const DIRECTORY_VARIABLE: &str = "HEAPWRIGHT_RECORD_DIR";
/// The first bytes of a raw file. They change with its layout.
pub const MAGIC: [u8; 8] = *b"HWRAW001";
/// Bytes before the first chunk.
pub const HEAD_BYTES: usize = 16 << 10;
/// Bytes of a chunk.
pub const CHUNK_BYTES: usize = 256 << 10;

/// What follows in the chunk is by this thread, and counts from here.
pub const THREAD: u8 = 1;
/// An allocation at another alignment than malloc's.
pub const ALIGNED: u8 = 2;
/// An allocation at malloc's alignment.
pub const MALLOC: u8 = 3;
/// An allocation at malloc's alignment that was asked to be zero.
pub const CALLOC: u8 = 4;
/// A free.
pub const FREE: u8 = 5;
/// A `realloc` of a block begins: from here on others may be given its address.
pub const RESIZE: u8 = 6;
/// A `realloc` has ended; the address is its result.
pub const RESIZED: u8 = 7;

/// Bytes of a [`THREAD`] record.
pub const THREAD_BYTES: usize = 1 + 4 + 8;
/// Bytes of the longest record of an event.
pub const MAX_EVENT_BYTES: usize = 1 + 2 + 8 + 8 + 1;

/// The first byte of an event's record, from its kind, the codes of its distance and size, and whether it has a step.
#[must_use]
#[inline(always)]
pub const fn first_byte(kind: u8, distance_code: u8, size_code: u8, has_step: bool) -> u8 {
    kind | distance_code << 3 | size_code << 5 | (has_step as u8) << 7
}

/// The kind, the codes of distance and size, and whether there is a step: the reverse of [`first_byte`].
#[must_use]
pub const fn split_first_byte(byte: u8) -> (u8, u8, u8, bool) {
    (byte & 7, byte >> 3 & 3, byte >> 5 & 3, byte >> 7 == 1)
}

/// Whether records of this kind have a size.
#[must_use]
#[inline(always)]
pub const fn has_size(kind: u8) -> bool {
    matches!(kind, ALIGNED | MALLOC | CALLOC | RESIZED)
}

/// The way from one address to another: small numbers for short ways in both directions.
#[must_use]
#[inline(always)]
pub const fn distance(from: u64, to: u64) -> u64 {
    let way = to.wrapping_sub(from);
    way << 1 ^ ((way as i64) >> 63) as u64
}

/// Where the way leads: the reverse of [`distance`].
#[must_use]
pub const fn follow(from: u64, distance: u64) -> u64 {
    from.wrapping_add(distance >> 1 ^ (distance & 1).wrapping_neg())
}

/// The code that says how many bytes a distance has.
#[must_use]
#[inline(always)]
pub const fn distance_code(distance: u64) -> u8 {
    (distance >> 16 != 0) as u8 + (distance >> 24 != 0) as u8 + (distance >> 32 != 0) as u8
}

/// The bytes of a distance with this code.
#[must_use]
#[inline(always)]
pub const fn distance_bytes(code: u8) -> usize {
    0x8432 >> (code * 4) & 0xf
}

/// The code that says how many bytes a size has.
#[must_use]
#[inline(always)]
pub const fn size_code(size: u64) -> u8 {
    (size >> 8 != 0) as u8 + (size >> 16 != 0) as u8 + (size >> 32 != 0) as u8
}

/// The bytes of a size with this code.
#[must_use]
#[inline(always)]
pub const fn size_bytes(code: u8) -> usize {
    1 << code
}

/// The start of a raw file.
#[repr(C)]
pub struct Head {
    /// [`MAGIC`]; written last, when all else is in place.
    pub magic: [u8; 8],
    /// The process.
    pub pid: u32,
    /// Counts the raw files with the same process number: a process that runs exec leaves several.
    pub image: u32,
    /// The process that this one was forked from, if it was and if that was recorded.
    pub parent_pid: u32,
    /// The `image` of the parent's raw file.
    pub parent_image: u32,
    /// The last order number of the parent that had been given out at the fork; 0 if there was no fork.
    pub parent_order: u64,
    /// Chunks that there is room for.
    pub room: u64,
    /// Chunks that were begun.
    pub chunks: AtomicU64,
    /// Threads that were numbered.
    pub threads: AtomicU32,
    /// Bytes of the command line, which follows the head: its arguments, each ended by a zero byte.
    pub command_bytes: u32,
    /// Events that were not recorded because there was no room.
    pub lost: AtomicU64,
}

/// The longest command line that fits, in bytes; more is cut off.
pub const MAX_COMMAND: usize = HEAD_BYTES - size_of::<Head>();

/// The name of a raw file.
#[must_use]
pub fn file_name(pid: u32, image: u32) -> String {
    format!("{pid}-{image}.raw")
}
