//! Rows as they are read back: what the report is made from.
//!
//! A [`Record`] is a [`Row`](crate::summary::Row) that owns its texts, so that results of another run, or of another
//! machine's contenders, can be reported too. All that a pass may not have measured is optional.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use crate::contender::Kind;
pub use crate::passes::counts::Counts;
pub use crate::passes::heap_map::HeapMap;
pub use crate::passes::latency::{Distribution, Latency};
pub use crate::passes::timeline::Timeline;
pub use crate::summary::Status;

/// One workload run by one contender: a line of `--json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are those of `summary::Row`, and are said there")]
pub struct Record {
    pub workload: String,
    pub workload_kind: String,
    pub contender: String,
    pub kind: Kind,
    pub status: Status,
    pub ok: bool,
    pub reason: Option<String>,
    pub operations: u64,
    pub ns_per_op: Option<f64>,
    pub ns_per_op_range: Option<[f64; 2]>,
    pub samples: usize,
    pub relative_time: Option<f64>,
    pub relative_time_interval: Option<[f64; 2]>,
    pub difference: Option<String>,
    pub peak_footprint: Option<u64>,
    pub peak_footprint_error: Option<u64>,
    pub peak_live: u64,
    pub footprint_ratio: Option<f64>,
    pub relative_footprint: Option<f64>,
    pub latency: Option<Latency>,
    pub timeline: Option<Timeline>,
    pub heap_map: Option<HeapMap>,
    pub counts: Option<Counts>,
    pub fragmentation: Option<[f64; 4]>,
    /// Shown as it is: its fields are for people.
    pub environment: Option<Value>,
    pub seed: u64,
}

/// Reads JSON lines; empty ones are left out.
///
/// # Errors
///
/// When the file cannot be read, or a line is not a row; says which line.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    let read = || {
        let mut records = Vec::new();
        for (number, line) in BufReader::new(File::open(path)?).lines().enumerate() {
            let line = line?;
            if !line.trim().is_empty() {
                let record = serde_json::from_str(&line)
                    .with_context(|| format!("line {} is not a row of results", number + 1))?;
                records.push(record);
            }
        }
        anyhow::Ok(records)
    };
    read().with_context(|| format!("reading {}", path.display()))
}

/// The same from rows in memory, by the way that they go through a file.
///
/// # Errors
///
/// When a row lacks a field, which a test excludes.
pub fn from_rows<R: Serialize>(rows: &[R]) -> Result<Vec<Record>> {
    rows.iter().map(|row| Ok(serde_json::from_value(serde_json::to_value(row)?)?)).collect()
}

/// Each value once, in the order of its first appearance.
pub(crate) fn unique<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut unique = Vec::new();
    values.for_each(|value| {
        if !unique.contains(&value) {
            unique.push(value);
        }
    });
    unique
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::summary::Row;

    #[test]
    fn a_row_is_read_back_without_loss() {
        let row = serde_json::json!({
            "workload": "gcc", "workload_kind": "recorded", "contender": "tlsf", "kind": "strategy",
            "status": "slow", "ok": true, "reason": "cut off", "operations": 7, "ns_per_op": 1.5,
            "ns_per_op_range": [1.0, 2.0], "samples": 3, "relative_time": 0.5, "peak_footprint": 10,
            "peak_footprint_error": 1, "peak_live": 5, "footprint_ratio": 2.0, "seed": 1
        });
        let rows: Vec<Row> = vec![serde_json::from_value(row).unwrap()];
        let records = from_rows(&rows).unwrap();
        assert_eq!(records.len(), rows.len());
        for (row, record) in rows.iter().zip(&records) {
            let (row, record) =
                (serde_json::to_value(row).unwrap(), serde_json::to_value(record).unwrap());
            for (name, value) in row.as_object().unwrap() {
                assert_eq!(record.get(name), Some(value), "{name}");
            }
        }
    }

    #[test]
    fn a_line_that_is_no_row_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "\n{\"workload\": 1}\n").unwrap();
        let error = format!("{:#}", read(file.path()).unwrap_err());
        assert!(error.contains("line 2 is not a row of results"), "{error}");
    }
}
