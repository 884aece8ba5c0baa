//! Peers that do not come as one ready allocator: what they need is given to them here.
//!
//! Each gets what its own documentation shows for a program with an operating system: talc its `GlobalAllocSource`
//! over the system's allocator and the spin lock of its example; linked_list_allocator and buddy_system_allocator,
//! which manage a region that somebody hands them, a reserved mapping whose pages appear as they are touched, under
//! the spin locks of their `LockedHeap`s. None of them is told how much the workload will need.

#[cfg(feature = "talc")]
pub(crate) static TALC: talc::TalcLock<
    spinning_top::RawSpinlock,
    talc::source::GlobalAllocSource<std::alloc::System>,
> = talc::TalcLock::new(talc::source::GlobalAllocSource::new(std::alloc::System));

#[cfg(feature = "rlsf")]
pub(crate) static RLSF: rlsf::GlobalTlsf = rlsf::GlobalTlsf::new();

#[cfg(feature = "smmalloc")]
pub(crate) static SMALLOC: smmalloc::Smalloc = smmalloc::Smalloc::new();

#[cfg(feature = "linked_list_allocator")]
pub(crate) static LINKED_LIST: linked_list_allocator::LockedHeap =
    linked_list_allocator::LockedHeap::empty();

/// Hands the heap its region.
#[cfg(feature = "linked_list_allocator")]
pub(crate) fn prepare_linked_list() {
    if let Some((start, size)) = reserve() {
        // SAFETY: the region is fresh, ours alone and stays for ever.
        unsafe { LINKED_LIST.lock().init(start, size) };
    }
}

/// With blocks of up to half a tebibyte.
#[cfg(feature = "buddy_system_allocator")]
pub(crate) static BUDDY_SYSTEM: buddy_system_allocator::LockedHeap<40> =
    buddy_system_allocator::LockedHeap::new();

/// Hands the heap its region.
#[cfg(feature = "buddy_system_allocator")]
pub(crate) fn prepare_buddy_system() {
    if let Some((start, size)) = reserve() {
        // SAFETY: the region is fresh, ours alone and stays for ever.
        unsafe { BUDDY_SYSTEM.lock().init(start as usize, size) };
    }
}

/// A region of addresses, 256 GiB or as much less as the machine's rules allow; its pages appear when they are
/// touched. `None` leaves the heap empty: its first request fails, and the row says so.
#[cfg(any(feature = "linked_list_allocator", feature = "buddy_system_allocator"))]
fn reserve() -> Option<(*mut u8, usize)> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    (28..=38).rev().find_map(|log2| {
        let size = 1_usize << log2;
        // SAFETY: a new mapping aliases nothing.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), size, access, flags, -1, 0) };
        (start != libc::MAP_FAILED).then_some((start.cast(), size))
    })
}
