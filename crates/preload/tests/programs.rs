//! Programs as people run them, on every strategy: output, exit codes and files are those of the same run on the
//! system's allocator.
//!
//! Every program runs with `HEAPWRIGHT_CHECK=1`, so each of its processes verifies its heap when it exits, and with
//! statistics, which say that the strategy did serve it. Strategies that walk lists, and the one that never frees, get
//! smaller inputs of the same kind.

#[allow(dead_code, reason = "each test uses its part")]
mod common;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use common::{Heap, STRATEGIES, contents, cut, find, needing, repeat, run, source, statistic};
use libtest_mimic::Failed;
use tempfile::TempDir;

/// Far longer than any of these commands takes: only what hangs reaches it.
const LIMIT: Duration = Duration::from_secs(120);

/// A program, and what is done with it.
struct Program {
    name: &'static str,
    needs: &'static [&'static str],
    drive: fn(&mut Stage) -> Result<(), Failed>,
}

const PROGRAMS: &[Program] = &[
    Program { name: "python", needs: &["python3"], drive: python },
    Program { name: "gcc", needs: &["gcc"], drive: gcc },
    Program { name: "g++", needs: &["g++"], drive: gpp },
    Program { name: "git", needs: &["git"], drive: git },
    Program { name: "sqlite3", needs: &["sqlite3"], drive: sqlite },
    Program { name: "perl", needs: &["perl"], drive: perl },
    Program { name: "lua", needs: &["lua5.4|lua"], drive: lua },
    Program { name: "ruby", needs: &["ruby"], drive: ruby },
    Program { name: "node", needs: &["node"], drive: node },
    Program {
        name: "redis",
        needs: &["redis-server", "redis-cli", "redis-benchmark"],
        drive: redis,
    },
    Program { name: "ghostscript", needs: &["gs"], drive: ghostscript },
    Program { name: "tar+xz", needs: &["tar", "xz"], drive: tar },
];

fn main() -> ExitCode {
    let mut tests = Vec::new();
    for program in PROGRAMS {
        // The run on the system's allocator, once for large and once for small inputs.
        let references: Arc<[OnceLock<Result<Record, String>>; 2]> = Arc::default();
        for strategy in &STRATEGIES {
            let references = Arc::clone(&references);
            let name = format!("{}::{}", program.name, strategy.name);
            let test = move || {
                let small = strategy.linear || !strategy.frees;
                let reference = references[usize::from(small)].get_or_init(|| {
                    let mut stage = Stage::new(Heap::System, small, Vec::new());
                    let done = (program.drive)(&mut stage);
                    done.map_err(|failed| failed.message().unwrap_or_default().to_owned())?;
                    Ok(stage.record)
                });
                let reference = reference
                    .as_ref()
                    .map_err(|error| format!("on the system's allocator already: {error}"))?;
                let mut stage = Stage::new(Heap::Ours(strategy), small, reference.clone());
                let done = (program.drive)(&mut stage).and_then(|()| stage.served());
                done.map_err(|failed| stage.keep(&failed))
            };
            tests.push(needing(program.needs, name, test));
        }
    }
    common::main(tests)
}

/// What came of each step: its name, and bytes.
type Record = Vec<(String, Vec<u8>)>;

/// One run of one program: its directory, which is where all its commands run, and what came of it.
struct Stage {
    heap: Heap,
    small: bool,
    directory: TempDir,
    record: Record,
    /// What must come of it; empty on the system's allocator.
    expected: Record,
}

impl Stage {
    fn new(heap: Heap, small: bool, expected: Record) -> Stage {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(directory.path().join("statistics")).expect("a new directory");
        fs::create_dir(directory.path().join("work")).expect("a new directory");
        Stage { heap, small, directory, record: Vec::new(), expected }
    }

    /// Where the program runs.
    fn work(&self) -> PathBuf {
        self.directory.path().join("work")
    }

    fn statistics(&self) -> PathBuf {
        self.directory.path().join("statistics")
    }

    fn size(&self, large: usize, small: usize) -> String {
        if self.small { small } else { large }.to_string()
    }

    /// Puts a fixture into the directory, and says its name.
    fn fixture(&self, name: &'static str) -> Result<&'static str, Failed> {
        fs::copy(source("programs").join(name), self.work().join(name))?;
        Ok(name)
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let path = find(program).unwrap_or_else(|| PathBuf::from(program));
        let mut command = self.heap.command(path);
        command.args(arguments).current_dir(self.work());
        command.env("HOME", self.work()).env("TZ", "UTC");
        if let Heap::Ours(_) = self.heap {
            command.env("HEAPWRIGHT_CHECK", "1").env("HEAPWRIGHT_STATS", "1");
            command.env("HEAPWRIGHT_OUTPUT", self.statistics().join("%p"));
        }
        command
    }

    fn run(&mut self, program: &str, arguments: &[&str]) -> Result<(), Failed> {
        let command = self.command(program, arguments);
        self.run_command(command, b"")
    }

    /// Runs a command; how it ends and all it says is what it says on the system's allocator.
    fn run_command(&mut self, command: Command, input: &[u8]) -> Result<(), Failed> {
        let shown = repeat(&command);
        let outcome = run(command, input, LIMIT)?;
        if self.expected.is_empty() && !outcome.status.success() {
            return Err(outcome.failure("the program does not do what it is to do"));
        }
        let name = |what: &str| format!("{what} of {shown}");
        self.compare(&name("exit status"), outcome.status.to_string().as_bytes())
            .map_err(|failed| outcome.failure(failed.message().unwrap_or_default()))?;
        self.compare(&name("standard output"), &outcome.stdout)?;
        self.compare(&name("standard error"), &outcome.stderr)
    }

    /// The contents of a file that the program made.
    fn compare_file(&mut self, name: &str) -> Result<(), Failed> {
        let bytes = fs::read(self.work().join(name)).map_err(|error| format!("{name}: {error}"))?;
        self.compare(name, &bytes)
    }

    /// Notes what came of a step, and fails where it is not what is expected.
    fn compare(&mut self, name: &str, bytes: &[u8]) -> Result<(), Failed> {
        let step = self.record.len();
        self.record.push((name.to_owned(), bytes.to_vec()));
        if self.expected.is_empty() {
            return Ok(());
        }
        let Some((_, expected)) = self.expected.get(step) else {
            return Err(format!("{name}: the system's allocator had no such step").into());
        };
        if expected == bytes { Ok(()) } else { Err(difference(name, expected, bytes).into()) }
    }

    /// Fails unless the library has counted blocks in a process of this program.
    fn served(&self) -> Result<(), Failed> {
        let most = contents(&self.statistics())
            .iter()
            .filter_map(|(_, text)| statistic(&String::from_utf8_lossy(text), "footprint"))
            .max();
        match most {
            Some(bytes) if bytes > 0 => Ok(()),
            Some(_) => Err("no process took memory from the strategy".into()),
            None => Err("no process wrote statistics".into()),
        }
    }

    /// Keeps the directory of what failed, and says where it is.
    fn keep(mut self, failed: &Failed) -> Failed {
        self.directory.disable_cleanup(true);
        format!(
            "on {}: {}\n  kept in {}",
            self.heap.name(),
            failed.message().unwrap_or_default(),
            self.directory.path().display()
        )
        .into()
    }
}

/// The first lines that differ.
fn difference(name: &str, expected: &[u8], got: &[u8]) -> String {
    let mut text = format!("{name}: {} bytes expected, {} came", expected.len(), got.len());
    let (expected, got) = (String::from_utf8_lossy(expected), String::from_utf8_lossy(got));
    let (mut expected, mut got) = (expected.lines(), got.lines());
    let mut shown = 0;
    for line in 1.. {
        let pair = (expected.next(), got.next());
        if pair == (None, None) || shown == 3 {
            break;
        }
        if pair.0 != pair.1 {
            shown += 1;
            for (side, content) in [("expected", pair.0), ("got     ", pair.1)] {
                let content = content.map_or_else(|| "(the end)".into(), cut);
                let _ = write!(text, "\n  line {line} {side}: {content}");
            }
        }
    }
    if shown == 0 {
        text.push_str("\n  they differ in line ends only, or where they are not text");
    }
    text
}

/// CPython with every one of its own objects from malloc: json, re, sqlite3, threads and processes.
fn python(stage: &mut Stage) -> Result<(), Failed> {
    let script = stage.fixture("work.py")?;
    let mut command = stage.command("python3", &[script, &stage.size(4, 1)]);
    command.env("PYTHONMALLOC", "malloc").env("PYTHONHASHSEED", "0").env("PYTHONPATH", "");
    stage.run_command(command, b"")
}

/// The compiler, the assembler and the linker, which inherit the library, and the program that they make.
fn gcc(stage: &mut Stage) -> Result<(), Failed> {
    let file = stage.fixture("tables.c")?;
    stage.run("gcc", &["-O2", "-Wall", "-S", file, "-o", "tables.s"])?;
    stage.compare_file("tables.s")?;
    stage.run("gcc", &["-O2", "-Wl,--build-id=none", "tables.s", "-o", "tables"])?;
    stage.compare_file("tables")?;
    let program = stage.work().join("tables");
    stage.run(&program.display().to_string(), &[&stage.size(40_000, 4_000)])
}

/// The same with templates of the standard library.
fn gpp(stage: &mut Stage) -> Result<(), Failed> {
    let file = stage.fixture("library.cpp")?;
    let level = if stage.small { "-O1" } else { "-O2" };
    stage.run("g++", &["-std=c++17", level, "-c", file, "-o", "library.o"])?;
    stage.compare_file("library.o")?;
    stage.run("g++", &["-Wl,--build-id=none", "library.o", "-o", "library", "-pthread"])?;
    stage.compare_file("library")?;
    let program = stage.work().join("library");
    stage.run(&program.display().to_string(), &[&stage.size(30_000, 3_000)])
}

/// A repository of five hundred files, or a hundred: committed, changed, packed, checked and read.
fn git(stage: &mut Stage) -> Result<(), Failed> {
    let files = if stage.small { 100 } else { 500 };
    let text = |file: usize, version: usize| {
        (0..40).fold(String::new(), |mut text, line| {
            let changed = if line % 7 == file % 7 { version } else { 0 };
            let _ = writeln!(text, "file {file} line {line} version {changed} {}", file * line);
            text
        })
    };
    let git = |stage: &mut Stage, date: &str, arguments: &[&str]| {
        let mut command = stage.command("git", arguments);
        for role in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{role}_NAME"), "A. U. Thor");
            command.env(format!("GIT_{role}_EMAIL"), "author@example.com");
            command.env(format!("GIT_{role}_DATE"), format!("2001-02-03T04:05:{date}Z"));
        }
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
        command.env("GIT_PAGER", "cat").env("GIT_TERMINAL_PROMPT", "0");
        stage.run_command(command, b"")
    };
    git(stage, "00", &["init", "--quiet", "--initial-branch=main"])?;
    // The collection is run by hand, not behind the commit's back.
    git(stage, "00", &["config", "gc.auto", "0"])?;
    git(stage, "00", &["config", "core.fsync", "none"])?;
    for (version, date) in ["01", "02", "03"].into_iter().enumerate() {
        for file in (0..files).filter(|file| version == 0 || file % 3 == version) {
            let directory = stage.work().join(format!("folder-{}", file % 17));
            fs::create_dir_all(&directory)?;
            fs::write(directory.join(format!("{file}.txt")), text(file, version))?;
        }
        git(stage, date, &["add", "."])?;
        git(stage, date, &["commit", "--quiet", "--message", &format!("Version {version}")])?;
    }
    git(stage, "04", &["rev-parse", "HEAD"])?;
    git(stage, "04", &["-c", "pack.threads=2", "gc", "--quiet", "--aggressive", "--prune=now"])?;
    git(stage, "04", &["fsck", "--full", "--strict", "--no-progress"])?;
    git(stage, "04", &["log", "--patch", "--stat", "-M"])?;
    git(stage, "04", &["rev-list", "--objects", "--all"])?;
    git(stage, "04", &["clone", "--quiet", "--no-local", ".", "clone"])?;
    git(stage, "04", &["-C", "clone", "status", "--porcelain"])
}

/// Tables, indexes, joins, windows, a trigger and a database file.
fn sqlite(stage: &mut Stage) -> Result<(), Failed> {
    let script = fs::read_to_string(source("programs/work.sql"))?;
    let script = script.replace("ROWS", &stage.size(30_000, 5_000));
    let command = stage.command("sqlite3", &["-batch", "-bail", "work.db"]);
    stage.run_command(command, script.as_bytes())?;
    stage.run(
        "sqlite3",
        &["work.db", "PRAGMA integrity_check; SELECT count(*), sum(amount) FROM orders;"],
    )
}

fn perl(stage: &mut Stage) -> Result<(), Failed> {
    let script = stage.fixture("work.pl")?;
    let mut command = stage.command("perl", &[script, &stage.size(40_000, 4_000)]);
    command.env("PERL_HASH_SEED", "0");
    stage.run_command(command, b"")
}

fn lua(stage: &mut Stage) -> Result<(), Failed> {
    let script = stage.fixture("work.lua")?;
    stage.run("lua5.4|lua", &[script, &stage.size(60_000, 4_000)])
}

fn ruby(stage: &mut Stage) -> Result<(), Failed> {
    let script = stage.fixture("work.rb")?;
    stage.run("ruby", &["--disable-gems", script, &stage.size(40_000, 4_000)])
}

fn node(stage: &mut Stage) -> Result<(), Failed> {
    let script = stage.fixture("work.js")?;
    stage.run("node", &[script, &stage.size(20_000, 2_000)])
}

/// A server with clients: what it answers, what it keeps, and what it finds again after a restart.
fn redis(stage: &mut Stage) -> Result<(), Failed> {
    let server = Server::start(stage)?;
    let commands = fs::read(source("programs/work.redis"))?;
    stage.run_command(stage.command("redis-cli", &["-s", "socket"]), &commands)?;
    let mut benchmark = stage.command("redis-benchmark", &["-s", "socket", "-q", "-c", "20"]);
    benchmark.args(["-n", &stage.size(20_000, 3_000), "-P", "8", "-d", "200"]);
    // `ping` and `mset` as well would find the same.
    benchmark.args(["-t", "set,get,incr,lpush,rpop,sadd,hset,zadd,lrange_100"]);
    let outcome = run(benchmark, b"", LIMIT)?.exits(0)?;
    outcome.require(outcome.stdout().contains("requests per second"), "it measured nothing")?;
    let populate = format!("DEBUG POPULATE {} key 100", stage.size(20_000, 3_000));
    let delete = "EVAL \"for i = 0, 999 do redis.call('del', 'key:' .. i * 2) end return 'ok'\" 0";
    for command in [
        populate.as_str(),
        delete,
        "DBSIZE",
        "GET key:1001",
        "LLEN mylist",
        "GET counter:__rand_int__",
    ] {
        stage.run_command(stage.command("redis-cli", &["-s", "socket"]), command.as_bytes())?;
    }
    stage.run("redis-cli", &["-s", "socket", "DEBUG", "DIGEST"])?;
    // Saved by a child that is forked for it, then by the server itself as it ends.
    stage.run("redis-cli", &["-s", "socket", "BGSAVE"])?;
    let started = Instant::now();
    loop {
        let info = stage.command("redis-cli", &["-s", "socket", "INFO", "persistence"]);
        let info = run(info, b"", LIMIT)?.exits(0)?;
        if info.stdout().contains("rdb_bgsave_in_progress:0") {
            info.require(info.stdout().contains("rdb_last_bgsave_status:ok"), "it did not save")?;
            break;
        }
        info.require(started.elapsed() < LIMIT, "it never stops saving")?;
        thread::sleep(Duration::from_millis(5));
    }
    server.stop(stage)?;

    let server = Server::start(stage)?;
    stage.run("redis-cli", &["-s", "socket", "DBSIZE"])?;
    stage.run("redis-cli", &["-s", "socket", "DEBUG", "DIGEST"])?;
    server.stop(stage)
}

/// A redis server, killed when it is dropped.
struct Server {
    child: Child,
}

impl Server {
    /// Starts it on a socket in the directory, and waits until it answers.
    fn start(stage: &Stage) -> Result<Server, Failed> {
        let options = "--port 0 --unixsocket socket --appendonly no --dbfilename dump.rdb \
                       --enable-debug-command yes --loglevel warning --logfile server.log";
        let mut command = stage.command("redis-server", &["--save", ""]);
        command.args(options.split_whitespace());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let shown = repeat(&command);
        let mut server = Server { child: command.spawn()? };
        let started = Instant::now();
        loop {
            let ping = run(stage.command("redis-cli", &["-s", "socket", "PING"]), b"", LIMIT)?;
            if ping.stdout().starts_with("PONG") {
                return Ok(server);
            }
            if let Some(status) = server.child.try_wait()? {
                let log = fs::read_to_string(stage.work().join("server.log")).unwrap_or_default();
                return Err(format!("{shown}\n  ended with {status}\n{log}").into());
            }
            if started.elapsed() > Duration::from_secs(20) {
                return Err(ping.failure(&format!("it does not answer: {shown}")));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Tells it to save and to end, which it must do with success.
    fn stop(mut self, stage: &Stage) -> Result<(), Failed> {
        run(stage.command("redis-cli", &["-s", "socket", "SHUTDOWN", "SAVE"]), b"", LIMIT)?
            .exits(0)?;
        let started = Instant::now();
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("the server ended with {status}").into()),
                None if started.elapsed() > Duration::from_secs(20) => {
                    return Err("the server does not end".into());
                }
                None => thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended already where the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A document of several pages with text, curves and patterns, as pixels.
fn ghostscript(stage: &mut Stage) -> Result<(), Failed> {
    let document = stage.fixture("document.ps")?;
    let mut devices = vec!["ppmraw"];
    if !stage.small {
        devices.push("pdfwrite");
    }
    for device in devices {
        let mut command = stage.command("gs", &["-q", "-dNOPAUSE", "-dBATCH", "-dSAFER", "-r72"]);
        command.arg(format!("-sDEVICE={device}")).arg(format!("-sOutputFile={device}"));
        command.arg(document);
        stage.run_command(command, b"")?;
        if device == "ppmraw" {
            stage.compare_file(device)?;
        }
    }
    if !stage.small {
        // What was written as PDF is read again.
        let options =
            ["-q", "-dNOPAUSE", "-dBATCH", "-r72", "-sDEVICE=ppmraw", "-sOutputFile=again"];
        stage.run("gs", &[&options[..], &["pdfwrite"]].concat())?;
        stage.compare_file("again")?;
    }
    Ok(())
}

/// A tree packed, compressed by two threads, and unpacked again.
fn tar(stage: &mut Stage) -> Result<(), Failed> {
    let files = if stage.small { 60 } else { 250 };
    let tree = stage.work().join("tree");
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for file in 0..files {
        let directory = tree.join(format!("{}/{}", file % 5, file % 11));
        fs::create_dir_all(&directory)?;
        let mut text = String::new();
        while text.len() < 8_000 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let _ = writeln!(text, "{file} {} {:x}", state % 100, state >> (state % 64));
        }
        fs::write(directory.join(format!("{file}.txt")), text)?;
    }
    let pack = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner"];
    stage.run("tar", &[&pack[..], &["-cf", "tree.tar", "tree"]].concat())?;
    stage.compare_file("tree.tar")?;
    let level = if stage.small { "-1" } else { "-3" };
    stage.run("xz", &["-k", level, "-T2", "--block-size=500000", "tree.tar"])?;
    stage.compare_file("tree.tar.xz")?;
    stage.run("xz", &["-t", "-T2", "tree.tar.xz"])?;
    fs::remove_file(stage.work().join("tree.tar"))?;
    stage.run("xz", &["-d", "-T2", "tree.tar.xz"])?;
    fs::create_dir(stage.work().join("again"))?;
    stage.run("tar", &["-xf", "tree.tar", "-C", "again"])?;
    same(&tree, &stage.work().join("again/tree"))
}

/// Fails unless two trees hold the same files.
fn same(left: &Path, right: &Path) -> Result<(), Failed> {
    let mut entries: Vec<_> = fs::read_dir(left)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let other = right.join(entry.file_name());
        if entry.path().is_dir() {
            same(&entry.path(), &other)?;
        } else if fs::read(entry.path())? != fs::read(&other)? {
            return Err(format!("{} came back changed", other.display()).into());
        }
    }
    Ok(())
}
