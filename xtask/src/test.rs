//! `cargo xtask test`: everything that CI runs, with a plain summary at the end.

use std::collections::BTreeSet;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use heapwright_benches::registry::{PEERS, STRATEGIES};
use indicatif::HumanDuration;
use serde_json::Value;

use crate::bench::Harness;
use crate::cargo::cargo;

/// A step, and what came of it.
struct Outcome {
    name: &'static str,
    result: Result<()>,
    took: Duration,
}

/// Runs all steps; one that fails does not keep the others from running. The harness takes longest to build, of which its
/// last crate and the linker need only one processor, so it is built beside all else that is only built.
pub(crate) fn test() -> Result<ExitCode> {
    let start = Instant::now();
    let mut building = Some(thread::spawn(Harness::build));
    let mut outcomes = Vec::new();
    let mut step = |name: &'static str, step: &mut dyn FnMut() -> Result<()>| {
        eprintln!("\n==> {name}");
        let start = Instant::now();
        let result = step();
        if let Err(error) = &result {
            eprintln!("error: {error:#}");
        }
        outcomes.push(Outcome { name, result, took: start.elapsed() });
    };
    step("formatting", &mut || run(cargo().args(["fmt", "--all", "--check"])));
    step("lints", &mut || {
        run(cargo().args(["clippy", "--workspace", "--all-targets"]).args([
            "--features",
            "heapwright-benches/matrix",
            "--",
            "--deny",
            "warnings",
        ]))
    });
    step("documentation", &mut || {
        run(cargo()
            .args(["doc", "--workspace", "--no-deps"])
            .env("RUSTDOCFLAGS", "--deny warnings"))
    });
    step("building the tests", &mut || run(cargo().args(["test", "--workspace", "--no-run"])));
    let mut harness = None;
    step("waiting for the harness with its peers", &mut || {
        let built = building.take().and_then(|building| building.join().ok());
        harness = Some(built.context("building it panicked")??);
        Ok(())
    });
    step("tests", &mut || run(cargo().args(["test", "--workspace", "--no-fail-fast"])));
    let built = || harness.as_ref().context("the harness was not built");
    step("verified replays", &mut || {
        let names: Vec<_> = STRATEGIES.iter().map(|strategy| strategy.name).collect();
        run(built()?.command().args(["--verify", "--strategies", &names.join(",")]))
    });
    step("a short benchmark", &mut || smoke(built()?));

    eprintln!();
    let failed = outcomes.iter().filter(|outcome| outcome.result.is_err()).count();
    for Outcome { name, result, took } in &outcomes {
        let word = if result.is_ok() { "ok    " } else { "FAILED" };
        println!("{word} {name} ({:.1} s)", took.as_secs_f64());
    }
    println!(
        "\ntest result: {}. {} steps passed; {failed} failed; finished in {}",
        if failed == 0 { "ok" } else { "FAILED" },
        outcomes.len() - failed,
        HumanDuration(start.elapsed())
    );
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run(command: &mut Command) -> Result<()> {
    let status =
        command.status().with_context(|| format!("running {:?}", command.get_program()))?;
    ensure!(status.success(), "it ended with {status}");
    Ok(())
}

/// One workload of each nature, recorded and generated, of one thread and of several. That strategies replay the others is
/// verified before.
const SHORT: &str = "gcc,redis,python-threads@threads,fixed-64,producer-consumer";

/// `bench --quick` on some workloads, whose rows must all be there and none failed.
fn smoke(harness: &Harness) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let json = folder.path().join("results.json");
    run(harness.command().args(["--quick", "--only", SHORT]).arg("--json").arg(&json))?;
    let text = std::fs::read_to_string(&json)?;
    let rows: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let failed: Vec<_> = rows
        .iter()
        .filter(|row| row["ok"] != true)
        .map(|row| format!("{} on {}: {}", row["contender"], row["workload"], row["reason"]))
        .collect();
    ensure!(failed.is_empty(), "rows failed: {}", failed.join("; "));
    let measured: BTreeSet<&str> = rows
        .iter()
        .filter(|row| row["ns_per_op"].as_f64().is_some_and(|time| time > 0.0))
        .filter(|row| row["peak_footprint"].as_u64().is_some_and(|bytes| bytes > 0))
        .filter_map(|row| row["contender"].as_str())
        .collect();
    let skipped: BTreeSet<&str> = harness.skipped.iter().map(|(name, _)| name.as_str()).collect();
    let missing: Vec<_> = STRATEGIES
        .iter()
        .chain(PEERS)
        .map(|contender| contender.name)
        .filter(|name| !measured.contains(name) && !skipped.contains(name))
        .collect();
    ensure!(missing.is_empty(), "no figures of {}", missing.join(", "));
    Ok(())
}
