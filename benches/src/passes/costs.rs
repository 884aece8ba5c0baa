//! What a replay costs in numbers that are the same on every machine of a kind, busy or not.
//!
//! # Method
//!
//! Two processes: one replays under callgrind, valgrind's processor in software; the other, its parent, reads what
//! callgrind wrote. Collecting is switched on by entering the loop over a script and off by leaving it, and off while a
//! stream waits for another, so that neither the harness's start nor its waiting counts.
//!
//! | figure | is |
//! |---|---|
//! | instructions | those executed outside the kernel |
//! | first-level misses | of reads and writes in a simulated cache of 32 KiB, 8 ways, lines of 64 bytes |
//! | last-level misses | of all accesses in one of 8 MiB, 16 ways |
//! | atomic operations | executed instructions that lock the bus or its like: `lock` before any, `xchg` with memory, `mfence` |
//! | locks taken | those of them, in strategies, that let go of a lock: in a function `unlock`, says the line table |
//!
//! Callgrind says how often the instruction at each address was executed; which of them are atomic is found by
//! disassembling the files they came from.
//!
//! # Error
//!
//! With one stream, figures repeat to the digit, or nearly, where an allocator draws random numbers or looks at the
//! clock; with several, they depend on how these meet. What the harness needs for itself, its loop, the virtual call
//! and the touching of blocks, is in all of them: the floor's row says how much. Atomic loads and stores, which cost
//! what others do, are no atomic operations here. A `FutexMutex` that nobody else wants takes one to be locked and
//! one to be let go; a spin lock one in all, and the C library's none as long as the process has one thread. Streams
//! run one at a time, in turns of a few operations, on one cache: contention, and lines that travel between
//! processors, are not seen, only how many operations could make them travel. Nothing is prefetched. The first
//! [`MOST`] operations are taken, from an empty heap on.
//!
//! # Cost
//!
//! About 50 times a replay's time.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use iced_x86::{Decoder, DecoderOptions, Mnemonic, OpKind};
use object::{Object, ObjectSegment};
use serde::{Deserialize, Serialize};

use crate::replay::Observer;
use crate::script::Op;

/// No more operations than these, of all streams together, are carried out.
pub const MOST: u64 = 500_000;

/// After so much processor time a replay under callgrind ends, and what it did until then is what is counted.
pub const LIMIT: Duration = Duration::from_secs(60);

/// What a replay, or the first part of one, cost.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Costs {
    /// By which means they were counted: callgrind, with its version.
    pub means: String,
    /// Operations that were carried out; all other figures are of these.
    pub operations: u64,
    /// Instructions outside the kernel.
    pub instructions: u64,
    /// Misses of the first cache for data.
    pub data_misses: u64,
    /// Misses of the last cache.
    pub last_level_misses: u64,
    /// Atomic operations.
    pub atomics: u64,
    /// Locks taken; of strategies only, for where others take theirs is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locks: Option<u64>,
    /// Why nothing could be counted, if so: not everything runs under valgrind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<String>,
}

impl Costs {
    pub(crate) fn unavailable(error: anyhow::Error) -> Self {
        Self { unavailable: Some(format!("{error:#}")), ..Self::default() }
    }

    /// One of the figures for each operation, if there are any.
    #[must_use]
    pub fn each(&self, figure: impl Fn(&Self) -> u64) -> Option<f64> {
        (self.operations > 0).then(|| figure(self) as f64 / self.operations as f64)
    }
}

/// Ends the replay when a stream has carried out its share of [`MOST`], and lets others have their turn before.
pub(crate) struct Turns<'a> {
    left: u64,
    alone: bool,
    stop: &'a AtomicBool,
}

impl<'a> Turns<'a> {
    /// Operations of a turn: few, as if streams ran side by side.
    const LENGTH: u64 = 32;

    pub(crate) fn new(streams: usize, stop: &'a AtomicBool) -> Self {
        let turns = MOST / streams.max(1) as u64 / Self::LENGTH;
        Self { left: turns * Self::LENGTH, alone: streams == 1, stop }
    }

    #[cold]
    #[inline(never)]
    fn turn(&self) {
        if self.left == 0 {
            self.stop.store(true, Relaxed);
        }
        if !self.alone {
            thread::yield_now();
        }
    }
}

impl Observer for Turns<'_> {
    #[inline(always)]
    fn after(&mut self, _op: &Op) {
        self.left = self.left.wrapping_sub(1);
        if self.left.is_multiple_of(Self::LENGTH) {
            self.turn();
        }
    }
}

/// The functions at whose doors collecting is switched, as their symbols have them: on at the first, off at the others,
/// which it calls.
const SWITCHES: [&str; 3] =
    ["*replay*Course*round*", "*replay*Course*wait_long*", "*costs*Turns*turn*"];

/// The same caches on every machine: bytes, ways, bytes of a line.
const CACHES: [&str; 3] = ["--I1=32768,8,64", "--D1=32768,8,64", "--LL=8388608,16,64"];

/// What is to be collected, in words that need no dictionary.
const OPTIONS: [&str; 9] = [
    "--tool=callgrind",
    "--quiet",
    "--fair-sched=try", // who lets others have their turn waits until they had it
    "--cache-sim=yes",
    "--dump-instr=yes",
    "--dump-line=no",
    "--compress-strings=no",
    "--compress-pos=no",
    "--collect-atstart=no",
];

/// Where glibc copies and fills by one instruction, it does so by loops here: callgrind counts each repetition.
const WITHOUT_REPETITIONS: (&str, &str) = ("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-ERMS");

/// Says whether costs can be counted here.
///
/// # Errors
///
/// When valgrind cannot be run.
pub fn available() -> Result<()> {
    let output = Command::new("valgrind").arg("--version").output();
    let missing =
        "costs are counted by callgrind, a tool of valgrind, which cannot be run; is it installed?";
    ensure!(output.context(missing)?.status.success(), missing);
    Ok(())
}

/// Runs a program under callgrind; what it printed, and its costs but for the operations, which it knows itself. Where it
/// fails, so does this.
///
/// # Errors
///
/// When valgrind cannot be run, when the program fails under it, and when the profile makes no sense.
pub(crate) fn count(command: &Command) -> Result<(String, Costs)> {
    let folder = tempfile::tempdir().context("making a folder for callgrind's profile")?;
    let path = folder.path().join("profile");
    let mut valgrind = Command::new("valgrind");
    valgrind.args(OPTIONS).args(CACHES);
    valgrind.args(SWITCHES.map(|switch| format!("--toggle-collect={switch}")));
    valgrind.arg(format!("--callgrind-out-file={}", path.display()));
    valgrind.arg(command.get_program()).args(command.get_args());
    valgrind.env(WITHOUT_REPETITIONS.0, WITHOUT_REPETITIONS.1).stdin(Stdio::null());
    // SAFETY: between fork and exec, only a system call is made: whoever kills this process ends the other one too.
    unsafe {
        valgrind.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    let output = valgrind.output().context("running valgrind")?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let last = errors.lines().last().unwrap_or("it said nothing");
        bail!("under callgrind, the replay ended with {}: {last}", output.status);
    }
    let file = std::fs::File::open(&path).context("opening callgrind's profile")?;
    let profile = Profile::read(BufReader::new(file)).context("reading callgrind's profile")?;
    let total = |name: &str| {
        let total = profile.totals.get(name).copied();
        total.with_context(|| format!("callgrind counted no {name}"))
    };
    let (atomics, locks) = profile.atomics(Path::new(command.get_program()))?;
    let costs = Costs {
        operations: 0,
        instructions: total("Ir")?,
        data_misses: total("D1mr")? + total("D1mw")?,
        last_level_misses: total("ILmr")? + total("DLmr")? + total("DLmw")?,
        atomics,
        locks,
        means: profile.creator,
        unavailable: None,
    };
    ensure!(costs.instructions > 0, "callgrind saw nothing of the replay");
    Ok((String::from_utf8_lossy(&output.stdout).into_owned(), costs))
}

/// What callgrind wrote, in the format of "Callgrind Format Specification" in valgrind's manual, uncompressed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Profile {
    /// Callgrind, with its version.
    creator: String,
    /// Events by name, all together.
    totals: HashMap<String, u64>,
    /// How often instructions were executed: by the file that they are in and their address there.
    executed: HashMap<String, BTreeMap<u64, u64>>,
}

impl Profile {
    /// Costs stand in lines `0xADDRESS EVENTS…`, below the file of the code in `ob=FILE`; zeroes at the end of a line are left
    /// out. The line after `calls=…` is what the called function cost, which is told where its own code is.
    fn read(lines: impl BufRead) -> Result<Self> {
        let mut profile = Self::default();
        let (mut events, mut object, mut after_calls) = (Vec::new(), String::new(), false);
        for line in lines.lines() {
            let line = line?;
            if line.starts_with("0x") {
                let mut fields = line.split_ascii_whitespace();
                let address = fields.next().and_then(|field| field.strip_prefix("0x"));
                let address = u64::from_str_radix(address.unwrap_or_default(), 16);
                let times = fields.next().map_or(Ok(0), str::parse::<u64>);
                let (Ok(address), Ok(times)) = (address, times) else {
                    bail!("no line of costs: {line:?}");
                };
                if !std::mem::take(&mut after_calls) {
                    if !profile.executed.contains_key(&object) {
                        profile.executed.insert(object.clone(), BTreeMap::new());
                    }
                    if let Some(executed) = profile.executed.get_mut(&object) {
                        *executed.entry(address).or_default() += times;
                    }
                }
            } else if let Some(file) = line.strip_prefix("ob=") {
                file.clone_into(&mut object);
            } else if line.starts_with("calls=") {
                after_calls = true;
            } else if let Some(names) = line.strip_prefix("events:") {
                events = names.split_ascii_whitespace().map(str::to_owned).collect();
            } else if let Some(creator) = line.strip_prefix("creator:") {
                profile.creator = creator.trim().replace("callgrind-", "callgrind ");
            } else if let Some(totals) = line.strip_prefix("totals:") {
                let values = totals.split_ascii_whitespace().map(str::parse);
                let values = values.collect::<Result<Vec<u64>, _>>().context("the totals")?;
                let values = values.into_iter().chain(std::iter::repeat(0));
                profile.totals = events.iter().cloned().zip(values).collect();
            }
        }
        ensure!(events.first().is_some_and(|event| event == "Ir"), "instructions come first");
        let sum: u64 = profile.executed.values().flat_map(BTreeMap::values).sum();
        let total = profile.totals.get("Ir").copied().unwrap_or_default();
        ensure!(sum == total, "{total} instructions in all, but {sum} one by one");
        Ok(profile)
    }

    /// How many atomic operations were executed, and how many of these let go of a lock of the program's own; `None` where
    /// its file does not say. What is in no file (the kernel's own page of code) has neither.
    fn atomics(&self, program: &Path) -> Result<(u64, Option<u64>)> {
        let (mut atomics, mut locks) = (0, Some(0));
        for (path, executed) in self.executed.iter().filter(|(path, _)| path.starts_with('/')) {
            let path = Path::new(path);
            let found = atomics_in(path, executed)
                .with_context(|| format!("finding atomic instructions in {}", path.display()))?;
            atomics += found.values().sum::<u64>();
            if path == program {
                locks = locks_among(&found, path);
            }
        }
        Ok((atomics, locks))
    }
}

/// The atomic ones among executed instructions of a file.
fn atomics_in(path: &Path, executed: &BTreeMap<u64, u64>) -> Result<BTreeMap<u64, u64>> {
    let bytes = std::fs::read(path)?;
    let file = object::File::parse(bytes.as_slice())?;
    let segments: Vec<(u64, &[u8])> = file
        .segments()
        .map(|segment| Ok((segment.address(), segment.data()?)))
        .collect::<object::Result<_>>()?;
    let mut atomics = BTreeMap::new();
    for (&address, &times) in executed {
        let code = segments.iter().find_map(|&(start, bytes)| {
            bytes.get(usize::try_from(address.checked_sub(start)?).ok()?..)
        });
        let code = code.filter(|code| !code.is_empty());
        if is_atomic(code.with_context(|| format!("there is nothing at {address:#x}"))?) {
            atomics.insert(address, times);
        }
    }
    Ok(atomics)
}

/// How often a lock was let go, which is as often as it was taken: `lock_api` has that done in a function `unlock`, inlined
/// mostly, and ours do it by one instruction. `None` where the line tables do not name the functions.
fn locks_among(atomics: &BTreeMap<u64, u64>, path: &Path) -> Option<u64> {
    let lines = addr2line::Loader::new(path).ok()?;
    let mut locks = 0;
    for (&address, times) in atomics {
        let mut frames = lines.find_frames(address).ok()?;
        let (mut named, mut unlocks) = (false, false);
        while let Some(frame) = frames.next().ok()? {
            let name = frame.function.as_ref().and_then(|function| function.demangle().ok());
            named |= name.is_some();
            unlocks |= name.is_some_and(|name| name == "unlock" || name.ends_with("::unlock"));
        }
        if !named {
            return None;
        }
        locks += if unlocks { *times } else { 0 };
    }
    Some(locks)
}

/// Whether the instruction that code begins with is an atomic operation. `xchg` with memory is one without saying so, and
/// `mfence` does what some compilers write as `lock or` to the stack.
fn is_atomic(code: &[u8]) -> bool {
    let instruction = Decoder::new(64, code, DecoderOptions::NONE).decode();
    let with_memory = [instruction.op0_kind(), instruction.op1_kind()].contains(&OpKind::Memory);
    instruction.has_lock_prefix()
        || instruction.mnemonic() == Mnemonic::Xchg && with_memory
        || instruction.mnemonic() == Mnemonic::Mfence
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As callgrind 3.19 writes it.
    const PROFILE: &str = "\
# callgrind format
version: 1
creator: callgrind-3.19.0
cmd:  heapwright-bench worker 0.script tlsf costs 60000 traced
part: 1

desc: D1 cache: 32768 B, 64 B, 8-way associative

positions: instr
events: Ir Dr Dw I1mr D1mr D1mw ILmr DLmr DLmw
summary: 160 20 0 0 3

ob=/lib/libc.so.6
fl=memset.S
fn=memset
0x153480 60
0x153484 50 10 0 0 2

ob=/bin/bench
fl=replay.rs
fn=replay
fi=ptr.rs
0x2147c0 10 10 0 0 1
cob=/lib/libc.so.6
cfi=memset.S
cfn=memset
calls=60 0x153480
0x2147c5 110 10 0 0 2
fe=replay.rs
0x2147c5 30
0x2147c0 10

totals: 160 20 0 0 3
";

    #[test]
    fn a_profile_is_read_without_counting_calls_twice() {
        let profile = Profile::read(PROFILE.as_bytes()).unwrap();
        assert_eq!(profile.creator, "callgrind 3.19.0");
        assert_eq!(profile.totals["Ir"], 160);
        assert_eq!((profile.totals["D1mr"], profile.totals["DLmw"]), (3, 0));
        let bench = BTreeMap::from([(0x2147c0, 20), (0x2147c5, 30)]);
        assert_eq!(profile.executed["/bin/bench"], bench);
        assert_eq!(profile.executed["/lib/libc.so.6"].len(), 2);
    }

    #[test]
    fn a_profile_that_lacks_something_is_refused() {
        for (from, to) in [
            ("0x2147c5 30\n", ""),
            ("events: Ir Dr", "events: Dr Ir"),
            ("0x153480 60\n", "0x153480 many\n"),
            ("totals: 160 20", "totals: -1 20"),
        ] {
            assert!(PROFILE.contains(from));
            assert!(Profile::read(PROFILE.replacen(from, to, 1).as_bytes()).is_err(), "{from}");
        }
    }

    #[test]
    fn what_locks_is_atomic_and_nothing_else() {
        let atomic: [&[u8]; 6] = [
            &[0xf0, 0x0f, 0xb1, 0x0f],                   // lock cmpxchg [rdi], ecx
            &[0x66, 0xf0, 0x0f, 0xc1, 0x07],             // lock xadd [rdi], ax
            &[0xf0, 0x83, 0x0c, 0x24, 0x00],             // lock or dword [rsp], 0
            &[0x87, 0x07],                               // xchg [rdi], eax
            &[0x64, 0x48, 0x87, 0x04, 0x25, 0, 0, 0, 0], // xchg fs:[0], rax
            &[0x0f, 0xae, 0xf0],                         // mfence
        ];
        let plain: [&[u8]; 6] = [
            &[0x90],                // nop, which is xchg eax, eax
            &[0x48, 0x87, 0xc3],    // xchg rbx, rax
            &[0x0f, 0xb1, 0x0f],    // cmpxchg [rdi], ecx: of this processor alone
            &[0x89, 0x07],          // mov [rdi], eax: a store, atomic or not
            &[0xb8, 0xf0, 0, 0, 0], // mov eax, 0xf0
            &[0x0f, 0xae, 0xe8],    // lfence
        ];
        assert!(atomic.into_iter().all(is_atomic));
        assert!(!plain.into_iter().any(is_atomic));
    }
}
