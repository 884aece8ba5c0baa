//! What criterion left behind: the cost of a policy's operations by the number of free blocks.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

/// One measured point: a line of `benches/policies.rs` at one number of free blocks.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cost {
    /// `find`, `insert` or `remove`.
    pub operation: String,
    /// The policy's name.
    pub policy: String,
    /// How many free blocks there were.
    pub free_blocks: u64,
    /// Nanoseconds, the mean.
    pub ns: f64,
    /// Where the mean is with the confidence that criterion was asked for, by default 95 %.
    pub interval: [f64; 2],
}

/// All points in criterion's folder, by operation, policy and number. What is not of this shape is left out: the
/// folder may hold other benchmarks. Empty if there is no such folder.
#[must_use]
pub fn read(folder: &Path) -> Vec<Cost> {
    // <operation>/<policy>/<number of free blocks>/new/{benchmark,estimates}.json
    let mut costs: Vec<Cost> = folders(folder)
        .iter()
        .flat_map(|operation| folders(operation))
        .flat_map(|policy| folders(&policy))
        .filter_map(|point| cost(&point.join("new")))
        .collect();
    costs.sort_by(|one, other| {
        let key = |cost: &Cost| (cost.operation.clone(), cost.policy.clone(), cost.free_blocks);
        key(one).cmp(&key(other))
    });
    costs
}

fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

fn cost(folder: &Path) -> Option<Cost> {
    let json = |name: &str| -> Option<Value> {
        serde_json::from_slice(&fs::read(folder.join(name)).ok()?).ok()
    };
    let (benchmark, estimates) = (json("benchmark.json")?, json("estimates.json")?);
    let mean = &estimates["mean"];
    let bound = |name: &str| mean["confidence_interval"][name].as_f64();
    Some(Cost {
        operation: benchmark["group_id"].as_str()?.to_owned(),
        policy: benchmark["function_id"].as_str()?.to_owned(),
        free_blocks: benchmark["value_str"].as_str()?.parse().ok()?,
        ns: mean["point_estimate"].as_f64()?,
        interval: [bound("lower_bound")?, bound("upper_bound")?],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_found_and_strangers_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let write = |point: &str, benchmark: &str, estimates: &str| {
            let folder = folder.path().join(point).join("new");
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("benchmark.json"), benchmark).unwrap();
            fs::write(folder.join("estimates.json"), estimates).unwrap();
        };
        let estimates = r#"{"mean":{"confidence_interval":{"confidence_level":0.95,"lower_bound":1.5,"upper_bound":2.5},"point_estimate":2.0,"standard_error":0.1}}"#;
        let benchmark =
            r#"{"group_id":"find","function_id":"tlsf","value_str":"10","throughput":null}"#;
        write("find/tlsf/10", benchmark, estimates);
        write("find/tlsf/other", &benchmark.replace("10", "many"), estimates);
        write("find/broken/10", "{", estimates);
        fs::create_dir_all(folder.path().join("report")).unwrap();
        let cost = Cost {
            operation: "find".to_owned(),
            policy: "tlsf".to_owned(),
            free_blocks: 10,
            ns: 2.0,
            interval: [1.5, 2.5],
        };
        assert_eq!(read(folder.path()), [cost]);
        assert_eq!(read(&folder.path().join("nowhere")), []);
    }
}
