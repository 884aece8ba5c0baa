//! The CS:APP malloc lab's text format, which many programs write: `.rep`, or compressed with gzip, `.rep.gz`.
//!
//! Four lines of numbers (a suggested heap size, the number of ids, the number of operations, a weight), then one
//! operation a line:
//!
//! ```text
//! a ID BYTES     allocate
//! r ID BYTES     reallocate; an ID that is not allocated is allocated, as realloc(NULL) does it
//! f ID           free; an ID of -1 is free(NULL), which is nothing
//! ```
//!
//! An ID may be used again after it was freed. There are no threads and no alignments: everything is thread 0 and
//! aligned as plain `malloc` aligns.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use crate::error::{Problem, TraceError};
use crate::event::{Event, Header, MALLOC_ALIGN, Op};
use crate::reader::Trace;
use crate::writer::Writer;

/// The first bytes of gzip.
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// No line of the format is longer, in bytes: a letter and two numbers. It keeps a file without line ends, or one that
/// is not text at all, out of memory.
const MAX_LINE: usize = 256;
/// Lines of numbers before the operations.
const HEAD_LINES: usize = 4;

/// The name of a trace in such a file: `clang` for `clang.rep.gz`.
pub(crate) fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    name.strip_suffix(".rep").unwrap_or(name).to_owned()
}

/// Reads CS:APP text, compressed or not, into a trace in memory.
pub(crate) fn import(mut file: impl Read, name: String) -> Result<Trace, TraceError> {
    let mut start = Vec::new();
    let read = file.by_ref().take(GZIP.len() as u64).read_to_end(&mut start);
    read.map_err(|error| TraceError::io("reading", error))?;
    let packed = start == GZIP;
    let file = BufReader::new(start.as_slice().chain(file));
    if packed {
        import_text(BufReader::new(MultiGzDecoder::new(file)), name)
    } else {
        import_text(file, name)
    }
}

fn import_text(text: impl BufRead, name: String) -> Result<Trace, TraceError> {
    let mut lines = Lines { text, line: Vec::new(), number: 0 };
    let mut head = [0; HEAD_LINES];
    for (index, number) in head.iter_mut().enumerate() {
        let line = match lines.next() {
            // Before the first line was understood, the likeliest mistake is another kind of file.
            Err(error) if index == 0 && matches!(error.problem(), Problem::Line { .. }) => {
                return Err(Problem::Foreign.into());
            }
            line => line?,
        };
        *number = match line.map(|line| line.parse::<u64>()) {
            Some(Ok(number)) => number,
            _ if index == 0 => return Err(Problem::Foreign.into()),
            Some(Err(_)) => {
                let what =
                    format!("there are {index} lines of numbers where {HEAD_LINES} are expected");
                return Err(lines.wrong(what));
            }
            None => return Err(Problem::Truncated { missing: "the end of the head" }.into()),
        };
    }
    let [_heap_size, _ids, operations, _weight] = head;

    let note = "Imported from the CS:APP text format, which has neither threads nor alignments."
        .to_owned();
    let mut writer = Writer::in_memory(Header { name, command: String::new(), note })?;
    let mut objects: HashMap<u64, u32> = HashMap::new();
    let mut found = 0;
    while let Some(line) = lines.next()? {
        let operation = Operation::parse(line).map_err(|what| lines.wrong(what))?;
        found += 1;
        let next = writer.summary().objects;
        let allocate =
            |size| Op::Allocate { object: next, size, align: MALLOC_ALIGN, zeroed: false };
        let op = match operation {
            Operation::Allocate(id, size) => {
                if objects.insert(id, next).is_some() {
                    return Err(
                        lines.wrong(format!("id {id} is allocated, and was not freed before"))
                    );
                }
                allocate(size)
            }
            Operation::Reallocate(id, size) => match objects.get(&id) {
                Some(&object) => Op::Reallocate { object, size },
                None => {
                    objects.insert(id, next);
                    allocate(size)
                }
            },
            Operation::Free(id) => match objects.remove(&id) {
                Some(object) => Op::Free { object },
                None => return Err(lines.wrong(format!("id {id} is freed, but is not allocated"))),
            },
            Operation::FreeNull => continue,
        };
        writer.push(Event { thread: 0, op }).map_err(|error| lines.wrong(error.to_string()))?;
    }
    if found < operations {
        return Err(lines.wrong(format!(
            "the file ends after {found} operations, and its third line says {operations}; \
             copy or download it again, or correct that line"
        )));
    }
    if found > operations {
        return Err(lines.wrong(format!(
            "the file has {found} operations, and its third line says {operations}; correct that line"
        )));
    }
    writer.finish_trace()
}

/// What is wrong when no more can be read: gzip tells of damage by these kinds of errors.
fn reading(error: io::Error) -> TraceError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            Problem::Truncated { missing: "the end of the compressed text" }.into()
        }
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
            TraceError::damaged(format!("the compressed text cannot be read ({error})"))
        }
        _ => TraceError::io("reading", error),
    }
}

enum Operation {
    Allocate(u64, usize),
    Reallocate(u64, usize),
    Free(u64),
    FreeNull,
}

impl Operation {
    fn parse(line: &str) -> Result<Operation, String> {
        let mut words = line.split_ascii_whitespace();
        let kind = words.next().unwrap_or_default();
        let mut number = |what: &str| -> Result<&str, String> {
            words.next().ok_or_else(|| {
                format!("`{line}` has no {what}; expected `a ID BYTES`, `r ID BYTES` or `f ID`")
            })
        };
        let id = |word: &str| {
            word.parse().map_err(|_| format!("`{word}` is not an id, which is a number from 0 up"))
        };
        let size =
            |word: &str| word.parse().map_err(|_| format!("`{word}` is not a size in bytes"));
        let operation = match kind {
            "a" => Operation::Allocate(id(number("id")?)?, size(number("size")?)?),
            "r" => Operation::Reallocate(id(number("id")?)?, size(number("size")?)?),
            "f" => match number("id")? {
                "-1" => Operation::FreeNull,
                word => Operation::Free(id(word)?),
            },
            _ => {
                return Err(format!(
                    "`{line}` is no operation; expected `a ID BYTES`, `r ID BYTES` or `f ID`"
                ));
            }
        };
        match words.next() {
            None => Ok(operation),
            Some(word) => {
                Err(format!("`{word}` is too much; expected `a ID BYTES`, `r ID BYTES` or `f ID`"))
            }
        }
    }
}

/// The lines of a text that are not blank, without the white space around them.
struct Lines<R> {
    text: R,
    line: Vec<u8>,
    /// The number of the line that was read last, counted from one.
    number: u64,
}

impl<R: BufRead> Lines<R> {
    fn next(&mut self) -> Result<Option<&str>, TraceError> {
        loop {
            self.line.clear();
            let mut limited = Read::by_ref(&mut self.text).take(MAX_LINE as u64 + 1);
            let read = limited.read_until(b'\n', &mut self.line);
            if read.map_err(reading)? == 0 {
                return Ok(None);
            }
            self.number += 1;
            if self.line.len() > MAX_LINE {
                return Err(self.wrong(format!(
                    "it is longer than {MAX_LINE} bytes, so this is not a CS:APP trace"
                )));
            }
            if !self.line.trim_ascii().is_empty() {
                break;
            }
        }
        match str::from_utf8(self.line.trim_ascii()) {
            Ok(line) => Ok(Some(line)),
            Err(_) => Err(self.wrong("it is not text, so this is not a CS:APP trace".to_owned())),
        }
    }

    /// An error about the line that was read last.
    fn wrong(&self, what: String) -> TraceError {
        Problem::Line { line: self.number, what }.into()
    }
}
