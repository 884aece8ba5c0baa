//! What a face does with a misuse that a heap found: a message on standard error, written without
//! allocating, and an abort; or, if so configured, a count.
//!
//! The choice is one for the whole process, and so is the count.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed};

use crate::HeapError;

/// What to do with a double free, an invalid free or a corrupted block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum OnMisuse {
    /// Say it on standard error and abort. The default: a program that frees twice is broken, and
    /// going on lets it be exploited.
    #[default]
    Abort = 0,
    /// Say it on standard error, count it and go on; the operation was not carried out.
    Report = 1,
    /// Count it and go on silently.
    Count = 2,
}

static ON_MISUSE: AtomicU8 = AtomicU8::new(OnMisuse::Abort as u8);
static MISUSES: AtomicUsize = AtomicUsize::new(0);

/// Chooses what every face of this process does from now on.
pub fn set_on_misuse(choice: OnMisuse) {
    ON_MISUSE.store(choice as u8, Relaxed);
}

/// How many misuses the faces of this process have met and survived.
pub fn misuses() -> usize {
    MISUSES.load(Relaxed)
}

/// Does with `error` what was chosen.
#[cold]
pub fn report(error: HeapError) {
    let choice = ON_MISUSE.load(Relaxed);
    if choice != OnMisuse::Count as u8 {
        // A message cut short is no reason not to go on.
        let _ = writeln!(Line::default(), "heapwright: {error}");
    }
    if choice == OnMisuse::Abort as u8 {
        abort();
    }
    MISUSES.fetch_add(1, Relaxed);
}

/// A line for standard error, written in one piece.
struct Line {
    text: [u8; 160],
    length: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self { text: [0; 160], length: 0 }
    }
}

impl Write for Line {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let end = self.length + part.len();
        let room = self.text.get_mut(self.length..end).ok_or(fmt::Error)?;
        room.copy_from_slice(part.as_bytes());
        self.length = end;
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        write_error(self.text.get(..self.length).unwrap_or(&[]));
    }
}

#[cfg(target_os = "linux")]
fn write_error(text: &[u8]) {
    // SAFETY: the bytes are readable; what cannot be written is lost, as it must be here.
    unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
}

#[cfg(not(target_os = "linux"))]
fn write_error(_text: &[u8]) {}

#[cfg(target_os = "linux")]
fn abort() -> ! {
    // SAFETY: abort has no preconditions.
    unsafe { libc::abort() }
}

/// Without an operating system to tell: stop here, and never go on with a broken heap.
#[cfg(not(target_os = "linux"))]
fn abort() -> ! {
    loop {
        core::hint::spin_loop();
    }
}
