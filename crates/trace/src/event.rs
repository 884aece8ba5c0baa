//! What a trace is made of: events, and the summary that stands at the head of the file.

use std::alloc::Layout;

/// The alignment of a block from plain `malloc`, in bytes.
///
/// Events with this alignment cost nothing in a file. It is what C asks of every `malloc` on 64-bit machines
/// (`alignof(max_align_t)`).
pub const MALLOC_ALIGN: usize = 16;

/// One request that a program made of its allocator.
///
/// Objects are numbered 0, 1, 2, … in the order in which they were allocated, over the whole trace and over all of
/// its threads. A number is never used twice; an object keeps its number when it is reallocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// A new object: `malloc`, `calloc`, `aligned_alloc`, `realloc(NULL, …)` and their relatives.
    Allocate {
        /// The object's number: the count of objects allocated before it.
        object: u32,
        /// Bytes asked for; zero happens.
        size: usize,
        /// A power of two, in bytes; [`MALLOC_ALIGN`] for a plain `malloc`.
        align: usize,
        /// The program relies on the bytes being zero (`calloc`).
        zeroed: bool,
    },
    /// A live object gets a new size; its contents are kept up to the smaller of both.
    ///
    /// A size of zero is a request for an empty object that stays live: a recorded `realloc(p, 0)` that freed is a
    /// [`Op::Free`].
    Reallocate {
        /// The object's number, which it keeps.
        object: u32,
        /// The new size in bytes.
        size: usize,
    },
    /// A live object is given back. `free(NULL)` is not an event.
    Free {
        /// The object's number, which never comes back.
        object: u32,
    },
}

impl Op {
    /// The object that the request is about.
    #[must_use]
    pub fn object(self) -> u32 {
        match self {
            Op::Allocate { object, .. } | Op::Reallocate { object, .. } | Op::Free { object } => {
                object
            }
        }
    }
}

/// A request, and the thread that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Event {
    /// Threads are numbered 0, 1, 2, … in the order of their first event.
    pub thread: u32,
    /// What was asked.
    pub op: Op,
}

/// Where a trace comes from, as its maker tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    /// A short name for tables: `gcc`, `redis`.
    pub name: String,
    /// The command line that was recorded; empty if there was none.
    pub command: String,
    /// Anything a reader should know: versions, what was left out and why.
    pub note: String,
}

impl Header {
    /// A header with a name and nothing else.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Header { name: name.into(), ..Header::default() }
    }
}

/// A trace in numbers. It is stored in the file's header, so that nobody needs to read the events for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// A short name for tables.
    pub name: String,
    /// The command line that was recorded; empty if there was none.
    pub command: String,
    /// Anything a reader should know: versions, what was left out and why.
    pub note: String,
    /// All events: allocations (one an object), reallocations and frees.
    pub events: u64,
    /// Objects allocated; they are numbered from zero up to this.
    pub objects: u32,
    /// Reallocations.
    pub reallocations: u64,
    /// Frees.
    pub frees: u64,
    /// Frees and reallocations by another thread than the one that allocated the object.
    pub cross_thread: u64,
    /// Threads that made at least one request; they are numbered from zero up to this.
    pub threads: u32,
    /// The most bytes that were live (requested and not yet freed) at one moment.
    pub peak_live_bytes: u64,
    /// The most objects that were live at one moment.
    pub peak_live_objects: u32,
    /// Bytes that were still live after the last event.
    pub end_live_bytes: u64,
    /// Objects that were still live after the last event.
    pub end_live_objects: u32,
    /// Bytes requested over the whole trace, by allocations and by reallocations that grew (their growth).
    pub total_bytes: u64,
    /// The largest size that was requested, in bytes.
    pub max_size: usize,
    /// The largest alignment that was requested, in bytes; [`MALLOC_ALIGN`] if none was larger.
    pub max_align: usize,
}

/// Whether `size` bytes at `align` are something that a program can ask for at all.
pub(crate) fn is_possible(size: usize, align: usize) -> bool {
    Layout::from_size_align(size, align).is_ok()
}
