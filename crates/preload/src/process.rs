//! What a process goes through: its start, forks, signals that ask for a report, and its end.

use core::cell::UnsafeCell;
use core::fmt::Write;
use core::mem;
use core::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use heapwright_core::{Strategy, misuse};
use libc::{c_char, c_int, c_void};

use crate::report::{self, Out};
use crate::settings::Settings;

/// What the dynamic linker calls, with the arguments of `main`.
pub type Start = extern "C" fn(c_int, *const *const c_char, *const *const c_char);

/// The strategy that serves this process, as what seldom happens sees it.
struct Served {
    name: &'static str,
    heap: &'static (dyn Strategy + Sync),
    settings: Settings,
    /// Standard error, or a copy of it that programs do not close before they end.
    error: c_int,
}

/// Written once, before anything that reads it is set up.
struct Slot {
    written: AtomicBool,
    served: UnsafeCell<mem::MaybeUninit<Served>>,
}

// SAFETY: written by the first thread, before `written` says so; only read after that.
unsafe impl Sync for Slot {}

static SERVED: Slot =
    Slot { written: AtomicBool::new(false), served: UnsafeCell::new(mem::MaybeUninit::uninit()) };

fn served() -> Option<&'static Served> {
    // SAFETY: never changed once it is written.
    SERVED
        .written
        .load(Ordering::Acquire)
        .then(|| unsafe { (*SERVED.served.get()).assume_init_ref() })
}

/// Reads the settings, and gets ready for forks and signals.
///
/// # Safety
///
/// Called once, before the process has threads; `environment` is its environment.
pub unsafe fn start(
    name: &'static str,
    heap: &'static (dyn Strategy + Sync),
    environment: *const *const c_char,
) {
    // SAFETY: the caller promises the environment. Nobody else writes the slot, and nobody reads it yet.
    let settings = unsafe {
        let settings = Settings::read(environment);
        misuse::set_on_misuse(settings.on_misuse);
        let error = if settings.prints() && settings.output.is_none() {
            copy_of_standard_error()
        } else {
            libc::STDERR_FILENO
        };
        (*SERVED.served.get()).write(Served { name, heap, settings, error });
        SERVED.written.store(true, Ordering::Release);
        &(*SERVED.served.get()).assume_init_ref().settings
    };
    heap.prepare();
    // SAFETY: the handlers live as long as the library.
    unsafe { libc::pthread_atfork(Some(before_fork), Some(after_fork), Some(in_child)) };
    if let Some(signal) = settings.signal {
        // SAFETY: all zeroes is a value; the handler keeps to what handlers may do.
        unsafe {
            let mut action: libc::sigaction = mem::zeroed();
            action.sa_sigaction = at_signal as *const () as libc::sighandler_t;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(signal, &action, core::ptr::null_mut());
        }
    }
}

/// Out of the way of numbers that programs choose.
fn copy_of_standard_error() -> c_int {
    // SAFETY: a plain question of numbers.
    let copy = unsafe { libc::fcntl(libc::STDERR_FILENO, libc::F_DUPFD_CLOEXEC, 100) };
    if copy < 0 { libc::STDERR_FILENO } else { copy }
}

unsafe extern "C" fn before_fork() {
    if let Some(served) = served() {
        served.heap.freeze();
    }
}

unsafe extern "C" fn after_fork() {
    if let Some(served) = served() {
        // SAFETY: frozen by this thread before the fork.
        unsafe { served.heap.thaw() };
    }
}

unsafe extern "C" fn in_child() {
    // Timers stay with the parent.
    TIMER.store(NO_TIMER, Ordering::Relaxed);
    if let Some(served) = served() {
        // SAFETY: frozen by the thread that this one is a copy of.
        unsafe { served.heap.thaw_in_child() };
    }
}

/// Called by the dynamic linker when the process exits.
pub extern "C" fn end() {
    let Some(served) = served() else { return };
    if served.settings.signal.is_none() && served.settings.prints() {
        // Should `exit` have been called by a signal handler that interrupted the heap, there is nothing to be told.
        for _ in 0..1000 {
            if is_quiet(served) {
                return tell(served);
            }
            pause();
        }
    }
}

/// Whether the heap is in the middle of nothing that this very thread was interrupted in. If so, waiting for its locks
/// is waiting for other threads.
fn is_quiet(served: &Served) -> bool {
    let frozen = served.heap.try_freeze();
    if frozen {
        // SAFETY: frozen just now.
        unsafe { served.heap.thaw() };
    }
    frozen
}

/// A millisecond.
fn pause() {
    let time = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
    // SAFETY: the time is readable; what is left of it is not asked for.
    unsafe { libc::nanosleep(&time, core::ptr::null_mut()) };
}

/// Prints, and checks, what the settings ask for. Its frame is several pages long, and most processes end without it.
#[cold]
#[inline(never)]
fn tell(served: &Served) {
    let Served { name, heap, settings, error } = served;
    // SAFETY: a plain question.
    let process = unsafe { libc::getpid() };
    let file = settings.output.map(|path| path.open(process)).filter(|&file| file >= 0);
    let mut out = Out::to(file.unwrap_or(*error));
    // A broken heap is not walked any further: its sizes may lead anywhere.
    let broken = if settings.check { heap.check().err() } else { None };
    // An `Out` takes everything.
    let _ = match broken {
        Some(broken) => writeln!(out, "heapwright: {name}: process {process}: {broken}"),
        None => report::print(name, *heap, settings, process, &mut out),
    };
    drop(out);
    if let Some(file) = file {
        // SAFETY: opened above.
        unsafe { libc::close(file) };
    }
    if broken.is_some() {
        // SAFETY: abort has no preconditions.
        unsafe { libc::abort() };
    }
}

/// The number of the timer that repeats a signal.
static TIMER: AtomicI32 = AtomicI32::new(NO_TIMER);
const NO_TIMER: c_int = -1;

/// A signal may come in the middle of an allocation. Then it is sent again, a millisecond later, until it does not.
extern "C" fn at_signal(signal: c_int) {
    let Some(served) = served() else { return };
    // SAFETY: the place of this thread's errno.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let kept = unsafe { *errno };
    if is_quiet(served) {
        tell(served);
    } else {
        send_again(signal);
    }
    // SAFETY: as above.
    unsafe { *errno = kept };
}

fn send_again(signal: c_int) {
    // SAFETY: the structures are readable and the number is writable; all zeroes is a value of both. Called directly,
    // as the C library's functions of these names may allocate.
    unsafe {
        if TIMER.load(Ordering::Relaxed) == NO_TIMER {
            let mut event: libc::sigevent = mem::zeroed();
            event.sigev_notify = libc::SIGEV_SIGNAL;
            event.sigev_signo = signal;
            let mut timer: c_int = NO_TIMER;
            let clock = libc::CLOCK_MONOTONIC;
            let made = libc::syscall(
                libc::SYS_timer_create,
                clock,
                &raw mut event,
                (&raw mut timer).cast::<c_void>(),
            );
            if made != 0 {
                return;
            }
            TIMER.store(timer, Ordering::Relaxed);
        }
        let mut time: libc::itimerspec = mem::zeroed();
        time.it_value.tv_nsec = 1_000_000;
        libc::syscall(
            libc::SYS_timer_settime,
            TIMER.load(Ordering::Relaxed),
            0,
            &raw const time,
            core::ptr::null::<libc::itimerspec>(),
        );
    }
}
