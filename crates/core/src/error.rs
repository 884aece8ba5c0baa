//! What a heap says when it cannot do what it was asked.

use core::fmt;

/// Why a heap refused an operation.
///
/// The three misuses carry the address that the caller handed in, so that a face can print it.
/// A heap that returned an error is unchanged by the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeapError {
    /// No free block serves the request and the backend gives no more memory.
    OutOfMemory,
    /// The block at this address has been freed already.
    DoubleFree(usize),
    /// The heap never gave this address: it is foreign, misaligned, or inside a block.
    InvalidFree(usize),
    /// The block's own bookkeeping was overwritten, most likely by a write past the end of it or
    /// of its neighbour.
    Corrupted(usize),
}

impl fmt::Display for HeapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::DoubleFree(at) => write!(f, "double free of {at:#x}"),
            Self::InvalidFree(at) => {
                write!(f, "invalid free of {at:#x}: not a block of this heap")
            }
            Self::Corrupted(at) => {
                write!(f, "corrupted block at {at:#x}: written past its end?")
            }
        }
    }
}

impl core::error::Error for HeapError {}

/// A backend has no more memory to give. It has changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the backend has no more memory")
    }
}

impl core::error::Error for OutOfMemory {}

impl From<OutOfMemory> for HeapError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// An invariant that a `check()` found broken: what, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The invariant, as its module's documentation states it.
    pub invariant: &'static str,
    /// The address of the block or structure that breaks it.
    pub at: usize,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken at {:#x}: {}", self.at, self.invariant)
    }
}

impl core::error::Error for Broken {}

/// `Err(Broken)` unless `holds`.
#[inline]
pub const fn ensure(holds: bool, invariant: &'static str, at: usize) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(Broken { invariant, at }) }
}
