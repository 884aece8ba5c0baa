//! Two-level segregated fit.

use heapwright_core::{
    Broken, FreeBlock, GRANULE, Indexed, LinkCode, New, Plain, Policy, Request, ensure,
};

use crate::bins::Bins;

/// Each doubling of sizes is divided into this many bins.
const STEPS: usize = 32;
const STEP_BITS: u32 = STEPS.ilog2();
/// Below this size bins are one granule apart: the first row.
const LINEAR: usize = STEPS * GRANULE;
const LINEAR_BITS: u32 = LINEAR.ilog2();
/// How many blocks of a bin are looked at where only some of them fit.
const OWN_BIN: usize = 16;
/// Rows, one a doubling: enough for any size of block.
const ROWS: usize = 64;

/// Bins in two levels, by the doubling and by 32 steps within it, with a bitmap for each level; a
/// request is rounded up to the next step, so that the first block of the first bin found serves it
/// without a search (Masmano, Ripoll, Crespo and Real, *TLSF: A New Dynamic Memory Allocator for
/// Real-Time Systems*, 2004).
///
/// * **Cost:** find, insert and remove O(1), a few dozen instructions, whatever the heap holds.
/// * **Good at:** a worst case that is known; a good fit, at most 1/32 too large.
/// * **Bad at:** a block that would fit is passed over when it is less than a step larger than asked
///   for; only before the heap must grow, a few of those are looked at. The bins take 16 KiB.
///
/// Invariant: a bit of a map is set exactly when its bin, or its row, holds a block.
#[derive(Debug)]
pub struct Tlsf<C = Plain> {
    row_map: u64,
    step_maps: [u32; ROWS],
    bins: Bins<{ ROWS * STEPS }, C>,
}

impl<C> New for Tlsf<C> {
    const NEW: Self = Self { row_map: 0, step_maps: [0; ROWS], bins: Bins::NEW };
}

/// Row and step of a block's size.
#[inline(always)]
fn row_and_step(size: usize) -> (usize, usize) {
    if size < LINEAR {
        (0, size / GRANULE)
    } else {
        let log = size.ilog2();
        ((log - LINEAR_BITS + 1) as usize, (size >> (log - STEP_BITS)) & (STEPS - 1))
    }
}

/// The size from which on every block of its bin is large enough.
#[inline(always)]
fn rounded(size: usize) -> usize {
    if size < LINEAR { size } else { size + (1 << (size.ilog2() - STEP_BITS)) - 1 }
}

impl<C: LinkCode> Tlsf<C> {
    /// The first bin at or above a place that is not empty.
    #[inline(always)]
    fn first_bin(&self, row: usize, step: usize) -> Option<(usize, usize)> {
        let steps = self.step_maps[row & (ROWS - 1)] & (!0 << step);
        if steps != 0 {
            return Some((row, steps.trailing_zeros() as usize));
        }
        let rows = self.row_map & (!1 << row);
        if rows == 0 {
            return None;
        }
        let row = rows.trailing_zeros() as usize;
        Some((row, self.step_maps[row & (ROWS - 1)].trailing_zeros() as usize))
    }

    /// The first block of the first bin whose blocks all fit.
    #[inline(always)]
    fn search(&self, request: Request) -> Option<(usize, usize, FreeBlock)> {
        let (row, step) = row_and_step(rounded(request.size()));
        match self.first_bin(row, step) {
            Some((row, step)) => Some((row, step, self.bins.first(row * STEPS + step)?)),
            None => self.search_own_bin(request),
        }
    }

    /// Before the heap must grow: the bin in which only some blocks fit, and of that the youngest few,
    /// so that a block just freed serves the same request again.
    #[cold]
    fn search_own_bin(&self, request: Request) -> Option<(usize, usize, FreeBlock)> {
        let (row, step) = row_and_step(request.size());
        let mut at = self.bins.first(row * STEPS + step);
        for _ in 0..OWN_BIN {
            let block = at?;
            if request.fits(block) {
                return Some((row, step, block));
            }
            // SAFETY: the block is in a bin.
            at = unsafe { self.bins.after(block) };
        }
        None
    }

    #[inline(always)]
    unsafe fn remove_from(&mut self, row: usize, step: usize, block: FreeBlock) {
        // SAFETY: the caller promises a block in this bin.
        if unsafe { self.bins.remove(row * STEPS + step, block) } {
            let steps = &mut self.step_maps[row & (ROWS - 1)];
            *steps &= !(1 << step);
            if *steps == 0 {
                self.row_map &= !(1 << row);
            }
        }
    }
}

// SAFETY: the bins hold what was inserted and not removed; the bin that `find` looks into holds only
// blocks that are large enough.
unsafe impl<C: LinkCode> Policy for Tlsf<C> {
    #[inline]
    unsafe fn insert(&mut self, block: FreeBlock) {
        let (row, step) = row_and_step(block.size());
        self.row_map |= 1 << row;
        self.step_maps[row & (ROWS - 1)] |= 1 << step;
        // SAFETY: the caller promises a block that may be linked.
        unsafe { self.bins.push(row * STEPS + step, block) };
    }

    #[inline]
    unsafe fn remove(&mut self, block: FreeBlock) {
        let (row, step) = row_and_step(block.size());
        // SAFETY: the caller promises a block in the index, hence in the bin of its size.
        unsafe { self.remove_from(row, step, block) };
    }

    #[inline]
    fn find(&mut self, request: Request) -> Option<FreeBlock> {
        self.search(request).map(|(_, _, block)| block)
    }

    #[inline]
    fn take(&mut self, request: Request) -> Option<FreeBlock> {
        let (row, step, block) = self.search(request)?;
        // SAFETY: a search finds a block in its bin.
        unsafe { self.remove_from(row, step, block) };
        Some(block)
    }

    unsafe fn next_free(&self, block: FreeBlock) -> Option<FreeBlock> {
        // SAFETY: the caller promises a block in the index.
        unsafe { self.bins.after(block) }
    }

    fn check(&self) -> Result<Indexed, Broken> {
        let mut indexed = Indexed::default();
        for row in 0..ROWS {
            let steps = self.step_maps[row];
            ensure(
                (steps != 0) == (self.row_map & (1 << row) != 0),
                "the map of rows marks the rows that hold a block",
                row,
            )?;
            for step in 0..STEPS {
                let bin = row * STEPS + step;
                let sum = self.bins.check(bin, |size| {
                    let (row, step) = row_and_step(size);
                    row * STEPS + step
                })?;
                ensure(
                    (sum.blocks > 0) == (steps & (1 << step) != 0),
                    "the maps of steps mark the bins that hold a block",
                    bin,
                )?;
                indexed.blocks += sum.blocks;
                indexed.bytes += sum.bytes;
            }
        }
        Ok(indexed)
    }
}
