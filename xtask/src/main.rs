//! `cargo xtask`: the project's own commands.
//!
//! It links no peer: the harness is built and run as a program of its own, so a peer that cannot be built on this
//! machine costs its rows and nothing else.

mod asm;
mod bench;
mod cargo;
mod clib;
mod preload;
mod record;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use heapwright_benches::cli::{
    self, MergeOptions, Options, ReplayOptions, ReproduceOptions, TruthOptions,
};

/// The commands of Heapwright.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, subcommand_required = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Compare all strategies and well-known allocators on recorded and generated workloads
    ///
    /// Builds the harness in release mode with all peers; one that cannot be built is left out and named. Prints two
    /// tables: time relative to glibc, and peak footprint over peak live bytes.
    Bench(Box<Options>),

    /// List strategies, policies, backends and peers
    List,

    /// Run everything that CI runs: formatting, lints, docs, all tests, verified replays, a short benchmark
    Test,

    /// Replay one trace under one strategy or peer; print time and footprint, or check every byte
    Replay(ReplayOptions),

    /// Find out whether replays tell the truth: programs against the replays of their traces
    ///
    /// Runs programs that are installed under several contenders, records them, and replays the traces. Compares the
    /// peaks of resident memory, and the order of contenders by time and by memory.
    Truth(TruthOptions),

    /// Measure again what the literature found, on our traces, and say whether the figures agree
    ///
    /// Takes a few minutes after the build.
    Reproduce(ReproduceOptions),

    /// Put together the results of runs with --partition: one table, one file
    Merge(MergeOptions),

    /// Record what a program asks of malloc into a trace file
    ///
    /// Runs the command with the recorder preloaded, with its threads and child processes, and writes the trace of the
    /// process that asked most. Ends with the command's own exit code.
    Record(record::Options),

    /// Build the C library, by which C programs call each strategy by name, with its header
    ///
    /// Lays out a static and a shared library, `heapwright.h` and a `heapwright.pc` for pkg-config in one directory, and
    /// prints how to compile against them.
    Clib(clib::Options),

    /// Build the shared library of each strategy that replaces malloc in any program; print the paths
    Preload(preload::Options),

    /// Run a command on a strategy in place of malloc
    ///
    /// The command's children run on it too. Ends with the command's own exit code. HEAPWRIGHT_STATS=1 and other
    /// environment variables, which the README lists, show the heap at its end.
    Run(preload::RunOptions),

    /// Print the annotated assembly of a strategy's allocate and free paths, as programs call them
    Asm(asm::Options),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Bench(options) => bench::bench(&options),
        Command::List => {
            print!("{}", cli::list_parts());
            Ok(ExitCode::SUCCESS)
        }
        Command::Test => test::test(),
        Command::Replay(options) => bench::replay(&options),
        Command::Merge(_) => bench::merge(),
        Command::Truth(_) => bench::truth(),
        Command::Reproduce(_) => bench::reproduce(),
        Command::Record(options) => record::record(&options),
        Command::Clib(options) => clib::clib(&options),
        Command::Preload(options) => preload::preload(&options),
        Command::Run(options) => preload::run(&options),
        Command::Asm(options) => asm::asm(&options),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_argument_is_explained() {
        let mut all = Cli::command();
        all.build();
        all.clone().debug_assert();
        for command in all.get_subcommands().filter(|command| command.get_name() != "help") {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "{} {}",
                    command.get_name(),
                    argument.get_id()
                );
            }
        }
    }
}
