//! What rows say, in sentences: which contender for which workload, and why.
//!
//! Only what was measured to the end is compared. Two figures differ if their intervals do not overlap; where they
//! do, the sentence says "no difference shown". The interval of a mean over workloads is the geometric mean of the
//! workloads' intervals, which is wider than the mean's own would be, so that a difference it shows is one.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::contender::Kind;
use crate::registry::{self, REFERENCE};
use crate::statistics::geometric_mean;
use crate::summary::{Row, Status, unique};

/// All sentences of a report, and the figures behind them.
#[derive(Debug, Serialize)]
pub struct Verdicts {
    /// Over all workloads.
    pub overall: Verdict,
    /// For each workload, in the order of the rows.
    pub workloads: Vec<Verdict>,
    /// Each contender's means.
    pub means: Vec<Mean>,
    /// The names on each workload's front; that over all workloads is under the empty name.
    pub fronts: BTreeMap<String, Vec<String>>,
    /// Whether some times have no interval, so that small differences may be chance.
    pub untested: bool,
}

/// What there is to say of one workload.
#[derive(Debug, Serialize)]
pub struct Verdict {
    /// The workload's name; empty for all of them.
    pub workload: String,
    /// The answer.
    pub headline: String,
    /// What else is worth knowing: a label and a sentence.
    pub details: Vec<(&'static str, String)>,
    /// Those that no other is both faster and leaner than, the fastest first.
    pub front: Vec<Point>,
}

/// A contender in the plane of time and memory.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Point {
    /// Its name.
    pub contender: String,
    /// Ours, or a peer.
    pub kind: Kind,
    /// Relative to the reference, or nanoseconds an operation where that was not measured.
    pub time: f64,
    /// Where the time is with 95 % confidence.
    pub time_interval: Option<[f64; 2]>,
    /// Peak footprint over peak live bytes, or over the reference's where those are not known.
    pub footprint: f64,
    /// Where that may be by the error of its measurement.
    pub footprint_interval: Option<[f64; 2]>,
}

/// Geometric means over the workloads that a contender has figures of.
#[derive(Debug, Serialize)]
pub struct Mean {
    /// The contender's name.
    pub contender: String,
    /// Ours, or a peer.
    pub kind: Kind,
    /// Over how many workloads.
    pub workloads: usize,
    /// Whether these are all workloads; others' means compare with nobody's.
    pub complete: bool,
    /// Whether some figures are lower bounds, and with them the means.
    pub at_least: bool,
    /// Of time relative to the reference.
    pub relative_time: Option<f64>,
    /// Of the intervals' ends, if all have one.
    pub relative_time_interval: Option<[f64; 2]>,
    /// Of peak footprint over peak live bytes.
    pub footprint_ratio: Option<f64>,
    /// Of peak footprint over that of the reference.
    pub relative_footprint: Option<f64>,
}

/// What times and footprints are relative to.
#[derive(Clone, Copy)]
struct Units {
    /// Times to the reference's; else they are nanoseconds.
    relative_time: bool,
    /// Footprints to live bytes; else, for whole programs, whose live bytes nobody counts, to the reference's.
    live: bool,
}

impl Units {
    fn of<'a>(records: impl Iterator<Item = &'a Row> + Clone) -> Self {
        // The harness alone holds nothing.
        let mut measured = records
            .filter(|record| record.status == Status::Measured && record.kind != Kind::Floor);
        Self {
            relative_time: measured.clone().any(|record| record.relative_time.is_some()),
            live: measured.all(|record| record.footprint_ratio.is_some()),
        }
    }

    fn time(self, time: f64) -> String {
        let unit = if self.relative_time { "of glibc’s time" } else { "ns an operation" };
        format!("{} {unit}", figure(time))
    }

    fn footprint(self, footprint: f64) -> String {
        if self.live {
            format!("holds {} times its live bytes", figure(footprint))
        } else {
            format!("holds {} of glibc’s memory", figure(footprint))
        }
    }
}

/// Everything that rows say.
#[must_use]
pub fn verdicts(records: &[Row]) -> Verdicts {
    let names = unique(records.iter().map(|record| record.workload.as_str()));
    let workloads: Vec<_> = names
        .iter()
        .map(|name| {
            let rows: Vec<_> = records.iter().filter(|record| record.workload == *name).collect();
            let units = Units::of(rows.iter().copied());
            verdict((*name).to_owned(), units, &points(&rows, units))
        })
        .collect();
    let means = means(records, names.len());
    let units = Units { relative_time: true, ..Units::of(records.iter()) };
    let overall = verdict(String::new(), units, &mean_points(records, &means, units));
    let fronts = workloads.iter().chain([&overall]).map(|verdict| {
        let names = verdict.front.iter().map(|point| point.contender.clone());
        (verdict.workload.clone(), names.collect())
    });
    Verdicts {
        fronts: fronts.collect(),
        untested: records
            .iter()
            .any(|record| record.status == Status::Measured && time_interval(record).is_none()),
        overall,
        workloads,
        means,
    }
}

/// What has no figures, or bounds only, failures first.
#[must_use]
pub fn missing(records: &[Row]) -> Vec<Group> {
    let headings = [
        (Status::Failed, "✗ Failed"),
        (Status::Slow, "> Cut off at the time limit; figures are lower bounds"),
        (Status::Unfit, "– Cannot run"),
        (Status::Skipped, "– Not built"),
    ];
    let of = |status| {
        let mut found: Vec<Missing> = Vec::new();
        for record in records.iter().filter(|record| record.status == status) {
            let reason = record.reason.as_deref().unwrap_or("unknown");
            let same = |known: &&mut Missing| {
                known.contender == record.contender && known.reason == reason
            };
            match found.iter_mut().find(same) {
                Some(known) => known.workloads.push(record.workload.clone()),
                None => found.push(Missing {
                    contender: record.contender.clone(),
                    reason: reason.to_owned(),
                    workloads: vec![record.workload.clone()],
                }),
            }
        }
        found
    };
    let groups =
        headings.into_iter().map(|(status, heading)| Group { heading, missing: of(status) });
    groups.filter(|group| !group.missing.is_empty()).collect()
}

/// What is missing for the same kind of reason.
#[derive(Debug, PartialEq, Serialize)]
pub struct Group {
    /// What they have in common.
    pub heading: &'static str,
    /// Who.
    pub missing: Vec<Missing>,
}

/// Workloads that a contender has no figures of, for one reason.
#[derive(Debug, PartialEq, Serialize)]
pub struct Missing {
    /// The contender's name.
    pub contender: String,
    /// Why.
    pub reason: String,
    /// Which.
    pub workloads: Vec<String>,
}

fn time_interval(record: &Row) -> Option<[f64; 2]> {
    // The reference is what the others are relative to.
    record.relative_time_interval.or((record.contender == REFERENCE).then_some([1.0, 1.0]))
}

/// Of one workload, those that were measured to the end.
fn points(rows: &[&Row], units: Units) -> Vec<Point> {
    let point = |record: &&Row| {
        let (time, interval) = if units.relative_time {
            (record.relative_time?, time_interval(record))
        } else {
            (record.ns_per_op?, None)
        };
        let footprint =
            if units.live { record.footprint_ratio? } else { record.relative_footprint? };
        let error = relative_error(record).map(|error| error * footprint);
        Some(Point {
            contender: record.contender.clone(),
            kind: record.kind,
            time,
            time_interval: interval,
            footprint,
            footprint_interval: error.map(|error| [footprint - error, footprint + error]),
        })
    };
    rows.iter().filter(|record| record.status == Status::Measured).filter_map(point).collect()
}

/// How far off the footprint may be, as a share of it.
fn relative_error(record: &Row) -> Option<f64> {
    Some(record.peak_footprint_error? as f64 / record.peak_footprint?.max(1) as f64)
}

fn means(records: &[Row], workloads: usize) -> Vec<Mean> {
    let contenders = unique(records.iter().map(|record| (record.contender.as_str(), record.kind)));
    let mean = |(contender, kind): (&str, Kind)| {
        let rows: Vec<_> = records
            .iter()
            .filter(|record| record.contender == contender && record.status != Status::Failed)
            .filter(|record| record.relative_time.is_some())
            .collect();
        let of = |figure: &dyn Fn(&Row) -> Option<f64>| {
            let figures: Option<Vec<f64>> = rows.iter().map(|record| figure(record)).collect();
            geometric_mean(&figures?)
        };
        let end = |end: usize| of(&|record| time_interval(record).map(|interval| interval[end]));
        Mean {
            contender: contender.to_owned(),
            kind,
            workloads: rows.len(),
            complete: rows.len() == workloads,
            at_least: rows.iter().any(|record| record.status == Status::Slow),
            relative_time: of(&|record| record.relative_time),
            relative_time_interval: end(0).zip(end(1)).map(|(low, high)| [low, high]),
            footprint_ratio: of(&|record| record.footprint_ratio),
            relative_footprint: of(&|record| record.relative_footprint),
        }
    };
    contenders.into_iter().map(mean).collect()
}

/// Means that compare with each other: of all workloads, without bounds.
fn mean_points(records: &[Row], means: &[Mean], units: Units) -> Vec<Point> {
    let error = |contender: &str| {
        let rows = records.iter().filter(|record| record.contender == contender);
        let errors: Option<Vec<f64>> = rows.map(relative_error).collect();
        errors.map(|errors| errors.iter().sum::<f64>() / errors.len().max(1) as f64)
    };
    let point = |mean: &Mean| {
        let footprint = if units.live { mean.footprint_ratio? } else { mean.relative_footprint? };
        Some(Point {
            contender: mean.contender.clone(),
            kind: mean.kind,
            time: mean.relative_time?,
            time_interval: mean.relative_time_interval,
            footprint,
            footprint_interval: error(&mean.contender)
                .map(|error| [footprint * (1.0 - error), footprint * (1.0 + error)]),
        })
    };
    means.iter().filter(|mean| mean.complete && !mean.at_least).filter_map(point).collect()
}

/// Those that no other is both at least as fast and at least as lean as; the fastest first.
#[must_use]
pub fn front(points: &[Point]) -> Vec<Point> {
    let mut sorted = points.to_vec();
    sorted.sort_by(|one, other| {
        one.time.total_cmp(&other.time).then(one.footprint.total_cmp(&other.footprint))
    });
    let mut least = f64::INFINITY;
    sorted.retain(|point| {
        let leaner = point.footprint < least;
        least = least.min(point.footprint);
        leaner
    });
    sorted
}

/// Whether two intervals overlap; nothing if one is unknown.
fn overlap(one: Option<[f64; 2]>, other: Option<[f64; 2]>) -> Option<bool> {
    let ([low, high], [other_low, other_high]) = (one?, other?);
    Some(low <= other_high && other_low <= high)
}

fn verdict(workload: String, units: Units, points: &[Point]) -> Verdict {
    let front = front(points);
    let (Some(fastest), Some(leanest)) = (front.first(), front.last()) else {
        let headline = if workload.is_empty() {
            format!(
                "No contender was measured to the end on every workload beside {REFERENCE}; see each workload below."
            )
        } else {
            "Nothing was measured to the end.".to_owned()
        };
        return Verdict { workload, headline, details: Vec::new(), front };
    };
    let mut by_time: Vec<&Point> = points.iter().collect();
    by_time.sort_by(|one, other| one.time.total_cmp(&other.time));
    let as_fast = |other: &&&Point| {
        other.contender != fastest.contender
            && overlap(fastest.time_interval, other.time_interval) == Some(true)
    };
    let as_lean = |other: &&&Point| {
        other.contender != leanest.contender
            && overlap(leanest.footprint_interval, other.footprint_interval) == Some(true)
    };

    let mut headline = format!(
        "{} is fastest, {}{}",
        fastest.contender,
        units.time(fastest.time),
        no_difference(
            &by_time.iter().filter(as_fast).map(|point| &*point.contender).collect::<Vec<_>>()
        )
    );
    let holds = units.footprint(fastest.footprint);
    let mut named = None;
    if fastest == leanest {
        headline += &format!(", and leanest: it {holds}, and no other is better at either.");
    } else {
        let word = if fastest.footprint > 1.25 * leanest.footprint { "but" } else { "and" };
        headline += &format!(", {word} {holds}; ");
        // The first on the front that saves memory worth speaking of.
        let other = front[1..].iter().find(|point| point.footprint < 0.9 * fastest.footprint);
        let other = other.unwrap_or(leanest);
        headline += &format!("{} {}.", other.contender, trade(fastest, other));
        named = Some(other);
    }

    let mut details = Vec::new();
    if let Some(&second) = by_time.get(1)
        && named != Some(second)
    {
        details.push(("Runner-up", format!("{} {}.", second.contender, trade(fastest, second))));
    }
    if fastest != leanest {
        let text = format!(
            "{} {}{}, at {}.",
            leanest.contender,
            units.footprint(leanest.footprint),
            no_difference(
                &points
                    .iter()
                    .collect::<Vec<_>>()
                    .iter()
                    .filter(as_lean)
                    .map(|point| &*point.contender)
                    .collect::<Vec<_>>()
            ),
            units.time(leanest.time)
        );
        details.push(("Leanest", text));
    }
    // What never frees is a floor to compare with, and nothing to take home.
    let frees = |name| registry::contender(name).is_none_or(|known| !known.never_frees);
    let mut ours = by_time.iter().filter(|point| point.kind == Kind::Strategy);
    let ours = ours.find(|point| frees(&point.contender));
    if let Some(ours) = ours.filter(|ours| ours.contender != fastest.contender) {
        let text = format!(
            "{}, {}, {}.",
            ours.contender,
            units.time(ours.time),
            units.footprint(ours.footprint)
        );
        details.push(("Fastest strategy here", text));
    }
    if units.relative_time {
        details.extend(against_reference(points).map(|text| ("Against glibc", text)));
    }
    Verdict { workload, headline, details, front }
}

/// How many differ from the reference.
fn against_reference(points: &[Point]) -> Option<String> {
    let intervals = || {
        let others = points.iter().filter(|point| point.contender != REFERENCE);
        others.filter_map(|point| point.time_interval)
    };
    let faster = intervals().filter(|interval| interval[1] < 1.0).count();
    let slower = intervals().filter(|interval| interval[0] > 1.0).count();
    let rest = intervals().count() - faster - slower;
    (intervals().count() > 0)
        .then(|| format!("{faster} faster, {slower} slower, {rest} with no difference shown."))
}

/// What someone pays, and gets, who takes the other.
fn trade(one: &Point, other: &Point) -> String {
    let time = match (overlap(one.time_interval, other.time_interval), other.time / one.time) {
        (Some(true), _) => "shows no difference in time".to_owned(),
        (_, ratio) if ratio >= 2.0 => format!("takes {} times the time", figure(ratio)),
        (_, ratio) => match percent(ratio - 1.0) {
            Some(more) => format!("takes {more} more time"),
            None => "takes as much time".to_owned(),
        },
    };
    let ratio = other.footprint / one.footprint;
    let same = overlap(one.footprint_interval, other.footprint_interval) == Some(true);
    match percent((ratio - 1.0).abs()).filter(|_| !same) {
        None if time.starts_with("shows") => "shows no difference in time or memory".to_owned(),
        None => format!("{time}, with no difference in memory shown"),
        Some(_) if ratio >= 2.0 => format!("{time} and {} times the memory", figure(ratio)),
        Some(more) if ratio > 1.0 => format!("{time} and {more} more memory"),
        Some(less) => {
            let amount = match ratio {
                0.47..=0.53 => "half the memory".to_owned(),
                0.32..=0.35 => "a third of the memory".to_owned(),
                0.24..=0.26 => "a quarter of the memory".to_owned(),
                _ => format!("{less} less memory"),
            };
            format!("{time} for {amount}")
        }
    }
}

/// A share in percent, if it is any.
fn percent(share: f64) -> Option<String> {
    match (share * 100.0).round() {
        whole if whole >= 1.0 => Some(format!("{whole}\u{a0}%")), // in one piece
        _ => None,
    }
}

fn no_difference(others: &[&str]) -> String {
    match others {
        [] => String::new(),
        [one] => format!(" (no difference shown to {one})"),
        [first @ .., last] if first.len() < 4 => {
            format!(" (no difference shown to {} and {last})", first.join(", "))
        }
        [one, two, rest @ ..] => {
            format!(" (no difference shown to {one}, {two} and {} more)", rest.len())
        }
    }
}

/// Three digits or so, as people write them.
fn figure(value: f64) -> String {
    match value {
        value if value >= 99.5 => format!("{value:.0}"),
        value if value >= 9.95 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATIOS: Units = Units { relative_time: true, live: true };

    fn point(contender: &str, time: f64, footprint: f64) -> Point {
        Point {
            contender: contender.to_owned(),
            kind: if contender == "mimalloc" { Kind::Peer } else { Kind::Strategy },
            time,
            time_interval: Some([time * 0.97, time * 1.03]),
            footprint,
            footprint_interval: Some([footprint * 0.99, footprint * 1.01]),
        }
    }

    fn record(workload: &str, contender: &str, status: Status, time: Option<f64>) -> Row {
        serde_json::from_value(serde_json::json!({
            "workload": workload, "workload_kind": "recorded", "contender": contender, "kind": "peer",
            "status": status, "ok": status != Status::Failed, "reason": "because", "operations": 1,
            "ns_per_op": time, "samples": 1, "relative_time": time,
            "relative_time_interval": time.map(|time| [time, time]),
            "peak_live": 100, "footprint_ratio": time.map(|time| 2.0 / time), "seed": 1
        }))
        .unwrap()
    }

    #[test]
    fn footprints_are_those_over_live_bytes_though_the_harness_alone_has_none() {
        let measured = |name, time| record("gcc", name, Status::Measured, time);
        let floor =
            Row { kind: Kind::Floor, footprint_ratio: None, ..measured("floor", Some(0.1)) };
        let mut rows = vec![measured("tlsf", Some(1.0)), floor];
        assert!(Units::of(rows.iter()).live);
        rows.push(Row { footprint_ratio: None, ..measured("program", Some(1.0)) });
        assert!(!Units::of(rows.iter()).live);
    }

    #[test]
    fn the_front_is_what_no_other_is_faster_and_leaner_than() {
        let points = [
            point("c", 3.0, 1.0),
            point("dominated", 2.5, 1.6),
            point("a", 1.0, 4.0),
            point("as fast as b and fatter", 2.0, 1.7),
            point("b", 2.0, 1.5),
        ];
        let names: Vec<_> = front(&points).into_iter().map(|point| point.contender).collect();
        assert_eq!(names, ["a", "b", "c"]);
    }

    #[test]
    fn the_headline_says_who_is_fastest_and_what_less_memory_costs() {
        let points = [
            point("mimalloc", 0.47, 2.5),
            point("segregated-fit", 0.526, 1.25),
            point("best-fit", 2.5, 1.1),
        ];
        let verdict = verdict("gcc".to_owned(), RATIOS, &points);
        assert_eq!(
            verdict.headline,
            "mimalloc is fastest, 0.47 of glibc’s time, but holds 2.50 times its live bytes; \
             segregated-fit takes 12\u{a0}% more time for half the memory."
        );
        assert_eq!(verdict.details[0].0, "Leanest", "the runner-up is in the headline");
        assert_eq!(
            verdict.details[0].1,
            "best-fit holds 1.10 times its live bytes, at 2.50 of glibc’s time."
        );
    }

    #[test]
    fn where_intervals_overlap_no_difference_is_shown() {
        let points =
            [point("mimalloc", 0.50, 1.30), point("tlsf", 0.51, 1.302), point("slow", 2.0, 3.0)];
        let verdict = verdict("gcc".to_owned(), RATIOS, &points);
        assert!(verdict.headline.contains("(no difference shown to tlsf)"), "{}", verdict.headline);
        assert_eq!(verdict.details[0].1, "tlsf shows no difference in time or memory.");
        let against = verdict.details.iter().find(|detail| detail.0 == "Against glibc").unwrap();
        assert_eq!(against.1, "2 faster, 1 slower, 0 with no difference shown.");
    }

    #[test]
    fn one_that_is_best_at_both_is_said_to_be() {
        let points = [point("a", 0.5, 1.1), point("b", 0.7, 1.5)];
        let verdict =
            verdict("gcc".to_owned(), Units { relative_time: false, live: false }, &points);
        assert_eq!(
            verdict.headline,
            "a is fastest, 0.50 ns an operation, and leanest: it holds 1.10 of glibc’s memory, and no other is better \
             at either."
        );
        assert_eq!(verdict.details[0].1, "b takes 40\u{a0}% more time and 36\u{a0}% more memory.");
    }

    #[test]
    fn means_of_bounds_and_of_some_workloads_compare_with_nobody() {
        let records = [
            record("one", "glibc", Status::Measured, Some(1.0)),
            record("one", "mimalloc", Status::Measured, Some(0.5)),
            record("one", "slow", Status::Slow, Some(0.01)),
            record("one", "unfit", Status::Unfit, None),
            record("two", "glibc", Status::Measured, Some(1.0)),
            record("two", "mimalloc", Status::Measured, Some(0.5)),
            record("two", "slow", Status::Measured, Some(0.01)),
            record("two", "unfit", Status::Measured, Some(0.01)),
        ];
        let verdicts = verdicts(&records);
        assert!(verdicts.overall.headline.starts_with("mimalloc is fastest, 0.50"), "{verdicts:?}");
        let mean = |name: &str| verdicts.means.iter().find(|mean| mean.contender == name).unwrap();
        assert!(mean("slow").at_least && mean("slow").complete);
        assert!(!mean("unfit").at_least && !mean("unfit").complete);
        assert_eq!(mean("mimalloc").relative_time_interval, Some([0.5, 0.5]));
        // Where it was measured to the end, it is compared.
        assert!(verdicts.fronts["two"].contains(&"slow".to_owned()));
        assert!(!verdicts.fronts["one"].contains(&"slow".to_owned()));
        assert!(!verdicts.untested);
    }

    #[test]
    fn what_is_missing_is_named_with_the_reason_and_failures_come_first() {
        let records = [
            record("one", "unfit", Status::Unfit, None),
            record("two", "unfit", Status::Unfit, None),
            record("two", "broken", Status::Failed, None),
        ];
        let missing = missing(&records);
        assert_eq!(missing[0].heading, "✗ Failed");
        assert_eq!(missing[1].missing[0].workloads, ["one", "two"]);
        assert!(verdicts(&records).overall.headline.contains("No contender was measured"));
    }
}
