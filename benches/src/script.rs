//! Scripts: workloads made ready to be replayed at full speed.
//!
//! A script is a list of operations of 16 bytes each, with everything looked up in advance: objects are renamed to
//! recycled *slots*, so that the table of pointers is as small as the most objects that live at once; each operation
//! carries the sizes that a sized free or a reallocation needs; zero sizes are made one byte, as `GlobalAlloc` asks.
//!
//! The file is written by the coordinator once and mapped by every worker, so its pages belong to no process and do
//! not count in anyone's footprint.
//!
//! # Streams
//!
//! A script has one stream of operations or several, each for a thread of its own with a table of slots of its own.
//! Streams depend on each other in three ways:
//!
//! * **Handing over.** A block goes from a slot of one stream ([`Kind::Send`]) to a slot of another ([`Kind::Receive`])
//!   through a *mailbox*, one word of memory that is used once. The receiver waits until something is there, the sender
//!   never waits. [`Kind::Signal`] and [`Kind::Await`] are the same without a block.
//! * **Meeting.** At [`Kind::Meet`] and [`Kind::Rotate`] each stream waits for all others.
//! * **Renewing.** At [`Kind::Renew`] a stream goes on in a new thread of the system, and the old one is gone.
//!
//! # Invariants
//!
//! [`Script::concurrent`] verifies them for every script, by walking a [`Schedule`]:
//!
//! * A slot is allocated and received into when it is empty; it is reallocated, written, sent and freed when it is
//!   full, with the size and the alignment that its block has then. After the last operation slots may be full.
//! * A mailbox is filled once and emptied once.
//! * **No stream waits for ever.** There is one order of all operations, of all streams, in which each operation comes
//!   after all that it waits for: the schedule that was walked. However the streams run in truth, of all the operations
//!   that are left, the one that is first in this order has nothing left to wait for; so some stream can always go on.
//!
//! A [`Builder`] is told operations in such an order to begin with, and adds the handing over by itself.
//!
//! # Alignment
//!
//! A trace says 16 for what a program got from plain `malloc`. A block of fewer than 16 bytes holds nothing that needs
//! more than its own size rounded down to a power of two, and allocators behind Rust's `GlobalAlloc` take a slow way
//! for alignments beyond the size. So a plain block is asked for with the alignment that its smallest size in the
//! trace gives it, 16 at most: what a Rust program with the same types would ask for.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use bytemuck::{Pod, Zeroable};
use heapwright_trace::{MALLOC_ALIGN, Op as Event, Trace};
use memmap2::{Mmap, MmapOptions};

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Fills an empty slot with a block of [`Op::size`].
    Allocate,
    /// The same, and the block's bytes are zero.
    AllocateZeroed,
    /// Gives the block in a slot, of [`Op::old_size`], a new [`Op::size`].
    Reallocate,
    /// Frees the block in a slot, of [`Op::size`].
    Free,
    /// Reads and writes one byte of each cache line of the block in a slot, of [`Op::size`], [`Op::times`] times over.
    Write,
    /// Puts the block in a slot into [`Op::mailbox`]; the slot is empty then.
    Send,
    /// Waits for a block in [`Op::mailbox`] and fills an empty slot with it.
    Receive,
    /// Puts a mark into [`Op::mailbox`].
    Signal,
    /// Waits for the mark in [`Op::mailbox`].
    Await,
    /// Waits for all streams.
    Meet,
    /// Waits for all streams, then goes on with the next stream's table of slots.
    Rotate,
    /// Ends the stream's thread; a new one goes on.
    Renew,
}

impl Kind {
    /// Whether it counts as an operation: what a program does with its memory does, what keeps streams in order does
    /// not.
    #[inline(always)]
    #[must_use]
    pub fn counts(self) -> bool {
        matches!(
            self,
            Self::Allocate | Self::AllocateZeroed | Self::Reallocate | Self::Free | Self::Write
        )
    }

    /// Whether it ends a run of operations that a thread carries out without looking up.
    pub(crate) fn divides(self) -> bool {
        matches!(self, Self::Meet | Self::Rotate | Self::Renew)
    }
}

/// One operation, packed.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Op {
    slot: u32,
    size_low: u32,
    old_low: u32,
    size_high: u8,
    old_high: u8,
    kind: u8,
    align_log2: u8,
}

/// The largest size that an operation can carry: one tebibyte.
pub const MAX_SIZE: usize = (1 << 40) - 1;

impl Op {
    /// An operation; `old_size` is also how often to write, or the mailbox, and zero where it means nothing.
    fn new(kind: Kind, slot: u32, size: usize, old_size: usize, align: usize) -> Self {
        Self {
            slot,
            size_low: size as u32,
            size_high: (size >> 32) as u8,
            old_low: old_size as u32,
            old_high: (old_size >> 32) as u8,
            kind: kind as u8,
            align_log2: align.trailing_zeros() as u8,
        }
    }

    /// An allocation.
    #[must_use]
    pub fn allocate(slot: u32, size: usize, align: usize) -> Self {
        Self::new(Kind::Allocate, slot, size, 0, align)
    }

    /// A free of a block with this size and alignment.
    #[must_use]
    pub fn free(slot: u32, size: usize, align: usize) -> Self {
        Self::new(Kind::Free, slot, size, 0, align)
    }

    /// Writes to a block with this size and alignment, `times` over; see [`Kind::Write`].
    #[must_use]
    pub fn write(slot: u32, size: usize, align: usize, times: u32) -> Self {
        Self::new(Kind::Write, slot, size, times as usize, align)
    }

    /// Hands a block over; see [`Kind::Send`].
    #[must_use]
    pub fn send(slot: u32, mailbox: u32) -> Self {
        Self::new(Kind::Send, slot, 0, mailbox as usize, 1)
    }

    /// Takes a block that another stream hands over; see [`Kind::Receive`].
    #[must_use]
    pub fn receive(slot: u32, mailbox: u32) -> Self {
        Self::new(Kind::Receive, slot, 0, mailbox as usize, 1)
    }

    /// Tells another stream that this one has come so far; see [`Kind::Signal`].
    #[must_use]
    pub fn signal(mailbox: u32) -> Self {
        Self::new(Kind::Signal, 0, 0, mailbox as usize, 1)
    }

    /// Waits for another stream's [`Op::signal`]; see [`Kind::Await`].
    #[must_use]
    pub fn await_signal(mailbox: u32) -> Self {
        Self::new(Kind::Await, 0, 0, mailbox as usize, 1)
    }

    /// A meeting of all streams; see [`Kind::Meet`].
    #[must_use]
    pub fn meet() -> Self {
        Self::new(Kind::Meet, 0, 0, 0, 1)
    }

    /// A meeting of all streams at which they exchange their tables; see [`Kind::Rotate`].
    #[must_use]
    pub fn rotate() -> Self {
        Self::new(Kind::Rotate, 0, 0, 0, 1)
    }

    /// A new thread for the stream; see [`Kind::Renew`].
    #[must_use]
    pub fn renew() -> Self {
        Self::new(Kind::Renew, 0, 0, 0, 1)
    }

    /// What it does.
    #[inline(always)]
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.kind {
            0 => Kind::Allocate,
            1 => Kind::AllocateZeroed,
            2 => Kind::Reallocate,
            3 => Kind::Free,
            4 => Kind::Write,
            5 => Kind::Send,
            6 => Kind::Receive,
            7 => Kind::Signal,
            8 => Kind::Await,
            9 => Kind::Meet,
            10 => Kind::Rotate,
            _ => Kind::Renew,
        }
    }

    /// The slot that it works on.
    #[inline(always)]
    #[must_use]
    pub fn slot(&self) -> usize {
        self.slot as usize
    }

    /// The size of the block after an allocation or reallocation, and before a free; zero where no block is asked for.
    #[inline(always)]
    #[must_use]
    pub fn size(&self) -> usize {
        self.size_low as usize | (self.size_high as usize) << 32
    }

    /// The size of the block before a reallocation.
    #[inline(always)]
    #[must_use]
    pub fn old_size(&self) -> usize {
        self.old_low as usize | (self.old_high as usize) << 32
    }

    /// How often a [`Kind::Write`] goes over its block.
    #[inline(always)]
    #[must_use]
    pub fn times(&self) -> u32 {
        self.old_low
    }

    /// The mailbox that something is put into or taken from. They are numbered from zero over all streams.
    #[inline(always)]
    #[must_use]
    pub fn mailbox(&self) -> usize {
        self.old_low as usize
    }

    /// The alignment that the block was, or is, asked for with.
    #[inline(always)]
    #[must_use]
    pub fn align(&self) -> usize {
        1 << (self.align_log2 & 63)
    }
}

/// What is known of a script without running it. Sizes are in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Allocations, reallocations, frees and writes, over all streams: what [`Kind::counts`].
    pub operations: u64,
    /// The most bytes that are live at once. Streams are taken to advance in step, as far as they need not wait, or in
    /// the order in which a [`Builder`] was told of their operations, whichever has more live; when they run, it may
    /// be a little more or less.
    pub peak_live: u64,
    /// The most objects that are live at once, likewise.
    pub peak_objects: u64,
    /// Bytes ever requested: allocations, and the new sizes of reallocations that grow.
    pub total: u64,
    /// The largest size requested.
    pub max_size: usize,
    /// The largest alignment requested.
    pub max_align: usize,
    /// Streams, each of which runs in a thread of its own.
    pub streams: usize,
}

/// A compiled workload, in memory.
pub struct Script {
    streams: Vec<Vec<Op>>,
    slots: u32,
    facts: Facts,
}

impl Script {
    /// Compiles a recorded trace: all its threads into one stream, in the recorded order.
    ///
    /// # Errors
    ///
    /// When the trace is damaged, or asks for more than an operation can carry.
    pub fn compile(trace: &Trace) -> Result<Self> {
        let mut builder = Builder::default();
        for event in trace.events() {
            builder.event(event?.op)?;
        }
        builder.finish()
    }

    /// How many streams a recorded trace is compiled to at most.
    pub const MOST_STREAMS: usize = 16;

    /// How often the streams of a recorded trace meet on their way.
    const MEETINGS: u64 = 16;

    /// Compiles a recorded trace so that its threads run at the same time: each has a stream of its own, with its
    /// operations in the order in which it made them. Of more than [`Script::MOST_STREAMS`] threads, those with the
    /// fewest events share the last stream, in the recorded order.
    ///
    /// What a thread does with an object waits for what other threads did with that object before, and for nothing
    /// else, but that all meet after each sixteenth of the recorded events: what a program does early and what it does
    /// late stay apart, and so about as much is live at once as was when it ran.
    ///
    /// No stream waits for ever, since all that is waited for comes earlier in the recorded order; see the module.
    ///
    /// # Errors
    ///
    /// As [`Script::compile`].
    pub fn compile_concurrent(trace: &Trace) -> Result<Self> {
        let mut events = vec![0_u64; trace.summary().threads as usize];
        for event in trace.events() {
            events[event?.thread as usize] += 1;
        }
        let mut busiest: Vec<usize> = (0..events.len()).collect();
        busiest.sort_by_key(|&thread| std::cmp::Reverse(events[thread])); // stable: the earlier of equals first
        let mut alone = busiest;
        if alone.len() > Self::MOST_STREAMS {
            alone.truncate(Self::MOST_STREAMS - 1);
        }
        alone.sort_unstable();
        let rest = alone.len();
        let stream = |thread| alone.binary_search(&thread).unwrap_or(rest);

        let mut builder = Builder::new(if rest < events.len() { rest + 1 } else { rest.max(1) });
        let part = trace.summary().events.div_ceil(Self::MEETINGS).max(1);
        for (index, event) in (0_u64..).zip(trace.events()) {
            let event = event?;
            if index > 0 && index.is_multiple_of(part) {
                builder.meet();
            }
            builder.on(stream(event.thread as usize)).event(event.op)?;
        }
        builder.finish()
    }

    /// A script of streams that run at the same time, each on a table of `slots` of its own; see the module for how
    /// they depend on each other.
    ///
    /// # Errors
    ///
    /// When an invariant of the module does not hold.
    pub fn concurrent(streams: Vec<Vec<Op>>, slots: u32) -> Result<Self> {
        ensure!(streams.len() <= usize::from(u8::MAX), "a script has 255 streams at most");
        let views: Vec<&[Op]> = streams.iter().map(Vec::as_slice).collect();
        let facts = facts(&views, slots as usize)?;
        // Each table has room for its share of the mailboxes, so that they are present before a replay too.
        let cells = mailboxes(&views).div_ceil(streams.len().max(1));
        let slots = slots as usize + cells;
        let slots = u32::try_from(slots).context("more slots than 32 bits can number")?;
        Ok(Self { streams, slots, facts })
    }

    /// What is known of it.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The operations of each stream.
    #[must_use]
    pub fn streams(&self) -> Vec<&[Op]> {
        self.streams.iter().map(Vec::as_slice).collect()
    }

    /// How many slots each table has, with those at its end that serve as mailboxes.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots as usize
    }

    /// Writes it to a file, for [`MappedScript::open`].
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let write = || {
            let mut file = BufWriter::new(File::create(path)?);
            let head = Head { magic: MAGIC, streams: self.streams.len() as u32, slots: self.slots };
            file.write_all(bytemuck::bytes_of(&head))?;
            for stream in &self.streams {
                let length = Length { operations: stream.len() as u64, zero: 0 };
                file.write_all(bytemuck::bytes_of(&length))?;
            }
            for stream in &self.streams {
                file.write_all(bytemuck::cast_slice(stream))?;
            }
            file.flush()
        };
        write().with_context(|| format!("writing {}; is the disk full?", path.display()))
    }
}

const MAGIC: [u8; 8] = *b"hwscript";

/// The file: a head, one length a stream, the streams' operations. Everything in units of 16 bytes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Head {
    magic: [u8; 8],
    streams: u32,
    slots: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Length {
    operations: u64,
    zero: u64,
}

/// A script mapped from its file, with all of its pages present.
pub struct MappedScript {
    map: Mmap,
}

impl MappedScript {
    /// Maps a file that [`Script::write`] wrote.
    ///
    /// # Errors
    ///
    /// When the file cannot be mapped or is not a whole script.
    pub fn open(path: &Path) -> Result<Self> {
        let open = || {
            let file = File::open(path)?;
            // SAFETY: the file is this harness's own, written before and not touched again.
            let map = unsafe { MmapOptions::new().populate().map(&file)? };
            let head: &Head = bytemuck::from_bytes(map.get(..16).context("it is too short")?);
            ensure!(head.magic == MAGIC, "it is no script");
            let script = Self { map };
            let expected: usize =
                script.lengths().iter().map(|length| length.operations as usize).sum();
            ensure!(script.operations().len() == expected, "it is cut off");
            Ok(script)
        };
        open().with_context(|| format!("reading the script {}", path.display()))
    }

    fn head(&self) -> &Head {
        bytemuck::from_bytes(&self.map[..16])
    }

    fn lengths(&self) -> &[Length] {
        let end = 16 + 16 * self.head().streams as usize;
        bytemuck::cast_slice(self.map.get(16..end).unwrap_or(&[]))
    }

    fn operations(&self) -> &[Op] {
        let start = 16 + 16 * self.head().streams as usize;
        bytemuck::try_cast_slice(self.map.get(start..).unwrap_or(&[])).unwrap_or(&[])
    }

    /// The operations of each stream.
    #[must_use]
    pub fn streams(&self) -> Vec<&[Op]> {
        let mut rest = self.operations();
        let mut streams = Vec::new();
        for length in self.lengths() {
            let (stream, others) = rest.split_at(length.operations as usize);
            streams.push(stream);
            rest = others;
        }
        streams
    }

    /// How many slots each table has, with those at its end that serve as mailboxes.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.head().slots as usize
    }
}

/// The alignment of an object.
#[derive(Debug, Clone, Copy)]
enum Align {
    /// What its smallest size gives it; see the module.
    Natural,
    /// This many bytes.
    To(usize),
}

/// Builds a script from operations on numbered objects, told in an order in which they can happen one after the other.
///
/// Each operation is carried out by the stream that was last named with [`Builder::on`]. An object can be used by any:
/// where two streams use it one after the other, the second waits for the first.
///
/// ```
/// use heapwright_benches::script::{Builder, Kind};
///
/// let mut builder = Builder::new(2);
/// let object = builder.on(0).allocate(100)?;
/// builder.on(1).free(object);
/// let script = builder.finish()?;
/// let kinds = |stream: usize| script.streams()[stream].iter().map(|op| op.kind()).collect::<Vec<_>>();
/// assert_eq!(kinds(0), [Kind::Allocate, Kind::Send]);
/// assert_eq!(kinds(1), [Kind::Receive, Kind::Free]);
/// # anyhow::Ok(())
/// ```
pub struct Builder {
    /// With object numbers in place of slots, and neither old sizes nor alignments. A meeting stands here once for all
    /// streams; an [`Kind::Await`] has the stream that is waited for in place of a slot, and no mailbox.
    ops: Vec<Op>,
    /// The stream of each operation.
    by: Vec<u8>,
    objects: Vec<Object>,
    streams: usize,
    current: u8,
}

#[derive(Clone, Copy)]
struct Object {
    smallest: usize,
    align: Align,
}

impl Default for Builder {
    /// Of a script of one stream.
    fn default() -> Self {
        Self::new(1)
    }
}

impl Builder {
    /// Of a script of so many streams, 255 at most.
    #[must_use]
    pub fn new(streams: usize) -> Self {
        Self { ops: Vec::new(), by: Vec::new(), objects: Vec::new(), streams, current: 0 }
    }

    /// Names the stream of the operations that follow. They are numbered from zero.
    pub fn on(&mut self, stream: usize) -> &mut Self {
        self.current = stream.min(usize::from(u8::MAX)) as u8;
        self
    }

    fn push(&mut self, op: Op) {
        self.ops.push(op);
        self.by.push(self.current);
    }

    /// What a recorded trace says; its objects are numbered as the builder numbers them.
    fn event(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Allocate { object, size, align, zeroed } => {
                let align = if align == MALLOC_ALIGN { Align::Natural } else { Align::To(align) };
                let number = self.allocate_with(size, align, zeroed)?;
                ensure!(number == object, "objects of a trace are numbered in order");
            }
            Event::Reallocate { object, size } => self.reallocate(object, size)?,
            Event::Free { object } => self.free(object),
        }
        Ok(())
    }

    /// A new object with the alignment of plain `malloc`; returns its number.
    ///
    /// # Errors
    ///
    /// When the size is more than [`MAX_SIZE`].
    pub fn allocate(&mut self, size: usize) -> Result<u32> {
        self.allocate_with(size, Align::Natural, false)
    }

    fn allocate_with(&mut self, size: usize, align: Align, zeroed: bool) -> Result<u32> {
        let size = admit(size)?;
        let object =
            u32::try_from(self.objects.len()).context("more objects than 32 bits can number")?;
        let kind = if zeroed { Kind::AllocateZeroed } else { Kind::Allocate };
        self.push(Op::new(kind, object, size, 0, 1));
        self.objects.push(Object { smallest: size, align });
        Ok(object)
    }

    /// Gives a live object a new size.
    ///
    /// # Errors
    ///
    /// When the size is more than [`MAX_SIZE`].
    pub fn reallocate(&mut self, object: u32, size: usize) -> Result<()> {
        let size = admit(size)?;
        let known = &mut self.objects[object as usize];
        known.smallest = known.smallest.min(size);
        self.push(Op::new(Kind::Reallocate, object, size, 0, 1));
        Ok(())
    }

    /// Writes to a live object, `times` over; see [`Kind::Write`].
    pub fn write(&mut self, object: u32, times: u32) {
        self.push(Op::write(object, 0, 1, times));
    }

    /// Frees a live object.
    pub fn free(&mut self, object: u32) {
        self.push(Op::new(Kind::Free, object, 0, 0, 1));
    }

    /// All streams meet.
    pub fn meet(&mut self) {
        self.push(Op::meet());
    }

    /// The stream goes on in a new thread of the system.
    pub fn renew(&mut self) {
        self.push(Op::renew());
    }

    /// The stream waits until another has done all that the builder was told of it so far.
    pub fn wait_for(&mut self, stream: usize) {
        self.push(Op::new(Kind::Await, stream as u32, 0, 0, 1));
    }

    /// The script.
    ///
    /// # Errors
    ///
    /// When an object is used before its allocation or after its free, or a stream is named that there is not.
    pub fn finish(self) -> Result<Script> {
        let Self { ops, by, objects, streams: count, .. } = self;
        ensure!(by.iter().all(|&stream| usize::from(stream) < count), "there are {count} streams");

        // Which operations are the last of their stream before another stream uses the object.
        let mut leaves = vec![false; ops.len()];
        let mut users = vec![NOBODY; objects.len()];
        for (index, op) in ops.iter().enumerate().rev().filter(|(_, op)| op.kind().counts()) {
            let next = std::mem::replace(&mut users[op.slot()], by[index]);
            leaves[index] = next != NOBODY && next != by[index] && op.kind() != Kind::Free;
        }

        let mut streams = vec![Stream::default(); count];
        let mut places = vec![Place::Nowhere; objects.len()];
        let mut sizes = vec![0; objects.len()];
        let (mut live, mut peak_live, mut count_live, mut peak_objects) = (0, 0, 0, 0);
        let mut mailboxes = 0..;
        let mut mailbox = || mailboxes.next().context("more mailboxes than 32 bits can number");
        for (index, op) in ops.iter().enumerate() {
            let by = usize::from(by[index]);
            match op.kind() {
                Kind::Meet => streams.iter_mut().for_each(|stream| stream.ops.push(*op)),
                Kind::Await => {
                    let mailbox = mailbox()?;
                    let waited_for = streams.get_mut(op.slot());
                    waited_for.context("no such stream")?.ops.push(Op::signal(mailbox));
                    streams[by].ops.push(Op::await_signal(mailbox));
                }
                kind if kind.counts() => {
                    let stream = &mut streams[by];
                    let object = op.slot();
                    let is_new = matches!(kind, Kind::Allocate | Kind::AllocateZeroed);
                    let slot = match places[object] {
                        Place::Nowhere => {
                            ensure!(is_new, "object {object} is used when it is not live");
                            stream.take_slot()
                        }
                        Place::Slot(slot) => slot,
                        Place::Mailbox(mailbox) => {
                            let slot = stream.take_slot();
                            stream.ops.push(Op::receive(slot, mailbox));
                            slot
                        }
                    };
                    let align = match objects[object].align {
                        Align::Natural => natural_align(objects[object].smallest),
                        Align::To(align) => align,
                    };
                    let size = &mut sizes[object];
                    stream.ops.push(match kind {
                        Kind::Free => Op::free(slot, *size, align),
                        Kind::Write => Op::write(slot, *size, align, op.times()),
                        _ => Op::new(kind, slot, op.size(), *size, align),
                    });
                    match kind {
                        Kind::Free => {
                            live -= *size as u64;
                            count_live -= 1;
                        }
                        Kind::Write => {}
                        _ => {
                            live = live - *size as u64 + op.size() as u64;
                            count_live += u64::from(is_new);
                            *size = op.size();
                        }
                    }
                    peak_live = peak_live.max(live);
                    peak_objects = peak_objects.max(count_live);
                    places[object] = if kind == Kind::Free {
                        stream.empty.push(slot);
                        Place::Nowhere
                    } else if leaves[index] {
                        let mailbox = mailbox()?;
                        stream.ops.push(Op::send(slot, mailbox));
                        stream.empty.push(slot);
                        Place::Mailbox(mailbox)
                    } else {
                        Place::Slot(slot)
                    };
                }
                _ => streams[by].ops.push(*op),
            }
        }
        let slots = streams.iter().map(|stream| stream.slots).max().unwrap_or(0);
        // One at least: what is about no slot names the first.
        let streams = streams.into_iter().map(|stream| stream.ops).collect();
        let mut script = Script::concurrent(streams, slots.max(1))?;
        let facts = &mut script.facts;
        facts.peak_live = facts.peak_live.max(peak_live);
        facts.peak_objects = facts.peak_objects.max(peak_objects);
        Ok(script)
    }
}

/// No stream has this number.
const NOBODY: u8 = u8::MAX;

/// Where an object is while a script is built.
#[derive(Clone, Copy)]
enum Place {
    /// It is not live.
    Nowhere,
    /// In this slot of the stream that uses it.
    Slot(u32),
    /// On its way to the stream that uses it next.
    Mailbox(u32),
}

/// A stream while a script is built.
#[derive(Clone, Default)]
struct Stream {
    ops: Vec<Op>,
    /// Slots used so far.
    slots: u32,
    /// Those of them that are empty.
    empty: Vec<u32>,
}

impl Stream {
    fn take_slot(&mut self) -> u32 {
        self.empty.pop().unwrap_or_else(|| {
            self.slots += 1;
            self.slots - 1
        })
    }
}

fn admit(size: usize) -> Result<usize> {
    ensure!(size <= MAX_SIZE, "a request of {size} bytes is more than a script can carry");
    Ok(size.max(1))
}

/// The largest power of two up to 16 that a block of this size can need.
fn natural_align(size: usize) -> usize {
    1 << size.max(1).ilog2().min(4)
}

/// How many mailboxes the streams of a script use.
pub(crate) fn mailboxes(streams: &[&[Op]]) -> usize {
    let ops = streams.iter().copied().flatten();
    ops.filter(|op| matches!(op.kind(), Kind::Send | Kind::Signal))
        .map(|op| op.mailbox() + 1)
        .max()
        .unwrap_or(0)
}

/// One step of a [`Schedule`].
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// The stream that makes it.
    pub stream: usize,
    /// The table of slots that the stream has then.
    pub table: usize,
    /// What it does.
    pub op: &'a Op,
}

/// An order in which one thread can carry out all streams: in step, one operation of each stream in turn, as far as it
/// need not wait.
///
/// It ends when every stream has ended, or when all that are left wait for ever: [`Schedule::is_stuck`] says which.
/// Meetings and renewals are not steps.
pub struct Schedule<'a> {
    streams: &'a [&'a [Op]],
    /// How far each stream is.
    next: Vec<usize>,
    /// Which mailboxes are full or were.
    filled: Vec<bool>,
    /// Tables have moved on by so many streams.
    rotations: usize,
    turn: usize,
}

impl<'a> Schedule<'a> {
    /// At the start of all streams.
    #[must_use]
    pub fn new(streams: &'a [&'a [Op]]) -> Self {
        let next = vec![0; streams.len()];
        Self { streams, next, filled: vec![false; mailboxes(streams)], rotations: 0, turn: 0 }
    }

    /// Whether a stream has not ended though no stream can go on.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.streams.iter().zip(&self.next).any(|(stream, &next)| next < stream.len())
    }

    fn waits(&self, op: &Op) -> bool {
        match op.kind() {
            Kind::Meet | Kind::Rotate => true,
            // One that nobody fills is beyond the end, or stays empty.
            Kind::Receive | Kind::Await => {
                !self.filled.get(op.mailbox()).is_some_and(|&filled| filled)
            }
            _ => false,
        }
    }

    /// Lets all streams go on that have come to the same kind of meeting; `false` if not all have.
    fn meet(&mut self) -> bool {
        let mut kinds = self
            .streams
            .iter()
            .zip(&self.next)
            .map(|(stream, &next)| stream.get(next).map(Op::kind));
        let Some(Some(kind @ (Kind::Meet | Kind::Rotate))) = kinds.next() else { return false };
        if !kinds.all(|other| other == Some(kind)) {
            return false;
        }
        self.next.iter_mut().for_each(|next| *next += 1);
        self.rotations += usize::from(kind == Kind::Rotate);
        true
    }
}

impl<'a> Iterator for Schedule<'a> {
    type Item = Step<'a>;

    fn next(&mut self) -> Option<Step<'a>> {
        let count = self.streams.len();
        loop {
            for _ in 0..count {
                let stream = self.turn;
                self.turn = (self.turn + 1) % count;
                let ops = self.streams[stream];
                while ops.get(self.next[stream]).is_some_and(|op| op.kind() == Kind::Renew) {
                    self.next[stream] += 1;
                }
                let Some(op) = ops.get(self.next[stream]).filter(|op| !self.waits(op)) else {
                    continue;
                };
                self.next[stream] += 1;
                if let (Kind::Send | Kind::Signal, Some(filled)) =
                    (op.kind(), self.filled.get_mut(op.mailbox()))
                {
                    *filled = true;
                }
                return Some(Step { stream, table: (stream + self.rotations) % count, op });
            }
            if !self.meet() {
                return None;
            }
        }
    }
}

/// What is known of streams with tables of so many slots.
///
/// # Errors
///
/// When an invariant of the module does not hold.
fn facts(streams: &[&[Op]], slots: usize) -> Result<Facts> {
    let mut facts = Facts { max_align: 1, streams: streams.len(), ..Facts::default() };
    let (mut live, mut objects) = (0_u64, 0_u64);
    /// Size and alignment of a block.
    type Block = (usize, usize);
    let mut tables: Vec<Vec<Option<Block>>> = vec![vec![None; slots]; streams.len()];
    // What was sent, until it is received.
    let mut boxes: Vec<Option<Option<Block>>> = vec![None; mailboxes(streams)];
    let mut used = vec![false; boxes.len()];
    let mut schedule = Schedule::new(streams);
    for Step { stream, table, op } in &mut schedule {
        let wrong = |what: &str| anyhow!("stream {stream} of a script {what}: {op:?}");
        let (size, align, kind) = (op.size(), op.align(), op.kind());
        if kind.counts() {
            facts.operations += 1;
            facts.max_size = facts.max_size.max(size);
            facts.max_align = facts.max_align.max(align);
        }
        let slot = tables[table].get_mut(op.slot());
        let slot = slot.ok_or_else(|| wrong("uses a slot beyond its table"))?;
        // A block that must be there, with what must be known of it.
        let known = |slot: &mut Option<Block>, block: Block| {
            ensure!(*slot == Some(block), wrong("uses a block that is not there"));
            Ok(())
        };
        match kind {
            Kind::Allocate | Kind::AllocateZeroed => {
                ensure!(
                    slot.is_none() && size > 0,
                    wrong("allocates into a full slot, or nothing")
                );
                *slot = Some((size, align));
                live += size as u64;
                objects += 1;
                facts.total += size as u64;
            }
            Kind::Reallocate => {
                known(slot, (op.old_size(), align))?;
                ensure!(size > 0, wrong("reallocates to nothing"));
                *slot = Some((size, align));
                live = live - op.old_size() as u64 + size as u64;
                if size > op.old_size() {
                    facts.total += size as u64;
                }
            }
            Kind::Free => {
                known(slot, (size, align))?;
                *slot = None;
                live -= size as u64;
                objects -= 1;
            }
            Kind::Write => known(slot, (size, align))?,
            Kind::Send | Kind::Signal => {
                ensure!(!used[op.mailbox()], wrong("fills a mailbox twice"));
                used[op.mailbox()] = true;
                let content = if kind == Kind::Send { slot.take() } else { None };
                ensure!(content.is_some() == (kind == Kind::Send), wrong("sends an empty slot"));
                boxes[op.mailbox()] = Some(content);
            }
            Kind::Receive | Kind::Await => {
                let content = boxes[op.mailbox()].take();
                let content = content.ok_or_else(|| wrong("empties a mailbox twice"))?;
                ensure!(
                    content.is_some() == (kind == Kind::Receive),
                    wrong("takes a mark for a block, or the other way round")
                );
                if kind == Kind::Receive {
                    ensure!(slot.is_none(), wrong("receives into a full slot"));
                    *slot = content;
                }
            }
            Kind::Meet | Kind::Rotate | Kind::Renew => {}
        }
        facts.peak_live = facts.peak_live.max(live);
        facts.peak_objects = facts.peak_objects.max(objects);
    }
    ensure!(!schedule.is_stuck(), "streams of a script would wait for each other for ever");
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_recycled_and_sizes_looked_up() {
        let mut builder = Builder::default();
        let first = builder.allocate(100).unwrap();
        let second = builder.allocate(10).unwrap();
        builder.free(first);
        let third = builder.allocate(0).unwrap();
        builder.reallocate(second, 70).unwrap();
        builder.free(second);
        builder.free(third);
        let script = builder.finish().unwrap();
        let ops = script.streams()[0];
        let seen: Vec<_> = ops
            .iter()
            .map(|op| (op.kind(), op.slot(), op.size(), op.old_size(), op.align()))
            .collect();
        assert_eq!(
            seen,
            [
                (Kind::Allocate, 0, 100, 0, 16),
                (Kind::Allocate, 1, 10, 0, 8), // ten bytes need no more than eight
                (Kind::Free, 0, 100, 0, 16),
                (Kind::Allocate, 0, 1, 0, 1), // a zero size becomes one byte
                (Kind::Reallocate, 1, 70, 10, 8),
                (Kind::Free, 1, 70, 0, 8),
                (Kind::Free, 0, 1, 0, 1),
            ]
        );
        assert_eq!(script.slots(), 2);
        let facts = script.facts();
        assert_eq!((facts.operations, facts.peak_live, facts.peak_objects), (7, 110, 2));
        assert_eq!((facts.total, facts.max_size), (181, 100));
    }

    #[test]
    fn large_sizes_survive_packing() {
        let op = Op::new(Kind::Reallocate, 7, MAX_SIZE, (1 << 33) + 5, 1 << 30);
        assert_eq!((op.size(), op.old_size(), op.align()), (MAX_SIZE, (1 << 33) + 5, 1 << 30));
        assert!(Builder::default().allocate(MAX_SIZE + 1).is_err());
    }

    #[test]
    fn a_file_gives_back_what_was_written() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let streams = vec![
            vec![Op::allocate(0, 5, 4), Op::rotate(), Op::free(0, 5, 4)],
            vec![Op::allocate(0, 5, 4), Op::rotate()],
        ];
        let script = Script::concurrent(streams, 3).unwrap();
        script.write(file.path()).unwrap();
        let mapped = MappedScript::open(file.path()).unwrap();
        assert_eq!(mapped.slots(), 3);
        let lengths: Vec<_> = mapped.streams().iter().map(|stream| stream.len()).collect();
        assert_eq!(lengths, [3, 2]);
        assert_eq!(mapped.streams()[0][2].kind(), Kind::Free);

        let whole = std::fs::read(file.path()).unwrap();
        std::fs::write(file.path(), &whole[..whole.len() - 16]).unwrap();
        assert!(MappedScript::open(file.path()).is_err());
    }

    #[test]
    fn streams_that_would_wait_for_ever_are_refused() {
        assert!(Script::concurrent(vec![vec![Op::rotate()], vec![]], 1).is_err());
    }

    #[test]
    fn use_after_free_is_refused() {
        let mut builder = Builder::default();
        let object = builder.allocate(1).unwrap();
        builder.free(object);
        builder.free(object);
        assert!(builder.finish().is_err());
    }

    fn kinds(script: &Script) -> Vec<Vec<Kind>> {
        script.streams().iter().map(|ops| ops.iter().map(Op::kind).collect()).collect()
    }

    #[test]
    fn what_passes_between_streams_is_handed_over_once_each_time() {
        use Kind::*;
        let mut builder = Builder::new(2);
        let object = builder.on(0).allocate(100).unwrap();
        builder.write(object, 7);
        builder.on(1).reallocate(object, 200).unwrap();
        builder.reallocate(object, 300).unwrap();
        let own = builder.allocate(5).unwrap();
        builder.on(0).free(object);
        builder.wait_for(1);
        builder.meet();
        builder.on(1).renew();
        builder.free(own);
        let script = builder.finish().unwrap();
        assert_eq!(
            kinds(&script),
            [
                vec![Allocate, Write, Send, Receive, Free, Await, Meet],
                vec![Receive, Reallocate, Reallocate, Send, Allocate, Signal, Meet, Renew, Free],
            ]
        );
        assert_eq!(script.streams()[0][1].times(), 7);
        assert_eq!(script.streams()[0][4].size(), 300);
        // Three mailboxes, of which the larger share is two.
        assert_eq!(script.slots(), 1 + 2);
        let facts = script.facts();
        assert_eq!((facts.operations, facts.streams), (7, 2));
        assert_eq!((facts.peak_live, facts.peak_objects, facts.total), (305, 2, 605));
    }

    #[test]
    fn scripts_that_break_an_invariant_are_refused() {
        let refused = |streams: &[&[Op]], part: &str| {
            let streams = streams.iter().map(|ops| ops.to_vec()).collect();
            let error = Script::concurrent(streams, 1).err().expect(part).to_string();
            assert!(error.contains(part), "{error}");
        };
        let (allocate, free) = (Op::allocate(0, 8, 8), Op::free(0, 8, 8));
        refused(&[&[allocate, allocate]], "full slot");
        refused(&[&[free]], "not there");
        refused(&[&[allocate, Op::free(0, 9, 8)]], "not there");
        refused(&[&[allocate, Op::write(0, 8, 4, 1)]], "not there");
        refused(&[&[Op::allocate(1, 8, 8)]], "beyond its table");
        refused(&[&[Op::send(0, 0)]], "empty slot");
        refused(&[&[allocate, Op::send(0, 0), Op::signal(0)]], "twice");
        refused(&[&[Op::signal(0)], &[Op::receive(0, 0)]], "a mark for a block");
        refused(&[&[Op::receive(0, 0)]], "for ever");
        refused(&[&[Op::signal(0)], &[Op::await_signal(0), Op::await_signal(0)]], "empties");
        // Each waits for the other.
        refused(
            &[&[Op::await_signal(1), Op::signal(0)], &[Op::await_signal(0), Op::signal(1)]],
            "for ever",
        );
        refused(&[&[Op::meet()], &[Op::rotate()]], "for ever");
        refused(&[&[Op::await_signal(0), Op::meet()], &[Op::meet(), Op::signal(0)]], "for ever");
    }

    /// A trace of many threads that use each other's objects at random.
    fn tangled(seed: u64, threads: u32, events: usize) -> Trace {
        use heapwright_trace::{Event, Header};
        use rand::{RngExt, SeedableRng};
        let mut random = rand::rngs::Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut live = Vec::new();
        let (mut objects, mut named) = (0, 0);
        let events = (0..events).map(|_| {
            // Threads are numbered in the order of their first event.
            let thread = random.random_range(0..threads.min(named + 1));
            named = named.max(thread + 1);
            let size = random.random_range(0..3_000_usize);
            let op = match random.random_range(0..4) {
                0 if !live.is_empty() => {
                    let object = live.swap_remove(random.random_range(0..live.len()));
                    heapwright_trace::Op::Free { object }
                }
                1 if !live.is_empty() => {
                    let object = live[random.random_range(0..live.len())];
                    heapwright_trace::Op::Reallocate { object, size }
                }
                _ => {
                    objects += 1;
                    live.push(objects - 1);
                    let (align, zeroed) = (16 << random.random_range(0..3), size % 5 == 0);
                    heapwright_trace::Op::Allocate { object: objects - 1, size, align, zeroed }
                }
            };
            Event { thread, op }
        });
        Trace::from_events(Header::named("tangled"), events).unwrap()
    }

    #[test]
    fn threads_of_a_trace_run_at_the_same_time_and_none_waits_for_ever() {
        use std::sync::atomic::AtomicBool;

        use crate::replay::testing::Careful;
        use crate::replay::{self, Table, Unobserved};
        for (seed, threads) in [(1, 1), (2, 2), (3, 3), (4, 7), (5, 16), (6, 17), (7, 40)] {
            let trace = tangled(seed, threads, 6_000);
            let script = Script::compile_concurrent(&trace).unwrap();
            let streams = script.streams();
            assert_eq!(streams.len(), (threads as usize).min(Script::MOST_STREAMS));
            assert_eq!(script.facts().operations, trace.summary().events);
            assert_eq!(script.facts().max_size, trace.summary().max_size);

            let heap = Careful::default();
            let stop = AtomicBool::new(false);
            for _ in 0..5 {
                let mut tables: Vec<_> =
                    streams.iter().map(|_| Table::new(script.slots()).unwrap()).collect();
                let mut observers: Vec<_> = streams.iter().map(|_| Unobserved).collect();
                let done =
                    replay::run(&heap, &streams, &mut tables, &stop, &mut observers).unwrap();
                assert_eq!(done.operations, trace.summary().events);
                assert_eq!(heap.clear(), trace.summary().end_live_objects as usize);
            }
            crate::verify::run(&std::alloc::System, None, &streams, script.slots(), &stop).unwrap();
        }
    }

    #[test]
    fn each_thread_of_a_trace_keeps_its_order() {
        let trace = tangled(9, 3, 2_000);
        let script = Script::compile_concurrent(&trace).unwrap();
        let sizes = |thread| -> Vec<usize> {
            let events = trace.events().map(Result::unwrap).filter(|event| event.thread == thread);
            let size = |event: heapwright_trace::Event| match event.op {
                Event::Allocate { size, .. } | Event::Reallocate { size, .. } => Some(size.max(1)),
                Event::Free { .. } => None,
            };
            events.filter_map(size).collect()
        };
        for (thread, ops) in (0..).zip(script.streams()) {
            let asks = |op: &&Op| op.kind().counts() && op.kind() != Kind::Free;
            let asked: Vec<usize> = ops.iter().filter(asks).map(Op::size).collect();
            assert_eq!(asked, sizes(thread));
        }
    }
}
