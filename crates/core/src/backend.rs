//! Where a heap's memory comes from and goes back to.

use core::ptr::NonNull;

use crate::OutOfMemory;

/// A contiguous stretch of memory that a backend gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its first byte.
    pub start: NonNull<u8>,
    /// Its length in bytes.
    pub size: usize,
    /// Whether every byte of it is known to be zero.
    pub zeroed: bool,
}

impl Region {
    /// The address of the first byte.
    #[inline]
    pub fn addr(&self) -> usize {
        self.start.as_ptr() as usize
    }

    /// The address just past the last byte.
    #[inline]
    pub fn end(&self) -> usize {
        self.addr() + self.size
    }
}

/// A source of memory: the program break, mappings, a caller's arena.
///
/// # For callers
///
/// Memory is asked for with [`grow`](Self::grow). A *contiguous* source continues the last region
/// when it can: the caller sees it by the new region's start being the old one's end, and may then
/// treat both as one. Nothing else may be assumed of the order of addresses.
///
/// # For implementers
///
/// A backend runs underneath an allocator: it never allocates, never panics, takes no lock that
/// may allocate. One that wraps another [hands on](crate::hand_on) what it does not change.
///
/// # Safety
///
/// A region that `grow`, `map` or `resize` returned is readable and writable, is aliased by nothing
/// else, and stays so until it, or the part of it in question, has been given to `shrink` or
/// `resize`, or the backend is dropped. `zeroed` is true only where every byte is zero.
pub unsafe trait HeapBackend {
    /// The granule of this source in bytes, a power of two: what `grow` rounds up to.
    fn page_size(&self) -> usize;

    /// Obtains a region of at least `size` bytes that starts at a multiple of `align`, a power of
    /// two.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`] when the source has no such region; nothing has changed then.
    fn grow(&mut self, size: usize, align: usize) -> Result<Region, OutOfMemory>;

    /// Obtains a region that stands alone: it continues no other, and can go back whole, or be resized,
    /// at any time. Sources that cannot do that, a break or an arena, have none.
    ///
    /// # Errors
    ///
    /// As [`grow`](Self::grow).
    fn map(&mut self, size: usize, align: usize) -> Result<Region, OutOfMemory> {
        let _ = (size, align);
        Err(OutOfMemory)
    }

    /// Gives back the end of a region, and says how many bytes of its *end* were really taken:
    /// all of `region.size`, a part (a mapping is cut at a page), or none.
    /// What was not taken stays the caller's.
    ///
    /// # Safety
    ///
    /// `region` is a region of this backend, or the end of one, which nobody uses any more.
    unsafe fn shrink(&mut self, region: Region) -> usize;

    /// Changes the size of a whole region to at least `new_size` bytes, keeping its contents up
    /// to the smaller size: where it stands, or, if `may_move`, by moving it whole.
    /// `None` when that cannot be done; nothing has changed then. The new region's `zeroed` speaks
    /// of the bytes beyond the old size.
    ///
    /// # Safety
    ///
    /// `region` is a whole region of this backend. If it moves, nobody uses its old addresses.
    unsafe fn resize(&mut self, region: Region, new_size: usize, may_move: bool) -> Option<Region> {
        let _ = (region, new_size, may_move);
        None
    }

    /// Puts the contents of one region in the place of those of another without copying them; the first is gone then,
    /// and the bytes behind them in the other are zero. Says whether that worked; if not, nothing has changed.
    ///
    /// # Safety
    ///
    /// Both are whole regions of this backend, the second is as long as the first at least, and nobody uses it, nor the
    /// first one's old addresses.
    unsafe fn relocate(&mut self, from: Region, to: Region) -> bool {
        let _ = (from, to);
        false
    }

    /// Keeps the addresses of a region and gives back the pages that lie wholly inside it. Says
    /// whether those pages now read as zero.
    ///
    /// # Safety
    ///
    /// `region` is a part of a region of this backend, and nobody needs its contents any more.
    unsafe fn discard(&mut self, region: Region) -> bool {
        let _ = region;
        false
    }

    /// Makes the pages of a region present at once, which costs a fraction of a page fault for each
    /// of them. A wish: it changes no contents, and may do nothing.
    ///
    /// # Safety
    ///
    /// `region` is a part of a region of this backend.
    unsafe fn populate(&mut self, region: Region) {
        let _ = region;
    }

    /// Lets the kernel back a region by huge pages, 2 MiB on most machines: one page fault then makes one present, and
    /// fewer entries translate its addresses. A wish: it changes no contents, and may do nothing.
    ///
    /// # Safety
    ///
    /// `region` is a part of a region of this backend.
    unsafe fn offer_huge_pages(&mut self, region: Region) {
        let _ = region;
    }

    /// The contrary: what is a huge page stays one, but no other pages become one. Else the kernel may make one of a few
    /// small pages, by and by, and what was discarded between them is present again. A wish: it changes no contents, and
    /// may do nothing.
    ///
    /// # Safety
    ///
    /// `region` is a part of a region of this backend.
    unsafe fn withdraw_huge_pages(&mut self, region: Region) {
        let _ = region;
    }

    /// Whether the byte at `addr` may be read. Called only for addresses that a program handed in
    /// and that lie in no region, so it may be slow (one system call).
    fn is_readable(&self, addr: usize) -> bool {
        let _ = addr;
        false
    }

    /// Whether the page at `addr`, in a region of this backend, is known to be present in memory. It may be slow (one system
    /// call). Who has huge pages only for what is filled has none where a backend never knows.
    fn is_present(&self, addr: usize) -> bool {
        let _ = addr;
        false
    }

    /// Bits that an attacker cannot guess, to key the checks with; zero where there are none.
    fn entropy(&self) -> u64 {
        0
    }
}

/// Inside the `impl HeapBackend` of a wrapper: hands these calls on, as they are, to the backend in a field. What a
/// wrapper neither makes nor hands on has the trait's own answer, which is mostly no.
///
/// ```
/// use heapwright_backends::Mmap;
/// use heapwright_core::{HeapBackend, OutOfMemory, Region, hand_on};
///
/// /// Mappings of 1 MiB at least.
/// struct Coarse(Mmap);
///
/// // SAFETY: regions are those of the mappings.
/// unsafe impl HeapBackend for Coarse {
///     fn grow(&mut self, size: usize, align: usize) -> Result<Region, OutOfMemory> {
///         self.0.grow(size.max(1 << 20), align)
///     }
///
///     hand_on! { 0: page_size, shrink, discard, is_readable, is_present, entropy }
/// }
///
/// assert!(Coarse(Mmap::new()).grow(100, 16)?.size >= 1 << 20);
/// # Ok::<(), OutOfMemory>(())
/// ```
#[macro_export]
macro_rules! hand_on {
    ($inner:tt: $($call:ident),+ $(,)?) => {
        $($crate::__hand_on! { $inner $call })+
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __hand_on {
    ($inner:tt page_size) => {
        fn page_size(&self) -> usize {
            self.$inner.page_size()
        }
    };
    ($inner:tt grow) => {
        fn grow(
            &mut self,
            size: usize,
            align: usize,
        ) -> Result<$crate::Region, $crate::OutOfMemory> {
            self.$inner.grow(size, align)
        }
    };
    ($inner:tt map) => {
        fn map(
            &mut self,
            size: usize,
            align: usize,
        ) -> Result<$crate::Region, $crate::OutOfMemory> {
            self.$inner.map(size, align)
        }
    };
    ($inner:tt shrink) => {
        unsafe fn shrink(&mut self, region: $crate::Region) -> usize {
            // SAFETY: the caller promises the same.
            unsafe { self.$inner.shrink(region) }
        }
    };
    ($inner:tt resize) => {
        unsafe fn resize(
            &mut self,
            region: $crate::Region,
            new_size: usize,
            may_move: bool,
        ) -> Option<$crate::Region> {
            // SAFETY: the caller promises the same.
            unsafe { self.$inner.resize(region, new_size, may_move) }
        }
    };
    ($inner:tt relocate) => {
        unsafe fn relocate(&mut self, from: $crate::Region, to: $crate::Region) -> bool {
            // SAFETY: the caller promises the same.
            unsafe { self.$inner.relocate(from, to) }
        }
    };
    ($inner:tt discard) => {
        unsafe fn discard(&mut self, region: $crate::Region) -> bool {
            // SAFETY: the caller promises the same.
            unsafe { self.$inner.discard(region) }
        }
    };
    ($inner:tt populate) => {
        unsafe fn populate(&mut self, region: $crate::Region) {
            // SAFETY: the caller promises the same.
            unsafe { self.$inner.populate(region) }
        }
    };
    ($inner:tt offer_huge_pages) => {
        unsafe fn offer_huge_pages(&mut self, region: $crate::Region) {
            // SAFETY: the caller promises the same.
            unsafe { self.$inner.offer_huge_pages(region) }
        }
    };
    ($inner:tt withdraw_huge_pages) => {
        unsafe fn withdraw_huge_pages(&mut self, region: $crate::Region) {
            // SAFETY: the caller promises the same.
            unsafe { self.$inner.withdraw_huge_pages(region) }
        }
    };
    ($inner:tt is_readable) => {
        fn is_readable(&self, addr: usize) -> bool {
            self.$inner.is_readable(addr)
        }
    };
    ($inner:tt is_present) => {
        fn is_present(&self, addr: usize) -> bool {
            self.$inner.is_present(addr)
        }
    };
    ($inner:tt entropy) => {
        fn entropy(&self) -> u64 {
            self.$inner.entropy()
        }
    };
}
