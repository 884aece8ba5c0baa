//! What a contiguous source leaves out in front of an aligned region, to be taken back with it.

use core::ptr::{self, NonNull};

/// The gaps in front of the regions of one contiguous source, the last on top.
///
/// A gap is noted in its own last bytes, so it costs no memory and there may be any number. A gap too
/// short for the note (up to fifteen bytes) is left out for good.
///
/// Invariants: gaps on the stack belong to the source and are used by nobody; a gap lies below the one
/// on top of it, in any one buffer; each ends where a region starts.
#[derive(Debug)]
pub(crate) struct Gaps {
    top: *mut Gap,
}

/// Stands at the very end of a gap.
struct Gap {
    start: NonNull<u8>,
    below: *mut Gap,
}

const NOTE: usize = size_of::<Gap>();

impl Gaps {
    pub(crate) const NONE: Self = Self { top: ptr::null_mut() };

    /// Notes a gap of `size` bytes.
    ///
    /// # Safety
    ///
    /// It is writable, unused, the source's own, and ends at a multiple of sixteen.
    pub(crate) unsafe fn push(&mut self, start: NonNull<u8>, size: usize) {
        if size >= NOTE {
            // SAFETY: the caller promises the gap, which is long enough for the note.
            unsafe {
                let note = start.add(size - NOTE).cast::<Gap>().as_ptr();
                note.write(Gap { start, below: self.top });
                self.top = note;
            }
        }
    }

    /// Where the gap starts that ends at `end`, the start of a region that is given back; it is
    /// forgotten once it is taken from the [`Found`].
    pub(crate) fn ending_at(&mut self, end: usize) -> Option<Found<'_>> {
        if self.top.is_null() || self.top as usize + NOTE != end {
            return None;
        }
        // SAFETY: a gap on the stack is ours, and its note was written when it was pushed.
        let Gap { start, below } = unsafe { self.top.read() };
        Some(Found { gaps: self, start, below })
    }
}

/// A gap that may be taken back.
pub(crate) struct Found<'a> {
    gaps: &'a mut Gaps,
    pub(crate) start: NonNull<u8>,
    below: *mut Gap,
}

impl Found<'_> {
    /// Forgets the gap: the source took it back.
    pub(crate) fn forget(self) {
        self.gaps.top = self.below;
    }
}
