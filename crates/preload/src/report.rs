//! What is told of a heap: at exit, at a signal, and by `mallinfo`, `malloc_stats` and `malloc_info`. Nothing here
//! allocates, and nothing is written while a lock is held but the heap map.

use core::fmt::{self, Write};

use heapwright_core::{BlockState, Stats, Strategy, map};
use libc::{FILE, c_int};

use crate::settings::{Map, Settings};

/// Text on its way to a file descriptor. What cannot be written is lost.
pub(crate) struct Out {
    to: c_int,
    text: [u8; 1024],
    length: usize,
}

impl Out {
    pub(crate) fn to(to: c_int) -> Self {
        Self { to, text: [0; 1024], length: 0 }
    }

    pub(crate) fn bytes(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.length == self.text.len() {
                self.flush();
            }
            let (part, rest) = bytes.split_at(bytes.len().min(self.text.len() - self.length));
            self.text[self.length..self.length + part.len()].copy_from_slice(part);
            self.length += part.len();
            bytes = rest;
        }
    }

    fn flush(&mut self) {
        let mut rest = &self.text[..self.length];
        while !rest.is_empty() {
            // SAFETY: the bytes are readable.
            let written = unsafe { libc::write(self.to, rest.as_ptr().cast(), rest.len()) };
            match usize::try_from(written) {
                Ok(count) => rest = rest.get(count..).unwrap_or(&[]),
                // SAFETY: the place of this thread's errno.
                Err(_) if unsafe { *libc::__errno_location() } == libc::EINTR => {}
                Err(_) => break,
            }
        }
        self.length = 0;
    }
}

impl Write for Out {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        self.bytes(part.as_bytes());
        Ok(())
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Writes what the settings ask for. With a map in JSON, all of it is one JSON object.
pub(crate) fn print(
    name: &str,
    heap: &(dyn Strategy + Sync),
    settings: &Settings,
    process: c_int,
    out: &mut Out,
) -> fmt::Result {
    if settings.map == Some(Map::Json) {
        write!(out, "{{\"strategy\":\"{name}\",\"process\":{process}")?;
        if settings.stats {
            let mut separator = ",\"stats\":{";
            for (field, value) in heap.stats().fields() {
                write!(out, "{separator}\"{field}\":{value}")?;
                separator = ",";
            }
            out.write_str("}")?;
        }
        out.write_str(",\"map\":")?;
        map::write_json(heap, out)?;
        return out.write_str("}\n");
    }
    if settings.stats || settings.map.is_some() {
        writeln!(out, "heapwright: {name}: process {process}")?;
    }
    if settings.stats {
        for (field, value) in heap.stats().fields() {
            writeln!(out, "{field} {value}")?;
        }
    }
    if settings.map == Some(Map::Text) {
        map::write_text(heap, out)?;
    }
    Ok(())
}

/// A heap's sums, and what C's functions tell beyond them.
pub(crate) struct Usage {
    stats: Stats,
    /// Bytes of blocks in use, with their headers, but for those in mappings of their own.
    used: usize,
    /// Bytes in mappings of single blocks.
    mapped: usize,
    /// The largest free end of a region.
    end: usize,
    /// Free and kept blocks by the power of two below their size.
    sizes: [Bucket; usize::BITS as usize],
}

#[derive(Clone, Copy)]
struct Bucket {
    count: usize,
    bytes: usize,
}

impl Usage {
    pub(crate) fn of<S: Strategy + ?Sized>(heap: &S) -> Self {
        let empty = Bucket { count: 0, bytes: 0 };
        let mut usage = Self {
            stats: heap.stats(),
            used: 0,
            mapped: 0,
            end: 0,
            sizes: [empty; usize::BITS as usize],
        };
        heap.tally(&mut |block, count| match block.state {
            BlockState::Used => usage.used += (block.size + block.overhead) * count,
            BlockState::Mapped => usage.mapped += (block.size + block.overhead) * count,
            BlockState::Free | BlockState::Cached | BlockState::Wilderness => {
                if block.state == BlockState::Wilderness {
                    usage.end = usage.end.max(block.size);
                }
                let bucket = &mut usage.sizes[block.size.max(1).ilog2() as usize];
                bucket.count += count;
                bucket.bytes += block.size * count;
            }
        });
        usage
    }

    /// Bytes held for blocks that share regions.
    fn arena(&self) -> usize {
        // Other threads may have changed the heap between the sums and the walk.
        self.stats.footprint.saturating_sub(self.mapped)
    }

    pub(crate) fn mallinfo2(&self) -> libc::mallinfo2 {
        let Stats { free_bytes, cached_bytes, .. } = self.stats;
        libc::mallinfo2 {
            arena: self.arena(),
            ordblks: self.stats.free_blocks,
            smblks: self.stats.cached_blocks,
            hblks: self.stats.mapped_blocks,
            hblkhd: self.mapped,
            usmblks: 0,
            fsmblks: cached_bytes,
            uordblks: self.used,
            fordblks: free_bytes + cached_bytes,
            keepcost: self.end,
        }
    }
}

/// As glibc prints it.
pub(crate) fn malloc_stats(usage: &Usage) {
    let info = usage.mallinfo2();
    let out = &mut Out::to(libc::STDERR_FILENO);
    // An `Out` takes everything.
    let _ = write!(
        out,
        "Arena 0:\nsystem bytes     = {:10}\nin use bytes     = {:10}\n\
         Total (incl. mmap):\nsystem bytes     = {:10}\nin use bytes     = {:10}\n\
         max system bytes = {:10}\nmmap regions     = {:10}\nmmap bytes       = {:10}\n",
        info.arena,
        info.uordblks,
        info.arena + info.hblkhd,
        info.uordblks + info.hblkhd,
        usage.stats.peak_footprint,
        info.hblks,
        info.hblkhd,
    );
}

/// A stream of C's.
struct Stream(*mut FILE);

impl Write for Stream {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        // SAFETY: whoever made this promised a stream open for writing.
        let written = unsafe { libc::fwrite(part.as_ptr().cast(), 1, part.len(), self.0) };
        if written == part.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// In glibc's form of XML, with sizes by powers of two.
///
/// # Safety
///
/// `stream` is open for writing.
pub(crate) unsafe fn malloc_info(usage: &Usage, stream: *mut FILE) -> c_int {
    if write_info(usage, &mut Stream(stream)).is_ok() { 0 } else { -1 }
}

fn write_info(usage: &Usage, out: &mut Stream) -> fmt::Result {
    let Usage { stats, mapped, sizes, .. } = usage;
    out.write_str("<malloc version=\"1\">\n<heap nr=\"0\">\n<sizes>\n")?;
    for (power, bucket) in sizes.iter().enumerate().filter(|(_, bucket)| bucket.count > 0) {
        let from = 1usize << power;
        writeln!(
            out,
            "  <size from=\"{from}\" to=\"{}\" total=\"{}\" count=\"{}\"/>",
            from + (from - 1),
            bucket.bytes,
            bucket.count
        )?;
    }
    out.write_str("</sizes>\n")?;
    let (arena, total) = (usage.arena(), stats.footprint);
    let sums = |out: &mut Stream| {
        writeln!(
            out,
            "<total type=\"fast\" count=\"{}\" size=\"{}\"/>\n\
             <total type=\"rest\" count=\"{}\" size=\"{}\"/>",
            stats.cached_blocks, stats.cached_bytes, stats.free_blocks, stats.free_bytes
        )
    };
    let system = |out: &mut Stream, current: usize| {
        writeln!(
            out,
            "<system type=\"current\" size=\"{current}\"/>\n\
             <system type=\"max\" size=\"{}\"/>\n\
             <aspace type=\"total\" size=\"{current}\"/>\n\
             <aspace type=\"mprotect\" size=\"{current}\"/>",
            stats.peak_footprint
        )
    };
    sums(out)?;
    system(out, arena)?;
    out.write_str("</heap>\n")?;
    sums(out)?;
    writeln!(out, "<total type=\"mmap\" count=\"{}\" size=\"{mapped}\"/>", stats.mapped_blocks)?;
    system(out, total)?;
    out.write_str("</malloc>\n")
}
