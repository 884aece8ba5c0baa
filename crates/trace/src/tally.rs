//! Checks that events follow from one another, and counts them.
//!
//! Invariant: an object is live from its allocation to its free, and only a live object is reallocated or freed.
//! The [`Tally`] keeps it for all that is written, [`Live`] for all that is read, so that nobody who replays a trace
//! has to ask again.

use crate::error::{Problem, TraceError};
use crate::event::{Event, Header, MALLOC_ALIGN, Op, Summary, is_possible};

/// What the writer remembers of an object.
#[derive(Clone, Copy)]
struct Object {
    /// Its size, or [`FREED`].
    size: usize,
    /// The thread that allocated it.
    thread: u32,
}

/// No object is this large: sizes are at most `isize::MAX`.
const FREED: usize = usize::MAX;

/// Counts events into a [`Summary`], and refuses those that cannot be.
pub(crate) struct Tally {
    summary: Summary,
    objects: Vec<Object>,
}

impl Tally {
    pub(crate) fn new(header: Header) -> Self {
        let Header { name, command, note } = header;
        let summary =
            Summary { name, command, note, max_align: MALLOC_ALIGN, ..Summary::default() };
        Tally { summary, objects: Vec::new() }
    }

    /// The summary of all events so far.
    pub(crate) fn summary(&self) -> &Summary {
        &self.summary
    }

    /// The summary's note, which may be added to.
    pub(crate) fn note(&mut self) -> &mut String {
        &mut self.summary.note
    }

    /// Counts one event. An event that cannot follow those before it changes nothing and is an error.
    pub(crate) fn count(&mut self, event: Event) -> Result<(), TraceError> {
        let Event { thread, op } = event;
        let summary = &mut self.summary;
        let wrong = |what: String| TraceError::from(Problem::Event { index: summary.events, what });
        if thread > summary.threads {
            return Err(wrong(format!("thread {thread} comes before thread {}", summary.threads)));
        }
        let live = |object: u32| match self.objects.get(object as usize) {
            None => Err(wrong(format!("object {object} was never allocated"))),
            Some(known) if known.size == FREED => {
                Err(wrong(format!("object {object} was already freed")))
            }
            Some(&known) => Ok(known),
        };
        // What the event adds to the bytes ever requested. Live bytes never exceed these, so this is the only sum
        // that can overflow.
        let total = |by: usize| match summary.total_bytes.checked_add(by as u64) {
            Some(total) => Ok(total),
            None => Err(TraceError::from(Problem::Full {
                what: "its sizes add up to more than 64 bits hold",
            })),
        };
        match op {
            Op::Allocate { object, size, align, .. } => {
                if !is_possible(size, align) {
                    return Err(wrong(format!(
                        "{size} bytes at an alignment of {align} cannot be asked for"
                    )));
                }
                if object != summary.objects {
                    return Err(wrong(format!(
                        "object {object} is allocated where {} is next",
                        summary.objects
                    )));
                }
                if object == u32::MAX {
                    return Err(Problem::Full {
                        what: "it has as many objects as can be numbered",
                    }
                    .into());
                }
                summary.total_bytes = total(size)?;
                self.objects.push(Object { size, thread });
                summary.objects += 1;
                summary.end_live_objects += 1;
                summary.peak_live_objects = summary.peak_live_objects.max(summary.end_live_objects);
                summary.end_live_bytes += size as u64;
                summary.max_size = summary.max_size.max(size);
                summary.max_align = summary.max_align.max(align);
            }
            Op::Reallocate { object, size } => {
                let known = live(object)?;
                if !is_possible(size, 1) {
                    return Err(wrong(format!("{size} bytes cannot be asked for")));
                }
                summary.total_bytes = total(size.saturating_sub(known.size))?;
                self.objects[object as usize].size = size;
                summary.reallocations += 1;
                summary.cross_thread += u64::from(known.thread != thread);
                summary.end_live_bytes = summary.end_live_bytes - known.size as u64 + size as u64;
                summary.max_size = summary.max_size.max(size);
            }
            Op::Free { object } => {
                let known = live(object)?;
                self.objects[object as usize].size = FREED;
                summary.frees += 1;
                summary.cross_thread += u64::from(known.thread != thread);
                summary.end_live_objects -= 1;
                summary.end_live_bytes -= known.size as u64;
            }
        }
        summary.peak_live_bytes = summary.peak_live_bytes.max(summary.end_live_bytes);
        summary.threads = summary.threads.max(thread.saturating_add(1));
        summary.events += 1;
        Ok(())
    }
}

/// Which objects are live, at one bit an object: all that a reader has to remember.
#[derive(Default, Clone)]
pub(crate) struct Live {
    bits: Vec<u64>,
    objects: u32,
}

impl Live {
    /// Objects allocated so far.
    pub(crate) fn objects(&self) -> u32 {
        self.objects
    }

    /// The next object is allocated; returns its number, or nothing if numbers are used up.
    pub(crate) fn allocate(&mut self) -> Option<u32> {
        let object = self.objects;
        self.objects = object.checked_add(1)?;
        if object.is_multiple_of(64) {
            self.bits.push(0);
        }
        self.bits[object as usize / 64] |= 1 << (object % 64);
        Some(object)
    }

    /// Whether the object is live.
    pub(crate) fn contains(&self, object: u32) -> bool {
        self.bits.get(object as usize / 64).is_some_and(|bits| bits >> (object % 64) & 1 == 1)
    }

    /// The object, which is live, no longer is.
    pub(crate) fn free(&mut self, object: u32) {
        self.bits[object as usize / 64] &= !(1 << (object % 64));
    }
}
