//! `heapwright-bench`: compares contenders on workloads. `cargo xtask bench` builds and runs it.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use heapwright_benches::cli::{
    self, Exports, MergeOptions, Options, ReplayOptions, ReproduceOptions, TruthOptions,
};
use heapwright_benches::contender::Contender;
use heapwright_benches::environment::Environment;
use heapwright_benches::measure::{self, Part, Plan, Sample};
use heapwright_benches::passes::costs;
use heapwright_benches::registry::FLOOR;
use heapwright_benches::summary::{self, Row, Status};
use heapwright_benches::worker::{self, Finding, Pass};
use heapwright_benches::workload::{Prepared, Scale, Workload};
use heapwright_benches::{baseline, json, programs, report, reproduce, self_test, table, truth};
use indicatif::{HumanBytes, HumanCount, HumanDuration};

/// Compare allocators on recorded and generated workloads.
///
/// Prints two tables: time relative to glibc, and peak footprint over peak live bytes. Every sample is taken in a
/// process of its own. A contender that crashes or hangs fails in its row and does not stop the run.
#[derive(Parser)]
#[command(name = "heapwright-bench", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Replay one trace under one contender and print what came of it
    Replay(ReplayOptions),

    /// Find out whether replays tell the truth: programs against the replays of their traces
    Truth(TruthOptions),

    /// Measure again what the literature found, and say whether the figures agree
    Reproduce(ReproduceOptions),

    /// Put together results that were measured in parts, with --partition
    Merge(MergeOptions),
}

fn main() -> ExitCode {
    // First of all, and without clap, whose memory would come from the heap that the glibc row measures.
    let mut arguments = std::env::args_os().skip(1);
    let first = arguments.next();
    let is = |command: &str| first.as_deref().is_some_and(|first| first == command);
    let result = if is(worker::COMMAND) {
        worker::main(arguments).map(|()| true)
    } else if is(programs::COMMAND) {
        programs::main(arguments).map(|()| true)
    } else {
        let cli = Cli::parse();
        match &cli.command {
            Some(Command::Replay(options)) => replay(options),
            Some(Command::Merge(options)) => merge(options),
            Some(Command::Truth(options)) => truth(options),
            Some(Command::Reproduce(options)) => {
                caution();
                reproduce::run(options.seed).map(|()| true)
            }
            None => bench(&cli.options),
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Says what makes footprints tell less here; tables say it themselves.
fn caution() {
    if let Some(caution) = Environment::now().caution() {
        eprintln!("{caution}");
    }
}

/// `false` when a verification found something.
fn bench(options: &Options) -> Result<bool> {
    if options.list {
        print!("{}", cli::list());
        return Ok(true);
    }
    if options.self_test {
        return self_test::run(
            options.repetitions.map_or(100, |count| count as usize),
            options.seed,
        );
    }
    // What cannot be read is better known before minutes of measuring.
    let then = options.baseline.as_deref().map(json::read).transpose()?;
    let environment = Environment::now();
    measure::heed_interrupts()?;
    let (workloads, mut contenders, skipped) =
        (options.workloads()?, options.contenders()?, options.skipped()?);
    if !options.verify {
        contenders.push(&FLOOR);
    }
    let folder = tempfile::tempdir().context("making a folder for compiled workloads")?;
    let scale = options.scale();
    let prepared = Workload::prepare_all(&workloads, scale, folder.path())?;
    let samples = if options.verify {
        measure::verify(&prepared, &contenders, options.verify_limit())?
    } else {
        let plan = options.plan();
        if plan.details.costs {
            costs::available()?;
        }
        eprintln!("{}", announcement(prepared.len(), contenders.len(), &plan));
        measure::measure(&prepared, &contenders, &plan)?
    };
    let part = if options.verify { Part::WHOLE } else { options.partition };
    let mut rows =
        summary::summarise(&prepared, &contenders, &samples, &skipped, options.seed, part);
    for row in &mut rows {
        row.environment = Some(environment.clone());
    }
    if let Some(path) = &options.json {
        json::write(&rows, path)?;
    }
    export(&rows, &options.exports)?;
    if options.verify {
        print!("{}", verdict(&rows, &samples));
        return Ok(rows.iter().all(|row| row.ok));
    }
    print!("{}", table::render(&rows));
    write_report(&rows, &options.exports)?;
    let Some(then) = then else { return Ok(true) };
    if let Some(caution) = baseline::caution(&rows, &then) {
        println!("\n{caution}");
    }
    let changes = baseline::compare(&rows, &then);
    print!("{}", baseline::render(&changes));
    Ok(!changes.iter().any(|change| change.worse))
}

/// What is about to be measured, and how long that takes.
fn announcement(workloads: usize, contenders: usize, plan: &Plan) -> String {
    let what = format!("{workloads} workloads under {contenders} contenders");
    match plan.budget {
        Some(budget) => format!(
            "{what}: about {} in all, or less where intervals are soon narrow; more only if the first round takes longer",
            HumanDuration(budget)
        ),
        None => format!("{what}, {} times each", plan.repetitions),
    }
}

/// Programs against the replays of their traces.
fn truth(options: &TruthOptions) -> Result<bool> {
    let recorder = options.recorder.as_deref().context("`cargo xtask truth` knows the recorder")?;
    caution();
    let libraries = options.libraries.as_deref().unwrap_or(Path::new("target/preload"));
    truth::run(recorder, libraries, options.repetitions as usize, options.seed)?;
    Ok(true)
}

/// Puts together what was measured in parts.
fn merge(options: &MergeOptions) -> Result<bool> {
    let mut rows: Vec<Row> = Vec::new();
    for path in &options.results {
        for row in json::read(path)? {
            let same = |known: &&mut Row| {
                known.workload == row.workload && known.contender == row.contender
            };
            match rows.iter_mut().find(same) {
                // The reference was measured with every part.
                Some(known) if known.samples < row.samples => *known = row,
                Some(_) => {}
                None => rows.push(row),
            }
        }
    }
    let machines: BTreeSet<_> = rows
        .iter()
        .filter_map(|row| row.environment.as_ref())
        .map(|it| (&it.machine, &it.kernel, &it.huge_pages, &it.compiler, &it.commit))
        .collect();
    if machines.len() > 1 {
        eprintln!("note: the parts come from {} different environments:", machines.len());
        for (machine, kernel, huge_pages, compiler, commit) in machines {
            let huge_pages = if huge_pages.is_empty() { "unknown" } else { huge_pages };
            eprintln!(
                "  {machine}; {kernel}, huge pages: {huge_pages}; {compiler}; commit {commit}"
            );
        }
    }
    if let Some(path) = &options.json {
        json::write(&rows, path)?;
    }
    export(&rows, &options.exports)?;
    print!("{}", table::render(&rows));
    write_report(&rows, &options.exports)?;
    Ok(true)
}

/// The same rows for spreadsheets and for documents.
fn export(rows: &[Row], exports: &Exports) -> Result<()> {
    if let Some(path) = &exports.csv {
        let write = || report::export::csv(rows, File::create(path)?);
        write().with_context(|| format!("writing {}", path.display()))?;
    }
    if let Some(path) = &exports.markdown {
        std::fs::write(path, report::export::markdown(rows))
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// Writes the report, and says where it is.
fn write_report(rows: &[Row], exports: &Exports) -> Result<()> {
    // Cargo puts this program into PROFILE of its target folder.
    let this = std::env::current_exe().context("finding this program's own file")?;
    let target = this.ancestors().nth(2).unwrap_or(Path::new("target"));
    let folder = exports.report.clone().unwrap_or_else(|| target.join("heapwright/report"));
    let path = folder.join("index.html");
    // Where `cargo bench` leaves what the policies cost, if it was ever run.
    let criterion = Some(target.join("criterion")).filter(|folder| folder.is_dir());
    report::write(rows, criterion.as_deref(), &path)?;
    println!("\nReport: {}", path.display());
    Ok(())
}

/// What a verification of many pairs has to say.
fn verdict(rows: &[Row], samples: &[Sample]) -> String {
    let mut text = String::new();
    for row in rows.iter().filter(|row| row.status != Status::Measured) {
        let word = match row.status {
            Status::Failed => "FAILED",
            Status::Slow => "slow",
            Status::Unfit | Status::Skipped | Status::Measured => "not run",
        };
        let reason = row.reason.as_deref().unwrap_or_default();
        text.push_str(&format!("{word}: {} on {}: {reason}\n", row.contender, row.workload));
    }
    let (mut operations, mut checks) = (0, 0);
    for sample in samples {
        if let Finding::Verified { operations: more, checks: more_checks, .. } = sample.finding {
            operations += more;
            checks += more_checks;
        }
    }
    let count = |status| rows.iter().filter(|row| row.status == status).count();
    text.push_str(&format!(
        "verified {} replays, {} operations, {} checks of whole heaps: {} failed\n",
        count(Status::Measured),
        HumanCount(operations),
        HumanCount(checks),
        count(Status::Failed)
    ));
    text
}

/// `false` when the replay failed.
fn replay(options: &ReplayOptions) -> Result<bool> {
    let contender = cli::known_contender(&options.strategy)?;
    ensure!(
        contender.allocator.is_some(),
        "{} is not built into this binary; build it with `--features {0}`",
        contender.name
    );
    let folder = tempfile::tempdir().context("making a folder for the compiled trace")?;
    let scale = Scale { seed: 0, operations: 0 };
    let prepared = Workload::given(&options.trace).prepare(scale, folder.path(), 0)?;
    let facts = &prepared.facts;
    println!(
        "{}: {} operations, at most {} in {} objects live",
        prepared.name,
        HumanCount(facts.operations),
        HumanBytes(facts.peak_live),
        HumanCount(facts.peak_objects)
    );
    if let Some(reason) = contender.unfit_for(facts) {
        println!("{} cannot run it: {reason}", contender.name);
        return Ok(true);
    }
    let passes: &[Pass] = if options.verify {
        &[Pass::Verify]
    } else {
        caution();
        &[Pass::Time, Pass::Footprint]
    };
    let mut well = true;
    for &pass in passes {
        well &= one(contender, &prepared, pass, Duration::from_secs(options.limit))?;
    }
    Ok(well)
}

fn one(contender: &Contender, prepared: &Prepared, pass: Pass, limit: Duration) -> Result<bool> {
    let program = std::env::current_exe().context("finding this program's own file")?;
    let finding =
        measure::work(&program, Path::new(&prepared.script), contender.name, pass, limit)?;
    let name = contender.name;
    let cut = |partial| if partial { " (cut off at the time limit)" } else { "" };
    match finding {
        Finding::Time { operations, nanoseconds, partial, .. } => {
            let each = nanoseconds as f64 / operations.max(1) as f64;
            let time = Duration::from_nanos(nanoseconds);
            println!("{name}: {each:.1} ns per operation, {time:.1?} in all{}", cut(partial));
        }
        Finding::Footprint { footprint, footprint_error, partial } => {
            let ratio = footprint as f64 / prepared.facts.peak_live.max(1) as f64;
            println!(
                "{name}: peak footprint {} (within {}), {ratio:.3} of peak live bytes{}",
                HumanBytes(footprint),
                HumanBytes(footprint_error),
                cut(partial)
            );
        }
        Finding::Verified { operations, checks, partial } => {
            let (operations, checks) = (HumanCount(operations), HumanCount(checks));
            println!(
                "{name}: verified {operations} operations, {checks} checks of the whole heap{}",
                cut(partial)
            );
        }
        found @ (Finding::Latency { .. }
        | Finding::Timeline { .. }
        | Finding::Counts { .. }
        | Finding::Costs { .. }) => {
            println!("{name}: {}", serde_json::to_string(&found)?);
        }
        Finding::Failed { reason } => {
            println!("{name}: FAILED: {reason}");
            return Ok(false);
        }
    }
    Ok(true)
}
