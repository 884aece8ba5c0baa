//! Replay: a script run against a contender at full speed.
//!
//! A pass is timed as a whole; there is no clock inside. A script of one stream is timed in processor time of its
//! thread, in the kernel too: such a replay never waits for anything but the processor, and what other programs take
//! of that is not the contender's doing. Streams that run at the same time do wait for each other, so they are timed by
//! the wall clock, and want a machine that does nothing else.
//!
//! Every contender, ours and peers, is called through
//! `&dyn GlobalAlloc`, so none is inlined into the loop. Memory is touched as a program would touch it: one byte of
//! each cache line of a block is written when the block is new, and of its new part when it has grown.

use std::alloc::{GlobalAlloc, Layout};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Barrier, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use memmap2::{MmapMut, MmapOptions};

use crate::script::{Kind, Op};

/// What every contender is called through.
pub type Allocator = dyn GlobalAlloc + Sync;

/// Bytes of a cache line.
pub const LINE: usize = 64;

/// Sees each operation after it was carried out. The one that does nothing costs nothing.
pub trait Observer {
    /// `op` was carried out.
    fn after(&mut self, op: &Op);
}

/// Looks at nothing: for timing.
pub struct Unobserved;

impl Observer for Unobserved {
    #[inline(always)]
    fn after(&mut self, _op: &Op) {}
}

/// The table of pointers of one stream: zeroed pages, all present before the replay begins.
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
pub fn run<O: Observer + Send>(
    heap: &Allocator,
    streams: &[&[Op]],
    tables: &mut [Table],
    stop: &AtomicBool,
    observers: &mut [O],
) -> Result<Progress, Refused> {
    let gate = Barrier::new(streams.len());
    let tables: Vec<_> = tables.iter_mut().map(Mutex::new).collect();
    let course = &Course { heap, tables: &tables, gate: &gate, stop };
    let rounds: Vec<Vec<&[Op]>> =
        streams.iter().map(|ops| ops.split(|op| op.kind() == Kind::Rotate).collect()).collect();
    let mut parts = rounds.iter().zip(observers).enumerate();
    let Some((_, (first, observer))) = parts.next() else {
        return Ok(Progress { operations: 0, elapsed: Duration::ZERO });
    };
    if streams.len() == 1 {
        let start = processor_time();
        let operations = course.stream(0, first, observer)?;
        return Ok(Progress { operations, elapsed: processor_time() - start });
    }
    let ready = &Barrier::new(streams.len());
    thread::scope(|scope| {
        let running: Vec<_> = parts
            .map(|(index, (rounds, observer))| {
                scope.spawn(move || {
                    ready.wait();
                    course.stream(index, rounds, observer)
                })
            })
            .collect();
        ready.wait();
        let start = Instant::now();
        let mut operations = course.stream(0, first, observer);
        for thread in running {
            let more = thread.join().unwrap_or(Ok(0));
            operations = operations.and_then(|sum| Ok(sum + more?));
        }
        Ok(Progress { operations: operations?, elapsed: start.elapsed() })
    })
}

/// Time that the processors spent on this thread so far. (That of the process is inexact while a timer runs on it.)
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills in the structure.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What the streams of one replay share.
struct Course<'a> {
    heap: &'a Allocator,
    tables: &'a [Mutex<&'a mut Table>],
    gate: &'a Barrier,
    stop: &'a AtomicBool,
}

impl Course<'_> {
    /// Runs one stream and counts its operations.
    ///
    /// A stream that must stop goes on to meet the others at every rotation, or they would wait for ever.
    fn stream<O: Observer>(
        &self,
        index: usize,
        rounds: &[&[Op]],
        observer: &mut O,
    ) -> Result<u64, Refused> {
        let mut operations = 0;
        let mut refused = None;
        for (round, ops) in rounds.iter().enumerate() {
            if round > 0 {
                self.gate.wait();
            }
            // Taken for a whole round, and by nobody else: streams hold different tables in each round.
            let table = &self.tables[(index + round) % self.tables.len()];
            let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
            if refused.is_none() {
                match self.round(ops, table.slots(), observer) {
                    Ok(done) => operations += done,
                    Err(Refused { after, size, align }) => {
                        self.stop.store(true, Relaxed);
                        refused = Some(Refused { after: operations + after, size, align });
                    }
                }
            }
        }
        match refused {
            Some(refused) => Err(refused),
            None => Ok(operations),
        }
    }

    /// Operations between two looks at the stop flag.
    const CHUNK: usize = 1024;

    fn round<O: Observer>(
        &self,
        ops: &[Op],
        slots: &mut [*mut u8],
        observer: &mut O,
    ) -> Result<u64, Refused> {
        for (index, chunk) in ops.chunks(Self::CHUNK).enumerate() {
            if self.stop.load(Relaxed) {
                return Ok((index * Self::CHUNK) as u64);
            }
            for (place, op) in chunk.iter().enumerate() {
                // SAFETY: the script keeps the invariant of its module, and the tables that of slots: what a slot
                // holds is the block that the last operation on it made.
                let done = unsafe { carry_out(self.heap, op, &mut slots[op.slot()]) };
                if !done {
                    let after = (index * Self::CHUNK + place) as u64;
                    return Err(Refused { after, size: op.size(), align: op.align() });
                }
                observer.after(op);
            }
        }
        Ok(ops.len() as u64)
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
            Kind::Rotate => {}
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

#[cfg(test)]
mod tests {
    use std::alloc::System;

    use super::*;
    use crate::script::Builder;

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
}
