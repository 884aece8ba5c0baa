//! What the recorder keeps for each thread.
//!
//! Every call of the family reads it, so it must be quick to find, and finding it must not allocate. A preloaded
//! library has its thread-local storage in the block that each thread is created with, at a fixed distance from the
//! thread pointer. Stable Rust cannot ask for that model (`initial-exec`), so on x86-64 the variable is defined and
//! found in assembly. Elsewhere `thread_local!` does it, at the price of a call; without a destructor it does not
//! allocate in a preloaded library either.

use std::ptr;

/// The state of one thread. Zero bytes are its first state.
#[repr(C, align(64))]
pub(crate) struct Thread {
    /// Where the next record goes, and where the thread's part of a chunk ends.
    pub(crate) next: *mut u8,
    pub(crate) end: *mut u8,
    /// The order number and the address in the thread's last record.
    pub(crate) order: u64,
    pub(crate) address: u64,
    /// The process image for which all of this is true; after a fork it is another one.
    pub(crate) generation: u32,
    /// The thread's number in its raw file.
    pub(crate) number: u32,
    /// The thread is inside the recorder's own set-up: what it allocates now is not the program's doing.
    pub(crate) busy: bool,
    /// The thread has given back its chunk, for it ends.
    pub(crate) leaving: bool,
}

impl Thread {
    /// Bytes that can be written before the thread needs another chunk.
    #[inline(always)]
    pub(crate) fn room(&self) -> usize {
        (self.end as usize).wrapping_sub(self.next as usize)
    }

    /// The thread has no place to write to.
    pub(crate) fn forget(&mut self) {
        self.next = ptr::null_mut();
        self.end = ptr::null_mut();
    }
}

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .tbss,\"awT\",@nobits",
    ".globl heapwright_recorder_thread",
    ".hidden heapwright_recorder_thread",
    ".type heapwright_recorder_thread, @object",
    ".size heapwright_recorder_thread, {size}",
    ".p2align 6",
    "heapwright_recorder_thread:",
    ".zero {size}",
    ".popsection",
    size = const size_of::<Thread>(),
);

/// The state of the thread that calls.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn current() -> *mut Thread {
    let thread: *mut Thread;
    // SAFETY: fs:0 holds the thread pointer itself, and the global offset table the variable's distance from it.
    unsafe {
        std::arch::asm!(
            "mov {thread}, qword ptr fs:[0]",
            "add {thread}, qword ptr [rip + heapwright_recorder_thread@GOTTPOFF]",
            thread = out(reg) thread,
            options(pure, readonly, nostack),
        );
    }
    thread
}

/// The state of the thread that calls.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub(crate) fn current() -> *mut Thread {
    use std::cell::UnsafeCell;

    thread_local! {
        static THREAD: UnsafeCell<Thread> = const {
            UnsafeCell::new(Thread {
                next: ptr::null_mut(),
                end: ptr::null_mut(),
                order: 0,
                address: 0,
                generation: 0,
                number: 0,
                busy: false,
                leaving: false,
            })
        };
    }
    THREAD.with(UnsafeCell::get)
}
