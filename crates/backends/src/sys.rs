//! What the backends of an operating system share: page size, `errno`, looking at an address,
//! randomness.

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

static PAGE: AtomicUsize = AtomicUsize::new(0);

/// The size of the kernel's pages in bytes.
#[inline]
pub(crate) fn page_size() -> usize {
    match PAGE.load(Relaxed) {
        0 => ask_page_size(),
        page => page,
    }
}

#[cold]
fn ask_page_size() -> usize {
    // SAFETY: reads the auxiliary vector, which the loader kept; needs nothing.
    let told = unsafe { libc::getauxval(libc::AT_PAGESZ) } as usize;
    let page = if told.is_power_of_two() { told } else { 4096 };
    PAGE.store(page, Relaxed);
    page
}

/// Calls the system and keeps `errno` as it was: a program may look at it after a `malloc` or `free`
/// that succeeded, and the C face sets it for those that fail.
#[inline]
pub(crate) fn keeping_errno<T>(call: impl FnOnce() -> T) -> T {
    // SAFETY: the location is this thread's own and stays valid as long as the thread.
    unsafe {
        let errno = libc::__errno_location();
        let saved = *errno;
        let result = call();
        *errno = saved;
        result
    }
}

/// Whether the page at `addr` is present in memory.
pub(crate) fn is_present(addr: usize) -> bool {
    let mut present = 0;
    keeping_errno(|| {
        // SAFETY: the kernel looks up the address by itself, and writes one byte for its page.
        unsafe {
            libc::mincore((addr & !(page_size() - 1)) as *mut libc::c_void, 1, &raw mut present)
                == 0
        }
    }) && present & 1 != 0
}

/// Whether the byte at `addr` may be read.
///
/// The kernel reads a signal set at the address, and only then refuses to do an unknown thing with it:
/// `EFAULT` means that the address cannot be read, `EINVAL` that it can. Nothing is changed, no
/// descriptor is needed, and unlike `mincore` it tells that a page without access cannot be read.
pub(crate) fn is_readable(addr: usize) -> bool {
    /// Bytes that the kernel reads.
    const SET: usize = if cfg!(any(target_arch = "mips", target_arch = "mips64")) { 16 } else { 8 };
    /// None of the three things that can be done with a signal set.
    const NOTHING: usize = !0;
    if addr < page_size() {
        // A null pointer would mean "no set", and the first page is never mapped.
        return false;
    }
    // Aligned, the set lies within the page of `addr`.
    let set = addr & !(SET - 1);
    keeping_errno(|| {
        // SAFETY: the kernel checks the address by itself; there is no set to write the old mask to.
        unsafe {
            let refused = libc::syscall(libc::SYS_rt_sigprocmask, NOTHING, set, 0_usize, SET);
            refused == -1 && *libc::__errno_location() == libc::EINVAL
        }
    })
}

/// Gives back the pages that lie wholly between two addresses, and says whether they now read as zero.
///
/// # Safety
///
/// They are pages of private anonymous memory of the caller's, who does not need their contents.
pub(crate) unsafe fn discard(start: usize, end: usize) -> bool {
    // SAFETY: the caller promises pages that may lose their contents.
    unsafe { advise(start, end, libc::MADV_DONTNEED) }
}

/// Makes whole pages present in one system call. Kernels before Linux 5.14 refuse, and nothing has
/// changed then.
///
/// # Safety
///
/// They are pages of private anonymous memory of the caller's.
pub(crate) unsafe fn populate(start: usize, end: usize) {
    // SAFETY: the caller promises pages of its own, whose contents stay.
    unsafe { advise(start, end, libc::MADV_POPULATE_WRITE) };
}

/// Lets the kernel back pages by huge ones. A wish, which it may refuse.
///
/// # Safety
///
/// They are pages of the caller's.
pub(crate) unsafe fn offer_huge_pages(start: usize, end: usize) {
    // SAFETY: the caller promises pages of its own; advice changes no contents.
    unsafe { advise(start, end, libc::MADV_HUGEPAGE) };
}

/// Has the kernel make no more huge pages there.
///
/// # Safety
///
/// They are pages of the caller's.
pub(crate) unsafe fn withdraw_huge_pages(start: usize, end: usize) {
    // SAFETY: the caller promises pages of its own; advice changes no contents.
    unsafe { advise(start, end, libc::MADV_NOHUGEPAGE) };
}

/// Advises the kernel on the pages that lie wholly between two addresses, and says whether it took that.
///
/// # Safety
///
/// They are pages of the caller's, to whom the advice does no harm.
unsafe fn advise(start: usize, end: usize, advice: libc::c_int) -> bool {
    let page = page_size();
    let Some(start) = crate::round_up(start, page) else { return false };
    let end = crate::round_down(end, page);
    if start >= end {
        return false;
    }
    let pages = core::ptr::with_exposed_provenance_mut(start);
    // SAFETY: the caller promises whole pages that may be advised so.
    keeping_errno(|| unsafe { libc::madvise(pages, end - start, advice) == 0 })
}

/// Bits from the kernel that an attacker cannot guess.
pub(crate) fn entropy() -> u64 {
    let mut bits = 0_u64;
    let drawn = keeping_errno(|| {
        // The bare system call: the C library's own may set up state for the thread first.
        // SAFETY: the kernel writes at most the eight bytes of `bits`.
        unsafe {
            libc::syscall(
                libc::SYS_getrandom,
                (&raw mut bits),
                size_of::<u64>(),
                libc::GRND_NONBLOCK as usize,
            )
        }
    });
    if drawn == size_of::<u64>() as libc::c_long {
        return bits;
    }
    // Before the kernel's pool is ready: the sixteen bytes that it gave the process at its start. The
    // C library guards its stacks with them, so they are mixed, not shown.
    // SAFETY: the kernel promises sixteen bytes there, or null.
    unsafe {
        let given = libc::getauxval(libc::AT_RANDOM) as usize;
        let Some(given) =
            core::ptr::NonNull::new(core::ptr::with_exposed_provenance_mut::<[u64; 2]>(given))
        else {
            return 0;
        };
        let [low, high] = given.read_unaligned();
        let mixed = (low ^ high.rotate_left(23)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        (mixed ^ mixed >> 32).wrapping_mul(0xD6E8_FEB8_6659_FD93)
    }
}
