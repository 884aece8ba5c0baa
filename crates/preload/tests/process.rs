//! The hard moments of a process on every strategy: before main and after it, forks with threads, threads that end,
//! libraries that come and go, signals, limits; and the environment variables.

#[allow(dead_code, reason = "each test uses its part")]
mod common;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use common::{Heap, Outcome, STRATEGIES, Strategy, compile, contents, needing, run, statistic};
use libtest_mimic::Failed;
use serde_json::Value;
use tempfile::TempDir;

/// Only what hangs reaches it.
const LIMIT: Duration = Duration::from_secs(60);

/// A program of `tests/c` that checks itself, and its arguments.
struct Moment {
    name: &'static str,
    source: &'static str,
    arguments: fn(Heap) -> Vec<&'static str>,
}

const MOMENTS: &[Moment] = &[
    Moment { name: "thread_local", source: "thread_local.cpp", arguments: |_| vec![] },
    Moment { name: "fork", source: "fork_storm.c", arguments: few },
    Moment { name: "exec", source: "exec.c", arguments: |_| vec![] },
    Moment { name: "many_threads", source: "many_threads.c", arguments: nature },
    Moment { name: "keys", source: "keys.c", arguments: nature },
    Moment { name: "leaves_threads", source: "leaves_threads.c", arguments: |_| vec![] },
    Moment { name: "hand_over", source: "hand_over.c", arguments: few },
    Moment { name: "cancel", source: "cancel.c", arguments: |_| vec![] },
    Moment { name: "alarms", source: "alarms.c", arguments: few },
    Moment { name: "own_break", source: "own_break.c", arguments: |_| vec![] },
    Moment { name: "small_stack", source: "small_stack.c", arguments: |_| vec![] },
    Moment {
        name: "limit_of_addresses",
        source: "limits.c",
        arguments: |heap| [vec!["as"], nature(heap)].concat(),
    },
    Moment {
        name: "limit_of_data",
        source: "limits.c",
        arguments: |heap| [vec!["data"], nature(heap)].concat(),
    },
];

fn nature(heap: Heap) -> Vec<&'static str> {
    match heap {
        Heap::System => vec!["--system"],
        _ if heap.frees() => vec![],
        _ => vec!["--never-frees"],
    }
}

fn few(heap: Heap) -> Vec<&'static str> {
    if heap.frees() { vec![] } else { vec!["--few"] }
}

fn main() -> ExitCode {
    let mut tests = Vec::new();
    for heap in Heap::all() {
        let mut add = |name: &str, test: fn(Heap) -> Result<(), Failed>| {
            let name = format!("{name}::{}", heap.name());
            tests.push(needing(&["cc"], name, move || test(heap)));
        };
        add("early", constructors_and_destructors_allocate);
        add("load", libraries_come_and_go);
        for moment in MOMENTS {
            let compiler = if moment.source.ends_with("cpp") { "c++" } else { "cc" };
            let name = format!("{}::{}", moment.name, heap.name());
            tests.push(needing(&[compiler], name, move || passes(heap, moment)));
        }
    }
    for strategy in &STRATEGIES {
        let mut add = |name: &str, test: fn(&'static Strategy) -> Result<(), Failed>| {
            let name = format!("{name}::{}", strategy.name);
            tests.push(needing(&["cc"], name, move || test(strategy)));
        };
        add("stats", statistics_are_printed_at_exit);
        add("stats_with_closed_error", statistics_survive_a_closed_standard_error);
        add("output", each_process_has_its_file);
        add("map", the_heap_map_is_printed_as_text_and_as_json);
        add("check", invariants_are_verified_at_exit);
        add("signal", a_signal_prints_at_any_moment);
        add("empty", no_variable_prints_nothing);
        add("bad_value", a_bad_value_is_named_with_the_good_ones);
        add("combined", everything_together);
        if strategy.checked {
            add("misuse", a_double_free_does_what_was_chosen);
        }
    }
    common::main(tests)
}

/// Runs a command of which nothing is expected but that it ends well and finds no failure.
fn finds_nothing(mut command: Command, heap: Heap) -> Result<Outcome, Failed> {
    if let Heap::Ours(_) = heap {
        command.env("HEAPWRIGHT_CHECK", "1");
    }
    let outcome = run(command, b"", LIMIT)?.exits(0)?;
    outcome.require(outcome.stdout().contains("0 failures\n"), "it did not come to its end")?;
    outcome.require(outcome.stderr.is_empty(), "it says something on standard error")?;
    Ok(outcome)
}

fn passes(heap: Heap, moment: &Moment) -> Result<(), Failed> {
    let mut command = heap.command(compile(moment.source, &[])?);
    command.args((moment.arguments)(heap));
    finds_nothing(command, heap).map(drop)
}

fn library(source: &'static str) -> Result<PathBuf, Failed> {
    compile(source, &["-shared", "-fPIC"])
}

/// Of the program, of a library with an earlier priority, of `atexit` and of threads.
fn constructors_and_destructors_allocate(heap: Heap) -> Result<(), Failed> {
    let library = library("early_library.c")?.display().to_string();
    let program = compile("early.c", &[&library])?;
    let outcome = finds_nothing(heap.command(program), heap)?;
    let expected = "main ends\n0 failures\nthe program ends\nthe library ends\n";
    outcome.require(outcome.stdout() == expected, "not everything ran, or in another order")
}

fn libraries_come_and_go(heap: Heap) -> Result<(), Failed> {
    let library = library("plugin.c")?;
    let mut command = heap.command(compile("load.c", &["-ldl"])?);
    command.arg(library);
    finds_nothing(command, heap).map(drop)
}

/// A run of `variables.c` with these variables.
fn variables(
    strategy: &'static Strategy,
    arguments: &[&str],
    variables: &[(&str, &str)],
) -> Result<Outcome, Failed> {
    let mut command = Heap::Ours(strategy).command(compile("variables.c", &[])?);
    command.args(arguments).envs(variables.iter().copied());
    run(command, b"", LIMIT)
}

/// A directory, and the path of a file in it.
fn file(name: &str) -> (TempDir, String) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join(name).display().to_string();
    (directory, path)
}

/// The texts of the reports, each from its heading on.
fn reports(text: &str, strategy: &Strategy) -> Vec<String> {
    let heading = format!("heapwright: {}: process ", strategy.name);
    text.split(heading.as_str()).skip(1).map(|report| format!("{heading}{report}")).collect()
}

/// What is true of the statistics of a program that has done something.
fn is_plausible(report: &str) -> Result<(), Failed> {
    let value = |key: &str| {
        statistic(report, key).ok_or_else(|| Failed::from(format!("no {key} in\n{report}")))
    };
    let keys = ["live_bytes", "free_bytes", "cached_bytes", "overhead"];
    let sum = keys.iter().map(|key| value(key)).sum::<Result<u64, Failed>>()?;
    let footprint = value("footprint")?;
    if value("live_blocks")? == 0 || value("live_bytes")? < 500_000 || sum != footprint {
        return Err(format!("the parts are {sum} bytes:\n{report}").into());
    }
    if value("peak_footprint")? < footprint || value("misuses")? != 0 {
        return Err(format!("not plausible:\n{report}").into());
    }
    // Lines of a name and a number, and nothing else.
    for line in report.lines().skip(1) {
        let mut words = line.split(' ');
        let name = words.next().is_some_and(|name| !name.is_empty());
        let number = words.next().is_some_and(|number| number.parse::<u64>().is_ok());
        if !name || !number || words.next().is_some() {
            return Err(format!("a line of the statistics is {line:?}").into());
        }
    }
    Ok(())
}

fn statistics_are_printed_at_exit(strategy: &'static Strategy) -> Result<(), Failed> {
    let outcome = variables(strategy, &["leave"], &[("HEAPWRIGHT_STATS", "1")])?.exits(0)?;
    let text = outcome.stderr();
    let reports = reports(&text, strategy);
    outcome.require(reports.len() == 1 && text == reports[0], "there is one report")?;
    is_plausible(&reports[0])
}

fn statistics_survive_a_closed_standard_error(strategy: &'static Strategy) -> Result<(), Failed> {
    let outcome = variables(strategy, &["closes"], &[("HEAPWRIGHT_STATS", "1")])?.exits(0)?;
    let text = outcome.stderr();
    outcome.require(reports(&text, strategy).len() == 1, "there is one report")?;
    is_plausible(&text)
}

fn each_process_has_its_file(strategy: &'static Strategy) -> Result<(), Failed> {
    let (directory, path) = file("of-%p.txt");
    let settings = [("HEAPWRIGHT_STATS", "1"), ("HEAPWRIGHT_OUTPUT", &path)];
    let outcome = variables(strategy, &["forks"], &settings)?.exits(0)?;
    outcome.require(outcome.stderr.is_empty(), "it says something on standard error")?;
    let files = contents(directory.path());
    outcome.require(files.len() == 2, &format!("two files, not {files:?}"))?;
    for (name, text) in files {
        let text = String::from_utf8_lossy(&text);
        let heading = text.lines().next().unwrap_or_default();
        let process = heading.strip_prefix(&format!("heapwright: {}: process ", strategy.name));
        let expected = process.map(|process| format!("of-{process}.txt"));
        outcome.require(
            name.to_str() == expected.as_deref(),
            &format!("{} holds {heading:?}", name.display()),
        )?;
        is_plausible(&text)?;
    }
    // Without `%p` both write into the same file, one after the other; a path may be relative.
    let (directory, _) = file("");
    let mut command = Heap::Ours(strategy).command(compile("variables.c", &[])?);
    command.arg("forks").current_dir(directory.path());
    command.env("HEAPWRIGHT_STATS", "1").env("HEAPWRIGHT_OUTPUT", "both");
    let outcome = run(command, b"", LIMIT)?.exits(0)?;
    let text = fs::read_to_string(directory.path().join("both"))
        .map_err(|error| outcome.failure(&format!("no file: {error}")))?;
    outcome.require(reports(&text, strategy).len() == 2, &format!("two reports, not:\n{text}"))
}

fn the_heap_map_is_printed_as_text_and_as_json(strategy: &'static Strategy) -> Result<(), Failed> {
    let outcome = variables(strategy, &["leave"], &[("HEAPWRIGHT_MAP", "text")])?.exits(0)?;
    let text = outcome.stderr();
    outcome.require(reports(&text, strategy).len() == 1, "there is one report")?;
    let blocks = text.lines().filter(|line| line.trim_start().starts_with("0x")).count();
    outcome.require(blocks > 50, &format!("it lists {blocks} blocks"))?;
    outcome.require(text.contains("state"), "it has no headings")?;

    let settings = [("HEAPWRIGHT_MAP", "json"), ("HEAPWRIGHT_STATS", "1")];
    let outcome = variables(strategy, &["leave"], &settings)?.exits(0)?;
    let report: Value = serde_json::from_str(&outcome.stderr())
        .map_err(|error| outcome.failure(&format!("it is not JSON: {error}")))?;
    outcome.require(report["strategy"] == strategy.name, "it names the strategy")?;
    outcome.require(report["process"].as_u64().is_some(), "it names the process")?;
    let blocks = report["map"].as_array().map(Vec::as_slice).unwrap_or_default();
    let sum = |field: &str, states: &[&str]| -> u64 {
        let counted = blocks
            .iter()
            .filter(|block| block["state"].as_str().is_some_and(|state| states.contains(&state)));
        counted.filter_map(|block| block[field].as_u64()).sum()
    };
    // The program stands still, so the sums are those of the statistics.
    let live = sum("size", &["used", "mapped"]);
    outcome.require(
        report["stats"]["live_bytes"] == live && live > 500_000,
        &format!("the blocks in use have {live} bytes"),
    )?;
    outcome.require(
        report["stats"]["free_bytes"] == sum("size", &["free", "wilderness"]),
        "the free blocks have other bytes than the statistics say",
    )
}

fn invariants_are_verified_at_exit(strategy: &'static Strategy) -> Result<(), Failed> {
    let check = [("HEAPWRIGHT_CHECK", "1")];
    let outcome = variables(strategy, &["leave"], &check)?.exits(0)?;
    outcome.require(outcome.stderr.is_empty(), "it says something of a heap that is whole")?;
    let outcome = variables(strategy, &["corrupts"], &check)?;
    if WITHOUT_HEADERS.contains(&strategy.name) {
        // What was overwritten is nothing that this strategy relies on.
        return outcome.exits(0).map(drop);
    }
    outcome.require(aborted(&outcome), "a broken heap should end by SIGABRT")?;
    let start = format!("heapwright: {}: process ", strategy.name);
    let text = outcome.stderr();
    outcome.require(text.starts_with(&start) && text.lines().count() == 1, "one line says why")
}

/// Strategies that keep everything in tables of their own, which an overflow does not reach.
const WITHOUT_HEADERS: [&str; 3] = ["thread-cached", "thread-cached-checked", "buddy"];

fn aborted(outcome: &Outcome) -> bool {
    use std::os::unix::process::ExitStatusExt;
    outcome.status.signal() == Some(libc::SIGABRT)
}

fn a_signal_prints_at_any_moment(strategy: &'static Strategy) -> Result<(), Failed> {
    for (name, number) in [("USR1", libc::SIGUSR1), ("SIGUSR2", libc::SIGUSR2), ("28", 28)] {
        let number = number.to_string();
        let (_directory, path) = file("reports");
        let settings = [("HEAPWRIGHT_SIGNAL", name), ("HEAPWRIGHT_OUTPUT", path.as_str())];
        let outcome = variables(strategy, &["signals", &number], &settings)?.exits(0)?;
        outcome.require(outcome.stdout() == "went on\n", "it did not go on")?;
        let text = fs::read_to_string(&path)
            .map_err(|error| outcome.failure(&format!("no reports: {error}")))?;
        let reports = reports(&text, strategy);
        // Three while the program was quiet, fifty more while it was not, of which some may have met; none at exit.
        outcome.require(
            (4..=53).contains(&reports.len()),
            &format!("{} reports for {name}", reports.len()),
        )?;
        for report in &reports {
            is_plausible(report)?;
        }
    }
    Ok(())
}

fn no_variable_prints_nothing(strategy: &'static Strategy) -> Result<(), Failed> {
    let none = ["STATS", "MAP", "CHECK", "SIGNAL", "OUTPUT", "ON_MISUSE"];
    let none = none.map(|name| format!("HEAPWRIGHT_{name}"));
    for settings in [Vec::new(), none.iter().map(|name| (name.as_str(), "")).collect()] {
        let outcome = variables(strategy, &["leave"], &settings)?.exits(0)?;
        outcome.require(outcome.stderr.is_empty(), "it says something that nobody asked for")?;
    }
    Ok(())
}

fn a_bad_value_is_named_with_the_good_ones(strategy: &'static Strategy) -> Result<(), Failed> {
    let cases: [(&str, &str, &[&str]); 7] = [
        ("HEAPWRIGHT_STATS", "yes", &["1", "0"]),
        ("HEAPWRIGHT_MAP", "xml", &["text", "json"]),
        ("HEAPWRIGHT_CHECK", "2", &["1", "0"]),
        ("HEAPWRIGHT_SIGNAL", "USR3", &["USR1", "USR2", "HUP", "WINCH"]),
        ("HEAPWRIGHT_SIGNAL", "9", &["USR1", "USR2"]),
        ("HEAPWRIGHT_SIGNAL", "-1", &["USR1", "USR2"]),
        ("HEAPWRIGHT_ON_MISUSE", "ignore", &["abort", "report", "count"]),
    ];
    for (name, value, accepted) in cases {
        let outcome = variables(strategy, &["leave"], &[(name, value)])?.exits(0)?;
        let text = outcome.stderr();
        outcome.require(text.lines().count() == 1, "one line, and nothing else is printed")?;
        for word in [&["heapwright: ", name, value], accepted].concat() {
            outcome.require(text.contains(word), &format!("the message does not name {word}"))?;
        }
    }
    // A value of any length, with anything in it, is no danger.
    let long = "x".repeat(100_000);
    for name in ["STATS", "MAP", "CHECK", "SIGNAL", "OUTPUT", "ON_MISUSE"] {
        let name = format!("HEAPWRIGHT_{name}");
        let outcome = variables(strategy, &["leave"], &[(&name, &long)])?.exits(0)?;
        outcome.require(outcome.stderr().contains(&name), "the message does not name it")?;
    }
    Ok(())
}

fn everything_together(strategy: &'static Strategy) -> Result<(), Failed> {
    let (directory, path) = file("all-%p-%p");
    let settings = [
        ("HEAPWRIGHT_STATS", "1"),
        ("HEAPWRIGHT_MAP", "text"),
        ("HEAPWRIGHT_CHECK", "1"),
        ("HEAPWRIGHT_SIGNAL", "USR1"),
        ("HEAPWRIGHT_OUTPUT", &path),
        ("HEAPWRIGHT_ON_MISUSE", "report"),
    ];
    let signal = libc::SIGUSR1.to_string();
    let outcome = variables(strategy, &["signals", &signal], &settings)?.exits(0)?;
    outcome.require(outcome.stderr.is_empty(), "it says something on standard error")?;
    let files = contents(directory.path());
    outcome.require(files.len() == 1, "there is one file")?;
    let text = String::from_utf8_lossy(&files[0].1).into_owned();
    let reports = reports(&text, strategy);
    outcome.require((4..=53).contains(&reports.len()), &format!("{} reports", reports.len()))?;
    for report in reports {
        let blocks = report.lines().filter(|line| line.trim_start().starts_with("0x")).count();
        outcome.require(blocks > 50, &format!("it lists {blocks} blocks"))?;
        outcome.require(statistic(&report, "footprint") > Some(0), "it has no statistics")?;
    }
    Ok(())
}

fn a_double_free_does_what_was_chosen(strategy: &'static Strategy) -> Result<(), Failed> {
    let message = |outcome: &Outcome| {
        let text = outcome.stderr();
        let mut lines = text.lines();
        lines.any(|line| line.starts_with("heapwright: ") && line.contains("free"))
    };
    for settings in [&[][..], &[("HEAPWRIGHT_ON_MISUSE", "abort")]] {
        let outcome = variables(strategy, &["double-free"], settings)?;
        outcome.require(aborted(&outcome), "it should end by SIGABRT")?;
        outcome.require(message(&outcome), "it should say why")?;
        outcome.require(outcome.stdout.is_empty(), "it should not have gone on")?;
    }
    let (_directory, path) = file("statistics");
    let counted = |choice| {
        let settings = [
            ("HEAPWRIGHT_ON_MISUSE", choice),
            ("HEAPWRIGHT_STATS", "1"),
            ("HEAPWRIGHT_CHECK", "1"),
            ("HEAPWRIGHT_OUTPUT", path.as_str()),
        ];
        let outcome = variables(strategy, &["double-free"], &settings)?.exits(0)?;
        outcome.require(outcome.stdout() == "went on\n", "it should have gone on")?;
        let text = fs::read_to_string(&path).unwrap_or_default();
        outcome.require(
            statistic(&text, "misuses") == Some(1),
            &format!("one misuse is counted, not as in\n{text}"),
        )?;
        Ok::<Outcome, Failed>(outcome)
    };
    let outcome = counted("report")?;
    outcome.require(message(&outcome), "it should say what it found")?;
    let outcome = counted("count")?;
    outcome.require(outcome.stderr.is_empty(), "it should be silent")
}
