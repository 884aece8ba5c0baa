//! Replay: a script run against a contender at full speed.
//!
//! A pass is timed as a whole; there is no clock inside. A script of one stream is timed in processor time of its
//! thread, in the kernel too: such a replay never waits for anything but the processor, and what other programs take
//! of that is not the contender's doing. Streams that run at the same time do wait for each other, so they are timed by
//! the wall clock, and want a machine that does nothing else. Where a stream is renewed, the time of starting and
//! ending its threads is in it.
//!
//! Streams share no lock while they run. A block that is handed over costs its sender one store and its receiver one
//! load, of a word in the tables; who has to wait looks at that word again and again.
//!
//! Every contender, ours and peers, is called through
//! `&dyn GlobalAlloc`, so none is inlined into the loop. Memory is touched as a program would touch it: one byte of
//! each cache line of a block is written when the block is new, and of its new part when it has grown.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{
    AtomicBool, AtomicPtr,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Barrier, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use memmap2::{MmapMut, MmapOptions};

use crate::script::{self, Kind, Op};

#[cfg(test)]
pub(crate) mod testing;

/// What every contender is called through.
pub type Allocator = dyn GlobalAlloc + Sync;

/// Bytes of a cache line.
pub const LINE: usize = 64;

/// Sees each operation that [counts](Kind::counts) after it was carried out. The one that does nothing costs nothing.
pub trait Observer {
    /// `op` was carried out.
    fn after(&mut self, op: &Op);

    /// Operations begin, in the thread that carries them out: at the start of a stream, after each meeting of all
    /// streams, and after each renewal.
    #[inline(always)]
    fn begin(&mut self) {}

    /// Operations end, or are about to wait for a meeting.
    #[inline(always)]
    fn end(&mut self) {}
}

/// Looks at nothing: for timing.
pub struct Unobserved;

impl Observer for Unobserved {
    #[inline(always)]
    fn after(&mut self, _op: &Op) {}
}

/// The table of pointers of one stream: zeroed pages, all present before the replay begins. The last of them are the
/// table's share of the mailboxes through which streams hand blocks over.
pub struct Table {
    map: MmapMut,
    slots: usize,
}

impl Table {
    /// A table of empty slots.
    ///
    /// # Errors
    ///
    /// When there is no memory for it.
    pub fn new(slots: usize) -> Result<Self> {
        let bytes = slots.max(1) * size_of::<*mut u8>();
        let map = MmapOptions::new()
            .len(bytes)
            .populate()
            .map_anon()
            .context("mapping the table of pointers")?;
        Ok(Self { map, slots })
    }

    /// The slots; an empty one holds a null pointer or one that was freed.
    pub fn slots(&mut self) -> &mut [*mut u8] {
        // SAFETY: the mapping is page-aligned, holds that many pointers, is borrowed mutably, and any bytes, zero at
        // first, make a pointer.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr().cast(), self.slots) }
    }

    /// The slots, and so many mailboxes at the end, which are empty now.
    fn split(&mut self, mailboxes: usize) -> (&mut [*mut u8], &[AtomicPtr<u8>]) {
        let slots = self.slots();
        let (slots, mailboxes) = slots.split_at_mut(slots.len() - mailboxes);
        mailboxes.fill(ptr::null_mut());
        // SAFETY: an atomic pointer has the size and the alignment of a pointer, and the borrow of the pointers, which
        // was the only one, is given up for this one.
        (slots, unsafe { &*(ptr::from_mut(mailboxes) as *const [AtomicPtr<u8>]) })
    }
}

/// How far a replay came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Operations that were carried out.
    pub operations: u64,
    /// What they took, from the first to the last of them; see the module for the clock.
    pub elapsed: Duration,
}

/// An allocation or reallocation that the contender refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Operations carried out before, in its stream.
    pub after: u64,
    /// Bytes asked for.
    pub size: usize,
    /// The alignment asked for.
    pub align: usize,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { after, size, align } = self;
        write!(f, "no memory for {size} bytes at an alignment of {align}, after {after} operations")
    }
}

/// Runs all streams, the first in the calling thread, until they end or `stop` is set.
///
/// # Errors
///
/// The first request that was refused; the replay ends there.
///
/// # Panics
///
/// When there are fewer tables or observers than streams, or tables have fewer slots than the script says.
pub fn run<O: Observer + Send>(
    heap: &Allocator,
    streams: &[&[Op]],
    tables: &mut [Table],
    stop: &AtomicBool,
    observers: &mut [O],
) -> Result<Progress, Refused> {
    assert!(tables.len() >= streams.len() && observers.len() >= streams.len());
    let cells = script::mailboxes(streams).div_ceil(streams.len().max(1));
    let (tables, mailboxes): (Vec<_>, Vec<_>) = tables
        .iter_mut()
        .take(streams.len())
        .map(|table| {
            let (slots, mailboxes) = table.split(cells);
            (Mutex::new(slots), mailboxes)
        })
        .unzip();
    let gate = Barrier::new(streams.len());
    let course = &Course { heap, tables: &tables, mailboxes: &mailboxes, gate: &gate, stop };
    let lives: Vec<Vec<Life<'_>>> = streams.iter().map(|ops| lives(ops)).collect();
    let mut parts = lives.iter().zip(observers).enumerate();
    let Some((_, (first, observer))) = parts.next() else {
        return Ok(Progress { operations: 0, elapsed: Duration::ZERO });
    };

    let mut done = Vec::with_capacity(streams.len());
    let elapsed = if streams.len() == 1 && first.len() == 1 {
        let start = processor_time();
        done.push(course.stream(0, first, observer));
        processor_time() - start
    } else {
        let ready = &Barrier::new(streams.len());
        thread::scope(|scope| {
            let running: Vec<_> = parts
                .map(|(index, (lives, observer))| {
                    scope.spawn(move || {
                        ready.wait();
                        course.stream(index, lives, observer)
                    })
                })
                .collect();
            ready.wait();
            let start = Instant::now();
            done.push(course.stream(0, first, observer));
            done.extend(running.into_iter().map(|thread| thread.join().unwrap_or_default()));
            start.elapsed()
        })
    };

    let mut operations = 0;
    for (ops, Ended { after, refused }) in streams.iter().zip(done) {
        let counted = ops.iter().filter(|op| !op.kind().divides()).take(after as usize);
        let after = counted.filter(|op| op.kind().counts()).count() as u64;
        if let Some((size, align)) = refused {
            return Err(Refused { after, size, align });
        }
        operations += after;
    }
    Ok(Progress { operations, elapsed })
}

/// Time that the processors spent on this thread so far. (That of the process is inexact while a timer runs on it.)
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills in the structure.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What one thread does for its stream: rounds, between which it meets the others.
type Life<'a> = Vec<Round<'a>>;

/// Operations that one thread carries out without looking up.
struct Round<'a> {
    ops: &'a [Op],
    /// All meet before it.
    meets: bool,
    /// How often tables were exchanged before it.
    rotations: usize,
}

/// Takes a stream apart.
fn lives(ops: &[Op]) -> Vec<Life<'_>> {
    let mut lives = vec![Vec::new()];
    let (mut rest, mut meets, mut rotations) = (ops, false, 0);
    loop {
        let length = rest.iter().position(|op| op.kind().divides()).unwrap_or(rest.len());
        let (ops, others) = rest.split_at(length);
        if let Some(life) = lives.last_mut() {
            life.push(Round { ops, meets, rotations });
        }
        let Some((divider, others)) = others.split_first() else { return lives };
        rest = others;
        meets = divider.kind() != Kind::Renew;
        rotations += usize::from(divider.kind() == Kind::Rotate);
        if divider.kind() == Kind::Renew {
            lives.push(Vec::new());
        }
    }
}

thread_local! {
    /// The stream that the thread runs, or ran.
    static STREAM: Cell<usize> = const { Cell::new(0) };
}

/// The stream that the calling thread runs.
#[inline]
pub(crate) fn current_stream() -> usize {
    STREAM.get()
}

/// How a stream ended.
#[derive(Default)]
struct Ended {
    /// How many of its operations it went through, those that do not count too, but no meetings and renewals.
    after: u64,
    /// Size and alignment of what the contender had no memory for.
    refused: Option<(usize, usize)>,
}

/// What the streams of one replay share.
struct Course<'a> {
    heap: &'a Allocator,
    tables: &'a [Mutex<&'a mut [*mut u8]>],
    /// The mailboxes in each table.
    mailboxes: &'a [&'a [AtomicPtr<u8>]],
    gate: &'a Barrier,
    stop: &'a AtomicBool,
}

// SAFETY: the pointers in tables are to blocks of a heap that any thread may use, and a table is locked while one
// does.
unsafe impl Sync for Course<'_> {}

impl Course<'_> {
    /// Runs one stream: in the calling thread, or, if it is renewed, each of its lives in a thread that ends with it.
    fn stream<O: Observer + Send>(
        &self,
        index: usize,
        lives: &[Life<'_>],
        observer: &mut O,
    ) -> Ended {
        let mut ended = Ended::default();
        match lives {
            [life] => self.life(index, life, observer, &mut ended),
            lives => {
                for life in lives {
                    let (ended, observer) = (&mut ended, &mut *observer);
                    thread::scope(|scope| {
                        // Waited for by its handle, which says that the thread is gone, and all that was its own.
                        let _ = scope.spawn(|| self.life(index, life, observer, ended)).join();
                    });
                }
            }
        }
        ended
    }

    /// A stream that must stop goes on to meet the others each time, or they would wait for ever.
    fn life<O: Observer>(
        &self,
        index: usize,
        rounds: &[Round<'_>],
        observer: &mut O,
        ended: &mut Ended,
    ) {
        STREAM.set(index);
        for Round { ops, meets, rotations } in rounds {
            if *meets {
                self.gate.wait();
            }
            // Taken for a whole round, and by nobody else: streams hold different tables in each round.
            let table = &self.tables[(index + rotations) % self.tables.len()];
            let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
            if ended.refused.is_none() {
                observer.begin();
                ended.after += self.round(ops, &mut table, observer, &mut ended.refused);
                observer.end();
            }
        }
    }

    /// Operations between two looks at the stop flag.
    const CHUNK: usize = 1024;

    /// Carries out the operations of a round, and says how many it came through. A function of its own, with
    /// [`Course::wait_long`]: what they [cost](crate::passes::costs) is counted between their doors.
    #[inline(never)]
    fn round<O: Observer>(
        &self,
        ops: &[Op],
        slots: &mut [*mut u8],
        observer: &mut O,
        refused: &mut Option<(usize, usize)>,
    ) -> u64 {
        for (index, chunk) in ops.chunks(Self::CHUNK).enumerate() {
            let before = index * Self::CHUNK;
            if self.stop.load(Relaxed) {
                return before as u64;
            }
            for (place, op) in chunk.iter().enumerate() {
                let slot = &mut slots[op.slot()];
                match op.kind() {
                    // The store releases what was written into the block, and what the heap wrote beside it.
                    Kind::Send => self.mailbox(op).store(*slot, Release),
                    Kind::Signal => self.mailbox(op).store(ptr::dangling_mut(), Release),
                    Kind::Receive | Kind::Await => {
                        let content = self.wait(self.mailbox(op));
                        if content.is_null() {
                            return (before + place) as u64;
                        }
                        if op.kind() == Kind::Receive {
                            *slot = content;
                        }
                    }
                    _ => {
                        // SAFETY: the script keeps the invariant of its module, and the tables that of slots: what a
                        // slot holds is the block that the last operation on it made or received.
                        let done = unsafe { carry_out(self.heap, op, slot) };
                        if !done {
                            *refused = Some((op.size(), op.align()));
                            self.stop.store(true, Relaxed);
                            return (before + place) as u64;
                        }
                        observer.after(op);
                    }
                }
            }
        }
        ops.len() as u64
    }

    /// Mailboxes lie in the tables in turn, so that two that are used one after the other share no cache line.
    fn mailbox(&self, op: &Op) -> &AtomicPtr<u8> {
        let (number, tables) = (op.mailbox(), self.mailboxes.len());
        &self.mailboxes[number % tables][number / tables]
    }

    /// Waits for what comes into a mailbox; null if the replay is stopped before.
    #[inline]
    fn wait(&self, mailbox: &AtomicPtr<u8>) -> *mut u8 {
        let content = mailbox.load(Acquire);
        if content.is_null() { self.wait_long(mailbox) } else { content }
    }

    /// Looks again and again, for a moment without letting go of the processor; then others run in between, which on a
    /// machine with fewer processors than streams may be those that are waited for.
    #[cold]
    #[inline(never)]
    fn wait_long(&self, mailbox: &AtomicPtr<u8>) -> *mut u8 {
        const MOMENT: u32 = 100;
        let mut looks = 0_u32;
        loop {
            let content = mailbox.load(Acquire);
            if !content.is_null() || self.stop.load(Relaxed) {
                return content;
            }
            if looks < MOMENT {
                looks += 1;
                std::hint::spin_loop();
            } else {
                thread::yield_now();
            }
        }
    }
}

/// Carries out one operation; `false` when the contender had no memory for it.
///
/// # Safety
///
/// `slot` holds a block of `heap` with the sizes and the alignment that `op` says, unless `op` allocates.
#[inline(always)]
unsafe fn carry_out(heap: &Allocator, op: &Op, slot: &mut *mut u8) -> bool {
    // SAFETY: sizes are not zero and at most `MAX_SIZE`, alignments are powers of two: `Script` sees to both. The
    // caller promises the block. Blocks are touched only within their sizes.
    unsafe {
        match op.kind() {
            Kind::Allocate | Kind::AllocateZeroed => {
                let layout = Layout::from_size_align_unchecked(op.size(), op.align());
                let block = if op.kind() == Kind::Allocate {
                    heap.alloc(layout)
                } else {
                    heap.alloc_zeroed(layout)
                };
                if block.is_null() {
                    return false;
                }
                *slot = block;
                touch(block, 0, op.size());
            }
            Kind::Reallocate => {
                let layout = Layout::from_size_align_unchecked(op.old_size(), op.align());
                let block = heap.realloc(*slot, layout, op.size());
                if block.is_null() {
                    return false;
                }
                *slot = block;
                touch(block, op.old_size(), op.size());
            }
            Kind::Free => {
                heap.dealloc(*slot, Layout::from_size_align_unchecked(op.size(), op.align()));
            }
            Kind::Write => write(*slot, op.size(), op.times()),
            // Not about a block.
            Kind::Send | Kind::Receive | Kind::Signal | Kind::Await => {}
            Kind::Meet | Kind::Rotate | Kind::Renew => {}
        }
    }
    true
}

/// Writes one byte into each cache line that the bytes `from..to` of a block lie in.
///
/// # Safety
///
/// The bytes `from..to` of `block` may be written.
#[inline(always)]
unsafe fn touch(block: *mut u8, from: usize, to: usize) {
    let mut at = from;
    while at < to {
        // SAFETY: `at` is below `to`.
        unsafe { ptr::write_volatile(block.add(at), at as u8) };
        at += LINE - (block as usize + at) % LINE;
    }
}

/// Reads and writes one byte of each cache line of a block, `times` over.
///
/// # Safety
///
/// The block is that long, and its bytes may be read and written.
#[inline(always)]
unsafe fn write(block: *mut u8, size: usize, times: u32) {
    for _ in 0..times {
        let mut at = 0;
        while at < size {
            // SAFETY: `at` is below the size. The first byte of each line was written when the block was new.
            unsafe {
                let byte = block.add(at);
                ptr::write_volatile(byte, ptr::read_volatile(byte).wrapping_add(1));
            }
            at += LINE - (block as usize + at) % LINE;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::alloc::System;

    use super::testing::Careful;
    use super::*;
    use crate::script::{Builder, Script};

    /// Every second request fails.
    struct Stingy(std::sync::atomic::AtomicUsize);

    // SAFETY: hands on to the system's allocator or fails.
    unsafe impl GlobalAlloc for Stingy {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            if self.0.fetch_add(1, Relaxed) % 2 == 1 {
                return ptr::null_mut();
            }
            // SAFETY: the caller promises the same.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            // SAFETY: the caller promises the same.
            unsafe { System.dealloc(block, layout) }
        }
    }

    fn run_alone(heap: &Allocator, ops: &[Op], slots: usize, stop: bool) -> Result<u64, Refused> {
        let mut tables = [Table::new(slots).unwrap()];
        let stop = AtomicBool::new(stop);
        run(heap, &[ops], &mut tables, &stop, &mut [Unobserved]).map(|progress| progress.operations)
    }

    #[test]
    fn a_whole_script_is_carried_out() {
        let mut builder = Builder::default();
        for _ in 0..3 {
            let object = builder.allocate(100).unwrap();
            builder.reallocate(object, 100_000).unwrap();
            builder.reallocate(object, 10).unwrap();
            builder.free(object);
        }
        let script = builder.finish().unwrap();
        assert_eq!(run_alone(&System, script.streams()[0], script.slots(), false), Ok(12));
    }

    #[test]
    fn a_refused_request_ends_the_replay_and_is_named() {
        let ops = [Op::allocate(0, 64, 16), Op::allocate(1, 80, 16)];
        let refused = Refused { after: 1, size: 80, align: 16 };
        assert_eq!(run_alone(&Stingy(0.into()), &ops, 2, false), Err(refused));
    }

    #[test]
    fn a_stopped_replay_says_how_far_it_came() {
        assert_eq!(run_alone(&System, &[Op::allocate(0, 1, 1)], 1, true), Ok(0));
    }

    #[test]
    fn streams_exchange_their_blocks() {
        // Each stream frees what the other one allocated; with the sizes differing, a mistake would show.
        let streams: Vec<Vec<Op>> = [(24, 48), (48, 24)]
            .into_iter()
            .map(|(own, other)| vec![Op::allocate(0, own, 8), Op::rotate(), Op::free(0, other, 8)])
            .collect();
        let streams: Vec<&[Op]> = streams.iter().map(Vec::as_slice).collect();
        let mut tables = [Table::new(1).unwrap(), Table::new(1).unwrap()];
        let stop = AtomicBool::new(false);
        let done =
            run(&System, &streams, &mut tables, &stop, &mut [Unobserved, Unobserved]).unwrap();
        assert_eq!(done.operations, 4);
    }

    #[test]
    fn a_refused_stream_does_not_leave_the_others_waiting() {
        let streams = [
            vec![Op::allocate(0, 1, 1), Op::allocate(1, 1, 1), Op::rotate(), Op::rotate()],
            vec![Op::rotate(), Op::rotate()],
        ];
        let streams: Vec<&[Op]> = streams.iter().map(Vec::as_slice).collect();
        let mut tables = [Table::new(2).unwrap(), Table::new(2).unwrap()];
        let stop = AtomicBool::new(false);
        let done =
            run(&Stingy(0.into()), &streams, &mut tables, &stop, &mut [Unobserved, Unobserved]);
        assert_eq!(done, Err(Refused { after: 1, size: 1, align: 1 }));
    }

    #[test]
    fn each_cache_line_is_touched_once() {
        let mut lines = vec![[0_u64; 8]; 4]; // 64-byte elements, whatever their alignment
        let block = lines.as_mut_ptr().cast::<u8>();
        let bytes = 4 * LINE;
        // SAFETY: the block is that long; afterwards every byte is initialised.
        let written = unsafe {
            ptr::write_bytes(block, 0xee, bytes);
            touch(block, 10, 200);
            std::slice::from_raw_parts(block, bytes)
        };
        let touched: Vec<_> = (0..bytes).filter(|&at| written[at] != 0xee).collect();
        let line = |at: usize| (block as usize + at) / LINE;
        let expected: std::collections::BTreeSet<_> = (10..200).map(line).collect();
        assert_eq!(
            touched.iter().map(|&at| line(at)).collect::<Vec<_>>(),
            Vec::from_iter(expected)
        );
        assert!(touched.iter().all(|at| (10..200).contains(at)));
    }

    /// Notes which threads allocate.
    #[derive(Default)]
    struct Threads(Mutex<Vec<thread::ThreadId>>);

    // SAFETY: hands on to the system's allocator.
    unsafe impl GlobalAlloc for Threads {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            self.0.lock().unwrap().push(thread::current().id());
            // SAFETY: the caller promises the same.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            // SAFETY: the caller promises the same.
            unsafe { System.dealloc(block, layout) }
        }
    }

    fn run_script(heap: &Allocator, script: &Script) -> Result<Progress, Refused> {
        let streams = script.streams();
        let mut tables: Vec<_> =
            streams.iter().map(|_| Table::new(script.slots()).unwrap()).collect();
        let mut observers: Vec<_> = streams.iter().map(|_| Unobserved).collect();
        let stop = AtomicBool::new(false);
        run(heap, &streams, &mut tables, &stop, &mut observers)
    }

    #[test]
    fn a_renewed_stream_goes_on_in_a_new_thread_with_its_blocks() {
        for streams in [1, 2] {
            let mut builder = Builder::new(streams);
            let mut left = None;
            for _ in 0..5 {
                let object = builder.allocate(10).unwrap();
                if let Some(object) = left.replace(object) {
                    builder.free(object);
                }
                builder.renew();
            }
            builder.free(left.unwrap());
            let heap = Threads::default();
            let done = run_script(&heap, &builder.finish().unwrap()).unwrap();
            assert_eq!(done.operations, 10);
            let mut threads = heap.0.into_inner().unwrap();
            assert_eq!(threads.len(), 5);
            threads.dedup();
            assert_eq!(threads.len(), 5, "each life is a thread of its own");
            assert!(!threads.contains(&thread::current().id()));
        }
    }

    #[test]
    fn a_block_is_used_by_one_stream_after_the_other() {
        let mut builder = Builder::new(4);
        let objects: Vec<_> = (0..100).map(|_| builder.allocate(48).unwrap()).collect();
        for round in 0..50 {
            for &object in &objects {
                builder.on((object as usize + round) % 4);
                builder.reallocate(object, 48 + round).unwrap();
                builder.write(object, 2);
            }
        }
        objects.iter().for_each(|&object| builder.on(2).free(object));
        let script = builder.finish().unwrap();
        let heap = Careful::default();
        let done = run_script(&heap, &script).unwrap();
        assert_eq!(done.operations, 2 * 100 + 2 * 50 * 100);
        assert_eq!(heap.clear(), 0);
    }

    #[test]
    fn a_refused_stream_does_not_leave_others_waiting_for_its_blocks() {
        let mut builder = Builder::new(3);
        for stream in [1, 2] {
            builder.on(0).allocate(8).unwrap();
            let object = builder.allocate(8).unwrap();
            builder.on(stream).free(object);
            builder.meet();
            builder.renew();
            builder.wait_for(0);
        }
        let refused = run_script(&Stingy(0.into()), &builder.finish().unwrap());
        assert_eq!(refused, Err(Refused { after: 1, size: 8, align: 8 }));
    }

    #[test]
    fn a_write_goes_over_each_cache_line_as_often_as_it_says() {
        let mut lines = vec![[0_u64; 8]; 4];
        let block = lines.as_mut_ptr().cast::<u8>();
        // SAFETY: the block is four lines long and initialised.
        let written = unsafe {
            write(block.add(3), 150, 9);
            std::slice::from_raw_parts(block, 4 * LINE)
        };
        let bytes: Vec<u8> = written.iter().copied().filter(|&byte| byte != 0).collect();
        assert!(bytes.iter().all(|&byte| byte == 9), "{bytes:?}");
        let line = |at: usize| (block as usize + at) / LINE;
        assert_eq!(bytes.len(), line(152) - line(3) + 1);
    }
}
