//! What a replay made the kernel and the processor do.
//!
//! # Method
//!
//! Two processes: one replays, the other, its parent, traces it (`ptrace`) and counts its system calls by their names.
//! The replay marks for it where operations begin and end, by a system call that is recognised and not counted; so
//! what the harness itself asks of the kernel (threads, meetings of streams) does not count. Page faults are the
//! kernel's own counts (`getrusage`) of the threads that replay, between the same marks. Instructions and cache misses
//! are the processor's (`perf_event_open`), outside the kernel only, over the whole replay, its loop and the touching of
//! blocks included.
//!
//! What is not permitted or not there (containers often refuse `ptrace`, virtual machines often have no counters) is
//! `None`, and [`Counts::unavailable`] says why.
//!
//! # Error
//!
//! Faults and system calls are exact, but where streams wait for blocks of each other, the waiting is in them
//! (`sched_yield`). The touching of new memory faults as a program's use of it would. The processor's
//! counters are extrapolated where it had to share them.
//!
//! # Cost
//!
//! One more process, and two stops of it for each system call: 10 to 20 µs together.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::{io, ptr};

use anyhow::{Context, Result, bail};
use perf_event::Counter;
use perf_event::events::{Event, Hardware};
use serde::{Deserialize, Serialize};

use crate::replay::Observer;
use crate::script::Op;

/// Events during a replay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Page faults that needed no reading from a disk.
    pub minor_faults: u64,
    /// Page faults that did.
    pub major_faults: u64,
    /// System calls by name.
    pub system_calls: Option<BTreeMap<String, u64>>,
    /// Instructions outside the kernel.
    pub instructions: Option<u64>,
    /// Misses of the last cache, outside the kernel.
    pub cache_misses: Option<u64>,
    /// What could not be measured, and why.
    pub unavailable: Vec<String>,
}

/// Counts the page faults of one stream, and marks for the tracer where its operations begin and end.
#[derive(Default)]
pub(crate) struct Marker {
    before: Faults,
    during: Faults,
}

#[derive(Clone, Copy, Default)]
struct Faults {
    minor: u64,
    major: u64,
}

impl Observer for Marker {
    #[inline(always)]
    fn after(&mut self, _op: &Op) {}

    fn begin(&mut self) {
        self.before = faults();
        mark(BEGIN);
    }

    fn end(&mut self) {
        mark(END);
        let now = faults();
        self.during.minor += now.minor - self.before.minor;
        self.during.major += now.major - self.before.major;
    }
}

impl Marker {
    /// Adds what was counted.
    pub(crate) fn add_to(&self, counts: &mut Counts) {
        counts.minor_faults += self.during.minor;
        counts.major_faults += self.during.major;
    }
}

/// Page faults of this thread so far.
fn faults() -> Faults {
    // SAFETY: the kernel fills in the whole structure, for which zeroes are a value.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &mut usage);
        usage
    };
    Faults { minor: usage.ru_minflt as u64, major: usage.ru_majflt as u64 }
}

/// The arguments of the marking system calls: `getpid`, which takes none and ignores them.
const MAGIC: u64 = 0x6865_6170_7772_6967;
const GETPID: u64 = libc::SYS_getpid as u64;
const BEGIN: u64 = 1;
const END: u64 = 2;

fn mark(what: u64) {
    // SAFETY: `getpid` does nothing but answer.
    unsafe { libc::syscall(libc::SYS_getpid, MAGIC, what) };
}

/// The processor's counters of this thread, and of those that it starts from now on.
pub(crate) struct Counters {
    instructions: Result<Counter, String>,
    cache_misses: Result<Counter, String>,
}

impl Counters {
    /// Opens what there is, and starts it.
    pub(crate) fn start() -> Self {
        let (instructions, cache_misses) =
            (open(Hardware::INSTRUCTIONS), open(Hardware::CACHE_MISSES));
        let mut counters = Self { instructions, cache_misses };
        for counter in [&mut counters.instructions, &mut counters.cache_misses] {
            if let Ok(open) = counter
                && let Err(error) = open.enable()
            {
                *counter = Err(error.to_string());
            }
        }
        counters
    }

    /// Stops them, and adds what was counted.
    pub(crate) fn stop(mut self, counts: &mut Counts) {
        for counter in [&mut self.instructions, &mut self.cache_misses].into_iter().flatten() {
            let _ = counter.disable(); // then it counts a little more
        }
        let mut value = |name: &str, counter: Result<Counter, String>| {
            let value = counter.and_then(|mut counter| read(&mut counter));
            value.map_err(|reason| counts.unavailable.push(format!("{name}: {reason}"))).ok()
        };
        let instructions = value("instructions", self.instructions);
        let cache_misses = value("cache misses", self.cache_misses);
        (counts.instructions, counts.cache_misses) = (instructions, cache_misses);
    }
}

fn open(event: impl Event) -> Result<Counter, String> {
    let mut builder = perf_event::Builder::new(event);
    builder.inherit(true).build().map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP) => {
            format!(
                "the processor, or the virtual machine, has no such counter ({error}); --passes costs simulates one"
            )
        }
        Some(libc::EACCES | libc::EPERM) => format!(
            "the kernel does not permit it ({error}); see /proc/sys/kernel/perf_event_paranoid"
        ),
        _ => format!("perf_event_open: {error}"),
    })
}

/// What was counted, extrapolated to the whole time where the counter was shared.
fn read(counter: &mut Counter) -> Result<u64, String> {
    let data = counter.read_full().map_err(|error| error.to_string())?;
    let (Some(enabled), Some(running)) = (data.time_enabled(), data.time_running()) else {
        return Ok(data.count());
    };
    if running.is_zero() {
        return Err("the counter was never free".to_owned());
    }
    let share = enabled.as_secs_f64() / running.as_secs_f64();
    Ok((data.count() as f64 * share).round() as u64)
}

/// What came of a process that was traced.
pub(crate) struct Traced {
    /// What it printed.
    pub(crate) output: String,
    /// The system calls between its marks, by name; or why they could not be counted.
    pub(crate) system_calls: Result<BTreeMap<String, u64>, String>,
}

/// Runs a program to its end and counts its system calls between the marks. Where it is killed by a signal, this
/// process ends by the same.
///
/// # Errors
///
/// When the program cannot be started, or fails.
pub(crate) fn trace(mut command: Command) -> Result<Traced> {
    // SAFETY: between fork and exec, only a system call is made. Where it is refused, the program runs untraced.
    unsafe {
        command.pre_exec(|| {
            libc::ptrace(libc::PTRACE_TRACEME, 0, ptr::null_mut::<u8>(), ptr::null_mut::<u8>());
            Ok(())
        });
    }
    let mut child =
        command.stdout(Stdio::piped()).spawn().context("starting the process to be traced")?;
    let mut pipe = child.stdout.take().context("the output of the traced process")?;
    let (status, system_calls) = follow(child.id() as libc::pid_t)?;
    // Its answer fits into the pipe, or it would not have come to its end.
    let mut output = String::new();
    pipe.read_to_string(&mut output).context("reading the output of the traced process")?;
    if libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status);
        // SAFETY: the signal ends this process, as it ended the traced one.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
        bail!("the traced process was killed by signal {signal}");
    }
    if libc::WEXITSTATUS(status) != 0 {
        bail!("the traced process ended with exit status {}", libc::WEXITSTATUS(status));
    }
    Ok(Traced { output, system_calls })
}

/// How a process ended, and its system calls.
type Followed = (i32, Result<BTreeMap<String, u64>, String>);

/// Follows a process and its threads until it ends. All requests come from this one thread, as the kernel asks.
fn follow(child: libc::pid_t) -> Result<Followed> {
    const OPTIONS: i32 =
        libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_EXITKILL;
    const AT_SYSTEM_CALL: i32 = libc::SIGTRAP | 0x80;
    let mut status = wait(child)?.1;
    if !libc::WIFSTOPPED(status) {
        let reason = "tracing a process is not permitted here (ptrace)".to_owned();
        return Ok((status, Err(reason)));
    }
    // It stands at the first instruction of the program.
    request(libc::PTRACE_SETOPTIONS, child, OPTIONS as usize).context("setting up the tracing")?;
    request(libc::PTRACE_SYSCALL, child, 0).context("resuming the traced process")?;
    let mut counts = Ok(HashMap::<u64, u64>::new());
    // Threads that are known, and whether they are between the marks.
    let mut inside = HashMap::from([(child, false)]);
    loop {
        let thread;
        (thread, status) = wait(-1)?;
        if !libc::WIFSTOPPED(status) {
            if thread == child {
                break;
            }
            inside.remove(&thread);
            continue;
        }
        let new = !inside.contains_key(&thread);
        let inside = inside.entry(thread).or_insert(false);
        let signal = match libc::WSTOPSIG(status) {
            AT_SYSTEM_CALL => {
                match entered(thread) {
                    Ok(Some((GETPID, MAGIC, what))) => *inside = what == BEGIN,
                    Ok(Some((number, ..))) if *inside => {
                        if let Ok(counts) = &mut counts {
                            *counts.entry(number).or_default() += 1;
                        }
                    }
                    Ok(_) => {}
                    Err(error) => counts = Err(format!("PTRACE_GET_SYSCALL_INFO: {error}")),
                }
                0
            }
            libc::SIGTRAP if status >> 16 != 0 => 0, // a thread was started
            libc::SIGSTOP if new => 0,               // it is the one
            signal => signal,
        };
        // It may be gone already: killed, together with all others.
        let _ = request(libc::PTRACE_SYSCALL, thread, signal as usize);
    }
    let named = |counts: HashMap<u64, u64>| {
        counts.into_iter().map(|(number, count)| (name(number), count)).collect()
    };
    Ok((status, counts.map(named)))
}

/// The next change of a process, or of any that this thread started or traces.
fn wait(process: libc::pid_t) -> Result<(libc::pid_t, i32)> {
    const OPTIONS: i32 = libc::__WALL | libc::__WNOTHREAD;
    let mut status = 0;
    loop {
        // SAFETY: the kernel fills in the status.
        let thread = unsafe { libc::waitpid(process, &mut status, OPTIONS) };
        if thread > 0 {
            return Ok((thread, status));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error).context("waiting for the traced process");
        }
    }
}

fn request(what: libc::c_uint, thread: libc::pid_t, data: usize) -> io::Result<()> {
    // SAFETY: these requests take a number and touch no memory of this process.
    match unsafe { libc::ptrace(what, thread, ptr::null_mut::<u8>(), data) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// The number and the first two arguments of the system call that a thread enters; `None` if it returns from one.
fn entered(thread: libc::pid_t) -> io::Result<Option<(u64, u64, u64)>> {
    let mut info = MaybeUninit::<libc::ptrace_syscall_info>::zeroed();
    // SAFETY: the kernel writes at most so many bytes, of numbers, for which any bits are values; `entry` is what it
    // wrote where `op` says so.
    unsafe {
        let size = size_of_val(&info);
        if libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, thread, size, info.as_mut_ptr()) == -1 {
            return Err(io::Error::last_os_error());
        }
        let info = info.assume_init();
        if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
            return Ok(None);
        }
        let entry = info.u.entry;
        Ok(Some((entry.nr, entry.args[0], entry.args[1])))
    }
}

fn name(number: u64) -> String {
    let known = syscalls::Sysno::new(number as usize);
    known.map_or_else(|| format!("number {number}"), |known| known.name().to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::thread;

    use memmap2::MmapMut;
    use perf_event::events::Software;

    use super::*;

    const INNER: &str = "HEAPWRIGHT_TEST_TRACED";

    /// Runs `body` in a process of its own, traced.
    fn traced(test: &str, body: impl FnOnce()) -> Option<Result<Traced>> {
        if std::env::var_os(INNER).is_some() {
            body();
            return None;
        }
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--test-threads=1", "--nocapture"]).env(INNER, "1");
        Some(trace(command))
    }

    fn system_calls(traced: Traced) -> Option<BTreeMap<String, u64>> {
        assert!(traced.output.contains("1 passed"), "{}", traced.output);
        match traced.system_calls {
            Ok(calls) => Some(calls),
            Err(reason) => {
                eprintln!("skipped: {reason}");
                None
            }
        }
    }

    fn ask_for_parent(times: usize) {
        for _ in 0..times {
            // SAFETY: asks for a number.
            unsafe { libc::syscall(libc::SYS_getppid) };
        }
    }

    #[test]
    fn system_calls_between_the_marks_are_counted_and_no_others() {
        let name =
            "passes::counts::tests::system_calls_between_the_marks_are_counted_and_no_others";
        let Some(result) = traced(name, || {
            ask_for_parent(3);
            let mut marker = Marker::default();
            for _ in 0..2 {
                marker.begin();
                ask_for_parent(5);
                // SAFETY: `getpid` without the mark is a call like others.
                unsafe { libc::syscall(libc::SYS_getpid, 0, END) };
                marker.end();
                ask_for_parent(7);
            }
        }) else {
            return;
        };
        let Some(calls) = system_calls(result.unwrap()) else { return };
        let expected = BTreeMap::from([("getppid".to_owned(), 10), ("getpid".to_owned(), 2)]);
        assert_eq!(calls, expected);
    }

    #[test]
    fn system_calls_of_other_threads_count_between_their_own_marks() {
        let name =
            "passes::counts::tests::system_calls_of_other_threads_count_between_their_own_marks";
        let Some(result) = traced(name, || {
            let mut marker = Marker::default();
            marker.begin();
            ask_for_parent(1);
            marker.end();
            let work = |times| {
                let mut marker = Marker::default();
                ask_for_parent(2);
                marker.begin();
                ask_for_parent(times);
                marker.end();
            };
            let threads: Vec<_> =
                [10, 100].map(|times| thread::spawn(move || work(times))).into_iter().collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        }) else {
            return;
        };
        let Some(calls) = system_calls(result.unwrap()) else { return };
        assert_eq!(calls, BTreeMap::from([("getppid".to_owned(), 111)]));
    }

    #[test]
    fn a_traced_process_that_fails_is_an_error() {
        let mut command = Command::new("sh");
        command.args(["-c", "exit 3"]);
        let error = trace(command).err().unwrap().to_string();
        assert!(error.contains("exit status 3"), "{error}");
    }

    #[test]
    fn signals_reach_the_traced_process() {
        let mut command = Command::new("sh");
        command.args(["-c", "trap 'echo caught' USR1; kill -USR1 $$; echo done"]);
        assert_eq!(trace(command).unwrap().output, "caught\ndone\n");
    }

    #[test]
    fn faults_between_the_marks_are_counted() {
        let mut map = MmapMut::map_anon(300 * 4096).unwrap();
        let mut marker = Marker::default();
        let mut touch = |pages: std::ops::Range<usize>| pages.for_each(|page| map[page * 4096] = 1);
        touch(0..100);
        marker.begin();
        touch(100..150);
        marker.end();
        touch(150..200);
        let mut counts = Counts::default();
        marker.add_to(&mut counts);
        // The test's own stack and counters may fault now and then.
        assert!((50..60).contains(&counts.minor_faults), "{counts:?}");
    }

    #[test]
    fn counters_count_or_say_why_not() {
        let mut counts = Counts::default();
        let counters = Counters::start();
        let text = fs::read_to_string("/proc/self/status").unwrap();
        assert!(text.lines().count() > 10);
        counters.stop(&mut counts);
        for (value, name) in
            [(counts.instructions, "instructions"), (counts.cache_misses, "cache misses")]
        {
            let excused = counts.unavailable.iter().any(|reason| reason.starts_with(name));
            assert!(value.is_some() != excused, "{name}: {counts:?}");
        }
        assert!(counts.instructions.is_none_or(|count| count > 1000), "{counts:?}");
    }

    #[test]
    fn a_counter_is_read_as_the_kernel_counts() {
        // A counter that virtual machines have too.
        let mut counter = match open(Software::PAGE_FAULTS) {
            Ok(counter) => counter,
            Err(reason) => return eprintln!("skipped: {reason}"),
        };
        let mut map = MmapMut::map_anon(100 * 4096).unwrap();
        counter.enable().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| (0..100).for_each(|page| map[page * 4096] = 1));
        });
        counter.disable().unwrap();
        let faults = read(&mut counter).unwrap();
        assert!((100..200).contains(&faults), "{faults} faults");
    }
}
