//! Robson's attack: requests made to fragment a heap as much as any can be.
//!
//! J. M. Robson, *An Estimate of the Store Size Necessary for Dynamic Storage Allocation* (JACM 18, 1971), and *Bounds for
//! Some Functions Concerning Dynamic Storage Allocation* (JACM 21, 1974). His adversary plays against an allocator whose
//! addresses it sees: it fills memory with the smallest blocks, and then, for each doubling of the size, keeps only
//! blocks that lie across addresses of one residue, so that no gap suits the next size, and asks for as many of that as
//! it may. Whatever the allocator does, it ends up with [`robson_bound`].
//!
//! A script cannot see addresses. **Kept** is the whole adversary, played against a simulated heap: first fit by address, no
//! headers, blocks of 64 bytes to 16 KiB in powers of two. **Not kept** is that it adapts: an allocator that places
//! blocks elsewhere than that heap does fragments less than the bound, or not at all. Each request is 8 bytes smaller than
//! its power of two, which is what many allocators add to a block; against those, first fit by address meets the attack
//! as it was meant.

use anyhow::Result;

use crate::script::{Builder, Script};

/// Bytes of the smallest blocks of the `robson` workload, with what an allocator adds to them.
pub const SMALLEST: usize = 64;

/// How often the size doubles: up to 16 KiB.
const DOUBLINGS: usize = 8;

/// What an allocator adds to a block.
const HEADER: usize = 8;

/// The memory that the best of allocators, none of which moves blocks, needs at the worst for programs that ask for powers
/// of two from [`SMALLEST`] to `largest` bytes and never have more than `max_live` bytes live; in bytes. Robson (1971,
/// 1974): M (½ log₂ n + 1) − n + 1, in units of the smallest block. No allocator can promise less, and there is one that
/// needs no more.
#[must_use]
pub fn robson_bound(max_live: usize, largest: usize) -> f64 {
    let unit = SMALLEST as f64;
    let (live, largest) = (max_live as f64 / unit, (largest as f64 / unit).max(1.0));
    unit * (live * (largest.log2() / 2.0 + 1.0) - largest + 1.0)
}

/// A block of the simulated heap, in units.
#[derive(Clone, Copy)]
struct Block {
    at: usize,
    size: usize,
    object: u32,
}

impl Block {
    /// Whether it lies across an address of this residue.
    fn lies_across(&self, residue: usize, modulus: usize) -> bool {
        let distance = (residue + modulus - self.at % modulus) % modulus;
        distance < self.size
    }
}

/// The attack, with as many of the smallest blocks as make so many operations in all, and fill blocks of the largest size
/// exactly: the bound is exact for those.
pub(super) fn robson(_seed: u64, operations: usize) -> Result<Script> {
    let live = operations * 10 / 29;
    Ok(attack(live - live % (1 << DOUBLINGS), DOUBLINGS)?.0)
}

/// The attack with so many units live at most, and how many units the simulated heap used.
fn attack(live: usize, doublings: usize) -> Result<(Script, usize)> {
    let mut builder = Builder::default();
    let bytes = |units: usize| units * SMALLEST - HEADER;
    // By address.
    let mut heap = Vec::new();
    for at in 0..live {
        heap.push(Block { at, size: 1, object: builder.allocate(bytes(1))? });
    }
    let mut used = live;
    let mut residue = 0;
    for doubling in 1..=doublings {
        let size = 1 << doubling;
        // Of the two residues that this one is made of, the one that leaves the most memory without use.
        let lost = |residue: usize| -> usize {
            let kept = heap.iter().filter(|block| block.lies_across(residue, size));
            kept.map(|block| size - block.size).sum()
        };
        let other = residue + size / 2;
        if lost(other) > lost(residue) {
            residue = other;
        }
        heap.retain(|block| {
            let kept = block.lies_across(residue, size);
            if !kept {
                builder.free(block.object);
            }
            kept
        });
        let kept: usize = heap.iter().map(|block| block.size).sum();
        let count = (live - kept) / size;
        // First fit: all are of one size, so that each gap is filled before the next is looked at.
        let mut new = Vec::new();
        let mut gap = 0;
        let starts = heap.iter().map(|block| (block.at, block.at + block.size));
        for (start, end) in starts.chain([(usize::MAX, usize::MAX)]) {
            while new.len() < count && start - gap >= size {
                new.push(Block { at: gap, size, object: builder.allocate(bytes(size))? });
                gap += size;
            }
            gap = end;
        }
        heap.extend(new);
        heap.sort_unstable_by_key(|block| block.at);
        used = heap.last().map_or(0, |block| block.at + block.size).max(used);
    }
    heap.into_iter().for_each(|block| builder.free(block.object));
    Ok((builder.finish()?, used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_the_one_that_is_known_exactly() {
        // Knuth, The Art of Computer Programming 1, section 2.5, exercises 36 to 38: blocks of one and two units, 16
        // units live, need 23; in general (3 M − 1) / 2.
        assert_eq!(robson_bound(16 * SMALLEST, 2 * SMALLEST), 23.0 * SMALLEST as f64);
        assert_eq!(robson_bound(1_000 * SMALLEST, SMALLEST), 1_000.0 * SMALLEST as f64);
    }

    #[test]
    fn the_heap_that_is_attacked_comes_to_the_bound() {
        for (live, doublings) in [(1 << 10, 1), (1 << 12, 4), (1 << 16, DOUBLINGS), (508 << 8, 8)] {
            let (script, used) = attack(live, doublings).unwrap();
            let bound = robson_bound(live * SMALLEST, SMALLEST << doublings) / SMALLEST as f64;
            assert_eq!(used as f64, bound, "in units, with {live} live");
            assert!(script.facts().peak_live <= (live * SMALLEST) as u64);
        }
    }
}
