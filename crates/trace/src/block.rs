//! Events as columns: one block of a trace, before compression.
//!
//! Each event has one byte in the first column; what that byte leaves open stands in the others, which hold numbers of
//! one kind each, so that the compressor finds like beside like.

use crate::error::TraceError;
use crate::event::{Event, MALLOC_ALIGN, Op};
use crate::format::{
    BLOCK_EVENTS, BLOCK_HEAD, BlockHead, COLUMNS, Fields, MAX_RAW, push_varint, read_varint,
};
use crate::tally::Live;

const ALLOCATE: u8 = 0;
const REALLOCATE: u8 = 1;
const FREE: u8 = 2;
const OP: u8 = 0b11;
const ZEROED: u8 = 0b100;
const ALIGNED: u8 = 0b1000;
const SWITCHED: u8 = 0b1_0000;

// The columns, in the order in which they stand in a block.
const KINDS: usize = 0;
const THREADS: usize = 1;
const SIZES: usize = 2;
const NEW_SIZES: usize = 3;
const AGES: usize = 4;
const ALIGNS: usize = 5;

/// Collects events into columns until they fill a block.
pub(crate) struct BlockEncoder {
    columns: [Vec<u8>; COLUMNS],
    events: u32,
    /// Objects before the block, and now.
    first_object: u32,
    objects: u32,
    /// The thread of the event before the block, and of the last one.
    first_thread: u32,
    thread: u32,
    compressor: zstd::bulk::Compressor<'static>,
    raw: Vec<u8>,
    packed: Vec<u8>,
}

impl BlockEncoder {
    pub(crate) fn new(level: i32) -> Result<Self, TraceError> {
        let compressor = zstd::bulk::Compressor::new(level)
            .map_err(|error| TraceError::io("compressing", error))?;
        Ok(BlockEncoder {
            columns: Default::default(),
            events: 0,
            first_object: 0,
            objects: 0,
            first_thread: 0,
            thread: 0,
            compressor,
            raw: Vec::new(),
            packed: Vec::new(),
        })
    }

    pub(crate) fn is_full(&self) -> bool {
        self.events as usize == BLOCK_EVENTS
    }

    /// Adds one event, which [`crate::tally::Tally::count`] has accepted.
    pub(crate) fn push(&mut self, event: Event) {
        let mut kind = 0;
        if event.thread != self.thread {
            kind |= SWITCHED;
            push_varint(&mut self.columns[THREADS], event.thread.into());
            self.thread = event.thread;
        }
        // Objects die young: a small number, and the same small number for the same habit of a program.
        let age = |object: u32| u64::from(self.objects - 1 - object);
        match event.op {
            Op::Allocate { object: _, size, align, zeroed } => {
                kind |= ALLOCATE | if zeroed { ZEROED } else { 0 };
                if align != MALLOC_ALIGN {
                    kind |= ALIGNED;
                    self.columns[ALIGNS].push(align.trailing_zeros() as u8);
                }
                push_varint(&mut self.columns[SIZES], size as u64);
                self.objects += 1;
            }
            Op::Reallocate { object, size } => {
                kind |= REALLOCATE;
                push_varint(&mut self.columns[AGES], age(object));
                push_varint(&mut self.columns[NEW_SIZES], size as u64);
            }
            Op::Free { object } => {
                kind |= FREE;
                push_varint(&mut self.columns[AGES], age(object));
            }
        }
        self.columns[KINDS].push(kind);
        self.events += 1;
    }

    /// Appends the block to `out`, if it holds anything, and starts the next.
    pub(crate) fn flush(&mut self, out: &mut Vec<u8>) -> Result<(), TraceError> {
        if self.events == 0 {
            return Ok(());
        }
        self.raw.clear();
        for column in &self.columns {
            self.raw.extend((column.len() as u32).to_le_bytes());
        }
        for column in &mut self.columns {
            self.raw.append(column);
        }
        self.packed.clear();
        self.packed.reserve(zstd::zstd_safe::compress_bound(self.raw.len()));
        self.compressor
            .compress_to_buffer(&self.raw, &mut self.packed)
            .map_err(|error| TraceError::io("compressing", error))?;
        let head = BlockHead {
            events: self.events,
            objects: self.first_object,
            thread: self.first_thread,
            raw: self.raw.len() as u32,
            packed: self.packed.len() as u32,
        };
        head.encode(&self.packed, out);
        self.events = 0;
        self.first_object = self.objects;
        self.first_thread = self.thread;
        Ok(())
    }
}

/// Reads the events of one block after the other.
pub(crate) struct BlockDecoder {
    decompressor: zstd::bulk::Decompressor<'static>,
    raw: Vec<u8>,
    /// Where each column's next item stands in `raw`, and where the column ends.
    columns: [(usize, usize); COLUMNS],
    left: u32,
    thread: u32,
}

impl BlockDecoder {
    pub(crate) fn new() -> Result<Self, TraceError> {
        let decompressor = zstd::bulk::Decompressor::new()
            .map_err(|error| TraceError::io("preparing to decompress", error))?;
        Ok(BlockDecoder {
            decompressor,
            raw: Vec::new(),
            columns: [(0, 0); COLUMNS],
            left: 0,
            thread: 0,
        })
    }

    /// Events left in the block.
    pub(crate) fn left(&self) -> u32 {
        self.left
    }

    /// Starts on the block at the start of `bytes`, behind events that made `live` and ended with thread `thread`;
    /// returns the block's length in the file.
    pub(crate) fn start(&mut self, bytes: &[u8], live: &Live) -> Result<usize, TraceError> {
        let (head, packed) = BlockHead::decode(bytes)?;
        if head.objects != live.objects() || head.thread != self.thread {
            return Err(TraceError::damaged("a block does not continue the one before it"));
        }
        self.raw.clear();
        self.raw.reserve_exact((head.raw as usize).min(MAX_RAW));
        self.decompressor.decompress_to_buffer(packed, &mut self.raw).map_err(|error| {
            TraceError::damaged(format!("a block does not decompress ({error})"))
        })?;
        if self.raw.len() != head.raw as usize {
            return Err(TraceError::damaged("a block is not as long as it says"));
        }
        let mut fields = Fields { bytes: &self.raw };
        let mut start = COLUMNS * 4;
        for column in &mut self.columns {
            let length = fields.u32("the length of a column")? as usize;
            // Both are less than 2^32, so that the sum cannot overflow before the comparison stops it.
            *column = (start, start + length);
            start += length;
            if start > self.raw.len() {
                return Err(TraceError::damaged("a column reaches beyond its block"));
            }
        }
        let (first, end) = self.columns[KINDS];
        if start != self.raw.len() || end - first != head.events as usize {
            return Err(TraceError::damaged("the columns of a block do not fill it"));
        }
        self.left = head.events;
        Ok(BLOCK_HEAD + packed.len())
    }

    /// The block's next event; there must be one left.
    pub(crate) fn next(&mut self, live: &mut Live) -> Result<Event, TraceError> {
        self.left -= 1;
        let kind = self.byte(KINDS)?;
        if kind & SWITCHED != 0 {
            self.thread = self.number(THREADS)?;
        }
        let op = match kind & !SWITCHED {
            kind if kind & OP == ALLOCATE && kind & !(OP | ZEROED | ALIGNED) == 0 => {
                let size = self.number(SIZES)?;
                let align = if kind & ALIGNED != 0 {
                    1usize.checked_shl(self.byte(ALIGNS)?.into()).unwrap_or(0)
                } else {
                    MALLOC_ALIGN
                };
                if !crate::event::is_possible(size, align) {
                    return Err(TraceError::damaged(format!(
                        "an object of {size} bytes, aligned to {align}"
                    )));
                }
                let Some(object) = live.allocate() else {
                    return Err(TraceError::damaged("more objects than can be numbered"));
                };
                Op::Allocate { object, size, align, zeroed: kind & ZEROED != 0 }
            }
            REALLOCATE => {
                let object = self.aged(live)?;
                let size = self.number(NEW_SIZES)?;
                if !crate::event::is_possible(size, 1) {
                    return Err(TraceError::damaged(format!("an object of {size} bytes")));
                }
                Op::Reallocate { object, size }
            }
            FREE => {
                let object = self.aged(live)?;
                live.free(object);
                Op::Free { object }
            }
            kind => return Err(TraceError::damaged(format!("an event of unknown kind {kind:#x}"))),
        };
        if self.left == 0 && self.columns.iter().any(|(next, end)| next != end) {
            return Err(TraceError::damaged("a block holds more than its events"));
        }
        Ok(Event { thread: self.thread, op })
    }

    /// The next age, as the object of that age, which must be live.
    fn aged(&mut self, live: &Live) -> Result<u32, TraceError> {
        let age: u32 = self.number(AGES)?;
        match live.objects().checked_sub(1).and_then(|last| last.checked_sub(age)) {
            Some(object) if live.contains(object) => Ok(object),
            _ => Err(TraceError::damaged("an object is used that is not live")),
        }
    }

    fn byte(&mut self, column: usize) -> Result<u8, TraceError> {
        let (next, end) = &mut self.columns[column];
        if next == end {
            return Err(TraceError::damaged("a column ends before its block"));
        }
        *next += 1;
        Ok(self.raw[*next - 1])
    }

    fn number<T: TryFrom<u64>>(&mut self, column: usize) -> Result<T, TraceError> {
        let (next, end) = &mut self.columns[column];
        let number = read_varint(&self.raw[..*end], next);
        number.and_then(|number| T::try_from(number).ok()).ok_or_else(|| {
            TraceError::damaged("a column holds a number that is cut off or too large")
        })
    }
}
