//! From samples to rows: one row for each workload and contender.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::contender::{self, Contender};
use crate::environment::Environment;
use crate::measure::{self, Pair, Part, Sample};
use crate::passes::costs::Costs;
use crate::passes::counts::Counts;
use crate::passes::fragmentation::fragmentation;
use crate::passes::heap_map::HeapMap;
use crate::passes::latency::Latency;
use crate::passes::timeline::Timeline;
use crate::programs;
use crate::registry::REFERENCE;
use crate::statistics::{Difference, Timing, ratio_interval, typical};
use crate::worker::Finding;
use crate::workload::{self, Prepared};

/// With less than this live at the most, in bytes, a footprint over it is a number of pages.
const LEAST_LIVE: u64 = 64 << 10;

/// What came of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Measured to the end.
    Measured,
    /// Cut off at the time limit: it works, and its figures are lower bounds.
    Slow,
    /// The contender cannot run this workload; the reason says why.
    Unfit,
    /// The contender is not built into this binary; the reason says why.
    Skipped,
    /// It crashed, hung, refused a request or broke a promise.
    Failed,
}

/// One workload run by one contender. This is a line of `--json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The workload's name.
    pub workload: String,
    /// Where the workload comes from.
    pub workload_kind: workload::Kind,
    /// The contender's name.
    pub contender: String,
    /// Ours, or a peer.
    pub kind: contender::Kind,
    /// What came of it.
    pub status: Status,
    /// False only if it failed.
    pub ok: bool,
    /// Why there are no figures, or why they are bounds.
    pub reason: Option<String>,
    /// Operations of the workload.
    pub operations: u64,
    /// [Typical](typical) of the samples; a lower bound where the status is slow.
    pub ns_per_op: Option<f64>,
    /// The least and the most of the samples.
    pub ns_per_op_range: Option<[f64; 2]>,
    /// Timings.
    pub samples: usize,
    /// `ns_per_op` over that of the reference in the same run.
    pub relative_time: Option<f64>,
    /// The 95 % interval of that.
    #[serde(default)]
    pub relative_time_interval: Option<[f64; 2]>,
    /// What the interval shows.
    #[serde(default)]
    pub difference: Option<Difference>,
    /// The most anonymous memory resident at once over what was before, in bytes.
    pub peak_footprint: Option<u64>,
    /// How far off that may be, in bytes.
    pub peak_footprint_error: Option<u64>,
    /// The most bytes live at once.
    pub peak_live: u64,
    /// `peak_footprint` over `peak_live`.
    pub footprint_ratio: Option<f64>,
    /// `peak_footprint` over that of the reference in the same run.
    #[serde(default)]
    pub relative_footprint: Option<f64>,
    /// Seeds generators and order.
    pub seed: u64,
    /// How long single calls take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
    /// The footprint over time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<Timeline>,
    /// Address against time, for strategies of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heap_map: Option<HeapMap>,
    /// What the kernel and the processor were made to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,
    /// Instructions, cache misses and atomic operations, simulated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub costs: Option<Costs>,
    /// Numbers 1 to 4 of Johnstone and Wilson (1998), of resident bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fragmentation: Option<[f64; 4]>,
    /// Where and with what this was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<Environment>,
}

impl Row {
    /// A row of which nothing is known but its names.
    #[must_use]
    pub fn empty(
        workload: &str,
        workload_kind: workload::Kind,
        contender: &str,
        kind: contender::Kind,
    ) -> Self {
        Self {
            workload: workload.to_owned(),
            workload_kind,
            contender: contender.to_owned(),
            kind,
            status: Status::Measured,
            ok: true,
            reason: None,
            operations: 0,
            ns_per_op: None,
            ns_per_op_range: None,
            samples: 0,
            relative_time: None,
            relative_time_interval: None,
            difference: None,
            peak_footprint: None,
            peak_footprint_error: None,
            peak_live: 0,
            footprint_ratio: None,
            relative_footprint: None,
            seed: 0,
            latency: None,
            timeline: None,
            heap_map: None,
            counts: None,
            costs: None,
            fragmentation: None,
            environment: None,
        }
    }
}

/// What is skipped because it could not be built, and why.
pub type Skipped = BTreeMap<String, String>;

/// Sums up all samples. Rows come in the order of workloads, then of contenders.
#[must_use]
pub fn summarise(
    workloads: &[Prepared],
    contenders: &[&'static Contender],
    samples: &[Sample],
    skipped: &Skipped,
    seed: u64,
    part: Part,
) -> Vec<Row> {
    let mut findings: BTreeMap<Pair, Vec<&Finding>> = BTreeMap::new();
    let mut timings: BTreeMap<Pair, Vec<Timing>> = BTreeMap::new();
    for Sample { pair, round, finding } in samples {
        findings.entry(*pair).or_default().push(finding);
        if let Finding::Time { nanoseconds, partial: false, .. } = finding {
            let timing = Timing { round: *round, value: *nanoseconds as f64 };
            timings.entry(*pair).or_default().push(timing);
        }
    }
    let reference = contenders.iter().position(|contender| contender.name == REFERENCE);
    let mut rows = Vec::new();
    for (workload, prepared) in workloads.iter().enumerate() {
        let start = rows.len();
        let of = |contender| timings.get(&Pair { workload, contender });
        for (place, contender) in contenders.iter().enumerate() {
            let pair = Pair { workload, contender: place };
            if !part.has(pair, contenders) {
                continue;
            }
            let found = findings.get(&pair);
            let mut row = row(prepared, contender, found.map_or(&[], Vec::as_slice), skipped, seed);
            if reference != Some(place)
                && row.status == Status::Measured
                && let (Some(ours), Some(theirs)) = (of(place), reference.and_then(of))
            {
                row.relative_time_interval = ratio_interval(ours, theirs, seed);
                row.difference = row.relative_time_interval.map(Difference::shown_by);
            }
            rows.push(row);
        }
        let rows = &mut rows[start..];
        let is_reference =
            |row: &&Row| row.contender == REFERENCE && row.status == Status::Measured;
        if let Some(reference) = rows.iter().find(is_reference).cloned() {
            for row in rows {
                row.relative_time = ratio(row.ns_per_op, reference.ns_per_op);
                let bytes = |row: &Row| row.peak_footprint.map(|bytes| bytes as f64);
                row.relative_footprint = ratio(bytes(row), bytes(&reference));
            }
        }
    }
    rows
}

fn ratio(ours: Option<f64>, theirs: Option<f64>) -> Option<f64> {
    Some(ours? / theirs.filter(|theirs| *theirs > 0.0)?)
}

fn row(
    workload: &Prepared,
    contender: &'static Contender,
    findings: &[&Finding],
    skipped: &Skipped,
    seed: u64,
) -> Row {
    let (status, reason) = status(workload, contender, findings, skipped);
    let operations = workload.facts.operations;
    // A replay that was cut off took longer than it did, spread over all that it should have done.
    let time = |finding: &&Finding| match finding {
        Finding::Time { nanoseconds, .. } => Some(*nanoseconds as f64 / operations.max(1) as f64),
        _ => None,
    };
    // Figures of something that failed half the time mean nothing.
    let findings = if status == Status::Failed { &[] } else { findings };
    let has_memory = contender.kind != contender::Kind::Floor;
    let times: Vec<f64> = findings.iter().filter_map(time).collect();
    let footprint = footprint(findings).filter(|_| has_memory);
    let peak_live = workload.facts.peak_live;
    let mut row = Row {
        status,
        ok: status != Status::Failed,
        reason,
        operations,
        ns_per_op: typical(&times),
        ns_per_op_range: range(&times),
        samples: times.len(),
        peak_footprint: footprint.map(|(peak, _)| peak),
        peak_footprint_error: footprint.map(|(_, error)| error),
        peak_live,
        // What a program has live is not known; and pages over a handful of bytes say nothing.
        footprint_ratio: footprint
            .filter(|_| peak_live >= LEAST_LIVE)
            .map(|(peak, _)| peak as f64 / peak_live as f64),
        seed,
        ..Row::empty(&workload.name, workload.kind, contender.name, contender.kind)
    };
    for finding in findings {
        match finding {
            Finding::Latency { latency, .. } => row.latency = Some(latency.clone()),
            Finding::Counts { counts, .. } => row.counts = Some(counts.clone()),
            Finding::Costs { costs } => row.costs = Some(costs.clone()),
            Finding::Timeline { timeline, heap_map, .. } => {
                let peaks = row.peak_footprint.map(|held| (peak_live, held));
                row.fragmentation = fragmentation(timeline, peaks);
                row.timeline = Some(timeline.clone());
                row.heap_map.clone_from(heap_map);
            }
            _ => {}
        }
    }
    row
}

fn status(
    workload: &Prepared,
    contender: &Contender,
    findings: &[&Finding],
    skipped: &Skipped,
) -> (Status, Option<String>) {
    if workload.program.is_some() {
        if !programs::can_run(contender) {
            let reason = "there is no shared library of it on this machine".to_owned();
            return (Status::Skipped, Some(reason));
        }
    } else if !contender.is_built() {
        let reason = skipped.get(contender.name).cloned();
        let reason = reason.unwrap_or_else(|| {
            "not built into this binary; `cargo xtask bench` builds it".to_owned()
        });
        return (Status::Skipped, Some(reason));
    }
    if let Some(reason) = contender.unfit_for(&workload.facts) {
        return (Status::Unfit, Some(reason));
    }
    let failure = findings.iter().find_map(|finding| match finding {
        Finding::Failed { reason } => Some(reason.clone()),
        _ => None,
    });
    if failure.is_some() {
        return (Status::Failed, failure);
    }
    for finding in findings {
        match finding {
            Finding::Time { partial: true, operations, .. } => {
                let share = 100.0 * *operations as f64 / workload.facts.operations.max(1) as f64;
                let reason = format!("cut off at the time limit, with {share:.1} % done");
                return (Status::Slow, Some(reason));
            }
            Finding::Footprint { partial: true, .. }
            | Finding::Verified { partial: true, .. }
            | Finding::Latency { partial: true, .. }
            | Finding::Timeline { partial: true, .. }
            | Finding::Counts { partial: true, .. } => {
                return (Status::Slow, Some("cut off at the time limit".to_owned()));
            }
            _ => {}
        }
    }
    if findings.is_empty() && measure::interrupted() {
        return (Status::Skipped, Some("interrupted before it was run".to_owned()));
    }
    if findings.is_empty() {
        return (Status::Failed, Some("it was never run".to_owned()));
    }
    (Status::Measured, None)
}

/// The footprint from its own pass, or from the high-water mark of a timing where there is none.
fn footprint(findings: &[&Finding]) -> Option<(u64, u64)> {
    let exact = findings.iter().find_map(|finding| match finding {
        Finding::Footprint { footprint, footprint_error, .. } => {
            Some((*footprint, *footprint_error))
        }
        _ => None,
    });
    let mark = || {
        let marks = findings.iter().filter_map(|finding| match finding {
            Finding::Time { footprint, footprint_error, .. } => {
                Some((*footprint, *footprint_error))
            }
            _ => None,
        });
        marks.max()
    };
    exact.or_else(mark)
}

fn range(values: &[f64]) -> Option<[f64; 2]> {
    let least = values.iter().copied().min_by(f64::total_cmp)?;
    let most = values.iter().copied().max_by(f64::total_cmp)?;
    Some([least, most])
}

/// What makes the footprints among these rows tell less than elsewhere, if anything does. It is not so of programs: the
/// kernel itself says how much they had.
pub(crate) fn caution(rows: &[Row]) -> Option<&'static str> {
    rows.iter()
        .filter(|row| row.peak_footprint.is_some() && row.workload_kind != workload::Kind::Program)
        .find_map(|row| row.environment.as_ref()?.caution())
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
    use super::*;
    use crate::registry;
    use crate::script::Facts;

    fn prepared(operations: u64) -> Prepared {
        Prepared {
            name: "work".to_owned(),
            kind: workload::Kind::Recorded,
            facts: Facts {
                operations,
                peak_live: 1_000_000,
                max_size: 64,
                max_align: 16,
                ..Facts::default()
            },
            script: Default::default(),
            program: None,
        }
    }

    fn time(nanoseconds: u64, partial: bool) -> Finding {
        Finding::Time {
            operations: 50,
            nanoseconds,
            processor: None,
            footprint: 5000,
            footprint_error: 700,
            partial,
        }
    }

    fn rows(findings: &[(&str, Finding)]) -> Vec<Row> {
        let contenders: Vec<_> = registry::contenders().collect();
        let sample = |(name, finding): &(&str, Finding)| {
            let contender =
                contenders.iter().position(|contender| contender.name == *name).unwrap();
            Sample { pair: Pair { workload: 0, contender }, round: 1, finding: finding.clone() }
        };
        let samples: Vec<_> = findings.iter().map(sample).collect();
        summarise(&[prepared(100)], &contenders, &samples, &Skipped::new(), 1, Part::WHOLE)
    }

    fn find<'a>(rows: &'a [Row], name: &str) -> &'a Row {
        rows.iter().find(|row| row.contender == name).unwrap()
    }

    #[test]
    fn times_are_relative_to_the_reference() {
        let rows = rows(&[
            ("glibc", time(1000, false)),
            ("tlsf", time(400, false)),
            ("tlsf", time(500, false)),
            ("tlsf", time(9000, false)),
            (
                "tlsf",
                Finding::Footprint { footprint: 1_500_000, footprint_error: 4, partial: false },
            ),
        ]);
        let tlsf = find(&rows, "tlsf");
        assert_eq!((tlsf.status, tlsf.ok, tlsf.samples), (Status::Measured, true, 3));
        assert_eq!((tlsf.ns_per_op, tlsf.relative_time), (Some(4.5), Some(0.45)));
        assert_eq!(tlsf.ns_per_op_range, Some([4.0, 90.0]));
        assert_eq!((tlsf.peak_footprint, tlsf.footprint_ratio), (Some(1_500_000), Some(1.5)));
        assert_eq!(find(&rows, "glibc").peak_footprint, Some(5000)); // from the mark, for want of better
    }

    #[test]
    fn a_failure_among_good_samples_is_a_failure() {
        let reason = "killed by signal 11 (Segmentation fault)".to_owned();
        let rows = rows(&[
            ("tlsf", time(400, false)),
            ("tlsf", Finding::Failed { reason: reason.clone() }),
        ]);
        let tlsf = find(&rows, "tlsf");
        assert_eq!((tlsf.status, tlsf.ok, tlsf.ns_per_op), (Status::Failed, false, None));
        assert_eq!(tlsf.reason, Some(reason));
    }

    #[test]
    fn what_was_cut_off_is_a_lower_bound_and_not_a_failure() {
        let rows = rows(&[("glibc", time(100, false)), ("coalescing", time(10_000, true))]);
        let slow = find(&rows, "coalescing");
        assert_eq!((slow.status, slow.ok), (Status::Slow, true));
        // All 100 operations would have taken at least what 50 took.
        assert_eq!((slow.ns_per_op, slow.relative_time), (Some(100.0), Some(100.0)));
        assert!(slow.reason.as_ref().unwrap().contains("50.0 %"), "{slow:?}");
    }

    #[test]
    fn a_peer_that_is_not_built_is_skipped_with_the_reason() {
        let Some(missing) = registry::PEERS.iter().find(|peer| peer.allocator.is_none()) else {
            return;
        };
        let skipped = Skipped::from([(missing.name.to_owned(), "no compiler".to_owned())]);
        let rows = summarise(&[prepared(1)], &[missing], &[], &skipped, 1, Part::WHOLE);
        assert_eq!((rows[0].status, rows[0].ok), (Status::Skipped, true));
        assert_eq!(rows[0].reason.as_deref(), Some("no compiler"));
    }
}
