//! Whole programs as workloads: run in place, with a contender preloaded in place of `malloc`.
//!
//! What counts is the time from start to end, so loading the contender and its first calls count too, and the most that
//! was resident of any one of its processes (`ru_maxrss`), code and files included. Programs run by `sh -c` in a process
//! group of their own, so that all of it ends at the time limit; their output is thrown away, and an exit code other
//! than zero is a failure.
//!
//! A contender can take part if it is a shared library: ours are built by `cargo xtask preload`, peers are looked for
//! where systems keep their libraries.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::contender::{Contender, Kind};
use crate::registry::{self, REFERENCE};
use crate::worker::Finding;

/// How systems call the libraries of peers: the peer's name, and what the file's name begins with.
const PEERS: &[(&str, &str)] = &[
    ("mimalloc", "libmimalloc.so"),
    ("jemalloc", "libjemalloc.so"),
    ("snmalloc", "libsnmallocshim.so"),
    ("rpmalloc", "librpmallocwrap.so"),
    ("tcmalloc", "libtcmalloc_minimal.so"),
    ("tcmalloc", "libtcmalloc.so"),
    ("tbbmalloc", "libtbbmalloc_proxy.so"),
    ("hoard", "libhoard.so"),
];

/// Where systems keep libraries.
const FOLDERS: &[&str] = &[
    "/usr/local/lib",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
];

/// The library of each contender, by its name, once they were looked for.
static LIBRARIES: OnceLock<BTreeMap<&'static str, PathBuf>> = OnceLock::new();

/// Looks for every contender's library once, for ours in the folder `ours`; returns peers that there are as libraries
/// only.
#[must_use]
pub fn find_libraries(ours: &Path) -> Vec<&'static Contender> {
    let mut libraries = BTreeMap::new();
    for contender in registry::STRATEGIES {
        let path = ours.join(format!("libheapwright_{}.so", contender.name.replace('-', "_")));
        if path.is_file() {
            libraries.insert(contender.name, path);
        }
    }
    let mut others: Vec<&'static Contender> = Vec::new();
    for (name, file) in PEERS {
        let Some(path) = FOLDERS.iter().find_map(|folder| library(Path::new(folder), file)) else {
            continue;
        };
        if registry::contender(name).is_none() && !libraries.contains_key(name) {
            // There are few, and they are needed to the end.
            others.push(Box::leak(Box::new(Contender {
                name,
                kind: Kind::Peer,
                about: "found as a shared library on this machine",
                allocator: None,
                strategy: None,
                prepare: || (),
                never_frees: false,
            })));
        }
        libraries.entry(name).or_insert(path);
    }
    let _ = LIBRARIES.set(libraries);
    others
}

/// What is to be preloaded for a contender.
fn library_of(contender: &Contender) -> Option<&'static Path> {
    LIBRARIES.get()?.get(contender.name).map(PathBuf::as_path)
}

/// The library in a folder whose name begins so; the shortest name is the one that is kept up to date.
fn library(folder: &Path, file: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    entries
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let rest = name.strip_prefix(file);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
        .min_by_key(|path| path.as_os_str().len())
}

/// The first argument of a process that runs a program: `heapwright-bench program LIBRARY MILLISECONDS CMD`.
///
/// It is a process of its own because the kernel counts a parent's memory as its child's until the child runs a program
/// of its own, and the harness is larger than many a program.
pub const COMMAND: &str = "program";

/// Runs a program once with a contender, from a process that does nothing else.
///
/// # Errors
///
/// When it cannot be started.
pub fn run(
    harness: &Path,
    command: &str,
    contender: &Contender,
    limit: Duration,
) -> Result<Finding> {
    let output = Command::new(harness)
        .arg(COMMAND)
        .arg(library_of(contender).unwrap_or(Path::new("")))
        .arg(limit.as_millis().to_string())
        .arg(command)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {}", harness.display()))?;
    let answer = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    serde_json::from_str(&answer).with_context(|| format!("running {command:?}: {}", error.trim()))
}

/// Such a process, from its arguments after [`COMMAND`].
///
/// # Errors
///
/// When the arguments make no sense or the finding cannot be printed.
pub fn main(arguments: impl Iterator<Item = OsString>) -> Result<()> {
    let arguments: Vec<_> = arguments.collect();
    let [library, limit, command] = arguments.as_slice() else {
        bail!("running a program takes three arguments: library, milliseconds, command");
    };
    let limit = Duration::from_millis(limit.to_string_lossy().parse()?);
    let library = Some(Path::new(library)).filter(|library| !library.as_os_str().is_empty());
    let finding = run_here(&command.to_string_lossy(), library, limit)?;
    println!("{}", serde_json::to_string(&finding)?);
    Ok(())
}

fn run_here(command: &str, library: Option<&Path>, limit: Duration) -> Result<Finding> {
    let mut shell = Command::new("sh");
    let mut errors = tempfile::tempfile().context("making a file for the program's errors")?;
    shell.args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::null());
    shell.stderr(errors.try_clone().context("copying a file descriptor")?).process_group(0);
    match library {
        Some(library) => shell.env("LD_PRELOAD", library),
        None => shell.env_remove("LD_PRELOAD"),
    };
    let start = Instant::now();
    let child = shell.spawn().context("starting sh")?;
    let group = child.id() as libc::pid_t;
    let over = AtomicBool::new(false);
    let ended = AtomicBool::new(false);
    let (status, usage, elapsed) = thread::scope(|scope| {
        let guard = scope.spawn(|| {
            while !ended.load(Relaxed) && start.elapsed() < limit {
                thread::park_timeout(limit.saturating_sub(start.elapsed()));
            }
            if !ended.load(Relaxed) {
                over.store(true, Relaxed);
                // SAFETY: the group is that of our child, which was not waited for yet.
                unsafe { libc::kill(-group, libc::SIGKILL) };
            }
        });
        let (status, usage) = wait(group);
        let elapsed = start.elapsed();
        ended.store(true, Relaxed);
        guard.thread().unpark();
        (status, usage, elapsed)
    });
    if over.load(Relaxed) {
        let limit = limit.as_secs();
        return Ok(Finding::Failed { reason: format!("it did not end within {limit} s") });
    }
    if !status.success() {
        let how = match status.signal() {
            Some(signal) => format!("killed by signal {signal}"),
            None => format!("ended with {status}"),
        };
        return Ok(Finding::Failed { reason: format!("{how}: {}", last_line(&mut errors)) });
    }
    Ok(Finding::Time {
        operations: 1,
        nanoseconds: elapsed.as_nanos() as u64,
        processor: Some(nanoseconds(usage.ru_utime) + nanoseconds(usage.ru_stime)),
        footprint: usage.ru_maxrss as u64 * 1024,
        footprint_error: 0,
        partial: false,
    })
}

/// Waits for a process, and says what it and the processes that it waited for used.
fn wait(process: libc::pid_t) -> (ExitStatus, libc::rusage) {
    let mut status = 0;
    // SAFETY: the kernel fills in both; zeroes are a value of the structure.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        while libc::wait4(process, &mut status, 0, &mut usage) < 0
            && *libc::__errno_location() == libc::EINTR
        {}
        usage
    };
    (ExitStatus::from_raw(status), usage)
}

fn nanoseconds(time: libc::timeval) -> u64 {
    (time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64) * 1000
}

fn last_line(errors: &mut File) -> String {
    let mut text = Vec::new();
    let _ = errors.seek(SeekFrom::Start(0)).and_then(|_| errors.read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    last.unwrap_or("it said nothing").chars().take(200).collect()
}

/// Whether a contender can stand in place of `malloc` in a program.
#[must_use]
pub fn can_run(contender: &Contender) -> bool {
    contender.name == REFERENCE || library_of(contender).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_timed_with_all_its_processes() {
        let found = run_here("sleep 0.05; true", None, Duration::from_secs(60)).unwrap();
        let Finding::Time { nanoseconds, processor: Some(processor), footprint, .. } = found else {
            panic!("{found:?}")
        };
        assert!(nanoseconds >= 50_000_000 && footprint > 100_000, "{found:?}");
        assert!(processor < nanoseconds, "it slept: {found:?}");
    }

    #[test]
    fn a_program_that_fails_or_hangs_says_so() {
        let reason = |command, limit| match run_here(command, None, limit).unwrap() {
            Finding::Failed { reason } => reason,
            other => panic!("{other:?}"),
        };
        let minute = Duration::from_secs(60);
        assert_eq!(reason("echo oh >&2; exit 3", minute), "ended with exit status: 3: oh");
        assert!(reason("kill -SEGV $$", minute).starts_with("killed by signal 11"));
        let start = Instant::now();
        assert!(reason("sleep 100", Duration::from_millis(100)).contains("did not end"));
        assert!(start.elapsed() < Duration::from_secs(50));
    }

    #[test]
    fn libraries_are_found_by_the_beginning_of_their_name() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["libjemalloc.so.2", "libjemalloc.so.2.1.0", "libjemalloc_not.so"] {
            File::create(folder.path().join(name)).unwrap();
        }
        let found = library(folder.path(), "libjemalloc.so");
        assert_eq!(found, Some(folder.path().join("libjemalloc.so.2")));
        assert_eq!(library(folder.path(), "libhoard.so"), None);
    }
}
