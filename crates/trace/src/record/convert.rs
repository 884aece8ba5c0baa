//! From records to events: addresses become objects.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

use heapwright_raw as raw;

use super::tape::{Record, Tape};
use crate::error::TraceError;
use crate::event::{Event, MALLOC_ALIGN, Op, is_possible};

/// What did not fit together in a recording. A trace is right in spite of it: it is what remains when these are left
/// out, or taken as said here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Findings {
    /// Blocks that the parent process allocated before a fork and this one freed or reallocated: allocated at the
    /// start of the trace.
    pub inherited: u64,
    /// Frees of blocks whose allocation was not seen: left out.
    pub unknown_frees: u64,
    /// Reallocations of blocks whose allocation was not seen: taken as allocations.
    pub unknown_resizes: u64,
    /// Allocations at the address of a live block, whose free was not seen: it is freed just before.
    pub unseen_frees: u64,
    /// Calls that found no room in the raw file: not in the trace.
    pub lost: u64,
    /// Order numbers that were given out but never used, because their thread was killed in between.
    pub missing: u64,
    /// Records, or ends of chunks, that are none the recorder writes: left out.
    pub broken: u64,
}

impl Findings {
    /// Whether all that happened is in the trace, as it happened. Blocks inherited from a parent are as they were.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        *self == Findings { inherited: self.inherited, ..Findings::default() }
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            (self.inherited, "blocks of the parent process, allocated at the start"),
            (self.unknown_frees, "frees of unknown blocks, left out"),
            (self.unknown_resizes, "reallocations of unknown blocks, taken as allocations"),
            (
                self.unseen_frees,
                "frees that were not seen, made up when the address was given again",
            ),
            (self.lost, "calls not recorded for want of room"),
            (self.missing, "calls cut short by the end of the process"),
            (self.broken, "records that could not be read"),
        ];
        let mut first = true;
        for (count, what) in all.into_iter().filter(|&(count, _)| count > 0) {
            write!(f, "{}{what}: {count}", if first { "" } else { "; " })?;
            first = false;
        }
        if first { f.write_str("nothing unusual") } else { Ok(()) }
    }
}

/// A block as a parent process left it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    pub(super) address: u64,
    pub(super) size: usize,
    align: usize,
    zeroed: bool,
    /// Blocks with lower numbers were allocated before.
    serial: u64,
}

/// Addresses of which something is known.
type ByAddress<T> = HashMap<u64, T, BuildHasherDefault<AddressHasher>>;

/// Addresses are no secret and not chosen by an adversary, so one multiplication spreads them well enough.
#[derive(Default)]
struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(byte.into());
        }
    }

    fn write_u64(&mut self, number: u64) {
        let product = u128::from(self.0 ^ number) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}

/// An allocation, as the record says it.
fn allocation(record: &Record) -> Option<(usize, usize, bool)> {
    let size = usize::try_from(record.size).ok()?;
    let align = match record.kind {
        raw::ALIGNED => 1usize.checked_shl(record.log2_align.into()).unwrap_or(0),
        _ => MALLOC_ALIGN,
    };
    is_possible(size, align).then_some((size, align, record.kind == raw::CALLOC))
}

/// What a record does to a block, once both halves of a `realloc` are known.
enum Step {
    Allocate {
        size: usize,
        align: usize,
        zeroed: bool,
    },
    Free {
        known: bool,
    },
    /// The block now has this address.
    Resize {
        known: bool,
        size: usize,
    },
    /// Nothing that an allocator's user would notice.
    Nothing,
    Broken,
}

/// Keeps what is known of each address, `T`, while records are followed.
struct Follower<T> {
    live: ByAddress<T>,
    /// Threads that are inside a `realloc`, and the block that they gave it: its address is not live meanwhile.
    resizing: HashMap<u32, (u64, Option<T>)>,
}

impl<T: Copy> Follower<T> {
    fn new() -> Self {
        Follower { live: ByAddress::default(), resizing: HashMap::new() }
    }

    /// Follows one record. Returns what it does, and what was known of the block; an allocated or resized block is
    /// known again when the caller says so, with [`Follower::live`].
    fn follow(&mut self, record: &Record) -> (Step, Option<T>) {
        match record.kind {
            raw::MALLOC | raw::CALLOC | raw::ALIGNED => match allocation(record) {
                Some((size, align, zeroed)) => (Step::Allocate { size, align, zeroed }, None),
                None => (Step::Broken, None),
            },
            raw::FREE => {
                let block = self.live.remove(&record.address);
                (Step::Free { known: block.is_some() }, block)
            }
            raw::RESIZE => {
                let block = self.live.remove(&record.address);
                match self.resizing.insert(record.thread, (record.address, block)) {
                    None => (Step::Nothing, None),
                    Some(_) => (Step::Broken, None), // the one before has no end
                }
            }
            raw::RESIZED => {
                let Some((old, block)) = self.resizing.remove(&record.thread) else {
                    return (Step::Broken, None);
                };
                let known = block.is_some();
                match (record.address, usize::try_from(record.size)) {
                    (0, Ok(0)) => (Step::Free { known }, block),
                    (0, _) => {
                        if let Some(block) = block {
                            self.live.insert(old, block);
                        }
                        (Step::Nothing, None)
                    }
                    (_, Ok(size)) if is_possible(size, MALLOC_ALIGN) => {
                        (Step::Resize { known, size }, block)
                    }
                    _ => (Step::Broken, None),
                }
            }
            _ => (Step::Broken, None),
        }
    }
}

/// The addresses that the process frees or reallocates without having allocated them, up to the order number `last`.
pub(super) fn unknown_addresses(tape: &Tape, last: u64) -> HashSet<u64> {
    let mut follower = Follower::<()>::new();
    let mut unknown = HashSet::new();
    let mut begun = HashMap::new();
    for record in tape.iter().take_while(|record| record.order <= last) {
        if record.kind == raw::RESIZE {
            begun.insert(record.thread, record.address);
        }
        match follower.follow(&record).0 {
            Step::Allocate { .. } => _ = follower.live.insert(record.address, ()),
            Step::Resize { known, .. } => {
                if !known {
                    unknown.extend(begun.get(&record.thread));
                }
                follower.live.insert(record.address, ());
            }
            Step::Free { known: false } if record.kind == raw::FREE => {
                _ = unknown.insert(record.address)
            }
            Step::Free { known: false } => unknown.extend(begun.get(&record.thread)),
            Step::Free { known: true } | Step::Nothing | Step::Broken => {}
        }
    }
    unknown
}

/// Those of the `wanted` addresses at which the process had a live block, that it had allocated itself, after the
/// event with the order number `last`.
pub(super) fn live_blocks(tape: &Tape, last: u64, wanted: &HashSet<u64>) -> Vec<Block> {
    let mut follower = Follower::<Block>::new();
    for record in tape.iter().take_while(|record| record.order <= last) {
        let address = record.address;
        let serial = record.order;
        match follower.follow(&record) {
            (Step::Allocate { size, align, zeroed }, _) => {
                follower.live.insert(address, Block { address, size, align, zeroed, serial });
            }
            (Step::Resize { size, .. }, block) => {
                let fresh = Block { address, size, align: MALLOC_ALIGN, zeroed: false, serial };
                let block = block.map_or(fresh, |block| Block { address, size, ..block });
                follower.live.insert(address, block);
            }
            (Step::Free { .. } | Step::Nothing | Step::Broken, _) => {}
        }
    }
    let mut blocks: Vec<Block> =
        wanted.iter().filter_map(|address| follower.live.get(address).copied()).collect();
    blocks.sort_by_key(|block| block.serial);
    blocks
}

/// Numbers threads in the order in which they are first asked for.
#[derive(Default)]
struct ByFirstEvent {
    numbers: HashMap<u32, u32>,
    /// The last answer: threads mostly come in long runs.
    last: Option<(u32, u32)>,
}

impl ByFirstEvent {
    fn number(&mut self, thread: u32) -> u32 {
        match self.last {
            Some((last, number)) if last == thread => number,
            _ => {
                let next = self.numbers.len() as u32;
                let number = *self.numbers.entry(thread).or_insert(next);
                self.last = Some((thread, number));
                number
            }
        }
    }
}

/// Turns the records of a process into events, and hands each to `push`.
///
/// `inherited` are blocks that the process had from the start.
pub(super) fn convert(
    tape: &Tape,
    inherited: &[Block],
    mut push: impl FnMut(Event) -> Result<(), TraceError>,
) -> Result<Findings, TraceError> {
    let mut findings = Findings {
        inherited: inherited.len() as u64,
        lost: tape.head.lost,
        broken: tape.broken,
        ..Findings::default()
    };
    let mut follower = Follower::<u32>::new();
    let mut objects = 0;
    // Threads of the trace are numbered by their first event.
    let mut threads = ByFirstEvent::default();
    for &Block { address, size, align, zeroed, .. } in inherited {
        follower.live.insert(address, objects);
        push(Event { thread: 0, op: Op::Allocate { object: objects, size, align, zeroed } })?;
        objects += 1;
    }

    let mut last = 0;
    for record in tape.iter() {
        if record.order <= last {
            findings.broken += 1; // told twice, or out of order: a record was overwritten
            continue;
        }
        findings.missing += record.order - last - 1;
        last = record.order;
        let (step, object) = follower.follow(&record);
        let mut event = |op| push(Event { thread: threads.number(record.thread), op });
        let mut fresh = |size, align, zeroed| {
            objects += 1;
            Op::Allocate { object: objects - 1, size, align, zeroed }
        };
        let op = match (step, object) {
            (Step::Allocate { size, align, zeroed }, _) => fresh(size, align, zeroed),
            (Step::Resize { size, .. }, Some(object)) => Op::Reallocate { object, size },
            (Step::Resize { size, .. }, None) => {
                findings.unknown_resizes += 1;
                fresh(size, MALLOC_ALIGN, false)
            }
            (Step::Free { .. }, Some(object)) => {
                event(Op::Free { object })?;
                continue;
            }
            (Step::Free { .. }, None) => {
                findings.unknown_frees += 1;
                continue;
            }
            (Step::Nothing, _) => continue,
            (Step::Broken, _) => {
                findings.broken += 1;
                continue;
            }
        };
        if let Some(object) = follower.live.insert(record.address, op.object()) {
            findings.unseen_frees += 1;
            event(Op::Free { object })?;
        }
        event(op)?;
    }
    Ok(findings)
}
