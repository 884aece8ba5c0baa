//! This run against an earlier one.
//!
//! Compared are ratios to the reference, each of its own run, never times across runs. A contender is slower than it was
//! if its whole interval lies above the whole interval of then; it is larger if its peak footprint rose by more than
//! both errors and one percent together. Where the kernel gave huge pages to others then, footprints are not compared:
//! that changes them by itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::summary::{Row, Status};

/// How much more a peak footprint may be, beside what both measurements may be off.
const TOLERATED: f64 = 0.01;

/// What became of a pair since.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The workload's name.
    pub workload: String,
    /// The contender's name.
    pub contender: String,
    /// What it is about, in words.
    pub what: String,
    /// Whether it is for the worse.
    pub worse: bool,
}

/// What the figures support: every pair that is slower, faster, larger or smaller than it was, or that fails now and did
/// not.
#[must_use]
pub fn compare(now: &[Row], then: &[Row]) -> Vec<Change> {
    let key = |row: &Row| (row.workload.clone(), row.contender.clone());
    let then: BTreeMap<_, &Row> = then.iter().map(|row| (key(row), row)).collect();
    let mut changes = Vec::new();
    for row in now {
        let Some(old) = then.get(&key(row)) else { continue };
        let mut change = |what, worse| {
            let (workload, contender) = key(row);
            changes.push(Change { workload, contender, what, worse });
        };
        if row.status == Status::Failed && old.status != Status::Failed {
            change(format!("fails now: {}", row.reason.as_deref().unwrap_or("unknown")), true);
        }
        if let (Some([low, high]), Some([old_low, old_high])) =
            (row.relative_time_interval, old.relative_time_interval)
            && (low > old_high || high < old_low)
        {
            let slower = low > old_high;
            let word = if slower { "slower" } else { "faster" };
            let what = format!(
                "{word}: {low:.3} to {high:.3} of the reference, was {old_low:.3} to {old_high:.3}"
            );
            change(what, slower);
        }
        if let (Some(bytes), Some(old_bytes)) = (row.peak_footprint, old.peak_footprint)
            && !counts_otherwise(row, old)
        {
            let error =
                row.peak_footprint_error.unwrap_or(0) + old.peak_footprint_error.unwrap_or(0);
            let tolerated = error as f64 + TOLERATED * old_bytes as f64;
            if (bytes as f64 - old_bytes as f64).abs() > tolerated {
                let larger = bytes > old_bytes;
                let word = if larger { "larger" } else { "smaller" };
                let what = format!("{word}: {bytes} bytes at the peak, was {old_bytes}");
                change(what, larger);
            }
        }
    }
    changes
}

/// Whether the footprints of a pair are left out, as the kernel counted otherwise then.
fn counts_otherwise(now: &Row, then: &Row) -> bool {
    let environments = (now.environment.as_ref(), then.environment.as_ref());
    matches!(environments, (Some(now), Some(then)) if now.counts_otherwise(then))
}

/// Why footprints are not compared, if so.
#[must_use]
pub fn caution(now: &[Row], then: &[Row]) -> Option<&'static str> {
    let otherwise = |row: &Row| then.iter().any(|old| counts_otherwise(row, old));
    now.iter().any(otherwise).then_some(
        "note: footprints are not compared, for the kernel gives huge pages to others than in the earlier run: its \
         rows say to whom, in `environment`",
    )
}

/// The changes, the bad ones last, where they are seen.
#[must_use]
pub fn render(changes: &[Change]) -> String {
    let mut text = String::from("\nAgainst the baseline\n\n");
    if changes.is_empty() {
        text.push_str("  no difference shown\n");
    }
    for worse in [false, true] {
        for change in changes.iter().filter(|change| change.worse == worse) {
            let Change { workload, contender, what, .. } = change;
            let mark = if worse { "WORSE " } else { "better" };
            let _ = writeln!(text, "  {mark} {contender} on {workload}: {what}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Environment;
    use crate::{contender, workload};

    fn row(interval: [f64; 2], footprint: u64) -> Row {
        Row {
            relative_time_interval: Some(interval),
            peak_footprint: Some(footprint),
            peak_footprint_error: Some(10),
            ..Row::empty("w", workload::Kind::Recorded, "c", contender::Kind::Strategy)
        }
    }

    fn changes(now: Row, then: Row) -> Vec<(bool, String)> {
        let changes = compare(&[now], &[then]);
        changes
            .into_iter()
            .map(|it| (it.worse, it.what.split(':').next().unwrap().to_owned()))
            .collect()
    }

    #[test]
    fn only_what_intervals_support_is_a_change() {
        let then = row([0.90, 0.95], 1000);
        assert_eq!(changes(row([0.94, 1.2], 1000), then.clone()), []);
        assert_eq!(changes(row([0.96, 1.2], 1000), then.clone()), [(true, "slower".to_owned())]);
        assert_eq!(changes(row([0.7, 0.8], 1000), then.clone()), [(false, "faster".to_owned())]);
        assert_eq!(changes(row([0.9, 0.95], 1029), then.clone()), []);
        assert_eq!(changes(row([0.9, 0.95], 1031), then.clone()), [(true, "larger".to_owned())]);
        let failed = Row { status: Status::Failed, ..row([0.9, 0.95], 1000) };
        assert_eq!(changes(failed, then), [(true, "fails now".to_owned())]);
    }

    #[test]
    fn footprints_under_another_setting_of_the_kernel_do_not_compare() {
        let under = |setting: &str, bytes| {
            let environment = Environment { huge_pages: setting.into(), ..Default::default() };
            Row { environment: Some(environment), ..row([0.9, 0.95], bytes) }
        };
        let then = [under("madvise", 1000)];
        for (now, compares) in [("madvise", true), ("always", false), ("", true)] {
            let now = [under(now, 2000)];
            assert_eq!(compare(&now, &then).len(), usize::from(compares));
            assert_eq!(caution(&now, &then).is_none(), compares);
        }
    }

    #[test]
    fn what_was_not_there_is_no_change() {
        assert_eq!(compare(&[row([5.0, 6.0], 1)], &[]), []);
    }
}
