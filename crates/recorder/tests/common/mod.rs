//! What the tests share: compiling a program, recording it, reading its trace.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::OnceLock;

use heapwright_trace::record::{Options, Which, Written, record};
use heapwright_trace::{Op, Trace};
use tempfile::TempDir;

/// A directory with a compiled program in it.
pub(crate) struct Program {
    directory: TempDir,
    path: PathBuf,
}

/// What was recorded of a program.
pub(crate) struct Recorded {
    pub(crate) status: ExitStatus,
    /// Every process, the one with the most events first.
    pub(crate) processes: Vec<Process>,
}

pub(crate) struct Process {
    pub(crate) written: Written,
    /// The events, and the thread of each.
    pub(crate) ops: Vec<Op>,
    pub(crate) threads: Vec<u32>,
}

/// The recorder as users preload it. Cargo builds a library of this kind only when it is asked to.
pub(crate) fn library() -> PathBuf {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let test = env::current_exe().expect("the test's own path");
        let target =
            test.ancestors().nth(3).expect("the target directory, above PROFILE/deps/TEST");
        let status = Command::new(env!("CARGO"))
            .args([
                "build",
                "--quiet",
                "--release",
                "--package",
                "heapwright-recorder",
                "--target-dir",
            ])
            .arg(target)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env_remove("LD_PRELOAD")
            .status();
        assert!(status.expect("cargo").success(), "the recorder does not build");
        target.join("release/libheapwright_recorder.so")
    };
    LIBRARY.get_or_init(build).clone()
}

/// Compiles a program of `tests/programs`.
pub(crate) fn compile(source: &str) -> Program {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("program");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(source);
    let compiler =
        if source.extension().is_some_and(|ending| ending == "cpp") { "c++" } else { "cc" };
    // Compilers know malloc, and leave out pairs that have no effect.
    let status = Command::new(compiler)
        .args(["-O1", "-fno-builtin", "-Wno-alloc-size-larger-than", "-pthread", "-o"])
        .args([&path, &source])
        .status()
        .expect("a C compiler");
    assert!(status.success(), "{} does not compile", source.display());
    Program { directory, path }
}

impl Program {
    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs it with these arguments, and reads all traces that come of it.
    pub(crate) fn record(&self, arguments: &[&str]) -> Recorded {
        let mut command = vec![self.path.clone().into_os_string()];
        command.extend(arguments.iter().map(OsString::from));
        self.record_command(&command)
    }

    /// Runs it in a shell, as `$0`.
    pub(crate) fn record_in_shell(&self, script: &str) -> Recorded {
        self.record_command(&[
            "sh".into(),
            "-c".into(),
            script.into(),
            self.path.clone().into_os_string(),
        ])
    }

    fn record_command(&self, command: &[OsString]) -> Recorded {
        let options =
            Options { directory: Some(self.directory.path().to_owned()), ..Options::default() };
        let recording =
            record(command, &library(), &options).unwrap_or_else(|error| panic!("{error}"));
        let file = self.directory.path().join("trace.hwt");
        let written = recording
            .write(&file, Which::All, &mut |_| {})
            .unwrap_or_else(|error| panic!("{error}"));
        let processes = written.into_iter().map(Process::read).collect();
        Recorded { status: recording.status(), processes }
    }
}

impl Process {
    fn read(written: Written) -> Process {
        let trace = Trace::open(&written.path).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(*trace.summary(), written.summary);
        let events: Vec<_> =
            trace.events().map(|event| event.unwrap_or_else(|error| panic!("{error}"))).collect();
        let ops = events.iter().map(|event| event.op).collect();
        let threads = events.iter().map(|event| event.thread).collect();
        Process { written, ops, threads }
    }

    /// Sizes of all allocations, in their order.
    pub(crate) fn sizes(&self) -> Vec<usize> {
        let size = |op: &Op| if let Op::Allocate { size, .. } = op { Some(*size) } else { None };
        self.ops.iter().filter_map(size).collect()
    }
}

pub(crate) fn malloc(object: u32, size: usize) -> Op {
    Op::Allocate { object, size, align: 16, zeroed: false }
}

pub(crate) fn aligned(object: u32, size: usize, align: usize) -> Op {
    Op::Allocate { object, size, align, zeroed: false }
}

pub(crate) fn free(object: u32) -> Op {
    Op::Free { object }
}
