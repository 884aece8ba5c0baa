//! What the tests share: the strategies and their libraries, programs compiled and run with a time limit, and reports
//! that say how to repeat what failed.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use tempfile::TempDir;

/// What the tests must know of a strategy.
#[derive(Debug)]
pub(crate) struct Strategy {
    pub(crate) name: &'static str,
    /// Whether a request may walk a list of all free blocks: such a strategy gets smaller inputs.
    pub(crate) linear: bool,
    /// Whether what is freed is ever used again.
    pub(crate) frees: bool,
    /// Whether a double free is noticed, if nothing is done in between.
    pub(crate) checked: bool,
    /// Whether its memory lies under the program break, all of it or some.
    pub(crate) on_break: bool,
}

const fn strategy(name: &'static str) -> Strategy {
    Strategy { name, linear: false, frees: true, checked: false, on_break: false }
}

/// Every strategy that can be preloaded.
pub(crate) static STRATEGIES: [Strategy; 12] = [
    Strategy { checked: true, ..strategy("thread-cached") },
    Strategy { checked: true, ..strategy("thread-cached-checked") },
    Strategy { linear: true, on_break: true, ..strategy("first-fit-sbrk") },
    Strategy { linear: true, checked: true, ..strategy("lifo-mmap") },
    Strategy { linear: true, checked: true, on_break: true, ..strategy("coalescing") },
    Strategy { on_break: true, ..strategy("segregated-fit") },
    strategy("tlsf"),
    strategy("best-fit"),
    strategy("first-fit"),
    Strategy { checked: true, ..strategy("buddy") },
    strategy("kingsley"),
    Strategy { frees: false, ..strategy("bump") },
];

/// The allocator that a program runs on.
#[derive(Clone, Copy)]
pub(crate) enum Heap {
    System,
    Ours(&'static Strategy),
}

impl Heap {
    /// The system's allocator, then every strategy.
    pub(crate) fn all() -> impl Iterator<Item = Heap> {
        [Heap::System].into_iter().chain(STRATEGIES.iter().map(Heap::Ours))
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Heap::System => "system",
            Heap::Ours(strategy) => strategy.name,
        }
    }

    pub(crate) fn frees(self) -> bool {
        match self {
            Heap::System => true,
            Heap::Ours(strategy) => strategy.frees,
        }
    }

    pub(crate) fn linear(self) -> bool {
        matches!(self, Heap::Ours(Strategy { linear: true, .. }))
    }

    /// A command that runs `program` on this heap, in an environment that says nothing else of heaps.
    pub(crate) fn command(self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        for (name, _) in env::vars_os() {
            let name_text = name.to_string_lossy();
            if name_text.starts_with("HEAPWRIGHT_") || name_text.starts_with("MALLOC_") {
                command.env_remove(&name);
            }
        }
        command.env_remove("LD_PRELOAD").env("LC_ALL", "C");
        if let Heap::Ours(strategy) = self {
            command.env("LD_PRELOAD", library(strategy));
        }
        command
    }
}

/// The library of a strategy. The first call builds all of them.
pub(crate) fn library(strategy: &Strategy) -> &'static Path {
    static LIBRARIES: OnceLock<Result<Vec<PathBuf>, String>> = OnceLock::new();
    let libraries = LIBRARIES.get_or_init(build_libraries).as_ref();
    let libraries = libraries.unwrap_or_else(|error| panic!("{error}"));
    let file = format!("libheapwright_{}.so", strategy.name.replace('-', "_"));
    let found = libraries.iter().find(|path| path.ends_with(&file));
    let path = found.unwrap_or_else(|| panic!("{file} is not among {libraries:?}"));
    assert!(path.is_absolute() && path.is_file(), "{} is no library", path.display());
    path
}

/// What `cargo xtask preload` prints.
fn build_libraries() -> Result<Vec<PathBuf>, String> {
    let output = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--package", "xtask", "--", "preload"])
        .args(STRATEGIES.iter().map(|strategy| strategy.name))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("LD_PRELOAD")
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "the libraries do not build ({}); see the errors above",
            output.status
        ));
    }
    let paths = String::from_utf8(output.stdout).map_err(|error| error.to_string())?;
    Ok(paths.lines().map(PathBuf::from).collect())
}

/// Lists and runs tests as `cargo test` expects.
pub(crate) fn main(tests: Vec<Trial>) -> ExitCode {
    // Many of these programs are ended by signals on purpose.
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit is readable.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) };
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

/// A test that needs these programs. Without one of them it is listed as ignored, with the reason; where `CI=true`,
/// where all of them are to be installed, it fails.
pub(crate) fn needing(
    programs: &[&str],
    name: String,
    test: impl FnOnce() -> Result<(), Failed> + Send + 'static,
) -> Trial {
    match programs.iter().find(|program| find(program).is_none()) {
        None => Trial::test(name, test),
        Some(program) if env::var_os("CI").is_some_and(|value| value == "true") => {
            let reason = format!("{program} is not installed, and must be where CI=true");
            Trial::test(name, move || Err(reason.into()))
        }
        Some(program) => Trial::test(name, test)
            .with_kind(format!("skipped: {program} is not installed"))
            .with_ignored_flag(true),
    }
}

/// Where a program is. Names that several programs go by are separated by `|`.
pub(crate) fn find(names: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found =
        |name: &str| env::split_paths(&path).map(|path| path.join(name)).find(|p| p.is_file());
    let program = names.split('|').find_map(found)?;
    // A script that chooses among several interpreters would be what is tested, instead of the one it chooses.
    if names.starts_with("python3") {
        Some(python(&program).unwrap_or(program))
    } else {
        Some(program)
    }
}

fn python(program: &Path) -> Option<PathBuf> {
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    let ask = || {
        let output = Command::new(program)
            .args(["-c", "import os, sys; print(os.path.realpath(sys.executable))"])
            .env_remove("LD_PRELOAD")
            .output()
            .ok()?;
        let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim_end());
        path.is_file().then_some(path)
    };
    PYTHON.get_or_init(ask).clone()
}

/// What came of a program.
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) took: Duration,
    /// How to repeat it.
    repeat: String,
}

impl Outcome {
    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// A failure that says what was run, how it ended and what it said.
    pub(crate) fn failure(&self, what: &str) -> Failed {
        let mut text = format!("{what}\n  repeat: {}\n  ended:  {}\n", self.repeat, self.status);
        for (name, bytes) in [("standard output", &self.stdout), ("standard error", &self.stderr)] {
            if !bytes.is_empty() {
                let _ = writeln!(text, "  {name}:");
                let content = String::from_utf8_lossy(bytes);
                let lines: Vec<_> = content.lines().collect();
                let skipped = lines.len().saturating_sub(30);
                if skipped > 0 {
                    let _ = writeln!(text, "    … {skipped} lines …");
                }
                for line in &lines[skipped..] {
                    let _ = writeln!(text, "    {}", cut(line));
                }
            }
        }
        text.into()
    }

    /// Fails unless it ended with this exit code.
    pub(crate) fn exits(self, code: i32) -> Result<Outcome, Failed> {
        if self.status.code() == Some(code) {
            Ok(self)
        } else {
            Err(self.failure(&format!("it should have ended with exit code {code}")))
        }
    }

    /// Fails with `what` unless `holds`.
    pub(crate) fn require(&self, holds: bool, what: &str) -> Result<(), Failed> {
        if holds { Ok(()) } else { Err(self.failure(what)) }
    }
}

/// The beginning of a line that may be very long.
pub(crate) fn cut(line: &str) -> String {
    let mut text: String = line.chars().take(200).collect();
    if text.len() < line.len() {
        text.push('…');
    }
    text
}

/// A shell command that repeats what `command` is.
pub(crate) fn repeat(command: &Command) -> String {
    let quote = |text: &OsStr| {
        let text = text.to_string_lossy().into_owned();
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-+=/.,:@%".contains(c);
        if !text.is_empty() && text.chars().all(plain) {
            text
        } else {
            format!("'{}'", text.replace('\'', r"'\''"))
        }
    };
    let mut text = String::new();
    if let Some(directory) = command.get_current_dir() {
        let _ = write!(text, "cd {} && ", quote(directory.as_os_str()));
    }
    text.push_str("env");
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            let _ = write!(text, " {}={}", name.to_string_lossy(), quote(value));
        }
    }
    for word in [command.get_program()].into_iter().chain(command.get_args()) {
        text.push(' ');
        text.push_str(&quote(word));
    }
    text
}

/// Runs a command with this standard input, and kills it with all its children when the time is up.
pub(crate) fn run(mut command: Command, input: &[u8], limit: Duration) -> Result<Outcome, Failed> {
    let repeat = repeat(&command);
    let start = Instant::now();
    command.stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(|error| format!("{error}\n  {repeat}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        let input = input.to_vec();
        // A program that does not want all of it is not at fault.
        thread::spawn(move || drop(stdin.write_all(&input)));
    }
    let stdout = drain(child.stdout.take().expect("a pipe"));
    let stderr = drain(child.stderr.take().expect("a pipe"));
    let group = libc::pid_t::try_from(child.id()).expect("a process id");

    // The pipes are closed when the program and all its children have ended; a program may also close them itself.
    let left = || limit.saturating_sub(start.elapsed());
    let mut late = false;
    let mut contents = [&stdout, &stderr].map(|pipe| match pipe.recv_timeout(left()) {
        Ok(bytes) => Some(bytes),
        Err(RecvTimeoutError::Timeout) => {
            late = true;
            None
        }
        Err(RecvTimeoutError::Disconnected) => Some(Vec::new()),
    });
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            if late {
                kill(group);
            }
            break status;
        }
        if late || left().is_zero() {
            late = true;
            kill(group);
            break child.wait().map_err(|error| error.to_string())?;
        }
        thread::sleep(Duration::from_millis(1));
    };
    for (content, pipe) in contents.iter_mut().zip([&stdout, &stderr]) {
        if content.is_none() {
            *content = pipe.recv_timeout(Duration::from_secs(5)).ok();
        }
    }
    let [stdout, stderr] = contents.map(Option::unwrap_or_default);
    let outcome = Outcome { status, stdout, stderr, took: start.elapsed(), repeat };
    if late {
        return Err(outcome.failure(&format!("it did not end within {limit:?} and was killed")));
    }
    Ok(outcome)
}

fn drain(mut pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read until an error is what there is.
        let _ = pipe.read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    receiver
}

/// Kills a process group that this test has made.
pub(crate) fn kill(group: libc::pid_t) {
    // SAFETY: no memory is concerned; the group was made for a child by `process_group(0)`.
    unsafe { libc::kill(-group, libc::SIGKILL) };
}

/// A directory for what one test binary compiles, deleted when it ends.
fn workshop() -> &'static Path {
    static WORKSHOP: OnceLock<TempDir> = OnceLock::new();
    WORKSHOP.get_or_init(|| tempfile::tempdir().expect("a temporary directory")).path()
}

/// A file of this folder.
pub(crate) fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

/// Compiles `tests/c/SOURCE` with these further options, once however often it is asked for.
///
/// Pairs of calls that have no effect, which compilers leave out where they may, stay in.
pub(crate) fn compile(name: &str, options: &[&str]) -> Result<PathBuf, Failed> {
    static COMPILED: Mutex<Vec<(String, PathBuf)>> = Mutex::new(Vec::new());
    let key = format!("{name} {}", options.join(" "));
    // Another test's failure to compile says nothing of this one.
    let mut compiled = COMPILED.lock().unwrap_or_else(|error| error.into_inner());
    if let Some((_, path)) = compiled.iter().find(|(known, _)| *known == key) {
        return Ok(path.clone());
    }
    let stem = name.split('.').next().unwrap_or(name);
    let path = workshop().join(format!("{}-{stem}", compiled.len()));
    let cpp = name.ends_with(".cpp");
    let mut command = Command::new(if cpp { "c++" } else { "cc" });
    command.arg(if cpp { "-std=c++17" } else { "-std=gnu11" });
    command.args(["-O1", "-g", "-fno-builtin", "-Wall", "-Wextra", "-pthread"]);
    // Requests that cannot be served, and uses after realloc or free, are what some tests are about.
    command.args([
        "-Wno-alloc-size-larger-than",
        "-Wno-use-after-free",
        "-Wno-free-nonheap-object",
    ]);
    command.args(["-U_FORTIFY_SOURCE", "-o"]).arg(&path).arg(source("c").join(name)).args(options);
    command.env_remove("LD_PRELOAD");
    let outcome = run(command, b"", Duration::from_secs(60))?.exits(0)?;
    drop(outcome);
    compiled.push((key, path.clone()));
    Ok(path)
}

/// The number behind `key` in the last statistics of `text`, which are `key value` lines.
pub(crate) fn statistic(text: &str, key: &str) -> Option<u64> {
    let mut values = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(key)).then(|| words.next()).flatten()
    });
    values.next_back().and_then(|value| value.parse().ok())
}

/// All files of a directory in the order of their names, with what is in them.
pub(crate) fn contents(directory: &Path) -> Vec<(OsString, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .expect("a directory")
        .map(|entry| entry.expect("an entry"))
        .filter(|entry| entry.path().is_file())
        .map(|entry| (entry.file_name(), std::fs::read(entry.path()).expect("a readable file")))
        .collect();
    files.sort();
    files
}
