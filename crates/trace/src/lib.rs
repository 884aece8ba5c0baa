//! Traces: what a program asked of `malloc`, in order, small enough to keep and quick to replay.
//!
//! A trace is a list of [`Event`]s: which thread allocated, reallocated or freed which object, of what size and
//! alignment. It holds everything that an allocator can see, in the order in which it happened, and nothing else.
//!
//! ```
//! use heapwright_trace::{Event, Header, Op, Trace};
//!
//! let events = [
//!     Op::Allocate { object: 0, size: 100, align: 16, zeroed: false },
//!     Op::Reallocate { object: 0, size: 200 },
//!     Op::Free { object: 0 },
//! ];
//! let trace = Trace::from_events(Header::named("tiny"), events.map(|op| Event { thread: 0, op }))?;
//! assert_eq!(trace.summary().peak_live_bytes, 200);
//! for event in trace.events() {
//!     println!("{:?}", event?);
//! }
//! # Ok::<(), heapwright_trace::TraceError>(())
//! ```
//!
//! - [`Trace::load`] reads a `.hwt` file, or the CS:APP text format (`.rep`, `.rep.gz`).
//! - [`Writer`] writes a `.hwt` file; `FORMAT.md`, beside this crate, describes every byte of it.
//! - [`record`](mod@record) runs a program and records it.

mod block;
mod error;
mod event;
mod format;
mod reader;
#[cfg(unix)]
pub mod record;
mod rep;
mod tally;
mod writer;

pub use error::{Problem, TraceError};
pub use event::{Event, Header, MALLOC_ALIGN, Op, Summary};
pub use reader::{Events, Trace};
pub use writer::Writer;
