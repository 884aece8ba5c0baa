//! A barrier that one thread has all others pass, so that they need none of their own.

/// Has every thread of the process pass a full memory barrier, and says whether that could be done: what they wrote before
/// is seen after it, and what they read after it is no older.
///
/// It takes about a microsecond, an interrupt of each processor that runs a thread of the process, and the first of a
/// process with several threads about ten milliseconds, since the kernel has to be told, unless it was told
/// [before](prepare_barriers). Where there is no such call (Linux before 4.14, other systems, a sandbox that refuses it)
/// nothing is done; a sandbox that kills for it has to allow it. Asymmetric fences by `membarrier(2)` are Mathieu
/// Desnoyers', 2010.
#[cfg(target_os = "linux")]
pub fn barrier_for_all() -> bool {
    ask(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED)
        || (ask(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)
            && ask(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED))
}

/// Tells the kernel that there will be [barriers](barrier_for_all): less than a microsecond as long as the process has one
/// thread, and about ten milliseconds afterwards.
#[cfg(target_os = "linux")]
pub fn prepare_barriers() {
    ask(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
}

/// Asks the kernel for something about barriers, and says whether it did it.
#[cfg(target_os = "linux")]
fn ask(command: libc::c_int) -> bool {
    // SAFETY: touches no memory of the caller. errno is the program's, and stays as it was.
    unsafe {
        let errno = libc::__errno_location();
        let kept = *errno;
        let done = libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0;
        *errno = kept;
        done
    }
}

/// On this system nothing is done.
#[cfg(not(target_os = "linux"))]
pub fn prepare_barriers() {}

/// On this system nothing is done.
#[cfg(not(target_os = "linux"))]
pub fn barrier_for_all() -> bool {
    false
}
