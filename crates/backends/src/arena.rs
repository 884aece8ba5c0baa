//! The caller's own buffers.

use core::fmt;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use heapwright_core::{GRANULE, HeapBackend, New, OutOfMemory, Region};

use crate::fallback::{Owns, Stretch};
use crate::gap::Gaps;
use crate::round_up;

/// One buffer of the caller's, or up to `N`: memory without an operating system.
///
/// Each buffer is given out from its start to its end, so regions continue each other within it, and
/// taken back from its end. A request goes to the first buffer that has room for it, beginning with
/// the one that served the last request. O(N), no system call.
///
/// ```
/// use core::mem::MaybeUninit;
/// use heapwright_backends::Arena;
///
/// let (mut fast, mut large) = ([MaybeUninit::uninit(); 1024], [MaybeUninit::uninit(); 65536]);
/// let mut arena = Arena::<2>::empty();
/// arena.add(&mut fast)?;
/// arena.add(&mut large)?;
/// assert_eq!(arena.capacity(), 66_560);
/// # Ok::<(), heapwright_backends::Full>(())
/// ```
///
/// A `static` heap takes its buffer in its initializer:
///
/// ```
/// use core::mem::MaybeUninit;
/// use heapwright_backends::Arena;
/// use heapwright_core::{FutexMutex, Locked};
///
/// static mut BUFFER: [MaybeUninit<u8>; 4096] = [MaybeUninit::uninit(); 4096];
/// // SAFETY: named here and nowhere else.
/// static ARENA: Locked<FutexMutex, Arena> =
///     Locked::with(Arena::new(unsafe { &mut *(&raw mut BUFFER) }));
/// assert_eq!(ARENA.lock().capacity(), 4096);
/// ```
#[derive(Debug)]
pub struct Arena<'a, const N: usize = 1> {
    buffers: [Buffer; N],
    /// How many of the buffers there are.
    count: usize,
    /// Which of them served last.
    current: usize,
    borrowed: PhantomData<&'a mut [MaybeUninit<u8>]>,
}

/// A buffer, of which the first `given` bytes were given out.
///
/// Invariant: `given <= size`; regions lie below `given`, and the last of them ends there.
#[derive(Debug)]
struct Buffer {
    start: NonNull<u8>,
    size: usize,
    given: usize,
    gaps: Gaps,
}

// SAFETY: the arena has the buffers for itself, as long as it borrows them.
unsafe impl<const N: usize> Send for Arena<'_, N> {}

/// An arena that has all the buffers it can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the arena takes no more buffers: raise its number N")
    }
}

impl core::error::Error for Full {}

impl Buffer {
    const NONE: Self = Self { start: NonNull::dangling(), size: 0, given: 0, gaps: Gaps::NONE };

    fn addr(&self) -> usize {
        self.start.addr().get()
    }

    /// The address behind what was given out.
    fn mark(&self) -> usize {
        self.addr() + self.given
    }

    fn end(&self) -> usize {
        self.addr() + self.size
    }

    fn holds(&self, region: Region) -> bool {
        region.addr() >= self.addr() && region.end() <= self.end()
    }

    fn grow(&mut self, size: usize, align: usize) -> Option<Region> {
        let mark = self.mark();
        let start = round_up(mark, align.max(GRANULE))?;
        let room = self.end().checked_sub(start)?;
        if size > room || room == 0 {
            return None;
        }
        // Rounded, unless the odd end of the buffer is in the way.
        let size = round_up(size.max(1), GRANULE).map_or(room, |size| size.min(room));
        // SAFETY: gap and region lie within the buffer, above everything that was given out.
        unsafe {
            let gap = self.start.add(self.given);
            self.gaps.push(gap, start - mark);
            self.given = start + size - self.addr();
            Some(Region { start: gap.add(start - mark), size, zeroed: false })
        }
    }

    fn shrink(&mut self, region: Region) -> usize {
        if region.size == 0 || region.end() != self.mark() {
            return 0;
        }
        // The mark stays at a granule, so that the next region can continue what is left.
        let Some(to) = round_up(region.addr(), GRANULE).filter(|&to| to < region.end()) else {
            return 0;
        };
        self.given = to - self.addr();
        if let Some(gap) = self.gaps.ending_at(to) {
            self.given = gap.start.addr().get() - self.start.addr().get();
            gap.forget();
        }
        region.end() - to
    }
}

impl<'a> Arena<'a> {
    /// An arena of one buffer.
    pub const fn new(buffer: &'a mut [MaybeUninit<u8>]) -> Self {
        Self { buffers: [Self::buffer(buffer)], count: 1, current: 0, borrowed: PhantomData }
    }
}

impl<'a, const N: usize> Arena<'a, N> {
    /// An arena without memory, until a buffer is [added](Self::add).
    pub const fn empty() -> Self {
        Self { buffers: [const { Buffer::NONE }; N], count: 0, current: 0, borrowed: PhantomData }
    }

    const fn buffer(buffer: &'a mut [MaybeUninit<u8>]) -> Buffer {
        let size = buffer.len();
        let start = match NonNull::new(buffer.as_mut_ptr().cast()) {
            Some(start) => start,
            None => NonNull::dangling(),
        };
        Buffer { start, size, given: 0, gaps: Gaps::NONE }
    }

    /// Adds a buffer, also to an arena that is in use.
    ///
    /// # Errors
    ///
    /// [`Full`] when there are `N` already.
    pub fn add(&mut self, buffer: &'a mut [MaybeUninit<u8>]) -> Result<(), Full> {
        let slot = self.buffers.get_mut(self.count).ok_or(Full)?;
        *slot = Self::buffer(buffer);
        self.count += 1;
        Ok(())
    }

    /// The bytes of all buffers.
    pub fn capacity(&self) -> usize {
        self.buffers.iter().map(|buffer| buffer.size).sum()
    }

    /// The bytes that were given out and not taken back, with what alignment left out between.
    pub fn given(&self) -> usize {
        self.buffers.iter().map(|buffer| buffer.given).sum()
    }

    fn holder(&mut self, region: Region) -> Option<&mut Buffer> {
        self.buffers.iter_mut().find(|buffer| buffer.holds(region))
    }
}

impl<const N: usize> New for Arena<'_, N> {
    const NEW: Self = Self::empty();
}

impl<const N: usize> Default for Arena<'_, N> {
    fn default() -> Self {
        Self::empty()
    }
}

// SAFETY: buffers are borrowed exclusively, hence writable and aliased by nothing, and disjoint; a
// region lies above the mark of its buffer before, and below it as long as it is not taken back.
// Nothing is said to be zero.
unsafe impl<const N: usize> HeapBackend for Arena<'_, N> {
    fn page_size(&self) -> usize {
        GRANULE
    }

    #[cold]
    fn grow(&mut self, size: usize, align: usize) -> Result<Region, OutOfMemory> {
        let order = (self.current..self.count).chain(0..self.current);
        for index in order {
            if let Some(buffer) = self.buffers.get_mut(index)
                && let Some(region) = buffer.grow(size, align)
            {
                self.current = index;
                return Ok(region);
            }
        }
        Err(OutOfMemory)
    }

    #[cold]
    unsafe fn shrink(&mut self, region: Region) -> usize {
        self.holder(region).map_or(0, |buffer| buffer.shrink(region))
    }

    /// Where it stands, at the end of what was given out. A region that is not there keeps its end
    /// when it is to shrink.
    #[cold]
    unsafe fn resize(&mut self, region: Region, new_size: usize, _: bool) -> Option<Region> {
        let buffer = self.holder(region)?;
        if new_size <= region.size {
            let keep = round_up(new_size.max(1), GRANULE)?.min(region.size);
            // SAFETY: within the region.
            let start = unsafe { region.start.add(keep) };
            let taken = buffer.shrink(Region { start, size: region.size - keep, zeroed: false });
            return Some(Region { size: region.size - taken, zeroed: true, ..region });
        }
        if region.end() != buffer.mark() || region.end() & (GRANULE - 1) != 0 {
            return None;
        }
        let more = buffer.grow(new_size - region.size, 1)?;
        Some(Region { size: region.size + more.size, zeroed: false, ..region })
    }

    fn is_readable(&self, addr: usize) -> bool {
        self.buffers.iter().any(|buffer| addr >= buffer.addr() && addr < buffer.end())
    }
}

impl<const N: usize> Owns for Arena<'_, N> {
    fn stretch_below(&self, end: usize) -> Stretch {
        let buffers = || self.buffers.iter().filter(|buffer| buffer.size > 0);
        match buffers().find(|buffer| end > buffer.addr() && end <= buffer.end()) {
            Some(buffer) => Stretch { own: true, start: buffer.addr() },
            None => {
                let below = buffers().map(Buffer::end).filter(|&top| top < end).max();
                Stretch { own: false, start: below.unwrap_or(0) }
            }
        }
    }
}
