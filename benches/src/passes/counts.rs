//! What a replay made the kernel and the processor do.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Events during a replay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Page faults that needed no reading from a disk.
    pub minor_faults: u64,
    /// Page faults that did.
    pub major_faults: u64,
    /// System calls by name.
    pub system_calls: Option<BTreeMap<String, u64>>,
    /// Instructions outside the kernel.
    pub instructions: Option<u64>,
    /// Misses of the last cache, outside the kernel.
    pub cache_misses: Option<u64>,
    /// What could not be measured, and why.
    pub unavailable: Vec<String>,
}
