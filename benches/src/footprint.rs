//! Footprint, read from the kernel: the most memory that was resident at once during a replay, over what was resident
//! just before it.
//!
//! # Method
//!
//! Counted are *anonymous* pages, as the kernel finds them by walking the page tables (`/proc/self/smaps_rollup`,
//! exact to the page). Code, the script and everything else that comes from a file does not count; the tables of
//! pointers are present before the replay begins and so are in the baseline. What a contender sets up when the
//! program is loaded, before `main`, is in the baseline too.
//!
//! Walking after every operation would take for ever, and is not needed: resident memory rises only by page faults,
//! which the kernel counts exactly (`getrusage`), so it can be at most what the last walk found plus the faults since.
//! Only when that sum beats the highest value seen by more than a *tolerance* (half a percent) do we walk again. The
//! fault counter itself is read after each `Watch::BYTES` requested and each `Watch::OPERATIONS`.
//!
//! # Error
//!
//! Two things can hide a peak. Pages that come and go within one operation or between two looks (a reallocation that
//! moves a large block), and huge pages, whose fault counts as one. Both are caught by the kernel's own high-water
//! mark (`VmHWM`, reset before the replay): it misses nothing, but since Linux 6.2 it is off by up to 32 pages for
//! each processor, which batch their counts, of anonymous pages and again of those of files. So the mark is used where
//! it is above the walked peak by more than that, and the walked peak otherwise. The error is therefore within the
//! tolerance, or, where the mark was used or would have been, within [`counter_error`] (512 KiB on two processors).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};
use std::{fs, io};

use anyhow::{Context, Result};

use crate::replay::Observer;
use crate::script::{Kind, Op};

/// What a replay added to the memory of its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// Anonymous resident bytes over the baseline, at the highest.
    pub peak: u64,
    /// How far the true peak may lie from it, in bytes.
    pub error: u64,
}

/// By how many bytes the kernel's batched counters, and with them `VmHWM`, may be off.
#[must_use]
pub fn counter_error() -> u64 {
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    2 * processors * (2 * processors).max(32) * PAGE
}

const PAGE: u64 = 4096;

/// The kernel's high-water mark: cheap, and a little off. For passes that must not be disturbed.
pub struct HighWater {
    before: u64,
}

impl HighWater {
    /// Sets the mark to what is resident now.
    ///
    /// # Errors
    ///
    /// When `/proc` is not there.
    pub fn start() -> Result<Self> {
        fs::write("/proc/self/clear_refs", "5")
            .context("resetting the high-water mark of resident memory")?;
        // By a walk: the kernel's own sum is as far off as the mark, and both errors would add up.
        let rollup =
            File::open("/proc/self/smaps_rollup").context("opening /proc/self/smaps_rollup")?;
        Ok(Self { before: rolled_up(&rollup, "Rss:")? })
    }

    /// How far the mark has risen, in bytes.
    ///
    /// # Errors
    ///
    /// When `/proc` is not there.
    pub fn risen(&self) -> Result<Footprint> {
        let peak = status("VmHWM:")?.saturating_sub(self.before);
        Ok(Footprint { peak, error: counter_error() })
    }
}

/// Anonymous resident memory of this process, over what it was at first. Reading it allocates nothing and costs a walk
/// of the kernel over the page tables: some ten microseconds, and a few for each megabyte.
pub(crate) struct Resident {
    rollup: File,
    baseline: u64,
}

impl Resident {
    /// Takes the baseline.
    pub(crate) fn start() -> Result<Self> {
        let rollup =
            File::open("/proc/self/smaps_rollup").context("opening /proc/self/smaps_rollup")?;
        anonymous(&rollup)?; // so that the stack that a walk needs is in the baseline
        let baseline = anonymous(&rollup)?;
        Ok(Self { rollup, baseline })
    }

    /// Bytes over the baseline now.
    pub(crate) fn now(&self) -> io::Result<u64> {
        Ok(anonymous(&self.rollup)?.saturating_sub(self.baseline))
    }
}

/// Follows the footprint of this process during a replay.
pub struct Meter {
    resident: Resident,
    mark: HighWater,
    state: Mutex<State>,
}

#[derive(Clone, Copy)]
struct State {
    /// What the last walk found, over the baseline.
    walked: u64,
    /// Page faults up to then.
    faults: u64,
    peak: u64,
}

impl Meter {
    /// Takes the baseline. From here to [`Meter::finish`], only the contender should obtain memory.
    ///
    /// # Errors
    ///
    /// When `/proc` is not there.
    pub fn start() -> Result<Self> {
        let mark = HighWater::start()?;
        let resident = Resident::start()?;
        let state = State { walked: 0, faults: faults(), peak: 0 };
        Ok(Self { resident, mark, state: Mutex::new(state) })
    }

    /// Walks if the peak may have risen, by more than `tolerated` bytes.
    fn look(&self, tolerated: impl Fn(u64) -> u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let faults = faults();
        let possible = state.walked + (faults - state.faults) * PAGE;
        if possible > state.peak + tolerated(state.peak) {
            // A walk that fails leaves the peak to the high-water mark.
            if let Ok(now) = self.resident.now() {
                state.walked = now;
                state.faults = faults;
                state.peak = state.peak.max(state.walked);
            }
        }
    }

    /// The footprint since the start.
    ///
    /// # Errors
    ///
    /// When `/proc` is not there.
    pub fn finish(self) -> Result<Footprint> {
        self.look(|_| 0);
        let walked = self.state.into_inner().unwrap_or_else(PoisonError::into_inner).peak;
        let mark = self.mark.risen()?;
        Ok(if mark.peak > walked + mark.error {
            mark
        } else {
            Footprint { peak: walked, error: tolerance(walked) }
        })
    }
}

/// How exact a footprint should be: half a percent, and a page at least.
pub(crate) fn tolerance(peak: u64) -> u64 {
    (peak / 200).max(PAGE)
}

/// Lets a [`Meter`] look often enough; one for each stream.
pub struct Watch<'a> {
    meter: &'a Meter,
    operations: u32,
    bytes: usize,
}

impl<'a> Watch<'a> {
    /// Operations between two looks, at most.
    const OPERATIONS: u32 = 64;
    /// Bytes requested between two looks, at most: one page.
    const BYTES: usize = PAGE as usize;

    /// An observer for one stream.
    #[must_use]
    pub fn new(meter: &'a Meter) -> Self {
        Self { meter, operations: 0, bytes: 0 }
    }
}

impl Observer for Watch<'_> {
    #[inline]
    fn after(&mut self, op: &Op) {
        self.operations += 1;
        if op.kind() != Kind::Free {
            self.bytes += op.size();
        }
        if self.operations >= Self::OPERATIONS || self.bytes >= Self::BYTES {
            self.meter.look(tolerance);
            (self.operations, self.bytes) = (0, 0);
        }
    }
}

/// Page faults of this process so far.
fn faults() -> u64 {
    // SAFETY: the kernel fills in the whole structure, for which zeroes are a value.
    let usage = unsafe {
        let mut usage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    (usage.ru_minflt + usage.ru_majflt) as u64
}

/// Anonymous resident bytes of this process.
fn anonymous(rollup: &File) -> io::Result<u64> {
    rolled_up(rollup, "Anonymous:")
}

/// A sum over all mappings, in bytes, by a walk of the kernel over the page tables. Allocates nothing.
fn rolled_up(rollup: &File, name: &str) -> io::Result<u64> {
    let mut text = [0; 2048];
    let length = rollup.read_at(&mut text, 0)?;
    field(&text[..length], name)
        .ok_or_else(|| io::Error::other(format!("smaps_rollup has no line {name}")))
}

/// A field of `/proc/self/status`, in bytes. Allocates nothing.
fn status(name: &str) -> Result<u64> {
    let mut text = [0; 4096];
    let length = File::open("/proc/self/status").and_then(|file| file.read_at(&mut text, 0))?;
    field(&text[..length], name).with_context(|| format!("/proc/self/status has no line {name}"))
}

/// The number of kilobytes in the line that begins with `name`, in bytes.
fn field(text: &[u8], name: &str) -> Option<u64> {
    let line =
        text.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(name.as_bytes()))?;
    let digits = line.iter().filter(|byte| byte.is_ascii_digit());
    Some(1024 * digits.fold(0, |sum, digit| 10 * sum + u64::from(digit - b'0')))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::ptr;
    use std::sync::atomic::AtomicBool;

    use memmap2::MmapMut;

    use super::*;
    use crate::replay::{self, Table};
    use crate::script::Builder;

    #[test]
    fn fields_are_found_whole() {
        let text = b"Name:\tx\nVmHWM:\t  12345 kB\nVmRSS:\t 9 kB\n";
        assert_eq!(field(text, "VmHWM:"), Some(12345 * 1024));
        assert_eq!(field(text, "RssAnon:"), None);
    }

    /// Runs a test in a process of its own, where nothing else faults pages in.
    pub(crate) fn alone(test: &str, body: impl FnOnce()) {
        const MARK: &str = "HEAPWRIGHT_TEST_ALONE";
        if std::env::var_os(MARK).is_some() {
            return body();
        }
        let this = std::env::current_exe().unwrap();
        let run = std::process::Command::new(this)
            .args(["--exact", test, "--test-threads=1", "--nocapture"])
            .env(MARK, "1")
            .output()
            .unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let said = String::from_utf8_lossy(&run.stdout);
        assert!(said.contains("1 passed"), "the test's name has changed: {said}");
    }

    #[test]
    fn pages_are_counted_one_by_one() {
        alone("footprint::tests::pages_are_counted_one_by_one", || {
            for pages in [1_usize, 7, 100, 1000] {
                let mut map = MmapMut::map_anon(2000 * PAGE as usize).unwrap();
                let meter = Meter::start().unwrap();
                for page in 0..pages {
                    map[page * PAGE as usize] = 1;
                }
                let footprint = meter.finish().unwrap();
                assert_eq!(footprint.peak, pages as u64 * PAGE, "{pages} pages");
            }
        });
    }

    /// Maps each block and unmaps it when it is freed, so its footprint is known: the pages of live blocks.
    struct Pages;

    // SAFETY: mappings are disjoint and page-aligned.
    unsafe impl GlobalAlloc for Pages {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            let (flags, access) =
                (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, libc::PROT_READ | libc::PROT_WRITE);
            // SAFETY: a new mapping aliases nothing.
            unsafe { libc::mmap(ptr::null_mut(), layout.size(), access, flags, -1, 0).cast() }
        }

        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            // SAFETY: the block is a mapping of its own.
            unsafe { libc::munmap(block.cast(), layout.size()) };
        }
    }

    #[test]
    fn the_peak_of_a_replay_is_found_within_the_error_that_is_stated() {
        alone(
            "footprint::tests::the_peak_of_a_replay_is_found_within_the_error_that_is_stated",
            || {
                // Up to a peak, down, and up again but less; once with a moving reallocation that is seen only by the mark.
                for large in [0, 4 << 20] {
                    let mut builder = Builder::default();
                    let objects: Vec<_> =
                        (0..500).map(|_| builder.allocate(4096).unwrap()).collect();
                    objects.into_iter().for_each(|object| builder.free(object));
                    for _ in 0..300 {
                        builder.allocate(4096).unwrap();
                    }
                    if large > 0 {
                        let object = builder.allocate(large).unwrap();
                        builder.reallocate(object, large + 4096).unwrap();
                    }
                    let script = builder.finish().unwrap();
                    let moved = if large > 0 { 300 * 4096 + 2 * large as u64 + 4096 } else { 0 };
                    let truth = moved.max(500 * PAGE);

                    let mut tables = [Table::new(script.slots()).unwrap()];
                    let stop = AtomicBool::new(false);
                    let streams = script.streams();
                    let meter = Meter::start().unwrap();
                    replay::run(&Pages, &streams, &mut tables, &stop, &mut [Watch::new(&meter)])
                        .unwrap();
                    let footprint = meter.finish().unwrap();
                    assert!(
                        footprint.peak.abs_diff(truth) <= footprint.error,
                        "{footprint:?}, but {truth} is true"
                    );
                    if large == 0 {
                        assert!(footprint.error <= 3 * PAGE, "{footprint:?}");
                    }
                }
            },
        );
    }

    #[test]
    fn the_high_water_mark_keeps_what_is_gone() {
        alone("footprint::tests::the_high_water_mark_keeps_what_is_gone", || {
            let layout = Layout::from_size_align(64 << 20, 4096).unwrap();
            let mark = HighWater::start().unwrap();
            // SAFETY: the block is written within its size and freed once.
            unsafe {
                let block = System.alloc(layout);
                ptr::write_bytes(block, 1, layout.size());
                // Or else a compiler may leave out all three.
                System.dealloc(std::hint::black_box(block), layout);
            }
            let footprint = mark.risen().unwrap();
            assert!(
                footprint.peak.abs_diff(64 << 20) <= footprint.error + 2 * PAGE,
                "{footprint:?}"
            );
        });
    }
}
