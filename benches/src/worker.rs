//! Workers: one process for one sample.
//!
//! The harness starts itself again as `heapwright-bench worker SCRIPT CONTENDER PASS MILLISECONDS`; the worker replays
//! and prints one [`Finding`] as a line of JSON. It does next to nothing before the replay: what it allocated with the
//! C library's malloc would lie in the heap that the `glibc` row measures.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use memmap2::MmapMut;
use serde::{Deserialize, Serialize};

use crate::contender::{Contender, Kind as Maker};
use crate::floor::Floor;
use crate::footprint::{Footprint, HighWater, Meter, Watch};
use crate::passes::costs::{self, Costs, Turns};
use crate::passes::counts::{self, Counters, Counts, Marker, Traced};
use crate::passes::heap_map::HeapMap;
use crate::passes::latency::{Clock, Latency, Stopwatch, Timed};
use crate::passes::timeline::{BUDGET, Follow, Sampler, Tally, Timeline};
use crate::replay::{self, Progress, Refused, Table, Unobserved};
use crate::script::MappedScript;
use crate::slowed::Slowed;
use crate::{registry, verify};

/// The first argument of a worker.
pub const COMMAND: &str = "worker";

/// What a worker is to find out. Each pass has a process of its own, so that none disturbs another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pass {
    /// How long the replay takes.
    Time,
    /// How much memory it holds at the highest.
    Footprint,
    /// Whether every promise is kept.
    Verify,
    /// How long single calls take.
    Latency,
    /// The footprint over time, and the heap map.
    Timeline,
    /// Page faults, system calls, instructions, cache misses.
    Counts,
    /// Instructions, cache misses and atomic operations, by callgrind.
    Costs,
}

impl Pass {
    const ALL: [Self; 7] = [
        Self::Time,
        Self::Footprint,
        Self::Verify,
        Self::Latency,
        Self::Timeline,
        Self::Counts,
        Self::Costs,
    ];

    /// Its name in the worker's arguments.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::Footprint => "footprint",
            Self::Verify => "verify",
            Self::Latency => "latency",
            Self::Timeline => "timeline",
            Self::Counts => "counts",
            Self::Costs => "costs",
        }
    }
}

impl FromStr for Pass {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|pass| pass.name() == name)
            .with_context(|| format!("there is no pass {name}"))
    }
}

/// What a worker found. It is `partial` where the time limit ended the replay: the contender works, but is slow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "found", rename_all = "lowercase")]
pub enum Finding {
    /// From [`Pass::Time`].
    Time {
        /// Operations carried out.
        operations: u64,
        /// What they took together: processor time, or wall time where there are several streams.
        nanoseconds: u64,
        /// Of a whole program, the processor time of all its processes, the kernel's work for them too.
        processor: Option<u64>,
        /// By the high-water mark, which costs the replay nothing but is less exact than [`Finding::Footprint`].
        footprint: u64,
        /// How far off that may be, in bytes.
        footprint_error: u64,
        /// The time limit ended the replay.
        partial: bool,
    },
    /// From [`Pass::Footprint`].
    Footprint {
        /// The highest footprint over the baseline, in bytes.
        footprint: u64,
        /// How far off that may be, in bytes.
        footprint_error: u64,
        /// The time limit ended the replay.
        partial: bool,
    },
    /// From [`Pass::Verify`]: nothing was found broken.
    Verified {
        /// Operations carried out.
        operations: u64,
        /// How often the strategy's own check was called.
        checks: u64,
        /// The time limit ended the replay.
        partial: bool,
    },
    /// From [`Pass::Latency`].
    Latency {
        /// The times of calls.
        latency: Latency,
        /// The time limit ended the replay.
        partial: bool,
    },
    /// From [`Pass::Timeline`].
    Timeline {
        /// The footprint over time.
        timeline: Timeline,
        /// Address against time; `None` for a peer, whose blocks nobody knows.
        heap_map: Option<HeapMap>,
        /// The time limit ended the replay.
        partial: bool,
    },
    /// From [`Pass::Counts`].
    Counts {
        /// What was counted.
        counts: Counts,
        /// The time limit ended the replay.
        partial: bool,
    },
    /// From [`Pass::Costs`].
    Costs {
        /// What was counted; of fewer operations than there are, where that is many.
        costs: Costs,
    },
    /// The contender did not do what was asked, or the worker could not.
    Failed {
        /// What went wrong.
        reason: String,
    },
}

/// Runs a worker, from its arguments after [`COMMAND`].
///
/// # Errors
///
/// When the arguments make no sense or the finding cannot be printed. What goes wrong in between is a finding.
pub fn main(arguments: impl Iterator<Item = OsString>) -> Result<()> {
    let arguments: Vec<_> = arguments.collect();
    let (arguments, traced) = match arguments.split_last() {
        Some((last, others)) if last == TRACED => (others, true),
        _ => (arguments.as_slice(), false),
    };
    let [script, contender, pass, limit] = arguments else {
        bail!("a worker takes four arguments: script, contender, pass, milliseconds");
    };
    let text = |argument: &'_ OsString| argument.to_string_lossy().into_owned();
    let (name, pass, limit) =
        (text(contender), text(pass).parse()?, Duration::from_millis(text(limit).parse()?));
    let (name, slowdown) = match name.split_once(SLOWED) {
        Some((name, nanoseconds)) => (name, Some(nanoseconds.parse()?)),
        None => (name.as_str(), None),
    };
    let contender =
        registry::contender(name).with_context(|| format!("there is no contender {name}"))?;
    let finding = match pass {
        Pass::Counts if !traced => counts_of(another(arguments)?),
        Pass::Costs if !traced => Ok(costs_of(&another(arguments)?, contender)),
        _ => work(Path::new(script), contender, slowdown, pass, limit),
    };
    let finding = finding.unwrap_or_else(|error| Finding::Failed { reason: format!("{error:#}") });
    let mut line = serde_json::to_string(&finding)?;
    line.push('\n');
    std::io::stdout().write_all(line.as_bytes()).context("printing the finding")
}

/// Behind a contender's name and before the nanoseconds by which each of its calls is to be slower.
pub const SLOWED: &str = "+ns=";

/// The last argument of a worker that another one traces, or runs under callgrind.
const TRACED: &str = "traced";

/// Another worker for the same, which somebody looks at.
fn another(arguments: &[OsString]) -> Result<Command> {
    let program = std::env::current_exe().context("finding this program's own file")?;
    let mut command = Command::new(program);
    command.arg(COMMAND).args(arguments).arg(TRACED);
    Ok(command)
}

/// Traces another worker: its own counts, and its system calls.
fn counts_of(command: Command) -> Result<Finding> {
    let Traced { output, system_calls } = counts::trace(command)?;
    let mut finding = serde_json::from_str(&output).context("the traced worker's answer")?;
    if let Finding::Counts { counts, .. } = &mut finding {
        match system_calls {
            Ok(system_calls) => counts.system_calls = Some(system_calls),
            Err(reason) => counts.unavailable.push(format!("system calls: {reason}")),
        }
    }
    Ok(finding)
}

/// Runs another worker under callgrind: it knows how many operations it carried out, and callgrind what they cost. What
/// fails there may still work: other passes know.
fn costs_of(command: &Command, contender: &Contender) -> Finding {
    let counted = || -> Result<Costs> {
        let (output, counted) = costs::count(command)?;
        match serde_json::from_str(&output).context("the worker's answer under callgrind")? {
            Finding::Costs { costs: Costs { operations, .. } } => {
                let locks = contender.strategy.and(counted.locks);
                Ok(Costs { operations, locks, ..counted })
            }
            Finding::Failed { reason } => bail!(reason),
            other => bail!("not what was asked for: {other:?}"),
        }
    };
    Finding::Costs { costs: counted().unwrap_or_else(Costs::unavailable) }
}

fn work(
    script: &Path,
    contender: &Contender,
    slowdown: Option<f64>,
    pass: Pass,
    limit: Duration,
) -> Result<Finding> {
    no_core_dump();
    let script = MappedScript::open(script)?;
    let streams = script.streams();
    /// Not in a heap, which might be the one that is measured.
    static SLOW: OnceLock<Slowed> = OnceLock::new();
    let mut heap = match contender.allocator {
        Some(heap) => heap,
        None if contender.kind == Maker::Floor => Floor::leak(&streams)?,
        None => bail!("{} is not built in", contender.name),
    };
    if let Some(nanoseconds) = slowdown {
        heap = SLOW.get_or_init(|| Slowed::by(heap, nanoseconds));
    }
    let mut tables: Vec<_> =
        streams.iter().map(|_| Table::new(script.slots())).collect::<Result<_>>()?;
    prefault();
    if streams.len() == 1 {
        stay_here();
    }
    stop_after(limit);

    let all = || streams.iter().copied().flatten().filter(|op| op.kind().counts()).count() as u64;
    let partial = |operations: u64| STOP.load(Relaxed) && operations < all();
    Ok(match pass {
        Pass::Time => {
            let mark = HighWater::start()?;
            (contender.prepare)();
            let mut observers: Vec<_> = streams.iter().map(|_| Unobserved).collect();
            match replay::run(heap, &streams, &mut tables, &STOP, &mut observers) {
                Ok(Progress { operations, elapsed }) => {
                    let Footprint { peak, error } = mark.risen()?;
                    Finding::Time {
                        operations,
                        nanoseconds: elapsed.as_nanos() as u64,
                        processor: None,
                        footprint: peak,
                        footprint_error: error,
                        partial: partial(operations),
                    }
                }
                Err(refused) => refused.into(),
            }
        }
        Pass::Footprint => {
            let meter = Meter::start()?;
            (contender.prepare)();
            let mut observers: Vec<_> = streams.iter().map(|_| Watch::new(&meter)).collect();
            match replay::run(heap, &streams, &mut tables, &STOP, &mut observers) {
                Ok(Progress { operations, .. }) => {
                    let Footprint { peak, error } = meter.finish()?;
                    let partial = partial(operations);
                    Finding::Footprint { footprint: peak, footprint_error: error, partial }
                }
                Err(refused) => refused.into(),
            }
        }
        Pass::Verify => {
            (contender.prepare)();
            let never_frees = contender.never_frees;
            let watched =
                contender.strategy.map(|strategy| verify::Watched { strategy, never_frees });
            let verified = verify::run(heap, watched, &streams, script.slots(), &STOP)?;
            let verify::Verified { operations, checks } = verified;
            Finding::Verified { operations, checks, partial: partial(operations) }
        }
        Pass::Latency => {
            let clock = Clock::new();
            let mut watches: Vec<_> =
                streams.iter().map(|_| Stopwatch::new(clock)).collect::<Result<_>>()?;
            (contender.prepare)();
            let timed = Timed::new(heap, clock);
            match replay::run(&timed, &streams, &mut tables, &STOP, &mut watches) {
                Ok(Progress { operations, .. }) => {
                    let partial = partial(operations);
                    Finding::Latency { latency: Stopwatch::finish(watches)?, partial }
                }
                Err(refused) => refused.into(),
            }
        }
        Pass::Timeline => {
            let tallies: Vec<_> = streams.iter().map(|_| Tally::default()).collect();
            let mut observers: Vec<_> = tallies.iter().map(Follow::new).collect();
            let Some(first) = observers.first_mut() else { bail!("a script without streams") };
            let total = streams[0].iter().filter(|op| op.kind().counts()).count() as u64;
            first.sample_by(Sampler::start(&tallies, contender.strategy, total, BUDGET)?);
            (contender.prepare)();
            match replay::run(heap, &streams, &mut tables, &STOP, &mut observers) {
                Ok(Progress { operations, .. }) => {
                    let sampler = observers.swap_remove(0).into_sampler();
                    let (timeline, heap_map) = sampler.context("the first stream")?.finish();
                    Finding::Timeline { timeline, heap_map, partial: partial(operations) }
                }
                Err(refused) => refused.into(),
            }
        }
        Pass::Counts => {
            let mut markers: Vec<_> = streams.iter().map(|_| Marker::default()).collect();
            (contender.prepare)();
            let counters = Counters::start();
            match replay::run(heap, &streams, &mut tables, &STOP, &mut markers) {
                Ok(Progress { operations, .. }) => {
                    let mut counts = Counts::default();
                    counters.stop(&mut counts);
                    markers.iter().for_each(|marker| marker.add_to(&mut counts));
                    Finding::Counts { counts, partial: partial(operations) }
                }
                Err(refused) => refused.into(),
            }
        }
        Pass::Costs => {
            let turns = |_| Turns::new(streams.len(), &STOP);
            let mut observers: Vec<_> = streams.iter().map(turns).collect();
            (contender.prepare)();
            match replay::run(heap, &streams, &mut tables, &STOP, &mut observers) {
                Ok(Progress { operations, .. }) => {
                    Finding::Costs { costs: Costs { operations, ..Costs::default() } }
                }
                Err(refused) => refused.into(),
            }
        }
    })
}

impl From<Refused> for Finding {
    fn from(refused: Refused) -> Self {
        Self::Failed { reason: refused.to_string() }
    }
}

/// Set when the time is up.
static STOP: AtomicBool = AtomicBool::new(false);

/// Sets [`STOP`] after so much processor time. By a signal: a second thread would make every allocator pay for
/// threads.
fn stop_after(limit: Duration) {
    extern "C" fn stop(_signal: libc::c_int) {
        STOP.store(true, Relaxed);
    }
    // SAFETY: the handler only stores into an atomic; both structures are filled in, zeroes standing for nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = stop as extern "C" fn(libc::c_int) as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(libc::SIGPROF, &action, std::ptr::null_mut());
        let mut timer: libc::itimerval = std::mem::zeroed();
        timer.it_value.tv_sec = limit.as_secs() as libc::time_t;
        timer.it_value.tv_usec = libc::suseconds_t::from(limit.subsec_micros().max(1));
        libc::setitimer(libc::ITIMER_PROF, &timer, std::ptr::null_mut());
    }
}

/// Keeps this thread on its processor, where the caches are warm. Where the system does not allow it, it may wander.
fn stay_here() {
    // SAFETY: all zeroes is an empty set; the number is one that the kernel gave.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        let Ok(here) = usize::try_from(libc::sched_getcpu()) else { return };
        libc::CPU_SET(here, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set);
    }
}

/// A contender that crashes need not write gigabytes to the disk.
fn no_core_dump() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is filled in.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) };
}

/// Makes the pages of all code and constants present, and some stack, so that neither is paid for in the replay.
/// What the kernel refuses is only slower.
fn prefault() {
    #[inline(never)]
    fn stack() {
        let mut room = [0_u8; 128 << 10];
        std::hint::black_box(&mut room);
    }
    stack();
    // Memory of its own for the text, not a heap's.
    let Ok(mut text) = MmapMut::map_anon(1 << 20) else { return };
    let mut length = 0;
    let Ok(mut maps) = File::open("/proc/self/maps") else { return };
    while let Ok(more @ 1..) = maps.read(&mut text[length..]) {
        length += more;
    }
    for line in text[..length]
        .split(|&byte| byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok())
    {
        // 7f00-7f10 r-xp 00000000 fe:00 1234   /usr/lib/…
        let mut fields = line.split_ascii_whitespace();
        let (Some(range), Some(access), Some(inode)) =
            (fields.next(), fields.next(), fields.nth(2))
        else {
            continue;
        };
        let address = |hexadecimal| usize::from_str_radix(hexadecimal, 16).ok();
        if let Some((Some(start), Some(end))) =
            range.split_once('-').map(|(start, end)| (address(start), address(end)))
            && access.starts_with('r')
            && inode != "0"
        {
            // SAFETY: reading pages of a mapping in changes nothing that a program can see.
            unsafe { libc::madvise(start as *mut _, end - start, libc::MADV_POPULATE_READ) };
        }
    }
}
