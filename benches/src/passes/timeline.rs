//! The footprint over time, and what it is made of.

use serde::{Deserialize, Serialize};

/// Samples of a replay, evenly by operations. All vectors are of equal length, at most [`SAMPLES`], the last sample
/// being the end of the replay. All but `operations` are in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeline {
    /// Operations carried out before each sample.
    pub operations: Vec<u64>,
    /// Requested and not yet freed.
    pub live: Vec<u64>,
    /// Anonymous memory that is resident, over what was before the replay.
    pub resident: Vec<u64>,
    /// What the heap says that it holds from its backend; `None` for a peer, which does not say.
    pub held: Option<Vec<u64>>,
    /// What `held` is made of; `None` for a peer.
    pub parts: Option<Parts>,
}

/// What a heap of ours is made of, at each sample, in bytes: `held = live + internal + headers + free + cached`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    /// Internal fragmentation: usable bytes of blocks in use, beyond what was requested. A heap that never frees
    /// counts here what was freed.
    pub internal: Vec<u64>,
    /// Headers, tables, padding, ends of regions.
    pub headers: Vec<u64>,
    /// Free blocks, the wilderness among them.
    pub free: Vec<u64>,
    /// Freed blocks that are kept as they are.
    pub cached: Vec<u64>,
    /// Of `free`, bytes whose pages are resident; `None` where the kernel does not show the page tables.
    pub dirty_free: Option<Vec<u64>>,
    /// The largest free block.
    pub largest_free: Vec<u64>,
    /// For each sample, the bytes in free blocks of 2ⁿ up to 2ⁿ⁺¹ - 1 bytes, by n.
    pub free_by_size: Vec<Vec<u64>>,
}

/// Samples of a replay at most.
pub const SAMPLES: usize = 200;
