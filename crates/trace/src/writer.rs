//! Writing traces.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::block::BlockEncoder;
use crate::error::TraceError;
use crate::event::{Event, Header, Summary};
use crate::format::{MAX_TEXT, cut, encode_head, head_bytes};
use crate::reader::Trace;
use crate::tally::Tally;

/// Writes a trace, event by event.
///
/// A file appears under its name only when it is [finished](Writer::finish); until then it is written beside it, as
/// `NAME.part`, which is removed if the writer is dropped.
pub struct Writer {
    sink: Sink,
    tally: Tally,
    block: BlockEncoder,
    /// Bytes at the start of the file that are kept for the head.
    head: usize,
    /// One encoded block, between the encoder and the file.
    bytes: Vec<u8>,
}

enum Sink {
    Memory(Vec<u8>),
    File(Part),
}

/// A file that is not yet what it should be.
struct Part {
    file: File,
    part: PathBuf,
    path: PathBuf,
    finished: bool,
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.finished {
            // Nothing can be done about a failure here, and the reader refuses unfinished files anyway.
            let _ = fs::remove_file(&self.part);
        }
    }
}

/// Bytes kept free for [`Writer::add_note`].
const NOTE_SPACE: usize = 1 << 10;
/// What a file is worth. The highest levels would make it a tenth smaller, and take ten times as long.
const FILE_LEVEL: i32 = 9;
/// What memory is worth: it is thrown away soon.
const MEMORY_LEVEL: i32 = 1;

impl Writer {
    /// Starts a trace file. An existing file of that name stays as it is until [`Writer::finish`] replaces it.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn create(path: impl AsRef<Path>, header: Header) -> Result<Writer, TraceError> {
        let path = path.as_ref();
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = File::create(&part)
            .map_err(|error| TraceError::io("creating the file", error).at(&part))?;
        let part = Part { file, part, path: path.to_owned(), finished: false };
        Writer::new(Sink::File(part), FILE_LEVEL, header).map_err(|error| error.at(path))
    }

    /// Starts a trace in memory, for [`Writer::finish_trace`].
    ///
    /// # Errors
    /// When the compressor cannot be set up.
    pub fn in_memory(header: Header) -> Result<Writer, TraceError> {
        Writer::new(Sink::Memory(Vec::new()), MEMORY_LEVEL, header)
    }

    fn new(sink: Sink, level: i32, header: Header) -> Result<Writer, TraceError> {
        let text = |text: String| cut(&text).to_owned();
        let Header { name, command, note } = header;
        let tally =
            Tally::new(Header { name: text(name), command: text(command), note: text(note) });
        let head = head_bytes(tally.summary()) + NOTE_SPACE;
        let mut writer =
            Writer { sink, tally, block: BlockEncoder::new(level)?, head, bytes: Vec::new() };
        let head = encode_head(writer.tally.summary(), false, head);
        writer.sink.append(&head)?;
        Ok(writer)
    }

    /// Adds one event.
    ///
    /// # Errors
    /// When the event cannot follow the events before it (it is then left out, and more can be added), and when the
    /// file cannot be written.
    pub fn push(&mut self, event: Event) -> Result<(), TraceError> {
        self.tally.count(event)?;
        self.block.push(event);
        if self.block.is_full() { self.flush() } else { Ok(()) }
    }

    /// Adds a sentence to the trace's note: what came to light while it was written. Up to 1 KiB is kept of all that
    /// is added.
    pub fn add_note(&mut self, sentence: &str) {
        let space = self.head - head_bytes(self.tally.summary());
        let note = self.tally.note();
        let space = space.min(MAX_TEXT - note.len());
        let mut added = if note.is_empty() { String::new() } else { " ".to_owned() };
        added.push_str(sentence);
        note.push_str(&added[..added.floor_char_boundary(space)]);
    }

    /// The summary of the events so far.
    #[must_use]
    pub fn summary(&self) -> &Summary {
        self.tally.summary()
    }

    /// Completes the trace and gives the file its name.
    ///
    /// # Errors
    /// When the file cannot be written or renamed.
    pub fn finish(mut self) -> Result<Summary, TraceError> {
        self.complete()?;
        Ok(self.tally.summary().clone())
    }

    /// Completes the trace and opens it.
    ///
    /// # Errors
    /// When the file cannot be written, renamed or opened.
    pub fn finish_trace(mut self) -> Result<Trace, TraceError> {
        self.complete()?;
        match self.sink {
            Sink::Memory(bytes) => Trace::from_bytes(bytes),
            Sink::File(part) => Trace::open(&part.path),
        }
    }

    fn flush(&mut self) -> Result<(), TraceError> {
        self.bytes.clear();
        self.block.flush(&mut self.bytes)?;
        self.sink.append(&self.bytes)
    }

    fn complete(&mut self) -> Result<(), TraceError> {
        self.flush()?;
        let head = encode_head(self.tally.summary(), true, self.head);
        match &mut self.sink {
            Sink::Memory(bytes) => bytes[..head.len()].copy_from_slice(&head),
            Sink::File(part) => {
                let written =
                    part.file.seek(SeekFrom::Start(0)).and_then(|_| part.file.write_all(&head));
                written.map_err(|error| TraceError::io("writing", error).at(&part.part))?;
                fs::rename(&part.part, &part.path).map_err(|error| {
                    TraceError::io("giving the file its name", error).at(&part.path)
                })?;
                part.finished = true;
            }
        }
        Ok(())
    }
}

impl Sink {
    fn append(&mut self, bytes: &[u8]) -> Result<(), TraceError> {
        match self {
            Sink::Memory(memory) => memory.extend(bytes),
            Sink::File(part) => {
                part.file
                    .write_all(bytes)
                    .map_err(|error| TraceError::io("writing", error).at(&part.part))?;
            }
        }
        Ok(())
    }
}
