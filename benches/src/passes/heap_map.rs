//! The heap map: which addresses are used at which time.
//!
//! # Method
//!
//! Each column is a walk over the blocks of the heap, in the pass of the [`timeline`](super::timeline), whose samples
//! it shares. The walk sums up, for each *granule* of the address space, the bytes in use and all bytes of the heap.
//! Granules are a page at first; where a column would need more than [`GRANULES`] of them, they become twice as large,
//! in the columns before too. After the replay, the granules that the heap ever had become the rows, several to a row
//! where they are more than [`ROWS`]; addresses that the heap never had are left out.
//!
//! # Error
//!
//! A block's bookkeeping counts where the block begins. A block in use counts whole, with what was not requested of it.

use anyhow::Result;
use bytemuck::{Pod, Zeroable};
use heapwright_core::{BlockInfo, BlockState};
use serde::{Deserialize, Serialize};

use super::room::Room;

/// Addresses (rows, rising) against time (columns). What lies between the regions of the heap is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeapMap {
    /// Operations carried out before each column.
    pub operations: Vec<u64>,
    /// Bytes of address space in a row.
    pub bytes_per_row: u64,
    /// Rows, at most [`ROWS`].
    pub rows: usize,
    /// `cells[column][row]`: percent of the heap's bytes there that are in use; -1 where the heap has none then.
    /// Zero and 100 mean none and all; in between is rounded to 1..=99.
    pub cells: Vec<Vec<i16>>,
}

/// Columns at most.
pub const COLUMNS: usize = 120;

/// Rows at most.
pub const ROWS: usize = 96;

/// Granules in a column at most.
pub const GRANULES: usize = 4096;

/// What the heap has in a granule, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Granule {
    /// Its address, over the size of granules.
    number: u64,
    used: u64,
    held: u64,
}

/// A column's place among the granules.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Column {
    operations: u64,
    length: u64,
}

/// Draws a map during a replay, without allocating.
pub(crate) struct Draft {
    columns: Room<Column>,
    /// [`GRANULES`] for each column.
    granules: Room<Granule>,
    /// Log2 of the bytes in a granule.
    shift: u32,
}

impl Draft {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            columns: Room::new(COLUMNS)?,
            granules: Room::new(COLUMNS * GRANULES)?,
            shift: 12,
        })
    }

    /// Begins a column, to which the blocks that follow belong; `false` when there is no room for one.
    pub(crate) fn begin(&mut self, operations: u64) -> bool {
        self.columns.push(Column { operations, length: 0 })
    }

    /// Adds a block to the last column.
    pub(crate) fn add(&mut self, block: BlockInfo) {
        let used = matches!(block.state, BlockState::Used | BlockState::Mapped);
        let (mut at, end) = (block.address as u64, (block.address + block.size) as u64);
        self.count(at, 0, block.overhead as u64);
        while at < end {
            let stop = ((at >> self.shift) + 1) << self.shift;
            let bytes = stop.min(end) - at;
            self.count(at, if used { bytes } else { 0 }, bytes);
            at += bytes;
        }
    }

    /// Drops every second column, the first among them.
    pub(crate) fn thin(&mut self) {
        let kept = self.columns.items().len() / 2;
        for column in 0..kept {
            let from = 2 * column + 1;
            self.columns.items_mut()[column] = self.columns.items()[from];
            let granules = self.granules.whole();
            granules.copy_within(from * GRANULES..(from + 1) * GRANULES, column * GRANULES);
        }
        self.columns.truncate(kept);
    }

    fn count(&mut self, address: u64, used: u64, held: u64) {
        let Some(last) = self.columns.items().len().checked_sub(1) else { return };
        loop {
            let number = address >> self.shift;
            let length = self.columns.items()[last].length as usize;
            let granules = &mut self.granules.whole()[last * GRANULES..][..GRANULES];
            if let Some(granule) = granules[..length].last_mut()
                && granule.number == number
            {
                granule.used += used;
                granule.held += held;
                return;
            }
            if let Some(free) = granules.get_mut(length) {
                *free = Granule { number, used, held };
                self.columns.items_mut()[last].length += 1;
                return;
            }
            self.coarsen();
        }
    }

    /// Makes granules twice as large. Halves the granules of a column that are neighbours.
    fn coarsen(&mut self) {
        self.shift += 1;
        for (column, granules) in
            self.columns.items_mut().iter_mut().zip(self.granules.whole().chunks_mut(GRANULES))
        {
            let mut kept: usize = 0;
            for from in 0..column.length as usize {
                let Granule { number, used, held } = granules[from];
                let number = number >> 1;
                match kept.checked_sub(1).map(|last| &mut granules[last]) {
                    Some(last) if last.number == number => {
                        last.used += used;
                        last.held += held;
                    }
                    _ => {
                        granules[kept] = Granule { number, used, held };
                        kept += 1;
                    }
                }
            }
            column.length = kept as u64;
        }
    }

    /// The map. Allocates.
    pub(crate) fn finish(mut self) -> HeapMap {
        let columns: Vec<&[Granule]> = self
            .granules
            .whole()
            .chunks(GRANULES)
            .zip(self.columns.items())
            .map(|(granules, column)| &granules[..column.length as usize])
            .collect();
        let mut places: Vec<u64> =
            columns.iter().flat_map(|column| column.iter().map(|granule| granule.number)).collect();
        places.sort_unstable();
        places.dedup();
        let per_row = places.len().div_ceil(ROWS).max(1);
        let rows = places.len().div_ceil(per_row);
        let cells = columns.iter().map(|column| {
            let mut sums = vec![(0, 0); rows];
            for Granule { number, used, held } in *column {
                let row = places.partition_point(|place| place < number) / per_row;
                sums[row].0 += used;
                sums[row].1 += held;
            }
            sums.into_iter().map(|(used, held)| percent(used, held)).collect()
        });
        HeapMap {
            cells: cells.collect(),
            operations: self.columns.items().iter().map(|column| column.operations).collect(),
            bytes_per_row: (per_row as u64) << self.shift,
            rows,
        }
    }
}

fn percent(used: u64, held: u64) -> i16 {
    match used {
        _ if held == 0 => -1,
        0 => 0,
        _ if used >= held => 100,
        _ => (100.0 * used as f64 / held as f64).round().clamp(1.0, 99.0) as i16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 4096;

    fn block(address: usize, size: usize, state: BlockState) -> BlockInfo {
        BlockInfo { address, size, overhead: 0, state, next_free: None }
    }

    #[test]
    fn cells_are_percent_used_and_gaps_are_left_out() {
        let mut draft = Draft::new().unwrap();
        assert!(draft.begin(10));
        draft.add(block(16 * PAGE, 2 * PAGE, BlockState::Used));
        draft.add(block(18 * PAGE, PAGE / 4, BlockState::Mapped));
        draft.add(block(18 * PAGE + PAGE / 4, 3 * PAGE / 4, BlockState::Wilderness));
        assert!(draft.begin(20));
        draft.add(block(900 * PAGE, PAGE, BlockState::Cached));
        draft.add(block(16 * PAGE, PAGE, BlockState::Free)); // regions come in any order
        let map = draft.finish();
        assert_eq!((map.rows, map.bytes_per_row), (4, PAGE as u64));
        assert_eq!(map.operations, [10, 20]);
        assert_eq!(map.cells, [[100, 100, 25, -1], [0, -1, -1, 0]]);
    }

    #[test]
    fn bookkeeping_counts_as_held() {
        let mut draft = Draft::new().unwrap();
        draft.begin(1);
        let info = block(PAGE + 1024, 1024, BlockState::Used);
        draft.add(BlockInfo { overhead: 1024, ..info });
        assert_eq!(draft.finish().cells, [[50]]);
    }

    #[test]
    fn heaps_of_any_size_fit() {
        let mut draft = Draft::new().unwrap();
        draft.begin(1);
        draft.add(block(PAGE, PAGE, BlockState::Used));
        draft.begin(2);
        // A terabyte, and far from it many small regions in falling order.
        draft.add(block(1 << 41, 1 << 40, BlockState::Used));
        for region in (1..3 * GRANULES).rev() {
            draft.add(block(region << 24, PAGE, BlockState::Free));
        }
        let map = draft.finish();
        assert!(map.rows <= ROWS && map.rows > ROWS / 4, "{} rows", map.rows);
        assert!(map.bytes_per_row >= 1 << 33, "{}", map.bytes_per_row);
        assert!(map.cells.iter().all(|column| column.len() == map.rows));
        let known = |column: usize| map.cells[column].iter().filter(|&&cell| cell >= 0).count();
        assert_eq!(known(0), 1);
        assert_eq!(known(1), map.rows);
    }

    #[test]
    fn thinning_keeps_every_second_column_with_its_blocks() {
        let mut draft = Draft::new().unwrap();
        for column in 1..=5 {
            draft.begin(column);
            draft.add(block(PAGE, column as usize * 10, BlockState::Used));
            draft.add(block(PAGE + 100, 100 - column as usize * 10, BlockState::Free));
        }
        draft.thin();
        draft.begin(6);
        draft.add(block(PAGE, 60, BlockState::Used));
        draft.add(block(PAGE + 60, 40, BlockState::Free));
        let map = draft.finish();
        assert_eq!(map.operations, [2, 4, 6]);
        assert_eq!(map.cells, [[20], [40], [60]]);
    }

    #[test]
    fn there_is_room_for_so_many_columns_and_no_more() {
        let mut draft = Draft::new().unwrap();
        for column in 0..COLUMNS {
            assert!(draft.begin(column as u64));
        }
        assert!(!draft.begin(0));
        assert_eq!(draft.finish().cells.len(), COLUMNS);
    }
}
