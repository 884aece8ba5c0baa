//! The program break while another thread moves it, at every moment that is possible.
//!
//! Defines `sbrk` itself, over a buffer, so that "another thread" can act between any two calls, and
//! only there. The C library's own `malloc` does not call this one.
#![cfg(target_os = "linux")]

use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::sync::atomic::{AtomicIsize, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use heapwright_backends::Sbrk;
use heapwright_core::{HeapBackend, Region};

const SIZE: usize = 1 << 22;
const PAGE: usize = 4096;

#[repr(align(65536))]
struct Memory(UnsafeCell<[u8; SIZE]>);

// SAFETY: the tests take turns.
unsafe impl Sync for Memory {}

static MEMORY: Memory = Memory(UnsafeCell::new([0; SIZE]));
/// How far the break is above the start of the memory.
static BREAK: AtomicUsize = AtomicUsize::new(0);
/// How many calls go by before the other thread acts; then by how much it moves the break.
static CALLS: AtomicUsize = AtomicUsize::new(usize::MAX);
static MOVE: AtomicIsize = AtomicIsize::new(0);
static TURN: Mutex<()> = Mutex::new(());

fn start() -> *mut u8 {
    MEMORY.0.get().cast()
}

/// As the kernel does: whole pages between are zero when the break has been lowered.
fn shift(by: isize) -> Option<usize> {
    let was = BREAK.load(SeqCst);
    let to = was.checked_add_signed(by).filter(|&to| to <= SIZE)?;
    let (from, end) = (to.next_multiple_of(PAGE), was.next_multiple_of(PAGE));
    if from < end {
        // SAFETY: within the memory, and above the break.
        unsafe { start().add(from).write_bytes(0, end - from) };
    }
    BREAK.store(to, SeqCst);
    Some(was)
}

#[unsafe(no_mangle)]
extern "C" fn sbrk(by: isize) -> *mut c_void {
    let left = CALLS.load(SeqCst);
    CALLS.store(left.wrapping_sub(1), SeqCst);
    if left == 0 {
        shift(MOVE.load(SeqCst));
    }
    match shift(by) {
        // SAFETY: within the memory, or at its end.
        Some(was) => unsafe { start().add(was).cast() },
        None => usize::MAX as *mut c_void,
    }
}

/// Takes the turn, with the break at `at`, and lets the other thread move it by `by` in front of the
/// call after `calls` more.
fn turn(at: usize, calls: usize, by: isize) -> MutexGuard<'static, ()> {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    CALLS.store(usize::MAX, SeqCst);
    shift(-(BREAK.load(SeqCst) as isize));
    shift(at as isize);
    act(calls, by);
    turn
}

fn act(calls: usize, by: isize) {
    MOVE.store(by, SeqCst);
    CALLS.store(calls, SeqCst);
}

fn offset(region: Region) -> usize {
    region.addr() - start().addr()
}

fn verify(region: Region, align: usize) {
    assert!(region.addr().is_multiple_of(align.max(PAGE)));
    // SAFETY: the region is the test's.
    unsafe {
        let bytes = core::slice::from_raw_parts_mut(region.start.as_ptr(), region.size);
        assert!(!region.zeroed || bytes.iter().all(|&byte| byte == 0), "said to be zero");
        bytes.fill(0xDD);
    }
    assert!(offset(region) + region.size <= BREAK.load(SeqCst), "below the break");
}

#[test]
fn growing_never_takes_what_another_thread_took() {
    for at in [0, 1, 100, PAGE, PAGE + 16] {
        for calls in 0..4 {
            for by in [1, 16, 1000, PAGE as isize, 3 * PAGE as isize + 5, 70_000] {
                for (size, align) in [(1, 1), (PAGE, 16), (10_000, 8192), (5000, 65536)] {
                    let _turn = turn(at, calls, by);
                    let mut backend = Sbrk::new();
                    let region = backend.grow(size, align).unwrap();
                    let acted = CALLS.load(SeqCst) > calls;
                    assert!(region.size >= size);
                    verify(region, align);
                    // Its memory lies between the break then and its own move, or wherever the break
                    // was just before; in no case may the region begin below `at`.
                    assert!(offset(region) >= at);
                    if acted && calls == 0 {
                        assert!(offset(region) >= at + by.unsigned_abs());
                    }
                    // And what was given is not given again.
                    let next = backend.grow(size, align).unwrap();
                    verify(next, align);
                    assert!(next.addr() >= region.end());
                }
            }
        }
    }
}

#[test]
fn lowering_undoes_what_hits_another_thread() {
    for calls in 0..3 {
        let _turn = turn(PAGE, usize::MAX, 0);
        let mut backend = Sbrk::new();
        let region = backend.grow(4 * PAGE, 16).unwrap();
        act(calls, 2 * PAGE as isize);
        // SAFETY: nobody uses it.
        let taken = unsafe { backend.shrink(region) };
        if calls < 2 {
            assert_eq!(taken, 0, "the end is another thread's");
            assert_eq!(BREAK.load(SeqCst), 7 * PAGE, "and stays");
            // It gives its memory back; then ours can go.
            shift(-2 * PAGE as isize);
            // SAFETY: nobody uses it.
            assert_eq!(unsafe { backend.shrink(region) }, region.size);
        } else {
            assert_eq!(taken, region.size);
        }
        assert_eq!(BREAK.load(SeqCst), PAGE);
    }
}

#[test]
fn resizing_in_a_race_stays_or_changes_nothing() {
    for calls in 0..5 {
        let _turn = turn(0, usize::MAX, 0);
        let mut backend = Sbrk::new();
        let region = backend.grow(4 * PAGE, 16).unwrap();
        verify(region, 16);
        act(calls, PAGE as isize);
        // SAFETY: the test follows the region's size.
        let resized = unsafe { backend.resize(region, 6 * PAGE, true) };
        let acted = calls < usize::MAX && CALLS.load(SeqCst) > calls;
        if acted && calls <= 2 {
            assert_eq!(resized, None);
            assert_eq!(BREAK.load(SeqCst), 5 * PAGE, "what was obtained in vain went back");
        } else {
            let resized = resized.unwrap();
            assert_eq!((resized.start, resized.size), (region.start, 6 * PAGE));
        }
    }
}

#[test]
fn the_end_of_memory_is_a_clean_failure() {
    let _turn = turn(0, usize::MAX, 0);
    let mut backend = Sbrk::new();
    let region = backend.grow(SIZE - PAGE, 16).unwrap();
    assert!(backend.grow(PAGE + 1, 16).is_err());
    assert!(backend.grow(1, 1 << 17).is_err());
    let last = backend.grow(PAGE, 16).unwrap();
    assert!(backend.grow(1, 1).is_err());
    // SAFETY: nobody uses them.
    unsafe {
        assert_eq!(backend.shrink(last), PAGE);
        assert_eq!(backend.shrink(region), SIZE - PAGE);
    }
    assert_eq!(BREAK.load(SeqCst), 0);
}
