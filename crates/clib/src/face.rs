//! What the functions do, generic over the strategy: C's rules, and C's way to fail.
//!
//! The strategies keep `errno` as it is; where it changes, it changes here.

use core::alloc::Layout;
use core::ffi::{c_char, c_int, c_void};
use core::fmt::{self, Write};
use core::ptr::{self, NonNull};
use core::slice;

use heapwright_core::{GRANULE, HeapError, Strategy, map, misuse};

use crate::shared::HwStats;

/// The layout of what C calls `size` bytes; `None` beyond `PTRDIFF_MAX`, which no block may have.
fn layout(size: usize) -> Option<Layout> {
    Layout::from_size_align(size, GRANULE).ok()
}

pub(crate) fn malloc<S: Strategy>(heap: &S, size: usize) -> *mut c_void {
    pointer(layout(size).and_then(|layout| heap.allocate(layout)))
}

pub(crate) fn calloc<S: Strategy>(heap: &S, count: usize, size: usize) -> *mut c_void {
    let layout = count.checked_mul(size).and_then(layout);
    pointer(layout.and_then(|layout| heap.allocate_zeroed(layout)))
}

/// # Safety
///
/// `block` is null, or in use and came from this heap.
pub(crate) unsafe fn realloc<S: Strategy>(
    heap: &S,
    block: *mut c_void,
    size: usize,
) -> *mut c_void {
    let Some(old) = NonNull::new(block.cast::<u8>()) else { return malloc(heap, size) };
    if size == 0 {
        // SAFETY: the caller promises the same.
        unsafe { free(heap, block) };
        return ptr::null_mut();
    }
    if layout(size).is_none() {
        return no_memory();
    }
    // SAFETY: the caller promises a block in use.
    let new = unsafe { heap.resize(old, size) };
    match new {
        Ok(new) => new.as_ptr().cast(),
        Err(HeapError::OutOfMemory) => no_memory(),
        Err(error) => {
            misuse::report(error);
            ptr::null_mut()
        }
    }
}

/// # Safety
///
/// As [`realloc`].
pub(crate) unsafe fn free<S: Strategy>(heap: &S, block: *mut c_void) {
    let Some(block) = NonNull::new(block.cast::<u8>()) else { return };
    // SAFETY: the caller promises the same.
    if let Err(error) = unsafe { heap.deallocate(block) } {
        misuse::report(error);
    }
}

/// # Safety
///
/// As [`realloc`].
pub(crate) unsafe fn usable_size<S: Strategy>(heap: &S, block: *const c_void) -> usize {
    // SAFETY: the caller promises the same.
    NonNull::new(block.cast_mut().cast()).map_or(0, |block| unsafe { heap.usable_size(block) })
}

/// # Safety
///
/// `to` may be written.
pub(crate) unsafe fn stats<S: Strategy>(heap: &S, to: *mut HwStats) {
    // SAFETY: the caller promises the same.
    unsafe { to.write(heap.stats().into()) };
}

pub(crate) fn print<S: Strategy>(heap: &S, fd: c_int) -> c_int {
    let before = errno();
    let mut out = Output { fd, text: [0; 4096], length: 0 };
    match map::write_text(heap, &mut out).and_then(|()| out.flush()) {
        Ok(()) => {
            set_errno(before);
            0
        }
        Err(fmt::Error) => -1,
    }
}

/// # Safety
///
/// `size` bytes at `message` may be written.
pub(crate) unsafe fn check<S: Strategy>(heap: &S, message: *mut c_char, size: usize) -> c_int {
    let mut message = Message {
        text: if size == 0 {
            &mut []
        } else {
            // SAFETY: the caller promises that they may be written; nothing is read from them.
            unsafe { slice::from_raw_parts_mut(message.cast::<u8>(), size) }
        },
    };
    let checked = heap.check();
    if let Err(broken) = checked {
        // A message cut short is a message still.
        let _ = write!(message, "{broken}");
    }
    message.end();
    if checked.is_ok() { 0 } else { -1 }
}

/// A block as C knows it.
#[inline]
pub(crate) fn pointer(block: Option<NonNull<u8>>) -> *mut c_void {
    match block {
        Some(block) => block.as_ptr().cast(),
        None => no_memory(),
    }
}

/// No memory, said as C says it.
#[cold]
pub(crate) fn no_memory() -> *mut c_void {
    set_errno(libc::ENOMEM);
    ptr::null_mut()
}

fn errno() -> c_int {
    // SAFETY: the place of this thread's errno.
    unsafe { *libc::__errno_location() }
}

fn set_errno(to: c_int) {
    // SAFETY: the place of this thread's errno.
    unsafe { *libc::__errno_location() = to };
}

/// A file, written in pieces of a page.
struct Output {
    fd: c_int,
    text: [u8; 4096],
    length: usize,
}

impl Output {
    /// Writes out what is held; an error leaves `errno` to say why.
    fn flush(&mut self) -> fmt::Result {
        let mut rest = &self.text[..self.length];
        self.length = 0;
        while !rest.is_empty() {
            // SAFETY: the bytes are readable.
            let written = unsafe { libc::write(self.fd, rest.as_ptr().cast(), rest.len()) };
            match usize::try_from(written) {
                Ok(written) => rest = &rest[written..],
                Err(_) if errno() == libc::EINTR => {}
                Err(_) => return Err(fmt::Error),
            }
        }
        Ok(())
    }
}

impl Write for Output {
    fn write_str(&mut self, mut part: &str) -> fmt::Result {
        while !part.is_empty() {
            let room = self.text.len() - self.length;
            let (now, later) = part.split_at(part.floor_char_boundary(room));
            self.text[self.length..][..now.len()].copy_from_slice(now.as_bytes());
            self.length += now.len();
            part = later;
            if !part.is_empty() {
                self.flush()?;
            }
        }
        Ok(())
    }
}

/// What is left of a C string that is being written.
struct Message<'a> {
    text: &'a mut [u8],
}

impl Message<'_> {
    fn end(self) {
        if let Some(end) = self.text.first_mut() {
            *end = 0;
        }
    }
}

impl Write for Message<'_> {
    /// Leaves room for the NUL.
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let length = part.len().min(self.text.len().saturating_sub(1));
        let (now, later) = core::mem::take(&mut self.text).split_at_mut(length);
        now.copy_from_slice(&part.as_bytes()[..length]);
        self.text = later;
        if length == part.len() { Ok(()) } else { Err(fmt::Error) }
    }
}
