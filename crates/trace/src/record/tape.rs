//! Reading raw files: all records of a process, of all its threads, in the order in which they happened.
//!
//! A raw file is made of *runs*, each of one thread and in order. They are merged as they are decoded, so that nothing
//! but the file's own bytes is held in memory.

use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use heapwright_raw as raw;

use crate::error::{Problem, TraceError};

/// One record: what happened, to which address, in which thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) order: u64,
    pub(super) thread: u32,
    /// One of the kinds in [`raw`], but not `THREAD`.
    pub(super) kind: u8,
    pub(super) log2_align: u8,
    pub(super) address: u64,
    pub(super) size: u64,
}

/// The head of a raw file.
#[derive(Debug, Clone, Default)]
pub(super) struct Head {
    pub(super) pid: u32,
    pub(super) image: u32,
    pub(super) parent: Option<Fork>,
    pub(super) chunks: u64,
    pub(super) lost: u64,
    pub(super) arguments: Vec<String>,
}

/// Where a process was forked from: the raw file and the order number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fork {
    pub(super) pid: u32,
    pub(super) image: u32,
    pub(super) order: u64,
}

/// A raw file in memory.
pub(super) struct Tape {
    pub(super) head: Head,
    /// The used bytes of each chunk.
    chunks: Vec<Vec<u8>>,
    /// In the order in which they begin.
    runs: Vec<Run>,
    /// Records in all runs.
    pub(super) records: u64,
    /// Events in all runs: a `realloc` has two records.
    pub(super) events: u64,
    /// Runs that end in bytes which are no record.
    pub(super) broken: u64,
}

/// What one thread wrote into one chunk without a break.
struct Run {
    chunk: usize,
    start: usize,
    end: usize,
    thread: u32,
    /// All records of the run have higher order numbers.
    base: u64,
}

impl Tape {
    /// Reads a raw file; `None` if its process ended before it had a head.
    pub(super) fn read(path: &Path) -> Result<Option<Tape>, TraceError> {
        let failed = |error| TraceError::io("reading a raw file", error).at(path);
        let file = File::open(path).map_err(failed)?;
        let mut bytes = vec![0; raw::HEAD_BYTES];
        let read = read_at(&file, &mut bytes, 0).map_err(failed)?;
        let Some(head) = decode_head(&bytes[..read]) else { return Ok(None) };
        let mut tape =
            Tape { head, chunks: Vec::new(), runs: Vec::new(), records: 0, events: 0, broken: 0 };
        for chunk in 0..tape.head.chunks {
            let start = raw::HEAD_BYTES as u64 + chunk * raw::CHUNK_BYTES as u64;
            let bytes = read_chunk(&file, start).map_err(failed)?;
            tape.index(&bytes);
            tape.chunks.push(bytes);
        }
        tape.runs.sort_by_key(|run| run.base);
        Ok(Some(tape))
    }

    /// Finds the runs of the next chunk.
    fn index(&mut self, bytes: &[u8]) {
        let chunk = self.chunks.len();
        let mut at = 0;
        loop {
            match Start::decode(bytes, at) {
                Start::Thread { thread, base, end } => {
                    self.runs.push(Run { chunk, start: end, end, thread, base });
                    at = end;
                }
                Start::Event { kind, end, .. } => {
                    // A run can only lack its beginning if the chunk is broken.
                    let Some(run) = self.runs.last_mut().filter(|run| run.chunk == chunk) else {
                        self.broken += 1;
                        return;
                    };
                    run.end = end;
                    self.records += 1;
                    self.events += u64::from(kind != raw::RESIZE);
                    at = end;
                }
                Start::End => return,
                Start::Broken => {
                    self.broken += 1;
                    return;
                }
            }
        }
    }

    /// Bytes of the file that hold something.
    pub(super) fn used_bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.len() as u64).sum()
    }

    /// All records in their order.
    pub(super) fn iter(&self) -> Records<'_> {
        Records { tape: self, next_run: 0, active: BinaryHeap::new() }
    }
}

/// Reads as many bytes as there are, up to all of `bytes`.
fn read_at(file: &File, bytes: &mut [u8], start: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < bytes.len() {
        match file.read_at(&mut bytes[read..], start + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// Reads a chunk up to its first page without a record: what was never written to stays on the disk, where it is
/// nothing.
fn read_chunk(file: &File, start: u64) -> io::Result<Vec<u8>> {
    const STEP: usize = 8 << 10;
    let mut bytes = Vec::new();
    while bytes.len() < raw::CHUNK_BYTES {
        let from = bytes.len();
        bytes.resize(from + STEP, 0);
        let read = read_at(file, &mut bytes[from..], start + from as u64)?;
        // No record has this many zeros.
        if read < STEP
            || bytes[bytes.len() - 2 * raw::MAX_EVENT_BYTES..].iter().all(|&byte| byte == 0)
        {
            bytes.truncate(from + read);
            break;
        }
    }
    let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    // The last record may end in zeros.
    let used = bytes.len().min(used + raw::MAX_EVENT_BYTES);
    bytes.truncate(used);
    bytes.shrink_to_fit();
    Ok(bytes)
}

fn decode_head(bytes: &[u8]) -> Option<Head> {
    use std::mem::offset_of;

    fn number<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
        bytes.get(offset..)?.first_chunk().copied()
    }
    let u32_at = |offset| number(bytes, offset).map(u32::from_ne_bytes);
    let u64_at = |offset| number(bytes, offset).map(u64::from_ne_bytes);
    if !bytes.starts_with(&raw::MAGIC) {
        return None;
    }
    let parent = Fork {
        pid: u32_at(offset_of!(raw::Head, parent_pid))?,
        image: u32_at(offset_of!(raw::Head, parent_image))?,
        order: u64_at(offset_of!(raw::Head, parent_order))?,
    };
    let command = bytes.get(size_of::<raw::Head>()..)?;
    let command = command.get(..u32_at(offset_of!(raw::Head, command_bytes))? as usize)?;
    let command = command.strip_suffix(b"\0").unwrap_or(command);
    Some(Head {
        pid: u32_at(offset_of!(raw::Head, pid))?,
        image: u32_at(offset_of!(raw::Head, image))?,
        parent: (parent.pid != 0).then_some(parent),
        chunks: u64_at(offset_of!(raw::Head, chunks))?.min(u64_at(offset_of!(raw::Head, room))?),
        lost: u64_at(offset_of!(raw::Head, lost))?,
        arguments: command
            .split(|&byte| byte == 0)
            .map(|text| String::from_utf8_lossy(text).into_owned())
            .collect(),
    })
}

/// What stands at one place of a chunk.
enum Start {
    Thread {
        thread: u32,
        base: u64,
        end: usize,
    },
    Event {
        kind: u8,
        step: u64,
        distance: u64,
        size: u64,
        log2_align: u8,
        end: usize,
    },
    /// Nothing was written from here on.
    End,
    /// Something that no recorder writes.
    Broken,
}

impl Start {
    #[inline]
    fn decode(bytes: &[u8], at: usize) -> Start {
        match bytes.get(at) {
            None | Some(0) => Start::End,
            Some(&first) => Start::decode_record(bytes, at, first).unwrap_or(Start::Broken),
        }
    }

    #[inline(always)]
    fn decode_record(bytes: &[u8], at: usize, first: u8) -> Option<Start> {
        let mut end = at + 1;
        let mut take = |length: usize| -> Option<u64> {
            let rest = bytes.get(end..)?;
            end += length;
            // All but the last numbers of a chunk have eight bytes behind their start: one load for each.
            if let Some(&eight) = rest.first_chunk() {
                return Some(u64::from_le_bytes(eight) & u64::MAX >> (64 - 8 * length));
            }
            let mut number = [0; 8];
            number[..length].copy_from_slice(rest.get(..length)?);
            Some(u64::from_le_bytes(number))
        };
        if first == raw::THREAD {
            let (thread, base) = (take(4)? as u32, take(8)?);
            return Some(Start::Thread { thread, base, end });
        }
        let (kind, distance_code, size_code, has_step) = raw::split_first_byte(first);
        if kind <= raw::THREAD {
            return None;
        }
        let step = if has_step { take(2)? } else { 1 };
        let distance = take(raw::distance_bytes(distance_code))?;
        let size = if raw::has_size(kind) { take(raw::size_bytes(size_code))? } else { 0 };
        let log2_align = if kind == raw::ALIGNED { take(1)? as u8 } else { 0 };
        Some(Start::Event { kind, step, distance, size, log2_align, end })
    }
}

/// The records of a tape; see [`Tape::iter`].
pub(super) struct Records<'a> {
    tape: &'a Tape,
    /// The first run that was not begun yet.
    next_run: usize,
    /// The runs that have records left, with the next record of each; the earliest first.
    active: BinaryHeap<Cursor>,
}

struct Cursor {
    record: Record,
    run: usize,
    /// Where the record after that one stands.
    at: usize,
}

impl Cursor {
    /// Moves to the next record of the run; says whether there is one.
    fn advance(&mut self, tape: &Tape) -> bool {
        let run = &tape.runs[self.run];
        match Start::decode(&tape.chunks[run.chunk][..run.end], self.at) {
            Start::Event { kind, step, distance, size, log2_align, end } => {
                let order = self.record.order.wrapping_add(step);
                let address = raw::follow(self.record.address, distance);
                self.record = Record { order, thread: run.thread, kind, log2_align, address, size };
                self.at = end;
                true
            }
            // The run was indexed up to its end, so this is the end.
            _ => false,
        }
    }
}

// Ordered by order number, the lowest being the greatest, as the heap wants it.
impl Ord for Cursor {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.record.order, other.run).cmp(&(self.record.order, self.run))
    }
}

impl PartialOrd for Cursor {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Cursor {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Cursor {}

impl Iterator for Records<'_> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        // Begin every run that may have a record before the earliest of those that were begun.
        while let Some(run) = self.tape.runs.get(self.next_run)
            && self.active.peek().is_none_or(|earliest| run.base < earliest.record.order)
        {
            let record =
                Record { order: run.base, thread: 0, kind: 0, log2_align: 0, address: 0, size: 0 };
            let mut cursor = Cursor { record, run: self.next_run, at: run.start };
            if cursor.advance(self.tape) {
                self.active.push(cursor);
            }
            self.next_run += 1;
        }
        let mut earliest = self.active.peek_mut()?;
        let record = earliest.record;
        if !earliest.advance(self.tape) {
            PeekMut::pop(earliest);
        }
        Some(record)
    }
}

/// Reads a raw file that must be there and have a head.
pub(super) fn read_known(path: &Path) -> Result<Tape, TraceError> {
    Tape::read(path)?.ok_or_else(|| {
        let what = "a raw file has lost its head since it was recorded; record again".to_owned();
        TraceError::from(Problem::Recording { what }).at(path)
    })
}
