//! Whether replays tell the truth about programs.
//!
//! Each program is run in place, with each contender as its `malloc`; recorded; and its trace is replayed under the same
//! contenders. Three questions are asked:
//!
//! - Does the replay under glibc reach the peak of resident memory that the program itself reached?
//! - Do program and replay put the contenders into the same order, by time and by memory (Spearman's rank correlation)?
//!   And how many of the pairs of contenders that the program tells apart does the replay put in its order? Contenders
//!   whose difference in the program is noise have no order that a replay could tell: by time, those whose ratio has an
//!   interval that includes one; by memory, those that differ by less than one part in a hundred.
//! - Over all programs and contenders, how do the ratios to glibc correlate, program against replay?
//!
//! Contenders are those whose library and whose part of the harness are built from the same source: all strategies that
//! serve every size, and glibc. Libraries of peers that a system comes with are of other versions than those built in,
//! with other defaults, so they would compare one allocator with another. What takes more than four times as
//! long as the program takes on its own is left out of that program, and named: its place would be last in both.
//!
//! A program's time is processor time, in the kernel too, of all its processes. A program does things beside
//! allocating, which dilute the differences between contenders, and where blocks lie changes how fast the program's own
//! work is: no replay has that. Its own memory is the most anonymous memory that was resident in one of its processes,
//! looked at every few milliseconds; under contenders it is the most that was resident of any (`ru_maxrss`). Stack and
//! data of libraries are in it, so the programs have tens of megabytes of heap.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use heapwright_trace::record::{self, Which};

use crate::contender::{Contender, Kind};
use crate::measure::{self, Pair, Part, Plan, Sample};
use crate::programs;
use crate::registry::{self, REFERENCE};
use crate::statistics::{
    Difference, Timing, correlation, median, rank_correlation, ratio_interval, typical,
};
use crate::summary::{self, Skipped, Status};
use crate::worker::Finding;
use crate::workload::{Scale, Workload};

/// A program that does something with tens of megabytes from `malloc`.
struct Program {
    name: &'static str,
    /// What must be installed.
    needs: &'static str,
    /// For `sh`, in a folder of its own.
    command: &'static str,
}

const PROGRAMS: &[Program] = &[
    Program {
        name: "python-json",
        needs: "python3",
        command: "PYTHONMALLOC=malloc exec python3 -c \"
import json
rows = [{'id': i, 'name': 'row %d' % i, 'tags': ['a%d' % (i % 97), 'b']} for i in range(60000)]
text = json.dumps(rows)
back = json.loads(text)
print(len(text), sum(row['id'] for row in back))\"",
    },
    Program {
        name: "python-words",
        needs: "python3",
        command: "PYTHONMALLOC=malloc exec python3 -c \"
import re, collections
text = ' '.join('word%d of %d' % (i * 7919 % 50021, i % 613) for i in range(200000))
words = re.findall('[a-z]+[0-9]*', text)
count = collections.Counter(words)
index = {}
for place, word in enumerate(words):
    index.setdefault(word, []).append(place)
print(len(words), count.most_common(1), max(len(places) for places in index.values()))\"",
    },
    Program {
        name: "perl-hash",
        needs: "perl",
        command: "exec perl -e '
my %h; for my $i (0..250000) { $h{\"key\" . ($i * 7919 % 250007)} = [\"value $i\", $i]; }
my @k = sort { $h{$a}[1] <=> $h{$b}[1] } keys %h;
delete @h{@k[0..100000]}; my $s = join(\",\", map { $_->[0] } values %h); print length($s), \"\\n\";'",
    },
    Program {
        name: "lua-tables",
        needs: "lua5.4",
        command: "exec lua5.4 -e '
local t = {} for i = 1, 300000 do t[i] = { id = i, name = \"item \" .. i, next = t[i - 1] } end
local s = {} for i = 1, #t, 3 do s[#s + 1] = t[i].name:upper() .. i end
for i = 1, #t, 2 do t[i] = nil end
table.sort(s) print(#s, s[1], collectgarbage(\"count\") > 0)'",
    },
    Program {
        name: "sqlite-index",
        needs: "sqlite3",
        command: "exec sqlite3 :memory: \"
create table t(id integer primary key, name text, value real);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 200000)
insert into t select i, 'name ' || (i * 7919 % 200003), i * 1.5 from n;
create index by_name on t(name);
select count(*), max(value) from t a where name > 'name 5';
select count(*) from (select substr(name, 1, 7) k, group_concat(id) from t group by k);\"",
    },
    Program {
        name: "jq-json",
        needs: "jq",
        command: "exec jq -n '[range(60000) | {id: ., name: \"row \\(.)\", tags: [\"a\", \"b\\(. % 97)\"]}]
| group_by(.tags[1]) | map({key: .[0].tags[1], value: length}) | from_entries | length'",
    },
    Program {
        name: "mawk-count",
        needs: "mawk",
        command: "exec mawk 'BEGIN { for (i = 0; i < 300000; i++) { k = \"key\" (i * 7919 % 150011); n[k]++; s[k] = s[k] \"x\" }
for (k in n) { m += n[k]; l += length(s[k]) } print m, l }'",
    },
];

/// What takes so many times as long as a program on its own is left out.
const PATIENCE: u32 = 4;

/// Footprints that differ by a smaller share are taken for equal.
const SAME_MEMORY: f64 = 0.01;

/// For how long one program and its replays are run, in the end.
const BUDGET: Duration = Duration::from_secs(60);

/// How often anonymous memory is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// Measures every program that is installed, and prints a line of each.
///
/// # Errors
///
/// When a program cannot be recorded or workers not started.
pub fn run(recorder: &Path, libraries: &Path, rounds: usize, seed: u64) -> Result<()> {
    let _ = programs::find_libraries(libraries);
    let same_source =
        |contender: &&Contender| contender.kind == Kind::Strategy || contender.name == REFERENCE;
    let contenders: Vec<&'static Contender> = registry::contenders()
        .filter(same_source)
        .filter(|contender| contender.is_built() && programs::can_run(contender))
        .collect();
    let names: Vec<_> = contenders.iter().map(|contender| contender.name).collect();
    println!("Contenders: {}\n", names.join(", "));
    println!("{}", HEADING.join("\n"));
    let mut all = Vec::new();
    for program in PROGRAMS {
        if find(program.needs).is_none() {
            println!("{:<14} skipped: {} is not installed", program.name, program.needs);
            continue;
        }
        let told = told(program, recorder, &contenders, rounds, seed)
            .with_context(|| program.name.to_owned())?;
        println!("{}", told.line(program.name));
        all.push(told);
    }
    print!("{}", overall(&all));
    Ok(())
}

/// Above the lines of programs, which are written by [`Told::line`].
const HEADING: [&str; 2] = [
    "               peak, MiB            requests    time             memory",
    "program        program replay ratio   per \u{b5}s     rank     pairs    rank     pairs",
];

/// What came of one program.
struct Told {
    /// Peaks of resident memory, in bytes, under glibc.
    own: u64,
    replayed: u64,
    /// How often it asks, for each microsecond of its own time under glibc.
    rate: f64,
    time: Orders,
    memory: Orders,
    /// Contenders that did not run, and why.
    left_out: Vec<String>,
}

impl Told {
    fn line(&self, name: &str) -> String {
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let Self { own, replayed, rate, time, memory, left_out } = self;
        let mut line = format!(
            "{name:<14} {:>7.1} {:>6.1} {:>5.2} {rate:>8.2}   {time}   {memory}",
            mebibytes(*own),
            mebibytes(*replayed),
            *replayed as f64 / *own as f64,
        );
        for reason in left_out {
            line.push_str(&format!("\n  without {reason}"));
        }
        line
    }
}

/// How a program and the replay of its trace order contenders.
struct Orders {
    /// Figures over glibc's, in the program and in the replay, of all others.
    ratios: Vec<[f64; 2]>,
    /// Spearman's correlation, glibc among them.
    rank: Option<f64>,
    /// Pairs of contenders that the program tells apart, and of these, those that the replay orders likewise.
    apart: usize,
    agreed: usize,
}

impl Orders {
    /// From figures in the program and in the replay, for each contender.
    fn of(
        figures: &[[f64; 2]],
        reference: usize,
        told_apart: impl Fn(usize, usize) -> bool,
    ) -> Self {
        let [program, replay] =
            [0, 1].map(|side| -> Vec<f64> { figures.iter().map(|figure| figure[side]).collect() });
        let over = |values: &[f64], at: usize| values[at] / values[reference];
        let others = (0..figures.len()).filter(|&at| at != reference);
        let pairs = (0..figures.len()).flat_map(|one| (0..one).map(move |other| (one, other)));
        let apart: Vec<_> = pairs.filter(|&(one, other)| told_apart(one, other)).collect();
        let alike = |&&(one, other): &&(usize, usize)| {
            (program[one] < program[other]) == (replay[one] < replay[other])
        };
        Self {
            ratios: others.map(|at| [over(&program, at), over(&replay, at)]).collect(),
            rank: rank_correlation(&program, &replay),
            apart: apart.len(),
            agreed: apart.iter().filter(alike).count(),
        }
    }
}

impl fmt::Display for Orders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rank, apart, agreed, .. } = self;
        let pairs = format!("{agreed} of {apart}");
        write!(f, "{:>5.2}  {pairs:>8}", rank.unwrap_or(f64::NAN))
    }
}

/// What there is to say of all programs together.
fn overall(all: &[Told]) -> String {
    let mut text = String::new();
    let mut say = |what: &str, orders: fn(&Told) -> &Orders| {
        let of_all: Vec<&Orders> = all.iter().map(orders).collect();
        let ranks: Vec<f64> = of_all.iter().filter_map(|orders| orders.rank).collect();
        let sum = |count: fn(&Orders) -> usize| of_all.iter().map(|it| count(it)).sum::<usize>();
        let (apart, agreed) = (sum(|it| it.apart), sum(|it| it.agreed));
        let [program, replay] = [0, 1].map(|side| -> Vec<f64> {
            of_all.iter().flat_map(|it| &it.ratios).map(|ratio| ratio[side].ln()).collect()
        });
        text.push_str(&format!(
            "\n{what}: rank correlation {:.2} (median of programs); {agreed} of {apart} pairs that programs tell apart, \
             {:.0} %;\n  logarithms of {} ratios to {REFERENCE}: correlation {:.2}, of ranks {:.2}\n",
            median(&ranks).unwrap_or(f64::NAN),
            100.0 * agreed as f64 / apart.max(1) as f64,
            program.len(),
            correlation(&program, &replay).unwrap_or(f64::NAN),
            rank_correlation(&program, &replay).unwrap_or(f64::NAN),
        ));
    };
    say("Time", |told| &told.time);
    say("Memory", |told| &told.memory);
    text
}

fn told(
    program: &Program,
    recorder: &Path,
    contenders: &[&'static Contender],
    rounds: usize,
    seed: u64,
) -> Result<Told> {
    let folder = tempfile::tempdir().context("making a folder for a trace")?;
    let start = Instant::now();
    let own = peak_of(program.command)?;
    let patience = (PATIENCE * start.elapsed()).max(Duration::from_secs(1));
    let trace = folder.path().join("program.hwt");
    record(program.command, recorder, &trace)?;
    let workloads = [Workload::program(program.command), Workload::given(&trace)];
    let scale = Scale { seed, operations: 0 };
    let prepared = Workload::prepare_all(&workloads, scale, folder.path())?;
    let plan = Plan { budget: Some(BUDGET), ..Plan::rounds(rounds, patience, seed) };
    let samples = measure::measure(&prepared, contenders, &plan)?;
    let rows =
        summary::summarise(&prepared, contenders, &samples, &Skipped::new(), seed, Part::WHOLE);
    let (whole, replays) = rows.split_at(contenders.len());
    let mut left_out = Vec::new();
    let (mut timings, mut times, mut memories) = (Vec::new(), Vec::new(), Vec::new());
    let mut reference = None;
    for (place, (whole, replay)) in whole.iter().zip(replays).enumerate() {
        let unfinished = [("", whole), ("the replay: ", replay)]
            .into_iter()
            .find(|(_, row)| row.status != Status::Measured);
        if let Some((which, row)) = unfinished {
            let reason = row.reason.as_deref().unwrap_or_default();
            left_out.push(format!("{}: {which}{reason}", row.contender));
            continue;
        }
        if whole.contender == REFERENCE {
            reference = Some((times.len(), replay));
        }
        let of_program = processor_times(&samples, Pair { workload: 0, contender: place });
        let values: Vec<f64> = of_program.iter().map(|timing| timing.value).collect();
        let time = typical(&values).zip(replay.ns_per_op);
        let memory = whole.peak_footprint.zip(replay.peak_footprint);
        let ((time, replay_time), (held, replay_held)) = time
            .zip(memory)
            .with_context(|| format!("{}: figures are missing", whole.contender))?;
        timings.push(of_program);
        times.push([time, replay_time]);
        memories.push([held as f64, replay_held as f64]);
    }
    let (reference, replay) = reference.context("it does not run under glibc")?;
    let differ = |one: usize, other: usize| {
        ratio_interval(&timings[one], &timings[other], seed)
            .is_some_and(|interval| Difference::shown_by(interval) != Difference::NoneShown)
    };
    let hold_more =
        |one: usize, other: usize| (memories[one][0] / memories[other][0]).ln().abs() > SAME_MEMORY;
    Ok(Told {
        own,
        replayed: replay.peak_footprint.context("there is no replay under glibc")?,
        rate: replay.operations as f64 / times[reference][0] * 1000.0,
        time: Orders::of(&times, reference, differ),
        memory: Orders::of(&memories, reference, hold_more),
        left_out,
    })
}

/// What the runs of a program took.
fn processor_times(samples: &[Sample], pair: Pair) -> Vec<Timing> {
    let time = |sample: &Sample| match sample.finding {
        Finding::Time { processor: Some(processor), .. } => {
            Some(Timing { round: sample.round, value: processor as f64 })
        }
        _ => None,
    };
    samples.iter().filter(|sample| sample.pair == pair).filter_map(time).collect()
}

fn record(command: &str, recorder: &Path, trace: &Path) -> Result<()> {
    // The output of the program is of no interest, and the shell hands over to it.
    let command: Vec<OsString> =
        vec!["sh".into(), "-c".into(), format!("exec >/dev/null\n{command}").into()];
    let recording = record::record(&command, recorder, &record::Options::default())?;
    ensure!(recording.status().success(), "recorded, it ended with {}", recording.status());
    recording.write(trace, Which::Largest, &mut |_| ())?;
    Ok(())
}

/// The most anonymous memory that any process of a program had at once, in bytes.
fn peak_of(command: &str) -> Result<u64> {
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .env_remove("LD_PRELOAD")
        .process_group(0)
        .spawn()
        .context("starting sh")?;
    let mut peak = 0;
    while child.try_wait().context("waiting for a program")?.is_none() {
        peak = family(&child).into_iter().filter_map(anonymous).fold(peak, u64::max);
        thread::sleep(LOOK);
    }
    ensure!(child.wait()?.success(), "it fails");
    ensure!(peak > 0, "it ended before it could be looked at");
    Ok(peak)
}

/// A process and its children, and theirs.
fn family(child: &Child) -> Vec<u32> {
    let mut all = vec![child.id()];
    let mut next = 0;
    while let Some(process) = all.get(next) {
        let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
        all.extend(
            children.unwrap_or_default().split_whitespace().filter_map(|id| id.parse::<u32>().ok()),
        );
        next += 1;
    }
    all
}

/// Anonymous resident memory of a process, in bytes.
fn anonymous(process: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

/// Where a program is.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_program_does_not_tell_apart_is_not_asked_of_the_replay() {
        // The replay has the last two the other way round; the program has them within its noise.
        let figures = [[10.0, 100.0], [5.0, 60.0], [20.0, 300.0], [20.1, 290.0]];
        let orders = Orders::of(&figures, 0, |one, other| {
            (figures[one][0] / figures[other][0]).ln().abs() > 0.02
        });
        assert_eq!((orders.apart, orders.agreed), (5, 5));
        assert_eq!(orders.ratios[0], [0.5, 0.6]);
        assert!((orders.rank.unwrap() - 0.8).abs() < 1e-9);
        assert_eq!(Orders::of(&figures, 0, |_, _| true).agreed, 5);
    }

    #[test]
    fn a_programs_peak_is_seen_while_it_lasts() {
        if find("perl").is_none() {
            eprintln!("skipped: perl is not installed");
            return;
        }
        // Perl may keep a second copy, as a constant.
        let peak = peak_of(
            "perl -e 'my $x = \"x\" x 30_000_000; $x = undef; select undef, undef, undef, 0.1'",
        );
        let peak = peak.unwrap();
        assert!((30_000_000..90_000_000).contains(&peak), "{peak}");
        assert!(peak_of("exit 3").is_err());
    }
}
