//! The command line: options, names that may be mistyped, lists.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::Args;

use crate::contender::{Contender, Kind};
use crate::matrix::COMPOSITIONS;
use crate::measure::{Details, Part as Share, Plan};
use crate::programs;
use crate::registry::{self, BACKENDS, PEERS, POLICIES, Part, REFERENCE, STRATEGIES};
use crate::summary::Skipped;
use crate::workload::{Scale, Workload};

/// What to compare, and how thoroughly.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// List workloads and contenders, and do nothing else
    #[arg(long)]
    pub list: bool,

    /// Measure everything once, on shorter generated workloads
    #[arg(long)]
    pub quick: bool,

    /// Run all workloads, and give slow contenders more time; takes a quarter of an hour
    #[arg(long)]
    pub full: bool,

    /// Run these workloads only
    #[arg(long, value_name = "WORKLOAD,…", value_delimiter = ',')]
    pub only: Vec<String>,

    /// Run these contenders only, peers too; glibc, which the ratios refer to, is always added
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub strategies: Vec<String>,

    /// Run this trace (.hwt, .rep or .rep.gz); may be repeated. Other workloads run only if --only names them
    #[arg(long, value_name = "FILE")]
    pub trace: Vec<PathBuf>,

    /// Run this whole program with each contender in place of its malloc; a command line for sh; may be repeated. Time is
    /// from start to end. Other workloads run only if --only names them
    #[arg(long, value_name = "CMD")]
    pub program: Vec<String>,

    /// Write the results to this file, one JSON object a line for each workload and contender
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Forms of the results beside the tables.
    #[command(flatten)]
    pub exports: Exports,

    /// Check every byte of every block instead of measuring; the exit code says whether all is well
    #[arg(long)]
    pub verify: bool,

    /// Measure these beside time and footprint; costs only if asked for, for it takes minutes
    #[arg(
        long,
        value_name = "PASS,…",
        value_delimiter = ',',
        default_value = "latency,timeline,counts"
    )]
    pub passes: Vec<Detail>,

    /// Compare with the results of an earlier run, from its --json; the exit code says whether anything is worse, as far
    /// as the intervals show
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,

    /// Compare compositions: backends × policies × mechanisms × locks; --strategies names some of them, or parts that they
    /// have in common
    #[arg(long)]
    pub matrix: bool,

    /// Find out whether the harness can be believed: the same contenders under two names, and slowed down by 3 %
    #[arg(long)]
    pub self_test: bool,

    /// Measure only one part of all pairs of workload and contender, such as 2/4; `merge` puts the parts together
    #[arg(long, value_name = "NUMBER/OF", default_value = "1/1")]
    pub partition: Share,

    /// Seed of the generated workloads and of the order of samples
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,

    /// Time each pair again until the 95 % interval of its ratio to glibc is narrower than this, in percent of the ratio
    #[arg(long, value_name = "PERCENT", default_value_t = 2.0)]
    pub width: f64,

    /// Time each pair this often, however long it takes [default: as --width asks, within the budget]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub repetitions: Option<u32>,

    /// Begin no further round of samples after this many seconds [default: 150; with --full, 800]
    #[arg(long, value_name = "SECONDS")]
    pub budget: Option<u64>,

    /// Cut off a replay that takes more than this many seconds of processor time [default: 0.5, with --full 2,
    /// or 20 times what glibc takes; with --verify, 120]
    #[arg(long, value_name = "SECONDS")]
    pub limit: Option<u64>,

    /// Where the libraries of strategies are that stand in place of malloc
    #[arg(long, value_name = "FOLDER", hide = true)]
    pub libraries: Option<PathBuf>,

    /// A peer that could not be built, and why: NAME=REASON
    #[arg(long, value_name = "NAME=REASON", hide = true)]
    pub skipped: Vec<String>,
}

/// Forms of the results beside the tables.
#[derive(Debug, Clone, Args)]
pub struct Exports {
    /// The folder of the report, index.html [default: heapwright/report in cargo's target folder]
    #[arg(long, value_name = "FOLDER")]
    pub report: Option<PathBuf>,

    /// Write the results to this file, as comma-separated values
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,

    /// Write the results to this file, as tables in Markdown
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
}

/// A pass beside time and footprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Detail {
    /// How long single calls take, as a distribution
    Latency,
    /// The footprint over time, taken apart, and a map of the heap
    Timeline,
    /// Page faults, system calls, instructions, cache misses
    Counts,
    /// Instructions, cache misses, atomic operations and locks for each operation, the same on every machine, and system
    /// calls; counted by callgrind, which needs valgrind and seconds for each pair; of at most 500,000 operations
    Costs,
    /// None of them
    None,
}

/// One replay.
#[derive(Debug, Clone, Args)]
pub struct ReplayOptions {
    /// The trace: .hwt, .rep or .rep.gz
    #[arg(value_name = "FILE")]
    pub trace: PathBuf,

    /// The contender that replays it: a strategy or a peer
    #[arg(long, value_name = "NAME")]
    pub strategy: String,

    /// Check every byte of every block instead of measuring; the exit code says whether all is well
    #[arg(long)]
    pub verify: bool,

    /// Cut off a replay that takes more than this many seconds of processor time
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub limit: u64,
}

/// How to measure what the literature found.
#[derive(Debug, Clone, Args)]
pub struct ReproduceOptions {
    /// Seed of the workloads and of the order of samples
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
}

/// How to find out whether replays tell the truth.
#[derive(Debug, Clone, Args)]
pub struct TruthOptions {
    /// Run each program and each replay this often, if that takes less than a minute for each
    #[arg(long, value_name = "COUNT", default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..))]
    pub repetitions: u32,

    /// Seed of the order of samples
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,

    /// The recorder's library
    #[arg(long, value_name = "FILE", hide = true)]
    pub recorder: Option<PathBuf>,

    /// Where the libraries of strategies are that stand in place of malloc
    #[arg(long, value_name = "FOLDER", hide = true)]
    pub libraries: Option<PathBuf>,
}

/// What to put together.
#[derive(Debug, Clone, Args)]
pub struct MergeOptions {
    /// Results, each from a run with --partition and --json
    #[arg(value_name = "FILE", required = true)]
    pub results: Vec<PathBuf>,

    /// Write all of them to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Forms of the results beside the tables.
    #[command(flatten)]
    pub exports: Exports,
}

impl Options {
    /// The workloads that were asked for.
    ///
    /// # Errors
    ///
    /// When a name is unknown; the message lists near matches.
    pub fn workloads(&self) -> Result<Vec<Workload>> {
        let mut known: Vec<_> =
            Workload::recorded().into_iter().chain(Workload::generated()).collect();
        let names: Vec<_> = known.iter().map(|workload| workload.name.clone()).collect();
        let mut chosen: Vec<Workload> = Vec::new();
        let programs =
            self.program.iter().map(|command| (Workload::program(command), command.clone()));
        let traces =
            self.trace.iter().map(|path| (Workload::given(path), path.display().to_string()));
        for (mut workload, whole) in traces.chain(programs) {
            let taken = |name: &str| {
                chosen.iter().any(|other| other.name == name)
                    || names.iter().any(|other| other == name)
            };
            if taken(&workload.name) {
                workload.name = whole; // two of one name could not be told apart
            }
            chosen.push(workload);
        }
        if self.only.is_empty() && chosen.is_empty() {
            known.retain(|workload| self.full || workload.is_everyday());
            return Ok(known);
        }
        for name in &self.only {
            if !names.contains(name) {
                bail!(unknown("workload", name, names.iter().map(String::as_str)));
            }
        }
        known.retain(|workload| self.only.contains(&workload.name));
        known.append(&mut chosen);
        Ok(known)
    }

    /// The contenders that were asked for, with the reference.
    ///
    /// # Errors
    ///
    /// When a name is unknown; the message lists near matches.
    pub fn contenders(&self) -> Result<Vec<&'static Contender>> {
        let ours = self.libraries.as_deref().unwrap_or(Path::new("target/preload"));
        let others =
            if self.program.is_empty() { Vec::new() } else { programs::find_libraries(ours) };
        let all: Vec<&'static Contender> = if self.matrix {
            let reference = registry::contender(REFERENCE);
            COMPOSITIONS.iter().copied().flatten().chain(reference).collect()
        } else {
            registry::contenders().chain(others).collect()
        };
        let parts = |name: &'static str| {
            name.split('/').filter(move |_| self.matrix).chain(std::iter::once(name))
        };
        let names: BTreeSet<_> = all.iter().flat_map(|contender| parts(contender.name)).collect();
        // Without the feature there is nothing to know names from.
        let known = !self.matrix || !COMPOSITIONS.is_empty();
        for name in self.strategies.iter().filter(|_| known) {
            if !names.contains(&name.as_str()) {
                bail!(unknown("contender", name, names.into_iter()));
            }
        }
        let asked = |contender: &&Contender| {
            self.strategies.is_empty()
                || contender.name == REFERENCE
                || self.strategies.iter().any(|name| parts(contender.name).any(|part| part == name))
        };
        Ok(all.into_iter().filter(asked).collect())
    }

    /// How much is to be measured.
    #[must_use]
    pub fn plan(&self) -> Plan {
        let repetitions = if self.quick { 1 } else { 30 };
        Plan {
            repetitions: self.repetitions.map_or(repetitions, |count| count as usize),
            width: self.repetitions.is_none().then_some(self.width / 100.0),
            budget: self.repetitions.is_none().then(|| {
                Duration::from_secs(self.budget.unwrap_or(if self.full { 800 } else { 150 }))
            }),
            limit: self.limit.map(Duration::from_secs),
            least_limit: Duration::from_millis(if self.full { 2000 } else { 500 }),
            slow: Duration::from_millis(if self.full { 2000 } else { 300 }),
            seed: self.seed,
            details: Details {
                latency: self.passes.contains(&Detail::Latency),
                timeline: self.passes.contains(&Detail::Timeline),
                counts: self.passes.contains(&Detail::Counts)
                    || self.passes.contains(&Detail::Costs),
                costs: self.passes.contains(&Detail::Costs),
            },
            part: self.partition,
        }
    }

    /// When a verifying replay is cut off.
    #[must_use]
    pub fn verify_limit(&self) -> Duration {
        Duration::from_secs(self.limit.unwrap_or(120))
    }

    /// How much of the generated workloads is made.
    #[must_use]
    pub fn scale(&self) -> Scale {
        Scale { seed: self.seed, operations: if self.quick { 100_000 } else { 400_000 } }
    }

    /// The peers that could not be built.
    ///
    /// # Errors
    ///
    /// When an entry is not `NAME=REASON`.
    pub fn skipped(&self) -> Result<Skipped> {
        let mut skipped = Skipped::new();
        for entry in &self.skipped {
            let Some((name, reason)) = entry.split_once('=') else {
                bail!("--skipped takes NAME=REASON, not {entry:?}");
            };
            skipped.insert(name.to_owned(), reason.to_owned());
        }
        Ok(skipped)
    }
}

/// The contender of a name that the user typed.
///
/// # Errors
///
/// When there is none; the message lists near matches.
pub fn known_contender(name: &str) -> Result<&'static Contender> {
    let names = registry::contenders().map(|contender| contender.name);
    registry::contender(name).ok_or_else(|| anyhow!(unknown("contender", name, names)))
}

/// What to say about a name that nobody bears.
fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<_> = known.collect();
    let mut near: Vec<_> = known
        .iter()
        .map(|&other| (strsim::jaro_winkler(name, other), other))
        .filter(|(score, _)| *score > 0.7)
        .collect();
    near.sort_by(|one, other| other.0.total_cmp(&one.0));
    let near: Vec<_> = near.into_iter().take(3).map(|(_, name)| name).collect();
    match near.as_slice() {
        [] => format!("there is no {what} {name:?}; there are: {}", known.join(", ")),
        near => format!(
            "there is no {what} {name:?}; did you mean {}? --list shows all",
            near.join(" or ")
        ),
    }
}

/// All workloads and contenders, for `--list`.
#[must_use]
pub fn list() -> String {
    let mut text = String::from("Workloads\n");
    for workload in Workload::recorded().iter().chain(&Workload::generated()) {
        line(&mut text, &workload.name, &workload.about());
    }
    for (kind, heading) in [(Kind::Strategy, "Strategies"), (Kind::Peer, "Peers")] {
        let _ = writeln!(text, "\n{heading}");
        for contender in registry::contenders().filter(|contender| contender.kind == kind) {
            let note = if contender.allocator.is_some() { "" } else { " (not built in)" };
            line(&mut text, contender.name, &format!("{}{note}", contender.about));
        }
    }
    text
}

/// Strategies, policies, backends and peers, for `cargo xtask list`.
#[must_use]
pub fn list_parts() -> String {
    let mut text = String::new();
    let contenders = |list: &'static [Contender]| {
        list.iter().map(|Contender { name, about, .. }| (*name, *about)).collect()
    };
    let parts =
        |list: &'static [Part]| list.iter().map(|Part { name, about }| (*name, *about)).collect();
    let groups: [(&str, Vec<_>); 4] = [
        ("Strategies", contenders(STRATEGIES)),
        ("Policies", parts(POLICIES)),
        ("Backends", parts(BACKENDS)),
        ("Peers", contenders(PEERS)),
    ];
    for (number, (heading, entries)) in groups.into_iter().enumerate() {
        let _ = writeln!(text, "{}{heading}", if number > 0 { "\n" } else { "" });
        entries.into_iter().for_each(|(name, about)| line(&mut text, name, about));
    }
    text
}

fn line(text: &mut String, name: &str, about: &str) {
    let _ = writeln!(text, "  {name:<22} {about}");
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn options(line: &str) -> Options {
        Cli::parse_from(["bench"].into_iter().chain(line.split_whitespace())).options
    }

    #[test]
    fn names_are_taken_apart_and_the_reference_is_added() {
        let contenders = options("--strategies tlsf,best-fit").contenders().unwrap();
        let names: Vec<_> = contenders.iter().map(|contender| contender.name).collect();
        assert_eq!(names, ["tlsf", "best-fit", "glibc"]);
    }

    #[test]
    fn a_mistyped_name_is_answered_with_near_ones() {
        let error = options("--strategies tslf").contenders().err().unwrap().to_string();
        assert!(error.contains("\"tslf\"") && error.contains("did you mean tlsf"), "{error}");
        let error = options("--only paretto").workloads().err().unwrap().to_string();
        assert!(error.contains("did you mean pareto"), "{error}");
        let error = options("--only xxxxxxxx").workloads().err().unwrap().to_string();
        assert!(error.contains("there are: "), "{error}");
    }

    #[test]
    fn a_given_trace_stands_alone_unless_others_are_named() {
        let names = |line: &str| -> Vec<_> {
            options(line).workloads().unwrap().into_iter().map(|workload| workload.name).collect()
        };
        assert_eq!(names("--trace a/x.rep.gz"), ["x"]);
        assert_eq!(names("--trace a/x.rep.gz --only pareto"), ["pareto", "x"]);
        assert_eq!(names("--trace a/x.hwt --trace b/x.hwt"), ["x", "b/x.hwt"]);
        assert_eq!(names("--trace a/larson.hwt --only larson"), ["larson", "a/larson.hwt"]);
        assert!(names("").len() >= 5);
    }

    #[test]
    fn repetitions_override_the_budget() {
        let plan = options("--repetitions 4").plan();
        assert_eq!((plan.repetitions, plan.budget), (4, None));
        assert_eq!(options("--quick").plan().repetitions, 1);
        assert!(options("").plan().budget.is_some_and(|budget| budget < Duration::from_secs(180)));
    }
}
