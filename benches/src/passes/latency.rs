//! How long single calls take.

use serde::{Deserialize, Serialize};

/// The times of single calls, by kind. What a kind that never occurred took is `None`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// What reading the clock takes, in nanoseconds. It is subtracted already.
    pub timer_ns: f64,
    /// Allocations, zeroed ones too.
    pub allocate: Option<Distribution>,
    /// Frees.
    pub free: Option<Distribution>,
    /// Reallocations.
    pub reallocate: Option<Distribution>,
}

/// How the times of many calls are distributed. All times are in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Distribution {
    /// Calls.
    pub count: u64,
    /// Half of the calls took at most this.
    pub p50: u64,
    /// 99 % of the calls took at most this.
    pub p99: u64,
    /// 99.9 % of the calls took at most this.
    pub p999: u64,
    /// The longest call.
    pub max: u64,
    /// Upper bounds, each with how many calls took at most that and more than the bound before. Rising; buckets
    /// without calls are left out.
    pub buckets: Vec<[u64; 2]>,
}
