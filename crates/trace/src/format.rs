//! The bytes of a trace file: head, block heads and number coding, as `FORMAT.md` describes them.
//!
//! Nothing here trusts a length that it read: every length is compared with the bytes that are really there, or with
//! a limit of the format, before anything is reserved for it.

use crate::error::{Problem, TraceError};
use crate::event::Summary;

/// The first bytes of each trace. The high bit, the line ends and the end-of-file mark are there so that a transfer
/// that treats the file as text breaks them (as PNG does it).
pub(crate) const MAGIC: [u8; 8] = *b"\x89HWT\r\n\x1a\n";
/// The version of the format that this module reads and writes.
pub(crate) const VERSION: u32 = 1;
/// Head flag: the writer finished, and the numbers in the head are those of the whole trace.
const FINISHED: u32 = 1;
/// Bytes of the head before the texts.
const FIXED_HEAD: usize = 128;
/// The longest name, command or note, in bytes; longer ones are cut when they are written.
pub(crate) const MAX_TEXT: usize = 64 << 10;
/// The longest head, in bytes: three texts, and as much space left free.
const MAX_HEAD: usize = FIXED_HEAD + 6 * (4 + MAX_TEXT);
/// The most events in one block.
pub(crate) const BLOCK_EVENTS: usize = 1 << 16;
/// The most bytes in one block after decompression: every event at its longest.
pub(crate) const MAX_RAW: usize = COLUMNS * 4 + BLOCK_EVENTS * (1 + 5 + 10 + 1);
/// Bytes of a block's head.
pub(crate) const BLOCK_HEAD: usize = 24;
/// Columns in a block.
pub(crate) const COLUMNS: usize = 6;

/// Bytes that a head of these texts needs.
pub(crate) fn head_bytes(summary: &Summary) -> usize {
    FIXED_HEAD
        + [&summary.name, &summary.command, &summary.note]
            .iter()
            .map(|text| 4 + cut(text).len())
            .sum::<usize>()
}

/// The head of a file, as bytes, and zeros behind it up to `length`, which is no less than [`head_bytes`]. With
/// `finished == false` a reader refuses the file.
pub(crate) fn encode_head(summary: &Summary, finished: bool, length: usize) -> Vec<u8> {
    let texts = [&summary.name, &summary.command, &summary.note].map(|text| cut(text));
    let mut head = Vec::with_capacity(length);
    head.extend(MAGIC);
    head.extend(VERSION.to_le_bytes());
    head.extend((length as u32).to_le_bytes());
    head.extend([0; 4]); // the checksum, filled in below
    head.extend((if finished { FINISHED } else { 0 }).to_le_bytes());
    for number in [
        summary.events,
        summary.reallocations,
        summary.frees,
        summary.cross_thread,
        summary.peak_live_bytes,
        summary.end_live_bytes,
        summary.total_bytes,
        summary.max_size as u64,
        summary.max_align as u64,
    ] {
        head.extend(number.to_le_bytes());
    }
    for number in
        [summary.objects, summary.threads, summary.peak_live_objects, summary.end_live_objects]
    {
        head.extend(number.to_le_bytes());
    }
    head.resize(FIXED_HEAD, 0);
    for text in texts {
        head.extend((text.len() as u32).to_le_bytes());
        head.extend(text.as_bytes());
    }
    head.resize(length, 0);
    let sum = head_sum(&head);
    head[16..20].copy_from_slice(&sum.to_le_bytes());
    head
}

/// Reads the head; returns the summary and the head's length.
pub(crate) fn decode_head(file: &[u8]) -> Result<(Summary, usize), TraceError> {
    if !file.starts_with(&MAGIC) {
        // A file that is shorter than the mark, but starts like it, was cut off; anything else is something else.
        return Err(if !file.is_empty() && MAGIC.starts_with(file) {
            Problem::Truncated { missing: "most of the head" }.into()
        } else {
            Problem::Foreign.into()
        });
    }
    let mut fields = Fields { bytes: &file[MAGIC.len()..] };
    let version = fields.u32("the version")?;
    if version != VERSION {
        return Err(Problem::Version { found: version, known: VERSION }.into());
    }
    let length = fields.u32("the length of the head")? as usize;
    if !(FIXED_HEAD + 12..=MAX_HEAD).contains(&length) {
        return Err(TraceError::damaged(format!("a head of {length} bytes")));
    }
    let Some(head) = file.get(..length) else {
        return Err(Problem::Truncated { missing: "the end of the head" }.into());
    };
    let sum = fields.u32("the checksum of the head")?;
    if sum != head_sum(head) {
        return Err(TraceError::damaged("the head does not match its checksum"));
    }

    let mut fields = Fields { bytes: &head[20..FIXED_HEAD] };
    let what = "a number in the head";
    let flags = fields.u32(what)?;
    if flags & !FINISHED != 0 {
        return Err(TraceError::damaged(format!("unknown flags {flags:#x} in the head")));
    }
    if flags & FINISHED == 0 {
        return Err(Problem::Unfinished.into());
    }
    let mut summary = Summary {
        events: fields.u64(what)?,
        reallocations: fields.u64(what)?,
        frees: fields.u64(what)?,
        cross_thread: fields.u64(what)?,
        peak_live_bytes: fields.u64(what)?,
        end_live_bytes: fields.u64(what)?,
        total_bytes: fields.u64(what)?,
        max_size: fields.size(what)?,
        max_align: fields.size(what)?,
        objects: fields.u32(what)?,
        threads: fields.u32(what)?,
        peak_live_objects: fields.u32(what)?,
        end_live_objects: fields.u32(what)?,
        ..Summary::default()
    };
    let mut fields = Fields { bytes: &head[FIXED_HEAD..] };
    summary.name = fields.text("the name")?;
    summary.command = fields.text("the command")?;
    summary.note = fields.text("the note")?;
    if fields.bytes.iter().any(|&byte| byte != 0) {
        return Err(TraceError::damaged("the head holds more than its texts"));
    }
    Ok((summary, length))
}

/// The checksum over all of the head but the checksum.
fn head_sum(head: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head[..16]);
    hasher.update(&head[20..]);
    hasher.finalize()
}

/// The longest start of `text` that fits into a head.
pub(crate) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}

/// What stands before the compressed columns of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockHead {
    /// Events in the block; at least one, at most [`BLOCK_EVENTS`].
    pub(crate) events: u32,
    /// Objects allocated before the block.
    pub(crate) objects: u32,
    /// The thread of the event before the block.
    pub(crate) thread: u32,
    /// Bytes of the columns before compression; at most [`MAX_RAW`].
    pub(crate) raw: u32,
    /// Bytes of the columns in the file.
    pub(crate) packed: u32,
}

impl BlockHead {
    /// The block as it stands in the file: head, checksum, columns.
    pub(crate) fn encode(self, packed: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        for number in [self.events, self.objects, self.thread, self.raw, self.packed] {
            out.extend(number.to_le_bytes());
        }
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&out[start..]);
        hasher.update(packed);
        out.extend(hasher.finalize().to_le_bytes());
        out.extend(packed);
    }

    /// Reads the block at the start of `bytes`, checked against its checksum and the format's limits; returns its
    /// head and its compressed columns.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(BlockHead, &[u8]), TraceError> {
        let mut fields = Fields { bytes };
        let what = "the end of a block's head";
        let head = BlockHead {
            events: fields.u32(what)?,
            objects: fields.u32(what)?,
            thread: fields.u32(what)?,
            raw: fields.u32(what)?,
            packed: fields.u32(what)?,
        };
        let sum = fields.u32(what)?;
        let Some(packed) = fields.bytes.get(..head.packed as usize) else {
            return Err(Problem::Truncated { missing: "the end of a block" }.into());
        };
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&bytes[..BLOCK_HEAD - 4]);
        hasher.update(packed);
        if hasher.finalize() != sum {
            return Err(TraceError::damaged("a block does not match its checksum"));
        }
        if head.events == 0 || head.events as usize > BLOCK_EVENTS || head.raw as usize > MAX_RAW {
            return Err(TraceError::damaged(format!(
                "a block of {} events in {} bytes",
                head.events, head.raw
            )));
        }
        Ok((head, packed))
    }
}

/// Reads little-endian numbers from the front of some bytes.
pub(crate) struct Fields<'a> {
    pub(crate) bytes: &'a [u8],
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self, missing: &'static str) -> Result<[u8; N], TraceError> {
        let (&first, rest) =
            self.bytes.split_first_chunk::<N>().ok_or(Problem::Truncated { missing })?;
        self.bytes = rest;
        Ok(first)
    }

    pub(crate) fn u32(&mut self, missing: &'static str) -> Result<u32, TraceError> {
        self.take(missing).map(u32::from_le_bytes)
    }

    fn u64(&mut self, missing: &'static str) -> Result<u64, TraceError> {
        self.take(missing).map(u64::from_le_bytes)
    }

    fn size(&mut self, missing: &'static str) -> Result<usize, TraceError> {
        let number = self.u64(missing)?;
        usize::try_from(number)
            .map_err(|_| TraceError::damaged(format!("a size of {number} bytes")))
    }

    fn text(&mut self, missing: &'static str) -> Result<String, TraceError> {
        let length = self.u32(missing)? as usize;
        let text = self.bytes.get(..length).ok_or(Problem::Truncated { missing })?;
        self.bytes = &self.bytes[length..];
        match str::from_utf8(text) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(TraceError::damaged(format!("{missing} in the head is not UTF-8"))),
        }
    }
}

/// Appends `number` in LEB128: seven bits a byte, lowest first, the high bit says that more follow.
pub(crate) fn push_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Reads one LEB128 number at `*at` and moves past it. `None` where the bytes end or the number exceeds 64 bits.
pub(crate) fn read_varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        if shift == 63 && byte > 1 {
            return None;
        }
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}
