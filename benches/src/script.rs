//! Scripts: workloads made ready to be replayed at full speed.
//!
//! A script is a list of operations of 16 bytes each, with everything looked up in advance: objects are renamed to
//! recycled *slots*, so that the table of pointers is as small as the most objects that live at once; each operation
//! carries the sizes that a sized free or a reallocation needs; zero sizes are made one byte, as `GlobalAlloc` asks.
//!
//! The file is written by the coordinator once and mapped by every worker, so its pages belong to no process and do
//! not count in anyone's footprint.
//!
//! Invariant, kept by [`Builder::finish`] and [`Script::concurrent`]: within a stream, a slot is allocated when it is
//! empty, and reallocated and freed when it is not, each with the size that it has then; after the last operation
//! slots may be full.
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

use anyhow::{Context, Result, bail, ensure};
use bytemuck::{Pod, Zeroable};
use heapwright_trace::{MALLOC_ALIGN, Op as Event, Trace};
use memmap2::{Mmap, MmapOptions};

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Fills an empty slot with a block of [`Op::size`].
    Allocate,
    /// The same, and the block's bytes are zero.
    AllocateZeroed,
    /// Gives the block in a slot, of [`Op::old_size`], a new [`Op::size`].
    Reallocate,
    /// Frees the block in a slot, of [`Op::size`].
    Free,
    /// Waits for all streams, then goes on with the next stream's table of slots.
    Rotate,
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
    /// An operation on a block; `old_size` is zero where it means nothing.
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

    /// A meeting of all streams; see [`Kind::Rotate`].
    #[must_use]
    pub fn rotate() -> Self {
        Self::new(Kind::Rotate, 0, 0, 0, 1)
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
            _ => Kind::Rotate,
        }
    }

    /// The slot that it works on.
    #[inline(always)]
    #[must_use]
    pub fn slot(&self) -> usize {
        self.slot as usize
    }

    /// The size of the block after an allocation or reallocation, and before a free.
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
    /// Allocations, reallocations and frees, over all streams.
    pub operations: u64,
    /// The most bytes that are live at once. Streams are taken to advance in step.
    pub peak_live: u64,
    /// The most objects that are live at once.
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
            match event?.op {
                Event::Allocate { object, size, align, zeroed } => {
                    let align =
                        if align == MALLOC_ALIGN { Align::Natural } else { Align::To(align) };
                    let number = builder.allocate_with(size, align, zeroed)?;
                    ensure!(number == object, "objects of a trace are numbered in order");
                }
                Event::Reallocate { object, size } => builder.reallocate(object, size)?,
                Event::Free { object } => builder.free(object),
            }
        }
        builder.finish()
    }

    /// A script of streams that run at the same time, each on a table of `slots` of its own which they exchange at
    /// every [`Op::rotate`]; all have the same number of those.
    ///
    /// # Errors
    ///
    /// When the streams do not have the same number of rotations.
    pub fn concurrent(streams: Vec<Vec<Op>>, slots: u32) -> Result<Self> {
        let rotations =
            |stream: &Vec<Op>| stream.iter().filter(|op| op.kind() == Kind::Rotate).count();
        let expected = streams.first().map_or(0, rotations);
        ensure!(
            streams.iter().all(|stream| rotations(stream) == expected),
            "all streams of a script must meet equally often"
        );
        let facts = facts(&streams);
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

    /// How many slots each table has.
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

    /// How many slots each table has.
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

/// Builds a script of one stream from operations on numbered objects.
#[derive(Default)]
pub struct Builder {
    /// With object numbers in place of slots, and neither old sizes nor alignments.
    ops: Vec<Op>,
    objects: Vec<Object>,
}

#[derive(Clone, Copy)]
struct Object {
    smallest: usize,
    align: Align,
}

impl Builder {
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
        self.ops.push(Op::new(kind, object, size, 0, 1));
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
        self.ops.push(Op::new(Kind::Reallocate, object, size, 0, 1));
        Ok(())
    }

    /// Frees a live object.
    pub fn free(&mut self, object: u32) {
        self.ops.push(Op::new(Kind::Free, object, 0, 0, 1));
    }

    /// The script.
    ///
    /// # Errors
    ///
    /// When an object is used before its allocation or after its free.
    pub fn finish(mut self) -> Result<Script> {
        /// No object has this slot.
        const NOWHERE: u32 = u32::MAX;
        let mut places = vec![(NOWHERE, 0_usize); self.objects.len()];
        let mut empty: Vec<u32> = Vec::new();
        let mut slots = 0;
        for op in &mut self.ops {
            let object = op.slot as usize;
            let Object { smallest, align } = self.objects[object];
            let align = match align {
                Align::Natural => natural_align(smallest),
                Align::To(align) => align,
            };
            let place = &mut places[object];
            let is_new = matches!(op.kind(), Kind::Allocate | Kind::AllocateZeroed);
            ensure!(is_new == (place.0 == NOWHERE), "object {object} is used when it is not live");
            match op.kind() {
                Kind::Allocate | Kind::AllocateZeroed => {
                    let slot = empty.pop().unwrap_or_else(|| {
                        slots += 1;
                        slots - 1
                    });
                    *place = (slot, op.size());
                    *op = Op::new(op.kind(), slot, op.size(), 0, align);
                }
                Kind::Reallocate => {
                    *op = Op::new(Kind::Reallocate, place.0, op.size(), place.1, align);
                    place.1 = op.size();
                }
                Kind::Free => {
                    *op = Op::free(place.0, place.1, align);
                    empty.push(place.0);
                    place.0 = NOWHERE;
                }
                Kind::Rotate => bail!("a script of one stream has nobody to meet"),
            }
        }
        Script::concurrent(vec![self.ops], slots)
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

/// Walks over all streams in step.
fn facts(streams: &[Vec<Op>]) -> Facts {
    let mut facts = Facts { max_align: 1, streams: streams.len(), ..Facts::default() };
    let (mut live, mut objects) = (0_u64, 0_u64);
    let longest = streams.iter().map(Vec::len).max().unwrap_or(0);
    for step in 0..longest {
        for op in streams.iter().filter_map(|stream| stream.get(step)) {
            let (size, old) = (op.size() as u64, op.old_size() as u64);
            facts.operations += u64::from(op.kind() != Kind::Rotate);
            match op.kind() {
                Kind::Allocate | Kind::AllocateZeroed => {
                    live += size;
                    objects += 1;
                    facts.total += size;
                }
                Kind::Reallocate => {
                    live = live - old + size;
                    if size > old {
                        facts.total += size;
                    }
                }
                Kind::Free => {
                    live -= size;
                    objects -= 1;
                }
                Kind::Rotate => {}
            }
            facts.max_size = facts.max_size.max(op.size());
            facts.max_align = facts.max_align.max(op.align());
            facts.peak_live = facts.peak_live.max(live);
            facts.peak_objects = facts.peak_objects.max(objects);
        }
    }
    facts
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
}
