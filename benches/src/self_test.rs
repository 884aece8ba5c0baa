//! Whether the harness can be believed: it must find no difference where there is none, and find one that is there.
//!
//! Five recorded workloads are replayed under four contenders, each of them under two names, and once more slowed down
//! by three percent of its time and by nothing, all of them interleaved as in any comparison. Of the twenty pairs of equals, about one
//! would show a difference by chance alone, at 95 %; more than two are too many. And the slowed ones are to be told
//! from the others.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::contender::Contender;
use crate::measure::{self, Pair, Plan, Sample};
use crate::registry::{self, REFERENCE};
use crate::statistics::{Difference, Timing, mean_ratio_interval, ratio_interval, typical};
use crate::worker::{Finding, SLOWED};
use crate::workload::{Prepared, Scale, Workload};

/// Recorded workloads, of one thread, that take a few milliseconds each.
const WORKLOADS: [&str; 5] = ["gcc", "git-log", "jq", "perl", "sqlite"];

/// What runs under two names.
const CONTENDERS: [&str; 4] = [REFERENCE, "segregated-fit", "tlsf", "kingsley"];

/// How much slower the slowed ones are.
const SLOWDOWN: f64 = 0.03;

/// Differences among equals that are believed to be chance.
const TOLERATED: usize = 2;

/// A pair of equals, or of one and its slowed self.
#[derive(Debug, Clone)]
struct Verdict {
    workload: String,
    contender: &'static str,
    interval: Option<[f64; 2]>,
}

impl Verdict {
    fn shown(&self) -> Difference {
        self.interval.map_or(Difference::NoneShown, Difference::shown_by)
    }
}

/// Runs it, prints what came of it, and says whether the harness can be believed: whether few enough equals differ, and
/// each slowed contender is found, over all workloads together.
///
/// # Errors
///
/// When workloads cannot be prepared or workers not started.
pub fn run(repetitions: usize, seed: u64) -> Result<bool> {
    let folder = tempfile::tempdir().context("making a folder for compiled workloads")?;
    let (mut equals, mut slowed) = (Vec::new(), Vec::new());
    let mut together = vec![Vec::new(); CONTENDERS.len()];
    for (number, name) in WORKLOADS.into_iter().enumerate() {
        let prepared = prepare(name, folder.path(), number)?;
        let (limit, order) = (Duration::from_secs(60), seed + number as u64);
        // The footprint is of no interest.
        let plan =
            |repetitions| Plan { slow: Duration::ZERO, ..Plan::rounds(repetitions, limit, order) };
        // How much three percent are.
        let plain: Vec<&'static Contender> =
            CONTENDERS.into_iter().filter_map(registry::contender).collect();
        let prepared = [prepared];
        let samples = measure::measure(&prepared, &plain, &plan(9))?;
        let operations = prepared[0].facts.operations as f64;
        let mut all = Vec::new();
        for (place, contender) in plain.iter().enumerate() {
            let times: Vec<f64> = timings(&samples, place).iter().map(|it| it.value).collect();
            let each = typical(&times).with_context(|| format!("{} failed", contender.name))?;
            all.push(*contender);
            all.push(also(contender, contender.name.to_owned()));
            let nanoseconds = SLOWDOWN * each / operations;
            for nanoseconds in [0.0, nanoseconds] {
                all.push(also(contender, format!("{}{SLOWED}{nanoseconds:.4}", contender.name)));
            }
        }
        let samples = measure::measure(&prepared, &all, &plan(repetitions))?;
        for (place, contender) in plain.iter().enumerate() {
            let of = |offset| timings(&samples, 4 * place + offset);
            let verdict = |ours: usize, theirs: usize| Verdict {
                workload: name.to_owned(),
                contender: contender.name,
                interval: ratio_interval(&of(ours), &of(theirs), seed),
            };
            equals.push(verdict(1, 0));
            // Both are wrapped in the same way, which costs something too.
            slowed.push(verdict(3, 2));
            together[place].push((of(3), of(2)));
        }
    }
    let overall: Vec<Verdict> = CONTENDERS
        .into_iter()
        .zip(&together)
        .map(|(contender, timings)| {
            let timings: Vec<_> =
                timings.iter().map(|(ours, theirs)| (&ours[..], &theirs[..])).collect();
            let interval = mean_ratio_interval(&timings, seed);
            Verdict { workload: "all".to_owned(), contender, interval }
        })
        .collect();
    let (text, believable) = render(&equals, &slowed, &overall);
    print!("{text}");
    Ok(believable)
}

fn prepare(name: &str, folder: &Path, number: usize) -> Result<Prepared> {
    let workload = Workload::recorded().into_iter().find(|workload| workload.name == name);
    let workload = workload.with_context(|| format!("there is no trace of {name}"))?;
    workload.prepare(Scale { seed: 0, operations: 0 }, folder, number)
}

/// The same contender under another name. There are few of them, and they are needed to the end.
fn also(contender: &Contender, name: String) -> &'static Contender {
    let Contender { kind, about, allocator, strategy, prepare, never_frees, .. } = *contender;
    let name = Box::leak(name.into_boxed_str());
    Box::leak(Box::new(Contender { name, kind, about, allocator, strategy, prepare, never_frees }))
}

fn timings(samples: &[Sample], contender: usize) -> Vec<Timing> {
    let of_it = |sample: &&Sample| sample.pair == Pair { workload: 0, contender };
    samples
        .iter()
        .filter(of_it)
        .filter_map(|sample| match sample.finding {
            Finding::Time { nanoseconds, partial: false, .. } => {
                Some(Timing { round: sample.round, value: nanoseconds as f64 })
            }
            _ => None,
        })
        .collect()
}

/// What there is to say, and whether all is well.
fn render(equals: &[Verdict], slowed: &[Verdict], overall: &[Verdict]) -> (String, bool) {
    let mut text = String::new();
    let mut list = |heading: &str, verdicts: &[Verdict]| {
        let _ = writeln!(text, "{heading}\n");
        for verdict in verdicts {
            let Verdict { workload, contender, interval } = verdict;
            let interval = match interval {
                Some([low, high]) => format!("{low:.3} to {high:.3}"),
                None => "no interval".to_owned(),
            };
            let shown = verdict.shown().in_words();
            let _ = writeln!(text, "  {contender:<15} {workload:<10} {interval:<17} {shown}");
        }
        text.push('\n');
    };
    list("The same contender under two names, ratio of times (95 % interval)", equals);
    list("Slowed down by 3 %, over itself slowed down by nothing", slowed);
    list("The same over all workloads, geometric mean", overall);
    let slower = |verdicts: &[Verdict]| {
        verdicts.iter().filter(|it| it.shown() == Difference::Slower).count()
    };
    let differ = equals.iter().filter(|it| it.shown() != Difference::NoneShown).count();
    let (found, found_singly) = (slower(overall), slower(slowed));
    let (all, contenders, singly) = (equals.len(), overall.len(), slowed.len());
    let _ = writeln!(
        text,
        "False positives: {differ} of {all} pairs of equals (at most {TOLERATED} are chance)\n\
         Power: a slowdown of 3 % was found for {found} of {contenders} contenders, over all workloads together; on single \
         workloads {found_singly} of {singly} times"
    );
    (text, differ <= TOLERATED && found == contenders)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(intervals: &[[f64; 2]]) -> Vec<Verdict> {
        let verdict = |&interval: &[f64; 2]| Verdict {
            workload: "w".to_owned(),
            contender: "c",
            interval: Some(interval),
        };
        intervals.iter().map(verdict).collect()
    }

    #[test]
    fn three_false_positives_or_blindness_are_not_believable() {
        let (same, other, slower) = ([0.99, 1.01], [1.001, 1.002], [1.01, 1.05]);
        let well = |equals: &[[f64; 2]], overall: &[[f64; 2]]| {
            render(&verdicts(equals), &verdicts(&[same]), &verdicts(overall)).1
        };
        assert!(well(&[same, other, other], &[slower]));
        assert!(!well(&[other, other, other], &[slower]));
        assert!(!well(&[same], &[slower, same]));
        let (text, _) =
            render(&verdicts(&[same, other]), &verdicts(&[slower, same]), &verdicts(&[slower]));
        assert!(text.contains("1 of 2 pairs of equals"), "{text}");
        assert!(text.contains("1 of 1 contenders") && text.contains("1 of 2 times"), "{text}");
    }
}
