//! The strategy against the obvious C version of the same design, on the same trace.
//!
//! `cargo test --release -p heapwright-first-fit-sbrk --test against_c -- --nocapture` prints the times.

use std::alloc::{GlobalAlloc, Layout};
use std::ffi::{CString, c_void};
use std::hint::black_box;
use std::mem::transmute;
use std::path::Path;
use std::process::Command;
use std::ptr;
use std::time::{Duration, Instant};

use heapwright_first_fit_sbrk::FirstFitSbrk;
use heapwright_trace::{Op, Trace};

/// How much of the trace is replayed: the C version takes minutes for all of it.
const EVENTS: usize = 40_000;
const ROUNDS: usize = 5;

static OURS: FirstFitSbrk = FirstFitSbrk::new();

type Malloc = unsafe extern "C" fn(usize) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void);
type Realloc = unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void;

/// The C version, called through pointers as ours is.
struct InC {
    malloc: Malloc,
    free: Free,
    realloc: Realloc,
}

// SAFETY: the C version's blocks are aligned to sixteen bytes, which is all that is asked of it here.
unsafe impl GlobalAlloc for InC {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: any size may be asked for.
        unsafe { (self.malloc)(layout.size()).cast() }
    }

    unsafe fn dealloc(&self, block: *mut u8, _layout: Layout) {
        // SAFETY: the caller promises a block of this allocator.
        unsafe { (self.free)(block.cast()) };
    }

    unsafe fn realloc(&self, block: *mut u8, _layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller promises a block of this allocator.
        unsafe { (self.realloc)(block.cast(), new_size).cast() }
    }
}

fn compile() -> InC {
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("libfirst_fit.so");
    let status = Command::new("cc")
        .args(["-O2", "-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/first_fit.c"))
        .status()
        .expect("a C compiler called cc");
    assert!(status.success(), "cc: {status}");
    let path = CString::new(library.to_str().unwrap()).unwrap();
    // SAFETY: the library is the one just compiled; its functions have these signatures.
    unsafe {
        let handle = libc::dlopen(path.as_ptr(), libc::RTLD_NOW);
        assert!(!handle.is_null(), "dlopen of {path:?} failed");
        let symbol = |name: &str| {
            let name = CString::new(name).unwrap();
            let symbol = libc::dlsym(handle, name.as_ptr());
            assert!(!symbol.is_null(), "{name:?} is not in {path:?}");
            symbol
        };
        InC {
            malloc: transmute::<*mut c_void, Malloc>(symbol("hw_fixture_malloc")),
            free: transmute::<*mut c_void, Free>(symbol("hw_fixture_free")),
            realloc: transmute::<*mut c_void, Realloc>(symbol("hw_fixture_realloc")),
        }
    }
}

fn replay(ops: &[Op], allocator: &dyn GlobalAlloc) -> Duration {
    let layout = |size| Layout::from_size_align(size, 16).unwrap();
    let mut objects: Vec<(*mut u8, usize)> = vec![(ptr::null_mut(), 0); ops.len()];
    let start = Instant::now();
    for op in ops {
        // SAFETY: a trace frees and resizes only what is live.
        unsafe {
            match *op {
                Op::Allocate { object, size, .. } => {
                    let block = allocator.alloc(layout(size));
                    assert!(!block.is_null());
                    objects[object as usize] = (block, size);
                }
                Op::Reallocate { object, size } => {
                    let (block, old) = objects[object as usize];
                    let block = allocator.realloc(block, layout(old), size);
                    assert!(!block.is_null());
                    objects[object as usize] = (block, size);
                }
                Op::Free { object } => {
                    let (block, size) =
                        std::mem::replace(&mut objects[object as usize], (ptr::null_mut(), 0));
                    allocator.dealloc(block, layout(size));
                }
            }
        }
    }
    let elapsed = start.elapsed();
    for (block, size) in objects.into_iter().rev().filter(|(block, _)| !block.is_null()) {
        // SAFETY: what is left is live.
        unsafe { allocator.dealloc(block, layout(size)) };
    }
    elapsed
}

#[test]
fn it_is_at_least_as_fast_as_the_obvious_c_version() {
    let in_c = compile();
    let trace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../benches/traces/gcc.hwt");
    let trace = Trace::load(&trace).unwrap();
    let ops: Vec<_> = trace.events().take(EVENTS).map(|event| event.unwrap().op).collect();
    let (mut ours, mut c) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(replay(&ops, black_box(&OURS)));
        c.push(replay(&ops, black_box(&in_c)));
    }
    ours.sort_unstable();
    c.sort_unstable();
    let (ours, c) = (ours[ROUNDS / 2], c[ROUNDS / 2]);
    println!(
        "{EVENTS} requests of gcc, medians of {ROUNDS}: ours {ours:.2?}, C {c:.2?}, ratio {:.3}",
        ours.as_secs_f64() / c.as_secs_f64()
    );
    assert!(ours <= c, "ours took {ours:?}, the C version {c:?}");
}
