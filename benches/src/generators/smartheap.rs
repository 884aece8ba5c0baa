//! After `sh6bench` and `sh8bench`, MicroQuill's programs for SmartHeap (about 1998): batches of small blocks, of which
//! some survive.

use anyhow::Result;
use rand::{RngExt, SeedableRng};

use super::Random;
use crate::script::{Builder, Script};

/// Places for blocks.
const PLACES: usize = 5_000;

/// The sizes in their order, again and again: from each of 1, 2, 4, 7, 11, … up to 1,000 bytes down by halves, and each
/// so often: 250 times below 100 bytes, 50 times below 1,000.
fn sizes() -> impl Iterator<Item = usize> {
    let bases = std::iter::successors(Some(1), |base| Some(base * 3 / 2 + 1));
    let halves = |base| std::iter::successors(Some(base), |size| Some(size / 2));
    let round: Vec<usize> = bases
        .take_while(|&base| base < 1_000)
        .flat_map(move |base| halves(base).take_while(|&size| size > 0))
        .flat_map(|size| std::iter::repeat_n(size, if size < 100 { 250 } else { 50 }))
        .collect();
    round.into_iter().cycle()
}

/// What one thread has: a buffer of blocks, of which a fifth, in turn, is kept while the rest is filled anew.
struct Buffer {
    places: Vec<Option<u32>>,
    /// The place for the next block.
    next: usize,
    /// The part that is kept.
    kept: std::ops::Range<usize>,
}

impl Buffer {
    fn new() -> Self {
        Self { places: vec![None; PLACES], next: 0, kept: PLACES..PLACES }
    }

    /// Takes up a block. When the buffer is full, the next fifth of it is kept; what lies before comes to `free` in the
    /// order of allocation, what lies behind backwards.
    fn push(&mut self, block: u32, mut free: impl FnMut(u32)) {
        self.places[self.next] = Some(block);
        self.next += 1;
        if self.next == self.kept.start {
            self.next = self.kept.end;
        }
        if self.next < PLACES {
            return;
        }
        let start = if self.kept.end < PLACES { self.kept.end } else { 0 };
        self.kept = start..(start + PLACES / 5).min(PLACES);
        let (before, rest) = self.places.split_at_mut(self.kept.start);
        let behind = &mut rest[self.kept.len()..];
        before
            .iter_mut()
            .chain(behind.iter_mut().rev())
            .filter_map(Option::take)
            .for_each(&mut free);
        self.next = if self.kept.start == 0 { self.kept.end } else { 0 };
    }
}

/// `sh6bench`: one thread allocates 5,000 blocks of 1 to 1,000 bytes, small ones far more often; keeps a fifth of them,
/// frees some of the others in order, some backwards; and so on with the next fifth.
///
/// Kept: sizes, their order, the order of the frees. Changed: the original has one such thread for each processor, and the
/// size of its buffer is asked for.
pub(super) fn sh6(_seed: u64, operations: usize) -> Result<Script> {
    let mut builder = Builder::default();
    let mut buffer = Buffer::new();
    for size in sizes().take(operations / 2) {
        let block = builder.allocate(size)?;
        buffer.push(block, |block| builder.free(block));
    }
    buffer.places.into_iter().flatten().for_each(|block| builder.free(block));
    builder.finish()
}

/// `sh8bench`: 2 threads do as [`sh6`] does, and one block in four, at random, is freed by the other thread.
///
/// Its source does not say how many are; a quarter is ours.
pub(super) fn sh8(seed: u64, operations: usize) -> Result<Script> {
    const THREADS: usize = 2;
    let mut random = Random::seed_from_u64(seed);
    let mut builder = Builder::new(THREADS);
    let mut buffers: [Buffer; THREADS] = std::array::from_fn(|_| Buffer::new());
    for size in sizes().take(operations / (2 * THREADS)) {
        for (thread, buffer) in buffers.iter_mut().enumerate() {
            let block = builder.on(thread).allocate(size)?;
            buffer.push(block, |block| {
                let crosses = random.random_ratio(1, 4);
                builder.on(if crosses { 1 - thread } else { thread }).free(block);
            });
        }
    }
    for (thread, buffer) in buffers.into_iter().enumerate() {
        builder.on(thread);
        buffer.places.into_iter().flatten().for_each(|block| builder.free(block));
    }
    builder.finish()
}

#[cfg(test)]
mod tests {
    use super::super::tests::count;
    use super::*;
    use crate::script::Kind;

    #[test]
    fn a_fifth_is_kept_while_the_rest_goes_in_order_and_backwards() {
        let mut buffer = Buffer::new();
        let mut freed = Vec::new();
        (0..5_000).for_each(|block| buffer.push(block, |block| freed.push(block)));
        assert_eq!(freed, (1_000..5_000).rev().collect::<Vec<_>>());
        freed.clear();
        (5_000..9_000).for_each(|block| buffer.push(block, |block| freed.push(block)));
        // The second fifth holds 5,000 to 5,999; before it lies the first that was kept.
        let expected: Vec<u32> = (0..1_000).chain((6_000..9_000).rev()).collect();
        assert_eq!(freed, expected);
    }

    #[test]
    fn small_blocks_are_most_frequent_and_a_quarter_crosses() {
        let script = sh8(1, 200_000).unwrap();
        let sent = count(&script, Kind::Send);
        assert!((20_000..27_000).contains(&sent), "{sent} of 100,000");
        let sizes: Vec<usize> = sizes().take(20_000).collect();
        assert!(sizes.iter().all(|size| (1..1_000).contains(size)));
        assert!(sizes.iter().filter(|&&size| size < 100).count() > 15_000);
    }
}
