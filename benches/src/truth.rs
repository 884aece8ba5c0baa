//! Whether replays tell the truth about programs.
//!
//! Each program is run in place, with each contender as its `malloc`; recorded; and its trace is replayed under the same
//! contenders. Two questions are asked. Does the replay under glibc reach the peak of resident memory that the program
//! itself reached? And do program and replay put the contenders into the same order, by time and by memory (Spearman's
//! rank correlation, 1 where they do)?
//!
//! A program's own memory is the most anonymous memory that was resident in one of its processes, looked at every few
//! milliseconds. Stack and data of libraries are in it, so the programs have tens of megabytes of heap. A program does
//! things beside allocating, which dilute the differences in time between contenders down to the noise; memory has no
//! such noise.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use heapwright_trace::record::{self, Which};

use crate::contender::Contender;
use crate::measure::{self, Details, Part, Plan};
use crate::programs;
use crate::registry::{self, REFERENCE};
use crate::statistics::{median, rank_correlation};
use crate::summary::{self, Row, Skipped};
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

/// Contenders that are both built in and there as libraries, and do not search lists.
const NAMES: &[&str] = &[
    REFERENCE,
    "segregated-fit",
    "tlsf",
    "best-fit",
    "first-fit",
    "buddy",
    "kingsley",
    "mimalloc",
    "jemalloc",
    "snmalloc",
    "rpmalloc",
];

/// How often anonymous memory is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// Measures every program that is installed, and prints a line of each.
///
/// # Errors
///
/// When a program cannot be recorded or workers not started.
pub fn run(recorder: &Path, libraries: &Path, rounds: usize, seed: u64) -> Result<()> {
    let _ = programs::find_libraries(libraries);
    let contenders: Vec<&'static Contender> = NAMES
        .iter()
        .filter_map(|name| registry::contender(name))
        .filter(|contender| contender.is_built() && programs::can_run(contender))
        .collect();
    let names: Vec<_> = contenders.iter().map(|contender| contender.name).collect();
    println!("Contenders: {}\n", names.join(", "));
    println!("{:<14} {:>10} {:>10} {:>6}   rank correlation", "", "program's", "replay's", "ratio");
    println!(
        "{:<14} {:>10} {:>10} {:>6}   {:>6} {:>7}",
        "program", "peak, MiB", "peak, MiB", "", "time", "memory"
    );
    let (mut times, mut memories) = (Vec::new(), Vec::new());
    for program in PROGRAMS {
        if find(program.needs).is_none() {
            println!("{:<14} skipped: {} is not installed", program.name, program.needs);
            continue;
        }
        let Told { own, replayed, time, memory } =
            told(program, recorder, &contenders, rounds, seed)
                .with_context(|| program.name.to_owned())?;
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        println!(
            "{:<14} {:>10.1} {:>10.1} {:>6.2}   {:>6.2} {:>7.2}",
            program.name,
            mebibytes(own),
            mebibytes(replayed),
            replayed as f64 / own as f64,
            time.unwrap_or(f64::NAN),
            memory.unwrap_or(f64::NAN),
        );
        times.extend(time);
        memories.extend(memory);
    }
    let middle = |values: &[f64]| median(values).unwrap_or(f64::NAN);
    println!("{:<41}   {:>6.2} {:>7.2}", "median", middle(&times), middle(&memories));
    Ok(())
}

/// What came of one program.
struct Told {
    /// Peaks of resident memory, in bytes, under glibc.
    own: u64,
    replayed: u64,
    /// Rank correlations over contenders.
    time: Option<f64>,
    memory: Option<f64>,
}

fn told(
    program: &Program,
    recorder: &Path,
    contenders: &[&'static Contender],
    rounds: usize,
    seed: u64,
) -> Result<Told> {
    let folder = tempfile::tempdir().context("making a folder for a trace")?;
    let own = peak_of(program.command)?;
    let trace = folder.path().join("program.hwt");
    record(program.command, recorder, &trace)?;
    let workloads = [Workload::program(program.command), Workload::given(&trace)];
    let scale = Scale { seed, operations: 0 };
    let prepared = workloads
        .iter()
        .enumerate()
        .map(|(number, workload)| workload.prepare(scale, folder.path(), number))
        .collect::<Result<Vec<_>>>()?;
    let plan = Plan {
        repetitions: rounds,
        width: None,
        budget: None,
        limit: None,
        least_limit: Duration::from_secs(60),
        slow: Duration::from_secs(60),
        seed,
        details: Details::NONE,
        part: Part::WHOLE,
    };
    let samples = measure::measure(&prepared, contenders, &plan)?;
    let rows =
        summary::summarise(&prepared, contenders, &samples, &Skipped::new(), seed, Part::WHOLE);
    let (whole, replays) = rows.split_at(contenders.len());
    let failed: Vec<_> = rows.iter().filter_map(|row| row.reason.as_deref()).collect();
    ensure!(failed.is_empty(), "{}", failed.join("; "));
    let correlation = |figure: fn(&Row) -> Option<f64>| {
        let of = |rows: &[Row]| rows.iter().map(figure).collect::<Option<Vec<f64>>>();
        rank_correlation(&of(whole)?, &of(replays)?)
    };
    let reference = replays.iter().find(|row| row.contender == REFERENCE);
    let replayed = reference.and_then(|row| row.peak_footprint);
    Ok(Told {
        own,
        replayed: replayed.context("there is no replay under glibc")?,
        time: correlation(|row| row.ns_per_op),
        memory: correlation(|row| row.peak_footprint.map(|bytes| bytes as f64)),
    })
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
