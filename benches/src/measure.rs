//! Measuring: which samples are taken, in which order, each by a worker in a fresh process.
//!
//! 1. Every pair of workload and contender is timed once. All contenders of a workload follow each other in random
//!    order, so that what the machine does meanwhile hits them alike. The reference is timed before, among and after
//!    them; its time also says when the others are cut off.
//! 2. The footprint of every pair is taken. It does not depend on time, so as many workers run as there are
//!    processors. A pair that is slow, or so large that the high-water mark from its timing is exact enough, is not
//!    run again for it.
//! 3. Pairs are timed again, round after round, in an order shuffled anew, until the 95 % interval of their ratio to the
//!    reference is as narrow as was asked for, or the time budget is used up. Where it does not suffice for all, pairs
//!    that take long get fewer samples.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;

use crate::contender::{Contender, Kind};
use crate::footprint::tolerance;
use crate::passes::costs;
use crate::programs;
use crate::progress::Progress;
use crate::registry::REFERENCE;
use crate::statistics::{LEAST_ROUNDS, Timing, ratio_interval};
use crate::worker::{COMMAND, Finding, Pass};
use crate::workload::Prepared;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Timings of each pair at most.
    pub repetitions: usize,
    /// A pair whose interval is narrower than this share of its ratio is not timed again, once it was timed in
    /// [`LEAST_ROUNDS`] rounds; `None` for as many timings as may be.
    pub width: Option<f64>,
    /// After this long no further round is begun; `None` for as long as it takes.
    pub budget: Option<Duration>,
    /// A replay that takes more processor time is cut off there; `None` for `least_limit`, or [`LIMIT_FACTOR`] times what
    /// the reference takes if that is more.
    pub limit: Option<Duration>,
    /// No replay is cut off before, if nothing is said.
    pub least_limit: Duration,
    /// A replay that took longer than this is not run again for its footprint alone, nor for details.
    pub slow: Duration,
    /// Seeds the order.
    pub seed: u64,
    /// What is measured beside time and footprint.
    pub details: Details,
    /// Which pairs are measured.
    pub part: Part,
}

impl Plan {
    /// So many rounds of everything, in which what takes longer than `limit` is cut off, and nothing but time and
    /// footprint.
    #[must_use]
    pub fn rounds(repetitions: usize, limit: Duration, seed: u64) -> Self {
        Self {
            repetitions,
            width: None,
            budget: None,
            limit: Some(limit),
            least_limit: Duration::ZERO,
            slow: limit,
            seed,
            details: Details::NONE,
            part: Part::WHOLE,
        }
    }
}

/// Passes beside those for time and footprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Details {
    /// How long single calls take.
    pub latency: bool,
    /// The footprint over time, taken apart.
    pub timeline: bool,
    /// Page faults, system calls, instructions.
    pub counts: bool,
    /// Instructions, cache misses and atomic operations, by callgrind.
    pub costs: bool,
}

impl Details {
    /// None of them.
    pub const NONE: Self = Self { latency: false, timeline: false, counts: false, costs: false };
}

/// A part of all pairs: the `number`-th of `of`, from 1. The reference, which ratios need, is in every part that has
/// another contender on its workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Which part, from 1.
    pub number: usize,
    /// How many parts there are.
    pub of: usize,
}

impl Part {
    /// All of it.
    pub const WHOLE: Self = Self { number: 1, of: 1 };

    /// Whether a pair is in this part.
    #[must_use]
    pub fn has(self, pair: Pair, contenders: &[&'static Contender]) -> bool {
        let own = |contender: usize| {
            (pair.workload * contenders.len() + contender) % self.of == self.number - 1
        };
        let is_reference = |contender: usize| contenders[contender].name == REFERENCE;
        let others = || (0..contenders.len()).any(|other| !is_reference(other) && own(other));
        own(pair.contender) || is_reference(pair.contender) && others()
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(number, of)| {
            Some(Self { number: number.parse().ok()?, of: of.parse().ok()? })
        });
        parts
            .filter(|part| (1..=part.of).contains(&part.number))
            .ok_or_else(|| format!("{text:?} is no part; the second of four is 2/4"))
    }
}

/// A workload and a contender, by their places in the lists that were given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pair {
    /// The workload's place.
    pub workload: usize,
    /// The contender's place.
    pub contender: usize,
}

/// One finding of one worker.
#[derive(Debug, Clone)]
pub struct Sample {
    /// What ran.
    pub pair: Pair,
    /// In which round of timings; zero for other passes.
    pub round: usize,
    /// What was found.
    pub finding: Finding,
}

/// No program is ended before.
pub const PROGRAM_LIMIT: Duration = Duration::from_secs(120);

/// How many times slower than the reference a contender may be.
pub const LIMIT_FACTOR: u32 = 20;

/// Takes all samples of all pairs that can run.
///
/// # Errors
///
/// When workers cannot be started at all. What goes wrong within a worker is a finding.
pub fn measure(
    workloads: &[Prepared],
    contenders: &[&'static Contender],
    plan: &Plan,
) -> Result<Vec<Sample>> {
    let start = Instant::now();
    let least = |prepared: &Prepared| match prepared.program {
        Some(_) => PROGRAM_LIMIT,
        None => plan.least_limit,
    };
    let limits = workloads.iter().map(|it| plan.limit.unwrap_or_else(|| least(it))).collect();
    let mut run = Run { workloads, contenders, limits, program: this_program()? };
    let mut random = Xoshiro256PlusPlus::seed_from_u64(plan.seed);
    let mut states: Vec<State> = pairs(workloads, contenders, plan.part).map(State::new).collect();
    let is_reference = |pair: Pair| contenders[pair.contender].name == REFERENCE;
    let mut samples = Vec::new();

    let progress = Progress::new(2 * states.len() as u64);
    let all: Vec<usize> = (0..states.len()).collect();
    let round = order(&all, &states, &is_reference, &mut random);
    progress.expect((round.len() - all.len()) as u64);
    for index in round {
        if interrupted() {
            break;
        }
        progress.step("timing, round 1", || run.time(&mut states[index], 1, &mut samples))?;
        let State { pair, .. } = states[index];
        if plan.limit.is_none() && is_reference(pair) {
            let limit = &mut run.limits[pair.workload];
            *limit = (*limit).max(LIMIT_FACTOR * states[index].cost());
        }
    }

    let is_floor = |pair: &Pair| contenders[pair.contender].kind == Kind::Floor;
    let inexact: Vec<Pair> = states
        .iter()
        .filter(|state| state.needs_footprint(plan.slow))
        .map(|state| state.pair)
        .filter(|pair| !is_floor(pair))
        .collect();
    progress.advance((states.len() - inexact.len()) as u64);
    samples.extend(run.each(&inexact, Pass::Footprint, "footprint", processors(), &progress)?);

    let quick: Vec<Pair> = states
        .iter()
        .filter(|state| !state.over && state.cost() < plan.slow)
        .filter(|state| workloads[state.pair.workload].program.is_none())
        .map(|state| state.pair)
        .collect();
    let Details { latency, timeline, counts, costs } = plan.details;
    for (wanted, pass, what) in [
        (latency, Pass::Latency, "latency"),
        (timeline, Pass::Timeline, "footprint over time"),
        (counts, Pass::Counts, "counts"),
        (costs, Pass::Costs, "costs, by callgrind"),
    ] {
        if wanted {
            // The harness's own costs are known by themselves; of the rest it has nothing.
            let has_this = |pair: &Pair| pass == Pass::Costs || !is_floor(pair);
            let pairs: Vec<Pair> = quick.iter().copied().filter(has_this).collect();
            progress.expect(pairs.len() as u64);
            // A clock inside wants the processor for itself.
            let workers = if pass == Pass::Latency { 1 } else { processors() };
            samples.extend(run.each(&pairs, pass, what, workers, &progress)?);
        }
    }

    for round in 2..=plan.repetitions {
        if interrupted() {
            break;
        }
        let left = plan.budget.map(|budget| budget.saturating_sub(start.elapsed()));
        // First of all, every pair should come to an interval.
        let rounds_left = LEAST_ROUNDS.min(plan.repetitions).saturating_sub(round).max(1) as u32;
        let unsure =
            plan.width.map_or_else(|| all.clone(), |width| unsure(&states, &is_reference, width));
        let chosen = affordable(&states, &unsure, left.map(|left| left / rounds_left));
        if chosen.is_empty() {
            break;
        }
        let chosen = order(&chosen, &states, &is_reference, &mut random);
        progress.expect(chosen.len() as u64);
        let what = format!("timing, round {round}");
        for index in chosen {
            if interrupted() {
                break;
            }
            progress.step(&what, || run.time(&mut states[index], round, &mut samples))?;
        }
    }
    progress.finish();
    Ok(samples)
}

/// Verifies every pair that can run.
///
/// # Errors
///
/// When workers cannot be started at all.
pub fn verify(
    workloads: &[Prepared],
    contenders: &[&'static Contender],
    limit: Duration,
) -> Result<Vec<Sample>> {
    let limits = vec![limit; workloads.len()];
    let run = Run { workloads, contenders, limits, program: this_program()? };
    let pairs: Vec<_> = pairs(workloads, contenders, Part::WHOLE).collect();
    let progress = Progress::new(pairs.len() as u64);
    let samples = run.each(&pairs, Pass::Verify, "verifying", processors(), &progress);
    progress.finish();
    samples
}

/// All pairs that can run.
fn pairs<'a>(
    workloads: &'a [Prepared],
    contenders: &'a [&'static Contender],
    part: Part,
) -> impl Iterator<Item = Pair> + 'a {
    workloads.iter().enumerate().flat_map(move |(workload, prepared)| {
        let fit = move |contender: &&Contender| {
            let there = match prepared.program {
                Some(_) => programs::can_run(contender),
                None => contender.is_built(),
            };
            there && contender.unfit_for(&prepared.facts).is_none()
        };
        let able = contenders.iter().enumerate().filter(move |(_, contender)| fit(contender));
        able.map(move |(contender, _)| Pair { workload, contender })
            .filter(move |&pair| part.has(pair, contenders))
    })
}

/// What is known of a pair while measuring.
struct State {
    pair: Pair,
    /// How long its workers ran, together.
    spent: Duration,
    /// Whole timings.
    samples: u32,
    timings: Vec<Timing>,
    /// It failed or was cut off; no use to try again.
    over: bool,
    /// The high-water mark of a timing is as exact as a pass for the footprint would be.
    has_footprint: bool,
}

impl State {
    fn new(pair: Pair) -> Self {
        Self {
            pair,
            spent: Duration::ZERO,
            samples: 0,
            timings: Vec::new(),
            over: false,
            has_footprint: false,
        }
    }

    fn cost(&self) -> Duration {
        self.spent / self.samples.max(1)
    }

    fn needs_footprint(&self, slow: Duration) -> bool {
        !self.over && !self.has_footprint && self.cost() < slow
    }
}

/// The pairs whose interval is wider than a share of their ratio, and the references that they are compared with.
fn unsure(states: &[State], is_reference: &impl Fn(Pair) -> bool, width: f64) -> Vec<usize> {
    let mut unsure: Vec<usize> = (0..states.len())
        .filter(|&index| {
            let State { pair, timings, .. } = &states[index];
            let reference = states
                .iter()
                .find(|state| state.pair.workload == pair.workload && is_reference(state.pair));
            let Some(reference) = reference.filter(|_| !is_reference(*pair)) else { return false };
            let rounds = timings.len();
            let interval = ratio_interval(timings, &reference.timings, rounds as u64);
            rounds < LEAST_ROUNDS
                || interval.is_none_or(|[low, high]| high - low > width * low.midpoint(high))
        })
        .collect();
    let workloads: BTreeSet<usize> =
        unsure.iter().map(|&index| states[index].pair.workload).collect();
    unsure.extend((0..states.len()).filter(|&index| {
        let pair = states[index].pair;
        is_reference(pair) && workloads.contains(&pair.workload)
    }));
    unsure
}

/// Which of these pairs to time once more, if a round may take so long: the cheapest first.
fn affordable(states: &[State], among: &[usize], allowance: Option<Duration>) -> Vec<usize> {
    let mut candidates: Vec<usize> =
        among.iter().copied().filter(|&index| !states[index].over).collect();
    candidates.sort_by_key(|&index| states[index].cost());
    let mut sum = Duration::ZERO;
    candidates
        .into_iter()
        .take_while(|&index| {
            sum += states[index].cost();
            allowance.is_none_or(|allowance| sum <= allowance)
        })
        .collect()
}

/// A random order in which all contenders of a workload follow each other. The reference, on which all ratios depend,
/// comes first, in the middle and last.
fn order(
    indexes: &[usize],
    states: &[State],
    is_reference: &impl Fn(Pair) -> bool,
    random: &mut Xoshiro256PlusPlus,
) -> Vec<usize> {
    let workload = |index: usize| states[index].pair.workload;
    let mut indexes = indexes.to_vec();
    indexes.sort_by_key(|&index| workload(index));
    let mut groups: Vec<Vec<usize>> = indexes
        .chunk_by(|&one, &other| workload(one) == workload(other))
        .map(<[_]>::to_vec)
        .collect();
    groups.shuffle(random);
    let mut order = Vec::new();
    for mut group in groups {
        group.shuffle(random);
        let (references, others): (Vec<_>, Vec<_>) =
            group.into_iter().partition(|&index| is_reference(states[index].pair));
        let (early, late) = others.split_at(others.len() / 2);
        order.extend([&references, early, &references, late, &references].into_iter().flatten());
    }
    order
}

fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Whether the user wants to see what there is, and no more.
#[must_use]
pub fn interrupted() -> bool {
    INTERRUPTED.load(Relaxed)
}

/// From now on, the first interrupt (Ctrl-C) ends the measuring, so that what there is can be reported; the second
/// ends the program.
///
/// # Errors
///
/// When the system does not let signals be caught.
pub fn heed_interrupts() -> Result<()> {
    ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Relaxed) {
            std::process::exit(130);
        }
        eprintln!("\ninterrupted; reporting what was measured so far (once more to give up)");
    })
    .context("catching interrupts")
}

fn this_program() -> Result<PathBuf> {
    std::env::current_exe().context("finding this program's own file, to run it as a worker")
}

struct Run<'a> {
    workloads: &'a [Prepared],
    contenders: &'a [&'static Contender],
    /// When a replay is cut off, for each workload.
    limits: Vec<Duration>,
    program: PathBuf,
}

impl Run<'_> {
    /// One worker, from its start to its end.
    fn work(&self, pair: Pair, pass: Pass) -> Result<Sample> {
        let script = &self.workloads[pair.workload].script;
        let contender = self.contenders[pair.contender];
        let limit = match pass {
            Pass::Costs => costs::LIMIT,
            _ => self.limits[pair.workload],
        };
        let finding = match &self.workloads[pair.workload].program {
            Some(command) => programs::run(&self.program, command, contender, limit)?,
            None => work(&self.program, script, contender.name, pass, limit)?,
        };
        Ok(Sample { pair, round: 0, finding })
    }

    fn time(&self, state: &mut State, round: usize, samples: &mut Vec<Sample>) -> Result<()> {
        let start = Instant::now();
        let sample = Sample { round, ..self.work(state.pair, Pass::Time)? };
        if interrupted() {
            // The worker was, too.
            return Ok(());
        }
        state.spent += start.elapsed();
        match sample.finding {
            Finding::Time { partial: false, nanoseconds, footprint, footprint_error, .. } => {
                state.samples += 1;
                state.timings.push(Timing { round, value: nanoseconds as f64 });
                state.has_footprint = footprint_error <= tolerance(footprint);
            }
            _ => state.over = true,
        }
        samples.push(sample);
        Ok(())
    }

    /// One worker for each pair, so many at a time.
    fn each(
        &self,
        pairs: &[Pair],
        pass: Pass,
        what: &str,
        workers: usize,
        progress: &Progress,
    ) -> Result<Vec<Sample>> {
        let next = AtomicUsize::new(0);
        let samples = Mutex::new(Vec::new());
        let work = || -> Result<()> {
            while let Some(&pair) = pairs.get(next.fetch_add(1, Relaxed)) {
                let sample = progress.step(what, || self.work(pair, pass))?;
                if interrupted() {
                    break;
                }
                samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
            }
            Ok(())
        };
        thread::scope(|scope| {
            let running: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            running.into_iter().try_for_each(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })?;
        Ok(samples.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

/// When a worker has hung: its limit is of processor time, of which it may get little on a machine that does other
/// things; and at the end of the limit it still has to notice, to verify what is live, and to answer.
fn patience(limit: Duration) -> Duration {
    5 * limit + Duration::from_secs(30)
}

/// Starts a worker and waits for its finding. A crash and a hang are findings too.
///
/// # Errors
///
/// When the worker cannot be started.
pub fn work(
    program: &Path,
    script: &Path,
    contender: &str,
    pass: Pass,
    limit: Duration,
) -> Result<Finding> {
    let child = Command::new(program)
        .arg(COMMAND)
        .arg(script)
        .args([contender, pass.name(), &limit.as_millis().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting a worker: {}", program.display()))?;
    let failed = |reason| Ok(Finding::Failed { reason });
    let Some(end) = wait(child, patience(limit))? else {
        return failed(format!("hung: no answer within {} s", patience(limit).as_secs()));
    };
    if !end.status.success() {
        return failed(in_words(end.status, &end.errors));
    }
    match serde_json::from_str(&end.output) {
        Ok(finding) => Ok(finding),
        Err(_) => failed(format!("ended without an answer: {}", last_line(&end.errors))),
    }
}

/// How a worker ended.
struct End {
    status: ExitStatus,
    output: String,
    errors: String,
}

/// Waits for a process, and kills it after `limit`; `None` if that was necessary.
fn wait(mut child: Child, limit: Duration) -> Result<Option<End>> {
    let (mut output, mut errors) = (child.stdout.take(), child.stderr.take());
    let (sender, ended) = channel();
    // Both pipes are at their end when the process is: no need to look at the clock again and again.
    let reader = thread::spawn(move || {
        let errors = thread::spawn(move || read(&mut errors));
        let output = read(&mut output);
        let _ = sender.send(());
        (output, errors.join().unwrap_or_default())
    });
    let in_time = ended.recv_timeout(limit) != Err(RecvTimeoutError::Timeout);
    if !in_time {
        child.kill().context("killing a worker that hangs")?;
    }
    let status = child.wait().context("waiting for a worker")?;
    let (output, errors) = reader.join().unwrap_or_default();
    Ok(in_time.then_some(End { status, output, errors }))
}

fn read(pipe: &mut Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // What could be read before an error is worth more than the error.
        let _ = pipe.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn last_line(text: &str) -> &str {
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing")
}

/// What an exit status means, and the last that was said.
fn in_words(status: ExitStatus, errors: &str) -> String {
    let how = match status.signal() {
        Some(signal) => format!("killed by signal {signal} ({})", signal_name(signal)),
        None => format!("ended with {status}"),
    };
    let hint = match status.signal() {
        Some(libc::SIGKILL) => "; most likely the machine ran out of memory",
        _ => "",
    };
    if errors.trim().is_empty() {
        format!("{how}{hint}")
    } else {
        format!("{how}{hint}: {}", last_line(errors))
    }
}

/// As the C library calls it: "Segmentation fault".
fn signal_name(signal: i32) -> String {
    // SAFETY: the text is a constant, or lives until the next call in this thread; it is copied at once.
    unsafe {
        let text = libc::strsignal(signal);
        if text.is_null() {
            "unknown".to_owned()
        } else {
            std::ffi::CStr::from_ptr(text).to_string_lossy().into_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Child {
        Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    #[test]
    fn a_crash_is_told_in_words() {
        let end = wait(shell("echo one >&2; echo two >&2; kill -SEGV $$"), Duration::from_secs(60))
            .unwrap()
            .unwrap();
        let words = in_words(end.status, &end.errors);
        assert_eq!(words, "killed by signal 11 (Segmentation fault): two");
        let end = wait(shell("exit 3"), Duration::from_secs(60)).unwrap().unwrap();
        assert_eq!(in_words(end.status, &end.errors), "ended with exit status: 3");
    }

    #[test]
    fn a_hang_is_ended() {
        let start = Instant::now();
        assert!(wait(shell("exec sleep 100"), Duration::from_millis(200)).unwrap().is_none());
        assert!(start.elapsed() < Duration::from_secs(50));
    }

    #[test]
    fn an_answer_that_is_none_is_a_failure() {
        let program = Path::new("/bin/true");
        let finding =
            work(program, Path::new("x"), "x", Pass::Time, Duration::from_secs(1)).unwrap();
        assert_eq!(
            finding,
            Finding::Failed { reason: "ended without an answer: it said nothing".into() }
        );
        assert!(work(Path::new("/nowhere"), program, "x", Pass::Time, Duration::ZERO).is_err());
    }

    fn states(milliseconds: &[u64]) -> Vec<State> {
        let state = |(workload, &spent)| State {
            spent: Duration::from_millis(spent),
            samples: 1,
            ..State::new(Pair { workload, contender: 0 })
        };
        milliseconds.iter().enumerate().map(state).collect()
    }

    #[test]
    fn when_time_is_short_the_cheap_pairs_are_repeated() {
        let mut states = states(&[300, 10, 5000, 20]);
        let all = [0, 1, 2, 3];
        assert_eq!(affordable(&states, &all, Some(Duration::from_millis(331))), [1, 3, 0]);
        assert_eq!(affordable(&states, &all, Some(Duration::from_millis(29))), [1]);
        assert_eq!(affordable(&states, &all, None), [1, 3, 0, 2]);
        assert_eq!(affordable(&states, &[2, 3], None), [3, 2]);
        states[3].over = true;
        assert_eq!(affordable(&states, &all, Some(Duration::from_millis(29))), [1]);
        assert!(affordable(&states, &all, Some(Duration::ZERO)).is_empty());
    }

    #[test]
    fn parts_share_all_pairs_and_each_has_its_references() {
        let contenders: Vec<_> = crate::registry::contenders().collect();
        let reference = contenders.iter().position(|it| it.name == REFERENCE).unwrap();
        let parts: Vec<Part> = ["1/3", "2/3", "3/3"].map(|text| text.parse().unwrap()).to_vec();
        for workload in 0..5 {
            for contender in 0..contenders.len() {
                let pair = Pair { workload, contender };
                let of = parts.iter().filter(|part| part.has(pair, &contenders));
                let expected = if contender == reference { 3 } else { 1 };
                assert_eq!(of.count(), expected, "{pair:?}");
            }
        }
        for wrong in ["0/3", "4/3", "1", "a/b", "1/0"] {
            assert!(wrong.parse::<Part>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_sure_is_not_timed_again() {
        let timed = |workload, contender, values: [f64; 6]| State {
            timings: (1..).zip(values).map(|(round, value)| Timing { round, value }).collect(),
            ..State::new(Pair { workload, contender })
        };
        let (calm, rough) = ([10.0; 6], [8.0, 12.0, 9.0, 11.0, 7.0, 13.0]);
        let states = [
            timed(0, 0, calm),
            timed(0, 1, calm),
            timed(1, 0, calm),
            timed(1, 1, rough),
            timed(1, 2, calm),
        ];
        let is_reference = |pair: Pair| pair.contender == 0;
        assert_eq!(unsure(&states, &is_reference, 0.03), [3, 2]);
        assert!(unsure(&states, &is_reference, 3.0).is_empty());
    }

    #[test]
    fn contenders_of_a_workload_follow_each_other_in_changing_order() {
        let pair = |workload, contender| State::new(Pair { workload, contender });
        let states: Vec<_> = (0..5)
            .flat_map(|workload| (0..9).map(move |contender| pair(workload, contender)))
            .collect();
        let all: Vec<usize> = (0..states.len()).collect();
        let mut random = Xoshiro256PlusPlus::seed_from_u64(5);
        let is_reference = |pair: Pair| pair.contender == 4;
        let mut orders: Vec<_> =
            (0..2).map(|_| order(&all, &states, &is_reference, &mut random)).collect();
        assert_ne!(orders[0], orders[1]);
        for order in &mut orders {
            for group in order.chunks(11) {
                let pairs: Vec<Pair> = group.iter().map(|&index| states[index].pair).collect();
                assert!(pairs.iter().all(|pair| pair.workload == pairs[0].workload));
                let references: Vec<_> =
                    (0..11).filter(|&place| is_reference(pairs[place])).collect();
                assert_eq!(references, [0, 5, 10]);
            }
            order.sort();
            order.dedup();
            assert_eq!(*order, all);
        }
    }
}
