//! Reading traces.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use memmap2::Mmap;

use crate::block::BlockDecoder;
use crate::error::{Problem, TraceError};
use crate::event::{Event, Header, Summary};
use crate::format::{BLOCK_HEAD, BlockHead, MAGIC, decode_head};
use crate::rep;
use crate::tally::Live;
use crate::writer::Writer;

/// A trace, ready to be read: mapped from its file, or held in memory.
pub struct Trace {
    bytes: Bytes,
    summary: Summary,
    /// Where the blocks start.
    blocks: usize,
}

enum Bytes {
    Mapped(Mmap),
    Memory(Vec<u8>),
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Memory(memory) => memory,
        }
    }
}

impl Trace {
    /// Maps a trace file (`.hwt`) and checks that it is whole: its mark, its version, every length and every
    /// checksum. Costs one look at each byte of the file and no memory.
    ///
    /// The file must not be changed while it is open; [`Writer`] never changes one, it replaces it.
    ///
    /// # Errors
    /// When the file cannot be read, is something else, is damaged or cut off.
    pub fn open(path: impl AsRef<Path>) -> Result<Trace, TraceError> {
        let path = path.as_ref();
        let file = open(path)?;
        map(&file).and_then(|map| Trace::new(Bytes::Mapped(map))).map_err(|error| error.at(path))
    }

    /// Reads any trace: a `.hwt` file as [`Trace::open`] does it, or the CS:APP text (`.rep`), also if it is
    /// compressed with gzip (`.rep.gz`), which is converted in memory. What the file is, its first bytes say.
    ///
    /// # Errors
    /// As [`Trace::open`]; and when a line of the text means nothing, with the line's number.
    pub fn load(path: impl AsRef<Path>) -> Result<Trace, TraceError> {
        let path = path.as_ref();
        let mut file = open(path)?;
        let mut start = Vec::new();
        let read = Read::by_ref(&mut file).take(MAGIC.len() as u64).read_to_end(&mut start);
        read.map_err(|error| TraceError::io("reading", error).at(path))?;
        if start.first().is_none_or(|&byte| byte == MAGIC[0]) {
            return Trace::open(path);
        }
        rep::import(start.chain(file), rep::name_of(path)).map_err(|error| error.at(path))
    }

    /// A trace from the bytes of a file.
    ///
    /// # Errors
    /// As [`Trace::open`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Trace, TraceError> {
        Trace::new(Bytes::Memory(bytes))
    }

    /// A trace in memory, from events.
    ///
    /// # Errors
    /// When an event cannot follow those before it.
    pub fn from_events(
        header: Header,
        events: impl IntoIterator<Item = Event>,
    ) -> Result<Trace, TraceError> {
        let mut writer = Writer::in_memory(header)?;
        for event in events {
            writer.push(event)?;
        }
        writer.finish_trace()
    }

    fn new(bytes: Bytes) -> Result<Trace, TraceError> {
        let file = bytes.as_slice();
        let (summary, blocks) = decode_head(file)?;
        let mut rest = &file[blocks..];
        let mut events = 0;
        while !rest.is_empty() {
            let (head, packed) = BlockHead::decode(rest)?;
            events += u64::from(head.events);
            rest = &rest[BLOCK_HEAD + packed.len()..];
        }
        if events < summary.events {
            return Err(Problem::Truncated { missing: "at least one block" }.into());
        }
        if events > summary.events {
            return Err(TraceError::damaged("there are more blocks than the head says"));
        }
        Ok(Trace { bytes, summary, blocks })
    }

    /// The trace in numbers, from its head.
    #[must_use]
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// The bytes of the file, as [`Trace::from_bytes`] takes them.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// All events, in the order in which they happened.
    ///
    /// Each event that is returned follows from those before it: objects are numbered in the order of allocation,
    /// only live objects are reallocated and freed, and every size and alignment makes a
    /// [`Layout`](std::alloc::Layout). The iterator ends after the first error.
    #[must_use]
    pub fn events(&self) -> Events<'_> {
        let rest = &self.bytes.as_slice()[self.blocks..];
        Events { trace: self, rest, decoder: None, live: Live::default(), failed: false }
    }
}

fn open(path: &Path) -> Result<File, TraceError> {
    File::open(path).map_err(|error| TraceError::io("opening the file", error).at(path))
}

/// Maps a file into memory.
fn map(file: &File) -> Result<Mmap, TraceError> {
    let length = file.metadata().map_err(|error| TraceError::io("reading", error))?.len();
    if length == 0 {
        return Err(Problem::Foreign.into()); // an empty file cannot be mapped, and is not a trace
    }
    // SAFETY: the mapping is only read, as bytes of which each is checked before use. That nobody changes the file
    // meanwhile is the caller's promise (`Trace::open`); the writer of this crate replaces files instead.
    unsafe { Mmap::map(file) }.map_err(|error| TraceError::io("mapping the file", error))
}

/// The events of a trace; see [`Trace::events`].
pub struct Events<'a> {
    trace: &'a Trace,
    /// The blocks that were not yet started.
    rest: &'a [u8],
    decoder: Option<BlockDecoder>,
    live: Live,
    failed: bool,
}

impl Events<'_> {
    fn step(&mut self) -> Result<Option<Event>, TraceError> {
        let decoder = match &mut self.decoder {
            Some(decoder) => decoder,
            none => none.insert(BlockDecoder::new()?),
        };
        if decoder.left() == 0 {
            if self.rest.is_empty() {
                return if self.live.objects() == self.trace.summary.objects {
                    Ok(None)
                } else {
                    Err(TraceError::damaged("there are not as many objects as the head says"))
                };
            }
            let length = decoder.start(self.rest, &self.live)?;
            self.rest = &self.rest[length..];
        }
        let event = decoder.next(&mut self.live)?;
        if event.thread >= self.trace.summary.threads
            || self.live.objects() > self.trace.summary.objects
        {
            return Err(TraceError::damaged(
                "there are more threads or objects than the head says",
            ));
        }
        Ok(Some(event))
    }
}

impl Iterator for Events<'_> {
    type Item = Result<Event, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let step = self.step().transpose();
        if matches!(step, Some(Err(_))) {
            self.failed = true;
        }
        step
    }
}
