//! The heap map: which addresses are used at which time.

use serde::{Deserialize, Serialize};

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
    pub cells: Vec<Vec<i16>>,
}

/// Columns at most.
pub const COLUMNS: usize = 120;

/// Rows at most.
pub const ROWS: usize = 96;
