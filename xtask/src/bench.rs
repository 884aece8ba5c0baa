//! Building the harness with the peers that can be built, and running it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};
use heapwright_benches::cli::{self, Options, ReplayOptions};
use heapwright_benches::contender::Kind;
use heapwright_benches::registry::{PEERS, REFERENCE};

use crate::{cargo, preload, record};

/// The package of the harness, and its program.
const PACKAGE: &str = "heapwright-benches";
const PROGRAM: &str = "heapwright-bench";

/// The harness as a program.
pub(crate) struct Harness {
    program: PathBuf,
    /// Peers that could not be built, with the reason.
    pub(crate) skipped: Vec<(String, String)>,
}

impl Harness {
    /// Builds it with all peers, or with as many as can be built.
    pub(crate) fn build() -> Result<Self> {
        Self::build_with(&[])
    }

    /// The same, with these features too.
    fn build_with(features: &[&str]) -> Result<Self> {
        let build = |peers: &[&str]| build(&[peers, features].concat());
        let mut peers: Vec<&str> =
            PEERS.iter().map(|peer| peer.name).filter(|&name| name != REFERENCE).collect();
        if let Some(program) = build(&peers)? {
            return Ok(Self { program, skipped: Vec::new() });
        }
        eprintln!("\nThe harness cannot be built with all peers; looking for those that can...");
        if why_not("").is_some() {
            bail!("the harness cannot be built even without peers; see the errors above");
        }
        let mut skipped = Vec::new();
        peers.retain(|peer| match why_not(peer) {
            None => true,
            Some(reason) => {
                eprintln!("  {peer} is left out: {reason}");
                skipped.push(((*peer).to_owned(), reason));
                false
            }
        });
        if let Some(program) = build(&peers)? {
            return Ok(Self { program, skipped });
        }
        // Each compiles, but not all link, or not together: add one after the other.
        let mut linked = Vec::new();
        for peer in peers {
            linked.push(peer);
            if build(&linked)?.is_none() {
                linked.pop();
                skipped.push((
                    peer.to_owned(),
                    "it compiles, but cannot be linked; see the errors above".to_owned(),
                ));
            }
        }
        match build(&linked)? {
            Some(program) => Ok(Self { program, skipped }),
            None => bail!("the harness cannot be built; see the errors above"),
        }
    }

    /// With the compositions of the matrix, and no peer.
    fn of_the_matrix() -> Result<Self> {
        let program =
            build(&["matrix"])?.context("the harness cannot be built; see the errors above")?;
        Ok(Self { program, skipped: Vec::new() })
    }

    /// Without any peer: quick to build.
    fn without_peers() -> Result<Self> {
        let program = build(&[])?.context("the harness cannot be built; see the errors above")?;
        Ok(Self { program, skipped: Vec::new() })
    }

    /// A run of it.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        for (name, reason) in &self.skipped {
            command.arg("--skipped").arg(format!("{name}={reason}"));
        }
        command
    }
}

/// Builds the harness with these features, which peers are, too; `None` when that fails.
fn build(features: &[&str]) -> Result<Option<PathBuf>> {
    let features = features.join(",");
    let arguments = ["--release", "--package", PACKAGE, "--bin", PROGRAM, "--features", &features];
    match cargo::build(&arguments)? {
        Some(artifacts) => cargo::find(&artifacts, PROGRAM, "").map(Some),
        None => Ok(None),
    }
}

/// Why a peer, or with an empty name the harness, cannot be compiled, if so: the last the compiler said.
fn why_not(peer: &str) -> Option<String> {
    let output = cargo::cargo()
        .args(["check", "--release", "--package", PACKAGE, "--lib", "--features", peer])
        .stdin(Stdio::null())
        .output();
    match output {
        Err(error) => Some(error.to_string()),
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(essence(&String::from_utf8_lossy(&output.stderr))),
    }
}

/// The last lines of a compiler's output that speak of an error, shortened, in one line.
fn essence(output: &str) -> String {
    const LINES: usize = 3;
    const LENGTH: usize = 160;
    let noise =
        |line: &str| line.is_empty() || line.starts_with("cargo:") || line.starts_with("warning:");
    let lines: Vec<&str> = output.lines().map(str::trim).filter(|line| !noise(line)).collect();
    let speaks = |line: &&str| {
        let line = line.to_ascii_lowercase();
        ["error", "not found", "failed"].iter().any(|word| line.contains(word))
    };
    let telling: Vec<&str> = lines.iter().copied().filter(speaks).collect();
    let telling = if telling.is_empty() { lines } else { telling };
    let shorten = |line: &&str| match line.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => (*line).to_owned(),
    };
    let last: Vec<String> =
        telling[telling.len().saturating_sub(LINES)..].iter().map(shorten).collect();
    if last.is_empty() { "the compiler said nothing".to_owned() } else { last.join(" | ") }
}

/// `cargo xtask bench`.
pub(crate) fn bench(options: &Options) -> Result<ExitCode> {
    if !options.list {
        // Mistyped names are found before minutes of building.
        options.workloads()?;
        options.contenders()?;
    }
    let harness = if options.matrix { Harness::of_the_matrix()? } else { Harness::build()? };
    let mut command = harness.command();
    if !options.program.is_empty() {
        let libraries = preload::build(&preload::servants())?;
        if let Some(folder) = libraries.first().and_then(|path| path.parent()) {
            command.arg("--libraries").arg(folder);
        }
    }
    run(command.args(typed("bench").skip(1)))
}

/// What the user typed, as it was typed, from a subcommand on.
fn typed(subcommand: &str) -> impl Iterator<Item = OsString> {
    std::env::args_os().skip_while(move |argument| argument != subcommand)
}

fn run(harness: &mut Command) -> Result<ExitCode> {
    Ok(exit_code(harness.status().context("running the harness")?))
}

/// `cargo xtask reproduce`.
pub(crate) fn reproduce() -> Result<ExitCode> {
    let harness = Harness::build_with(&["matrix"])?;
    run(Command::new(&harness.program).args(typed("reproduce")))
}

/// `cargo xtask truth`.
pub(crate) fn truth() -> Result<ExitCode> {
    let harness = Harness::build()?;
    let libraries = preload::build(&preload::servants())?;
    let folder = libraries.first().and_then(|path| path.parent()).context("no strategy")?;
    let recorder = record::build()?;
    let mut command = Command::new(&harness.program);
    command.args(typed("truth")).arg("--libraries").arg(folder).arg("--recorder").arg(recorder);
    run(&mut command)
}

/// `cargo xtask merge`.
pub(crate) fn merge() -> Result<ExitCode> {
    let harness = Harness::without_peers()?;
    run(harness.command().args(typed("merge")))
}

/// `cargo xtask replay`.
pub(crate) fn replay(options: &ReplayOptions) -> Result<ExitCode> {
    let contender = cli::known_contender(&options.strategy)?;
    let needs_peers = contender.kind == Kind::Peer && contender.name != REFERENCE;
    let harness = if needs_peers { Harness::build()? } else { Harness::without_peers()? };
    if let Some((_, reason)) = harness.skipped.iter().find(|(name, _)| name == contender.name) {
        bail!("{} cannot be built on this machine: {reason}", contender.name);
    }
    run(Command::new(&harness.program).args(typed("replay")))
}

/// The code to end with when a program that we ran ended so.
pub(crate) fn exit_code(status: ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_a_failed_build_is_its_last_errors() {
        let output = "   Compiling cc v1\n\
                      error: failed to run custom build command for `libmimalloc-sys v0.1`\n\
                      Caused by:\n  process didn't exit successfully\n  --- stderr\n\n\
                      error occurred in cc-rs: failed to find tool \"cc\": No such file or directory\n\n";
        let essence = essence(output);
        assert!(
            essence.ends_with("failed to find tool \"cc\": No such file or directory"),
            "{essence}"
        );
        assert!(essence.contains("libmimalloc-sys") && !essence.contains('\n'), "{essence}");
        assert_eq!(super::essence("one\ntwo\n"), "one | two");
        assert_eq!(super::essence(""), "the compiler said nothing");
        assert!(super::essence(&"x".repeat(10_000)).len() < 200);
    }
}
