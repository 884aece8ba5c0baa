//! Recording programs: run a command with the recorder preloaded, and make traces of what its processes left.
//!
//! ```no_run
//! use std::path::Path;
//! use heapwright_trace::record::{Options, Which, record};
//!
//! let command = ["sort", "--parallel=2", "words.txt"].map(Into::into);
//! let library = Path::new("target/release/libheapwright_recorder.so");
//! let recording = record(&command, library, &Options::default())?;
//! for written in recording.write(Path::new("sort.hwt"), Which::Largest, &mut |_| {})? {
//!     println!("{}: {} events, {}", written.path.display(), written.summary.events, written.findings);
//! }
//! # Ok::<(), heapwright_trace::TraceError>(())
//! ```
//!
//! Every process that the command starts is recorded too, each program in it for itself: a process that runs `exec`
//! leaves one recording for each program. A process that goes on after the command has ended is recorded up to the
//! moment when it is written.

mod convert;
mod tape;

use std::collections::HashSet;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

pub use convert::Findings;
use convert::{Block, convert, live_blocks, unknown_addresses};
use heapwright_raw as raw;
use tape::{Fork, Tape, read_known};
use tempfile::TempDir;

use crate::error::{Problem, TraceError};
use crate::event::{Header, Summary};
use crate::writer::Writer;

/// How to record.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where raw files are kept until they are converted; the system's directory for temporary files if there is none.
    /// They need some five bytes an event.
    pub directory: Option<PathBuf>,
    /// What traces are called in tables; each after its own file if there is none.
    pub name: Option<String>,
    /// Something that a reader of the trace should know, such as the program's version.
    pub note: String,
}

/// Which processes become traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Only the one with the most events.
    Largest,
    /// All of them.
    All,
    /// The one with the most events, and each with at least so many.
    AtLeast(u64),
}

/// A command that was run and recorded, and is not yet written. Dropping it removes the raw files.
#[derive(Debug)]
pub struct Recording {
    /// Holds the raw files.
    directory: TempDir,
    options: Options,
    status: ExitStatus,
    elapsed: Duration,
    processes: Vec<RecordedProcess>,
}

/// One program that ran in one process.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordedProcess {
    /// The process.
    pub pid: u32,
    /// Counts the programs that the process ran, and the processes that had the same number, from zero.
    pub image: u32,
    /// The process and image that it was forked from, if that was recorded.
    pub forked_from: Option<(u32, u32)>,
    /// Its command line, quoted as for a shell.
    pub command: String,
    /// The name of its program, without directories.
    pub program: String,
    /// Events that were recorded.
    pub events: u64,
    /// Bytes of the raw file that are used.
    pub raw_bytes: u64,
}

/// A trace that was written.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Written {
    /// The file.
    pub path: PathBuf,
    /// What was recorded.
    pub process: RecordedProcess,
    /// The trace in numbers.
    pub summary: Summary,
    /// What did not fit together.
    pub findings: Findings,
}

/// How far the writing of traces has come.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Progress<'a> {
    /// The process that is being written.
    pub process: &'a RecordedProcess,
    /// Events of it that are done.
    pub done: u64,
    /// Events of all processes that were or are to be written, and how many of them are done.
    pub total: u64,
    /// Events of all processes that are done.
    pub total_done: u64,
}

/// Runs a command with the recorder preloaded, and waits for it.
///
/// The command has this process's terminal, environment and directory. While it runs, an interrupt from the terminal
/// (Ctrl-C) is for the command alone; what it did until then is recorded.
///
/// # Errors
/// When the command cannot be started, or the library is not there. A command that fails is recorded like any other:
/// see [`Recording::status`].
pub fn record(
    command: &[OsString],
    library: &Path,
    options: &Options,
) -> Result<Recording, TraceError> {
    let wrong = |what: String| TraceError::from(Problem::Recording { what });
    let [program, arguments @ ..] = command else {
        return Err(wrong("there is no command to record; give one behind `--`".to_owned()));
    };
    let library = fs::canonicalize(library).map_err(|error| {
        wrong(format!(
            "the recorder is not at {} ({error}); build it with `cargo build --release -p heapwright-recorder`",
            library.display()
        ))
    })?;
    if library.as_os_str().as_encoded_bytes().iter().any(|byte| b" :".contains(byte)) {
        return Err(wrong(format!(
            "the loader cannot preload {}, for there is a space or a colon in its path; build the project elsewhere",
            library.display()
        )));
    }
    let parent = options.directory.clone().unwrap_or_else(env::temp_dir);
    let directory = fs::canonicalize(&parent)
        .and_then(|parent| tempfile::Builder::new().prefix("heapwright-record-").tempdir_in(parent))
        .map_err(|error| TraceError::io("creating a directory for raw files", error).at(&parent))?;

    let mut preload = library.into_os_string();
    if let Some(others) = env::var_os("LD_PRELOAD").filter(|others| !others.is_empty()) {
        preload.push(":");
        preload.push(others);
    }
    let mut child = Command::new(program);
    child.args(arguments).env("LD_PRELOAD", preload).env(raw::DIRECTORY_VARIABLE, directory.path());
    let start = Instant::now();
    let mut child = child.spawn().map_err(|error| {
        wrong(format!(
            "`{}` cannot be started ({error}); check the command's name",
            program.display()
        ))
    })?;
    let status = {
        let _deaf = interrupts::Ignored::new();
        child.wait().map_err(|error| TraceError::io("waiting for the command", error))?
    };
    let elapsed = start.elapsed();

    let mut processes = Vec::new();
    let list = |error| TraceError::io("listing raw files", error).at(directory.path());
    for entry in fs::read_dir(directory.path()).map_err(list)? {
        if let Some(tape) = Tape::read(&entry.map_err(list)?.path())?
            && tape.events > 0
        {
            processes.push(RecordedProcess::new(&tape));
        }
    }
    processes
        .sort_by_key(|process| (std::cmp::Reverse(process.events), process.pid, process.image));
    Ok(Recording { directory, options: options.clone(), status, elapsed, processes })
}

impl Recording {
    /// How the command ended; whoever records should end likewise.
    #[must_use]
    pub fn status(&self) -> ExitStatus {
        self.status
    }

    /// How long the command ran.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// What was recorded; the process with the most events first.
    #[must_use]
    pub fn processes(&self) -> &[RecordedProcess] {
        &self.processes
    }

    /// Makes traces: the process with the most events goes to `file`, each other to the same name with its process
    /// number and image before the ending (`trace.hwt`, `trace.1234-0.hwt`).
    ///
    /// # Errors
    /// When nothing was recorded, and when a file cannot be read or written.
    pub fn write(
        &self,
        file: &Path,
        which: Which,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Vec<Written>, TraceError> {
        if self.processes.is_empty() {
            let what = "nothing was recorded: the program never allocates, is linked statically, or has privileges \
                        that forbid preloading (see `file` and `ls -l` for the program)";
            return Err(Problem::Recording { what: what.to_owned() }.into());
        }
        let selected: Vec<_> = self
            .processes
            .iter()
            .enumerate()
            .filter(|&(index, process)| match which {
                _ if index == 0 => true,
                Which::Largest => false,
                Which::All => true,
                Which::AtLeast(events) => process.events >= events,
            })
            .map(|(_, process)| process)
            .collect();
        let total = selected.iter().map(|process| process.events).sum();
        let mut total_done = 0;
        let mut all = Vec::new();
        for process in selected {
            let path = if all.is_empty() { file.to_owned() } else { beside(file, process) };
            let written = self.write_one(process, path, &mut |done| {
                progress(Progress { process, done, total, total_done: total_done + done });
            })?;
            total_done += process.events;
            all.push(written);
        }
        Ok(all)
    }

    fn write_one(
        &self,
        process: &RecordedProcess,
        path: PathBuf,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Written, TraceError> {
        let tape = read_known(&self.raw_file(process.pid, process.image))?;
        let inherited = match tape.head.parent {
            Some(fork) => self.inherited(fork, unknown_addresses(&tape, u64::MAX))?,
            None => Vec::new(),
        };
        let stem = || path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let name = self.options.name.clone().unwrap_or_else(stem);
        let header =
            Header { name, command: process.command.clone(), note: self.options.note.clone() };
        let mut writer = Writer::create(&path, header)?;
        let mut done = 0;
        let findings = convert(&tape, &inherited, |event| {
            if done % (1 << 16) == 0 {
                progress(done);
            }
            done += 1;
            writer.push(event)
        })?;
        if findings != Findings::default() {
            writer.add_note(&format!("Recording: {findings}."));
        }
        let summary = writer.finish()?;
        progress(process.events);
        Ok(Written { path, process: process.clone(), summary, findings })
    }

    /// What a process had at the `wanted` addresses when it was forked: blocks of its parent, or of a parent of that.
    fn inherited(&self, fork: Fork, wanted: HashSet<u64>) -> Result<Vec<Block>, TraceError> {
        let path = self.raw_file(fork.pid, fork.image);
        if wanted.is_empty() || !path.exists() {
            return Ok(Vec::new());
        }
        let parent = read_known(&path)?;
        let mut own = live_blocks(&parent, fork.order, &wanted);
        let Some(grandparent) = parent.head.parent else { return Ok(own) };
        // What the parent did not allocate it has inherited, unless it gave it back before.
        let gone = unknown_addresses(&parent, fork.order);
        let known: HashSet<u64> = own.iter().map(|block| block.address).collect();
        let rest = wanted
            .into_iter()
            .filter(|address| !known.contains(address) && !gone.contains(address))
            .collect();
        drop(parent);
        let mut all = self.inherited(grandparent, rest)?;
        all.append(&mut own);
        Ok(all)
    }

    fn raw_file(&self, pid: u32, image: u32) -> PathBuf {
        self.directory.path().join(raw::file_name(pid, image))
    }
}

impl RecordedProcess {
    fn new(tape: &Tape) -> Self {
        let head = &tape.head;
        let program = head.arguments.first().map(String::as_str).unwrap_or_default();
        let program = Path::new(program).file_name().and_then(OsStr::to_str).unwrap_or("unknown");
        RecordedProcess {
            pid: head.pid,
            image: head.image,
            forked_from: head.parent.map(|fork| (fork.pid, fork.image)),
            command: head
                .arguments
                .iter()
                .map(|argument| quote(argument))
                .collect::<Vec<_>>()
                .join(" "),
            program: program.to_owned(),
            events: tape.events,
            raw_bytes: tape.used_bytes(),
        }
    }
}

/// The name for another process's trace beside `file`.
fn beside(file: &Path, process: &RecordedProcess) -> PathBuf {
    let mut name = file.file_stem().unwrap_or_default().to_owned();
    name.push(format!(".{}-{}", process.pid, process.image));
    if let Some(extension) = file.extension() {
        name.push(".");
        name.push(extension);
    }
    file.with_file_name(name)
}

/// An argument as a shell would have to be given it.
fn quote(argument: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./=,:+@%".contains(&byte);
    if !argument.is_empty() && argument.bytes().all(plain) {
        argument.to_owned()
    } else {
        format!("'{}'", argument.replace('\'', r"'\''"))
    }
}

/// Interrupts from the terminal go to all of its processes; while a command runs, they are not for us.
mod interrupts {
    use std::sync::{Mutex, MutexGuard, PoisonError};

    const SIGNALS: [libc::c_int; 2] = [libc::SIGINT, libc::SIGQUIT];

    /// How many commands are running, and what was to happen on interrupts before the first of them.
    static RUNNING: Mutex<(usize, [libc::sighandler_t; 2])> = Mutex::new((0, [libc::SIG_DFL; 2]));

    fn running() -> MutexGuard<'static, (usize, [libc::sighandler_t; 2])> {
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// While one lives, this process ignores interrupts. Processes that it started before keep their own ways.
    pub(super) struct Ignored(());

    impl Ignored {
        pub(super) fn new() -> Self {
            let mut running = running();
            if running.0 == 0 {
                // SAFETY: ignoring a signal runs no code of ours.
                running.1 = SIGNALS.map(|signal| unsafe { libc::signal(signal, libc::SIG_IGN) });
            }
            running.0 += 1;
            Ignored(())
        }
    }

    impl Drop for Ignored {
        fn drop(&mut self) {
            let mut running = running();
            running.0 -= 1;
            if running.0 == 0 {
                for (signal, before) in SIGNALS.into_iter().zip(running.1) {
                    if before != libc::SIG_ERR {
                        // SAFETY: what was there before is as good as it was then.
                        unsafe { libc::signal(signal, before) };
                    }
                }
            }
        }
    }
}
