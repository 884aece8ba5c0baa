//! The raw file: one for each process image, mapped shared, filled by all threads without a lock.
//!
//! The layout is `heapwright_raw`'s. Invariants, which all functions here keep:
//!
//! - A thread writes only between its `next` and its `end`, which lie in a chunk that no other thread writes to.
//! - Whatever a chunk holds behind the last record is zero, so that a reader knows where to stop.
//! - All of it is true for one process image: after a fork, [`Armed`] is zero in the child, and nothing of the
//!   parent's is used again.
//!
//! The file is as large as it may ever become from the start, with nothing in it: only pages that are written to cost
//! anything. So there is no file descriptor to keep, which a program might close, and nothing that must be asked of the
//! system later, when a program may have given up the right to ask.

use std::cell::UnsafeCell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};

use heapwright_raw as raw;

use crate::thread::{self, Thread};

/// The largest raw file, in bytes: some four thousand million records.
const MAX_BYTES: u64 = 64 << 30;
/// Where less than this can be had, nothing is recorded.
const MIN_BYTES: u64 = 1 << 20;

/// What must be zero in a process that was just forked: it stands in pages which the kernel wipes then.
#[repr(C, align(65536))] // the largest page of a common system, so that nothing else is wiped
struct Armed {
    /// Which process image the tape belongs to; 0 if there is none yet.
    generation: AtomicU32,
    /// Held by the thread that prepares the tape.
    preparing: AtomicU32,
    /// Held by a thread that changes [`PARTS`].
    sharing: AtomicU32,
    padding: UnsafeCell<[u8; 65536 - 12]>,
}

// SAFETY: all but the padding, which nobody touches, is atomic.
unsafe impl Sync for Armed {}

static ARMED: Armed = Armed {
    generation: AtomicU32::new(0),
    preparing: AtomicU32::new(0),
    sharing: AtomicU32::new(0),
    padding: UnsafeCell::new([0; 65536 - 12]),
};

/// The last order number that was given out. On a cache line of its own: every thread writes to it.
#[repr(align(128))]
struct Order(AtomicU64);

// In memory of this process alone, so that a forked child finds the number at which it was forked.
static ORDER: Order = Order(AtomicU64::new(0));

/// Nothing is recorded in this process, for good.
static OFF: AtomicBool = AtomicBool::new(false);
/// Where the file is mapped.
static BASE: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
/// How many bytes are mapped there.
static LENGTH: AtomicU64 = AtomicU64::new(0);
/// Called when a thread ends.
static KEY: AtomicU32 = AtomicU32::new(u32::MAX);

/// `block` was allocated, unless it is null.
#[inline(always)]
pub(crate) fn allocated(block: *mut c_void, size: usize, align: usize, zeroed: bool) {
    if block.is_null() {
        return;
    }
    if align == 16 {
        write(if zeroed { raw::CALLOC } else { raw::MALLOC }, block, size, 0);
    } else {
        // An alignment that is no power of two is one that the C library has rounded up.
        let align = align.checked_next_power_of_two().unwrap_or(1);
        write(raw::ALIGNED, block, size, align.trailing_zeros() as u8);
    }
}

/// `block` is about to be freed.
#[inline(always)]
pub(crate) fn freed(block: *mut c_void) {
    write(raw::FREE, block, 0, 0);
}

/// `block` is about to be reallocated.
#[inline(always)]
pub(crate) fn resize(block: *mut c_void) {
    write(raw::RESIZE, block, 0, 0);
}

/// The reallocation that was begun last by this thread asked for `size` bytes and returned `block`.
#[inline(always)]
pub(crate) fn resized(block: *mut c_void, size: usize) {
    write(raw::RESIZED, block, size, 0);
}

/// What must be left of a part to write to it: a thread record, an event's, and the bytes by which a store of eight
/// bytes can reach beyond the number that it is meant for.
const MIN_ROOM: usize = raw::THREAD_BYTES + raw::MAX_EVENT_BYTES + 8;

/// Writes the record of one event.
#[inline(always)]
fn write(kind: u8, block: *mut c_void, size: usize, log2_align: u8) {
    let thread = thread::current();
    // SAFETY: the state belongs to this thread, and there is room, checked here.
    unsafe {
        let other = (*thread).generation != ARMED.generation.load(Ordering::Relaxed);
        if other || (*thread).room() < MIN_ROOM {
            write_after_refill(thread, kind, block, size, log2_align);
        } else {
            put(thread, kind, block as u64, size as u64, log2_align);
        }
    }
}

/// Makes room first.
#[cold]
#[inline(never)]
unsafe fn write_after_refill(
    thread: *mut Thread,
    kind: u8,
    block: *mut c_void,
    size: usize,
    log2_align: u8,
) {
    if !refill(thread) {
        return;
    }
    // SAFETY: the state belongs to this thread, and now there is room.
    unsafe {
        put(thread, kind, block as u64, size as u64, log2_align);
        if (*thread).leaving {
            // Nobody tells us when this thread is really gone, so it keeps nothing.
            let Thread { next, end, .. } = *thread;
            (*thread).forget();
            give_part(Part { next, end });
        }
    }
}

/// Writes the record of one event where there is room for it.
///
/// # Safety
/// The state must be the calling thread's, with [`MIN_ROOM`] bytes between its `next` and its `end`.
#[inline(always)]
unsafe fn put(thread: *mut Thread, kind: u8, address: u64, size: u64, log2_align: u8) {
    // SAFETY: the caller's; a record and the stores that reach beyond it need no more room than that. Such a store
    // writes zeros where zeros are already.
    unsafe {
        let order = take_order();
        let mut step = order.wrapping_sub((*thread).order);
        if step > u16::MAX.into() {
            write_thread(thread, order - 1);
            step = 1;
        }
        (*thread).order = order;
        let distance = raw::distance((*thread).address, address);
        (*thread).address = address;

        let start = (*thread).next;
        let mut at = start.add(1);
        if step != 1 {
            at.cast::<u16>().write_unaligned((step as u16).to_le());
            at = at.add(2);
        }
        let distance_code = raw::distance_code(distance);
        at.cast::<u64>().write_unaligned(distance.to_le());
        at = at.add(raw::distance_bytes(distance_code));
        let mut size_code = 0;
        if raw::has_size(kind) {
            size_code = raw::size_code(size);
            at.cast::<u64>().write_unaligned(size.to_le());
            at = at.add(raw::size_bytes(size_code));
        }
        if kind == raw::ALIGNED {
            at.write(log2_align);
            at = at.add(1);
        }
        (*thread).next = at;
        let first = raw::first_byte(kind, distance_code, size_code, step != 1);
        AtomicU8::from_ptr(start).store(first, Ordering::Release);
    }
}

/// The next order number.
#[inline(always)]
fn take_order() -> u64 {
    // Relaxed is enough: the allocator orders a free before the allocation that gets its address again, and with
    // them these two additions to one counter.
    ORDER.0.fetch_add(1, Ordering::Relaxed) + 1
}

/// Says that what follows is by this thread, and counts from `order` and from address 0.
///
/// # Safety
/// As [`put`].
#[cold]
unsafe fn write_thread(thread: *mut Thread, order: u64) {
    // SAFETY: the caller's.
    unsafe {
        let start = (*thread).next;
        start.add(1).cast::<u32>().write_unaligned((*thread).number.to_le());
        start.add(5).cast::<u64>().write_unaligned(order.to_le());
        (*thread).order = order;
        (*thread).address = 0;
        (*thread).next = start.add(raw::THREAD_BYTES);
        AtomicU8::from_ptr(start).store(raw::THREAD, Ordering::Release);
    }
}

/// Makes room for any record; says whether there is.
fn refill(thread: *mut Thread) -> bool {
    if OFF.load(Ordering::Relaxed) {
        return false;
    }
    // SAFETY: the state belongs to this thread, and no reference to it lives while anything else is called.
    unsafe {
        if (*thread).busy {
            return false;
        }
        (*thread).busy = true;
        let errno = *libc::__errno_location();
        let done = refill_quietly(thread);
        *libc::__errno_location() = errno;
        (*thread).busy = false;
        let newcomer = done && !(*thread).leaving;
        if newcomer
            && let key = KEY.load(Ordering::Relaxed)
            && key != u32::MAX
        {
            // May allocate, for a thread's 33rd key; that is recorded like everything else the C library allocates.
            libc::pthread_setspecific(key, thread.cast());
            *libc::__errno_location() = errno;
        }
        done
    }
}

/// Does the work of [`refill`].
///
/// # Safety
/// The state must be the calling thread's.
unsafe fn refill_quietly(thread: *mut Thread) -> bool {
    let mut generation = ARMED.generation.load(Ordering::Acquire);
    if generation == 0 {
        generation = prepare();
        if generation == 0 {
            return false;
        }
    }
    // SAFETY: the thread's own state; and the tape is there, for its generation is.
    unsafe {
        let head = head();
        // A thread that has filled one part of a chunk is likely to fill another.
        let busy = (*thread).generation == generation && !(*thread).next.is_null();
        if (*thread).generation != generation {
            (*thread).generation = generation;
            (*thread).number = (*head).threads.fetch_add(1, Ordering::Relaxed);
        }
        (*thread).forget();
        let Some(Part { next, end }) = take_part(busy) else {
            (*head).lost.fetch_add(1, Ordering::Relaxed);
            return false;
        };
        ((*thread).next, (*thread).end) = (next, end);
        write_thread(thread, ORDER.0.load(Ordering::Relaxed));
        true
    }
}

/// The start of the mapped file. The tape must be prepared.
fn head() -> *mut raw::Head {
    BASE.load(Ordering::Relaxed).cast()
}

/// The rest of a chunk, which belongs to nobody. Its bytes are zero, and those before it are records without a gap: a
/// reader who meets a zero has reached the end of the chunk.
#[derive(Clone, Copy)]
struct Part {
    next: *mut u8,
    end: *mut u8,
}

const MAX_PARTS: usize = 1024;
/// No smaller part is handed out: it has room for whatever a thread writes first.
const MIN_PART: usize = raw::THREAD_BYTES + MIN_ROOM;

struct Parts(UnsafeCell<([Part; MAX_PARTS], usize)>);

// SAFETY: only touched while `ARMED.sharing` is held, or by the only thread there is.
unsafe impl Sync for Parts {}

static PARTS: Parts =
    Parts(UnsafeCell::new(([Part { next: ptr::null_mut(), end: ptr::null_mut() }; MAX_PARTS], 0)));

/// A part for the calling thread alone. With `whole`, all of it is likely to be used.
fn take_part(whole: bool) -> Option<Part> {
    let lock = Spin::lock(&ARMED.sharing);
    // SAFETY: the lock is held.
    let (parts, count) = unsafe { &mut *PARTS.0.get() };
    if *count > 0 {
        *count -= 1;
        return Some(parts[*count]);
    }
    drop(lock);
    // SAFETY: the tape is prepared, and the chunk lies in it, for its number is checked against the room.
    unsafe {
        let head = head();
        // Looked at before it is added to, so that the count stays near the room however often this fails.
        if (*head).chunks.load(Ordering::Relaxed) >= (*head).room {
            return None;
        }
        let chunk = (*head).chunks.fetch_add(1, Ordering::Relaxed);
        if chunk >= (*head).room {
            return None;
        }
        let start = head.cast::<u8>().add(raw::HEAD_BYTES + chunk as usize * raw::CHUNK_BYTES);
        if whole && !populate(start) {
            return None;
        }
        Some(Part { next: start, end: start.add(raw::CHUNK_BYTES) })
    }
}

/// Has the kernel prepare the pages of a chunk at once, which costs a fraction of what it costs one by one; says
/// whether there is a place for them on the disk.
unsafe fn populate(chunk: *mut u8) -> bool {
    // SAFETY: the chunk is mapped, and keeps what it holds.
    unsafe {
        let done = libc::madvise(chunk.cast(), raw::CHUNK_BYTES, libc::MADV_POPULATE_WRITE) == 0;
        // Kernels before 5.14 do not know the question (EINVAL); then each page comes when it is first written to.
        done || *libc::__errno_location() != libc::EFAULT
    }
}

/// Leaves a part to another thread.
fn give_part(part: Part) {
    if (part.end as usize).saturating_sub(part.next as usize) < MIN_PART {
        return;
    }
    let _lock = Spin::lock(&ARMED.sharing);
    // SAFETY: the lock is held.
    let (parts, count) = unsafe { &mut *PARTS.0.get() };
    if *count < MAX_PARTS {
        parts[*count] = part;
        *count += 1;
    } // else these bytes stay empty, which costs nothing but their place
}

/// A lock for what is done once a thread or once a chunk. It is free in a forked child, whoever held it.
struct Spin(&'static AtomicU32);

impl Spin {
    fn lock(word: &'static AtomicU32) -> Spin {
        while word.compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            // SAFETY: asks nothing of us.
            unsafe { libc::sched_yield() };
        }
        Spin(word)
    }
}

impl Drop for Spin {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Release);
    }
}

/// A thread ends: others may fill the rest of its chunk.
unsafe extern "C" fn leave(thread: *mut c_void) {
    let thread: *mut Thread = thread.cast();
    // SAFETY: the pointer is the one that this thread registered, to its own state.
    unsafe {
        let (next, end) = ((*thread).next, (*thread).end);
        (*thread).leaving = true;
        (*thread).forget();
        if (*thread).generation == ARMED.generation.load(Ordering::Relaxed) && !next.is_null() {
            give_part(Part { next, end });
        }
    }
}

/// Which raw file this process writes, for the children that it forks.
struct Own(UnsafeCell<(u32, u32)>);

// SAFETY: written only while `ARMED.preparing` is held, and read only then.
unsafe impl Sync for Own {}

static OWN: Own = Own(UnsafeCell::new((0, 0)));
static GENERATIONS: AtomicU32 = AtomicU32::new(0);

/// Creates and maps the raw file of this process image; returns its generation, or 0 if nothing can be recorded.
#[cold]
fn prepare() -> u32 {
    let _lock = Spin::lock(&ARMED.preparing);
    let generation = ARMED.generation.load(Ordering::Acquire);
    if generation != 0 || OFF.load(Ordering::Relaxed) {
        return generation; // another thread was here first
    }
    // SAFETY: the lock is held, which all that is touched here needs.
    unsafe {
        let directory = DIRECTORY.0.get();
        let wish =
            if (*directory).length > 0 { Wish::Record } else { find_directory(&mut *directory) };
        match wish {
            Wish::Unknown => return 0,
            Wish::Record if create(&mut *directory) => {}
            Wish::Record | Wish::Forward => {
                OFF.store(true, Ordering::Relaxed);
                return 0;
            }
        }
    }
    let generation = GENERATIONS.fetch_add(1, Ordering::Relaxed) + 1;
    ARMED.generation.store(generation, Ordering::Release);
    generation
}

/// Creates and maps a raw file in a directory; says whether it did. The path is in the end what it was.
///
/// # Safety
/// Whoever calls must hold `ARMED.preparing`, in a process that has no tape.
unsafe fn create(directory: &mut Path) -> bool {
    // SAFETY: getpid cannot fail.
    let pid = unsafe { libc::getpid() } as u32;
    let Some((file, image)) = create_file(directory, pid) else {
        complain(c"cannot create a file in the directory for records");
        return false;
    };
    // SAFETY: the file is open, and ours to close.
    let (base, length) = unsafe {
        let mapped = map(file);
        libc::close(file);
        match mapped {
            Some(mapped) => mapped,
            None => {
                complain(c"no room: the file for records cannot be mapped");
                return false;
            }
        }
    };
    // SAFETY: the mapping is new, larger than a head, and zero; the caller holds the lock for the rest. In a forked
    // child the old mapping is the parent's, which no thread of this process uses.
    unsafe {
        let head: *mut raw::Head = base.cast();
        (*head).pid = pid;
        (*head).image = image;
        (*head).room = (length - raw::HEAD_BYTES as u64) / raw::CHUNK_BYTES as u64;
        (*head).command_bytes = read_command(base.add(size_of::<raw::Head>()));
        let own = OWN.0.get();
        let old = BASE.load(Ordering::Relaxed);
        if old.is_null() {
            watch_threads_and_forks();
        } else {
            ((*head).parent_pid, (*head).parent_image) = *own;
            (*head).parent_order = ORDER.0.load(Ordering::Relaxed);
            libc::munmap(old.cast(), LENGTH.load(Ordering::Relaxed) as usize);
        }
        *own = (pid, image);
        (*PARTS.0.get()).1 = 0;
        ORDER.0.store(0, Ordering::Relaxed);
        LENGTH.store(length, Ordering::Relaxed);
        BASE.store(base, Ordering::Relaxed);
        (*head).magic = raw::MAGIC;
    }
    true
}

/// Asks to be called when a thread ends, and to have [`ARMED`] zero in forked children.
unsafe fn watch_threads_and_forks() {
    // SAFETY: `leave` fits what it is registered for; ARMED's pages hold nothing else.
    unsafe {
        let mut key = 0;
        if libc::pthread_key_create(&mut key, Some(leave)) == 0 {
            KEY.store(key, Ordering::Relaxed);
        }
        let armed = (&raw const ARMED).cast_mut().cast::<c_void>();
        // The kernel sees every fork. The C library sees its own, and must do where the kernel does not help.
        if libc::madvise(armed, size_of::<Armed>(), libc::MADV_WIPEONFORK) != 0 {
            libc::pthread_atfork(None, None, Some(forked));
        }
    }
}

unsafe extern "C" fn forked() {
    ARMED.preparing.store(0, Ordering::Relaxed);
    ARMED.sharing.store(0, Ordering::Relaxed);
    ARMED.generation.store(0, Ordering::Relaxed);
}

/// Makes the file as large as it may become, and maps it.
unsafe fn map(file: c_int) -> Option<(*mut u8, u64)> {
    let mut length = MAX_BYTES;
    // SAFETY: plain questions, each answered into a place of its type.
    unsafe {
        let mut disk = MaybeUninit::<libc::statvfs64>::zeroed();
        if libc::fstatvfs64(file, disk.as_mut_ptr()) == 0 {
            let disk = disk.assume_init();
            // Pages that find no room on the disk would end the program. An eighth stays for others.
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            length = length.min(free - free / 8);
        }
        // Addresses are cheap, but where a program is to have few of them, most are to be its own.
        for (resource, share) in [(libc::RLIMIT_FSIZE, 1), (libc::RLIMIT_AS, 8)] {
            let mut limit = MaybeUninit::<libc::rlimit64>::zeroed();
            if libc::getrlimit64(resource, limit.as_mut_ptr()) == 0 {
                length = length.min(limit.assume_init().rlim_cur / share);
            }
        }
    }
    while length >= MIN_BYTES {
        let chunks = (length - raw::HEAD_BYTES as u64) / raw::CHUNK_BYTES as u64;
        let bytes = raw::HEAD_BYTES as u64 + chunks * raw::CHUNK_BYTES as u64;
        // SAFETY: the file is ours, and a new mapping is in nobody's way.
        unsafe {
            if libc::ftruncate64(file, bytes as i64) == 0 {
                let protection = libc::PROT_READ | libc::PROT_WRITE;
                let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
                let base = libc::mmap(ptr::null_mut(), bytes as usize, protection, flags, file, 0);
                if base != libc::MAP_FAILED {
                    libc::madvise(base, bytes as usize, libc::MADV_DONTDUMP);
                    return Some((base.cast(), bytes));
                }
            }
        }
        length /= 2;
    }
    None
}

/// A path in the making, ended by a zero byte.
struct Path {
    bytes: [u8; Path::MAX],
    length: usize,
}

impl Path {
    const MAX: usize = 4096;

    const fn new() -> Path {
        Path { bytes: [0; Path::MAX], length: 0 }
    }

    /// Appends what fits, and says whether all did.
    fn push(&mut self, more: &[u8]) -> bool {
        for &byte in more {
            match self.bytes.get_mut(self.length) {
                Some(place) if self.length + 1 < Path::MAX => *place = byte,
                _ => return false,
            }
            self.length += 1;
        }
        true
    }

    fn push_number(&mut self, number: u32) -> bool {
        let mut digits = [0; 10];
        let mut left = number;
        let mut first = digits.len();
        loop {
            first -= 1;
            digits[first] = b'0' + (left % 10) as u8;
            left /= 10;
            if left == 0 {
                return self.push(&digits[first..]);
            }
        }
    }

    fn truncate(&mut self, length: usize) {
        self.bytes[length..self.length].fill(0);
        self.length = length;
    }

    fn as_ptr(&self) -> *const c_char {
        self.bytes.as_ptr().cast()
    }
}

unsafe extern "C" {
    static environ: *const *const c_char;
}

/// Where raw files go. Forked children use it again: the program may have changed its environment.
struct Directory(UnsafeCell<Path>);

// SAFETY: touched only while `ARMED.preparing` is held.
unsafe impl Sync for Directory {}

static DIRECTORY: Directory = Directory(UnsafeCell::new(Path::new()));

/// Whether something is to be recorded.
enum Wish {
    Record,
    Forward,
    /// The C library has not yet said what the environment is.
    Unknown,
}

/// Finds the directory for records in the environment, and puts it into `path`, with a slash at its end.
fn find_directory(path: &mut Path) -> Wish {
    // SAFETY: the environment is a list of strings, ended by a null pointer; `getenv` would do the same, but is not
    // ours to call before the C library is ready.
    unsafe {
        let mut entry = environ;
        if entry.is_null() {
            return Wish::Unknown;
        }
        while !(*entry).is_null() {
            let text = CStr::from_ptr(*entry).to_bytes();
            let value = text.strip_prefix(raw::DIRECTORY_VARIABLE.as_bytes());
            if let Some(directory) = value.and_then(|text| text.strip_prefix(b"=")) {
                let found = !directory.is_empty() && path.push(directory) && path.push(b"/");
                return if found { Wish::Record } else { Wish::Forward };
            }
            entry = entry.add(1);
        }
    }
    Wish::Forward
}

/// Creates the next free file for this process number in the directory that `path` names.
fn create_file(path: &mut Path, pid: u32) -> Option<(c_int, u32)> {
    let directory = path.length;
    let mut created = None;
    for image in 0..100_000 {
        // As `raw::file_name` has it.
        let named = path.push_number(pid)
            && path.push(b"-")
            && path.push_number(image)
            && path.push(b".raw");
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC;
        // SAFETY: the path ends with a zero byte; and errno is this thread's.
        let (file, error) = unsafe {
            (
                if named { libc::open64(path.as_ptr(), flags, 0o600) } else { -1 },
                *libc::__errno_location(),
            )
        };
        path.truncate(directory);
        if file >= 0 {
            created = Some((file, image));
        }
        if file >= 0 || !named || error != libc::EEXIST {
            break;
        }
    }
    created
}

/// Copies the command line to `place`, where [`raw::MAX_COMMAND`] bytes are free; returns its length.
unsafe fn read_command(place: *mut u8) -> u32 {
    let mut length = 0;
    // SAFETY: reads no more than fits.
    unsafe {
        let file = libc::open64(c"/proc/self/cmdline".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if file < 0 {
            return 0;
        }
        while length < raw::MAX_COMMAND {
            let read = libc::read(file, place.add(length).cast(), raw::MAX_COMMAND - length);
            if read <= 0 {
                break;
            }
            length += read as usize;
        }
        libc::close(file);
    }
    length as u32
}

/// Says on stderr why this process is not recorded.
#[cold]
fn complain(why: &CStr) {
    let mut text = Path::new();
    let fits = text.push(b"heapwright-recorder: process ")
        // SAFETY: getpid cannot fail.
        && text.push_number(unsafe { libc::getpid() } as u32)
        && text.push(b" is not recorded: ")
        && text.push(why.to_bytes())
        && text.push(b"\n");
    if fits {
        // SAFETY: the bytes are there. If nobody can be told, nobody is.
        unsafe { libc::write(2, text.as_ptr().cast(), text.length) };
    }
}
