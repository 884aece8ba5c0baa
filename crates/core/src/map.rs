//! The heap map: every block of a heap, one a line, as teaching allocators print their list.
//!
//! Written through [`core::fmt::Write`], which does not allocate. The map is taken under the
//! strategy's lock, so the writer must not use the same strategy.

use core::fmt::{self, Write};

use crate::{BlockInfo, BlockState, Strategy};

impl BlockState {
    /// The state in a word, as both kinds of map write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Used => "used",
            Self::Mapped => "mapped",
            Self::Free => "free",
            Self::Cached => "cached",
            Self::Wilderness => "wilderness",
        }
    }
}

/// Writes a line of headings, then address, size in bytes, state and next free block of each block.
///
/// ```text
///            address         size  state       next free
///     0x55d5b6c5a030           24  used
///     0x55d5b6c5a050         4056  free        0x55d5b6c5c030
/// ```
///
/// # Errors
///
/// What the writer says, once; what follows is left out.
pub fn write_text<S: Strategy + ?Sized>(heap: &S, out: &mut dyn Write) -> fmt::Result {
    writeln!(out, "{:>18} {:>12}  {:<11} next free", "address", "size", "state")?;
    each(heap, &mut |block| {
        write!(out, "{:>#18x} {:>12}  ", block.address, block.size)?;
        match block.next_free {
            Some(next) => writeln!(out, "{:<11} {next:#x}", block.state.name()),
            None => writeln!(out, "{}", block.state.name()),
        }
    })
}

/// Writes one JSON array of objects with `address`, `size`, `overhead`, `state` and `next_free`, which is
/// `null` where there is none. Addresses are numbers; sizes are bytes.
///
/// # Errors
///
/// As [`write_text`].
pub fn write_json<S: Strategy + ?Sized>(heap: &S, out: &mut dyn Write) -> fmt::Result {
    let mut separator = "[";
    each(heap, &mut |block| {
        let BlockInfo { address, size, overhead, state, next_free } = block;
        let state = state.name();
        write!(
            out,
            "{separator}\n{{\"address\":{address},\"size\":{size},\"overhead\":{overhead},\
             \"state\":\"{state}\",\"next_free\":"
        )?;
        separator = ",";
        match next_free {
            Some(next) => write!(out, "{next}}}"),
            None => write!(out, "null}}"),
        }
    })?;
    if separator == "[" { out.write_str("[]\n") } else { out.write_str("\n]\n") }
}

/// Visits each block until `write` fails.
fn each<S: Strategy + ?Sized>(
    heap: &S,
    write: &mut dyn FnMut(BlockInfo) -> fmt::Result,
) -> fmt::Result {
    let mut written = Ok(());
    heap.walk(&mut |block| {
        if written.is_ok() {
            written = write(block);
        }
    });
    written
}
