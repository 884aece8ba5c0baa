//! What can be wrong with a trace, and what to do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a trace could not be read, written or recorded. The message names the file and says what to do next.
#[derive(Debug)]
pub struct TraceError {
    path: Option<PathBuf>,
    problem: Problem,
}

/// What is wrong, without the file's name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The system refused to read or write.
    #[error("{action} failed: {source}{}", hint(.source))]
    Io {
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The file is neither a trace nor CS:APP text.
    #[error(
        "this is not a trace: it starts with neither the mark of a Heapwright trace (.hwt) nor the number lines of a \
         CS:APP trace (.rep, .rep.gz); check the file name, or record a trace with `cargo xtask record -o FILE -- CMD`"
    )]
    Foreign,
    /// A version of the format that this program does not know.
    #[error(
        "the trace has format version {found} and this program reads version {known}; \
         use the program that recorded it, or record the trace again"
    )]
    Version {
        /// The version in the file.
        found: u32,
        /// The version that this program reads.
        known: u32,
    },
    /// The file's writer never finished.
    #[error(
        "the trace was never finished: the program that wrote it stopped early; record it again"
    )]
    Unfinished,
    /// The file ends too early.
    #[error(
        "the trace is cut off: {missing} is missing; copy or download the file again, or record it again"
    )]
    Truncated {
        /// The part that should be there.
        missing: &'static str,
    },
    /// Bytes in the file are not what was written.
    #[error("the trace is damaged: {what}; copy or download the file again, or record it again")]
    Damaged {
        /// What does not fit, and where.
        what: String,
    },
    /// A line of a CS:APP trace that means nothing.
    #[error("line {line}: {what}")]
    Line {
        /// The line, counted from one.
        line: u64,
        /// What is wrong with it, and what was expected.
        what: String,
    },
    /// An event that cannot follow the events before it.
    #[error("event {index} is impossible: {what}; the program that makes the events has a mistake")]
    Event {
        /// The event's place in the trace, counted from zero.
        index: u64,
        /// What is wrong with it.
        what: String,
    },
    /// A program could not be recorded.
    #[error("{what}")]
    Recording {
        /// What was wrong, and what to do.
        what: String,
    },
    /// The trace cannot hold more.
    #[error("the trace is full: {what}; record a shorter run")]
    Full {
        /// The limit that was met.
        what: &'static str,
    },
}

/// What to do about what the system refused, where that is clear.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; check the path",
        io::ErrorKind::PermissionDenied => "; check who may read and write there",
        io::ErrorKind::StorageFull => "; make room on that disk, or choose another",
        _ => "",
    }
}

impl TraceError {
    /// What is wrong, without the file's name.
    #[must_use]
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// The file that it is about, where one is known.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The same error with the file's name in its message.
    pub(crate) fn at(mut self, path: &Path) -> Self {
        if self.path.is_none() {
            self.path = Some(path.to_owned());
        }
        self
    }

    pub(crate) fn io(action: &'static str, source: io::Error) -> Self {
        Problem::Io { action, source }.into()
    }

    pub(crate) fn damaged(what: impl Into<String>) -> Self {
        Problem::Damaged { what: what.into() }.into()
    }
}

impl From<Problem> for TraceError {
    fn from(problem: Problem) -> Self {
        TraceError { path: None, problem }
    }
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(f, "{}: ", path.display())?;
        }
        self.problem.fmt(f)
    }
}

impl std::error::Error for TraceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.problem)
    }
}
