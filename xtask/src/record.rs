//! `cargo xtask record`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use heapwright_trace::record::{self as recorder, Which};
use indicatif::{HumanBytes, HumanCount, ProgressBar};

use crate::bench::exit_code;
use crate::cargo;

/// What to record, and into which file.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The trace file to write
    #[arg(short, long, value_name = "FILE", default_value = "trace.hwt")]
    output: PathBuf,

    /// Write a trace of every process, not only of the one that asked most; others get a number into their name
    #[arg(long)]
    all: bool,

    /// What the trace is called in tables [default: after its file]
    #[arg(long)]
    name: Option<String>,

    /// Something that a reader of the trace should know, such as the program's version
    #[arg(long, value_name = "TEXT", default_value = "")]
    note: String,

    /// The command to run, behind `--`
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Builds the library that records.
pub(crate) fn build() -> Result<PathBuf> {
    let built = cargo::build(&["--release", "--package", "heapwright-recorder"])?
        .context("the recorder cannot be built; see the errors above")?;
    cargo::find(&built, "heapwright_recorder", "so")
}

pub(crate) fn record(options: &Options) -> Result<ExitCode> {
    let library = build()?;

    let settings = recorder::Options {
        name: options.name.clone(),
        note: options.note.clone(),
        ..recorder::Options::default()
    };
    let recording = recorder::record(&options.command, &library, &settings)?;
    let which = if options.all { Which::All } else { Which::Largest };
    let bar = ProgressBar::new(0);
    let written = recording.write(&options.output, which, &mut |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.total_done);
    })?;
    bar.finish_and_clear();

    let others = recording.processes().len() - written.len();
    for trace in &written {
        let summary = &trace.summary;
        let size = std::fs::metadata(&trace.path).map_or(0, |file| file.len());
        eprintln!(
            "{}: {} of {}, process {}: {} operations in {} thread{}, at most {} in {} objects live",
            trace.path.display(),
            HumanBytes(size),
            trace.process.program,
            trace.process.pid,
            HumanCount(summary.events),
            summary.threads,
            if summary.threads == 1 { "" } else { "s" },
            HumanBytes(summary.peak_live_bytes),
            HumanCount(summary.peak_live_objects.into()),
        );
        eprintln!("  command: {}", trace.process.command);
        eprintln!("  recorded: {}", trace.findings);
    }
    if others > 0 {
        eprintln!("{others} more recorded, with fewer operations; `--all` writes them too");
    }
    eprintln!("Replay it: cargo xtask bench --trace {}", options.output.display());
    Ok(exit_code(recording.status()))
}
