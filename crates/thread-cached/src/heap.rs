//! The heap: what its threads share, and the way of a request from the fast path to the last resort.

use core::alloc::Layout;
use core::mem;
use core::ops::{Deref, DerefMut};
use core::ptr::{self, NonNull};
use core::sync::atomic::{
    AtomicPtr, AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use heapwright_backends::Mmap;
use heapwright_core::{
    BlockInfo, Broken, FutexMutex, GRANULE, HeapBackend, HeapError, Limits, New, Parts, Stats,
    Strategy, barrier_for_all, faces, misuse, prepare_barriers,
};
use lock_api::{Mutex, MutexGuard, RawMutex};

use crate::chunk::{ASIDE, CLEAN, Chunk, DIRTY, Desc, Entry, KIND, LARGE, Table, is_whole};
use crate::classes::{
    CLASSES, GRANULES, KEPT, LOOKED_UP, MAX_SMALL, PAGE, SHARING, TABLE, class_for, class_looked_up,
};
use crate::local::{self, Local, NewSlab, Runs};
use crate::pages::{LEAST_MAPPED, Mapping, Pages, Run};
use crate::registry::{self, Member, NOBODY};
use crate::turn::Turn;
use crate::{Design, General, slot};

/// Per-thread caches over slabs over runs of pages, from the backend `B`, with the lock `L` for what threads share,
/// and the choices `D`.
///
/// It is a value like any other: several are several heaps, and dropping one gives all its memory back. Threads that
/// used it need not have ended by then.
pub struct ThreadCached<B: HeapBackend = Mmap, L: RawMutex = FutexMutex, D: Design = General> {
    /// The number of the heap, by which threads find their parts; [`NOBODY`] before the first request.
    number: AtomicU64,
    shared: AtomicPtr<Shared<B, L, D>>,
    /// The backend, until the first request.
    source: Mutex<L, Option<B>>,
    /// Misuses that callers were told of.
    misuses: AtomicUsize,
}

// SAFETY: what threads share is behind a lock, or atomic; parts are each one thread's.
unsafe impl<B: HeapBackend + Send, L: RawMutex + Sync, D: Design> Sync for ThreadCached<B, L, D> {}
// SAFETY: nothing of it lies in a thread but parts, whose threads reach a heap only inside the registry's room.
unsafe impl<B: HeapBackend + Send, L: RawMutex + Send, D: Design> Send for ThreadCached<B, L, D> {}

/// What the threads of a heap share. It lies in the heap's first chunk, so that it never moves.
#[repr(C)]
pub(crate) struct Shared<B, L, D: Design> {
    member: Member,
    central: Mutex<L, Central<B, D::Runs>>,
    /// Held by who visits parts of others; taken before the page heap's.
    visitors: Mutex<L, ()>,
    /// The newest table of what addresses are.
    table: AtomicPtr<Table>,
    /// When to look at the clock with the lock, in milliseconds.
    next_decay: AtomicU64,
    /// When to go on with a visit that left something to be done, in milliseconds; never, if none did.
    next_visit: AtomicU64,
    /// Misuses that were found when an object went home.
    pub(crate) misuses: AtomicUsize,
}

/// What is behind the lock.
pub(crate) struct Central<B, P> {
    pub(crate) pages: Pages<B, P>,
    /// The parts of all threads, those that ended too.
    pub(crate) locals: *mut Local,
    /// How many parts there are.
    owners: u32,
    /// How many of them belong to no thread.
    pub(crate) orphans: usize,
    /// Whether this is a child process whose parent had other threads, so that their parts are nobody's.
    bereft: bool,
    /// The part of the only thread that it had at first.
    survivor: *mut Local,
}

// SAFETY: parts go where the heap goes; the page heap says of itself that it may.
unsafe impl<B: Send, P: Send> Send for Central<B, P> {}

impl<B: HeapBackend, L: RawMutex, D: Design> ThreadCached<B, L, D> {
    /// An empty heap over a backend, which is first asked for memory by the first request.
    pub const fn over(backend: B) -> Self {
        Self {
            number: AtomicU64::new(NOBODY),
            shared: AtomicPtr::new(ptr::null_mut()),
            source: Mutex::from_raw(L::INIT, Some(backend)),
            misuses: AtomicUsize::new(0),
        }
    }

    /// An object of a small size, if one is at hand.
    #[inline(always)]
    fn at_hand(&self, size: usize, align: usize) -> Option<NonNull<u8>> {
        let class = class_looked_up(size, align, GRANULES)?;
        let local = self.local()?;
        // SAFETY: the part is this thread's.
        unsafe { Local::pop(local, class) }
    }

    /// What the threads share, if there is anything yet.
    #[inline(always)]
    pub(crate) fn shared(&self) -> Option<&Shared<B, L, D>> {
        // SAFETY: once written it stays until the heap is dropped.
        unsafe { self.shared.load(Acquire).as_ref() }
    }

    /// This thread's part.
    #[inline(always)]
    fn local(&self) -> Option<NonNull<Local>> {
        slot::last(self.number.load(Relaxed))
    }

    /// This thread's part, if it has one.
    fn own(&self, shared: &Shared<B, L, D>) -> Option<NonNull<Local>> {
        slot::last(shared.member.heap).or_else(|| slot::find(shared.member.heap))
    }

    /// What all share, and this thread's part if it has one, to be looked at: nobody visits it meanwhile.
    fn looked_at(&self) -> Option<LookedAt<'_, B, L, D>> {
        let shared = self.shared()?;
        let own = self.own(shared);
        // SAFETY: the part is this thread's.
        Some((shared, own, own.map(|local| unsafe { shared.turn(local) })))
    }

    /// This thread's part, which it may not have yet, and what all share.
    fn attach(&self) -> Option<Attached<'_, B, L, D>> {
        let shared = match self.shared() {
            Some(shared) => shared,
            None => self.start()?,
        };
        let number = shared.member.heap;
        if let Some(local) = self.own(shared) {
            return Some((local, shared));
        }
        let local = shared.lock_to_grow().part(D::KEPT.min(KEPT) as u32, &shared.misuses)?;
        slot::remember(number, local);
        Some((local, shared))
    }

    /// The first request of all: takes the first chunk, and moves into it.
    #[cold]
    fn start(&self) -> Option<&Shared<B, L, D>> {
        let mut source = self.source.lock();
        if let Some(shared) = self.shared() {
            return Some(shared);
        }
        let mut pages = Pages::<B, D::Runs>::over(source.take()?, D::HUGE_FROM);
        let bytes = size_of::<Shared<B, L, D>>().next_multiple_of(64);
        let all = bytes + Pages::<B, D::Runs>::FIRST_TABLE;
        let Some(run) = pages.take(all.div_ceil(PAGE), 1) else {
            *source = Some(pages.into_source());
            return None;
        };
        // SAFETY: the run is ours, and long enough for both.
        unsafe {
            pages.lay_first_table(run.start().add(bytes).cast());
            let shared = run.start().cast::<Shared<B, L, D>>();
            let central = Central {
                pages,
                locals: ptr::null_mut(),
                owners: 0,
                orphans: 0,
                bereft: false,
                survivor: ptr::null_mut(),
            };
            shared.write(Shared {
                member: Member::new(Shared::<B, L, D>::retire),
                table: AtomicPtr::new(central.pages.table),
                central: Mutex::from_raw(L::INIT, central),
                visitors: Mutex::from_raw(L::INIT, ()),
                next_decay: AtomicU64::new(0),
                next_visit: AtomicU64::new(NEVER),
                misuses: AtomicUsize::new(0),
            });
            registry::join(shared.cast());
            self.shared.store(shared.as_ptr(), Release);
            self.number.store(shared.as_ref().member.heap, Relaxed);
            self.shared()
        }
    }

    // ---- The slow paths -------------------------------------------------------------------------

    /// A block that is not at hand at once: mostly of a medium size. Called last, with the caller's own arguments, so
    /// that the path that does without keeps nothing for later.
    #[inline(never)]
    fn allocate_otherwise(&self, layout: Layout) -> Option<NonNull<u8>> {
        if class_looked_up(layout.size(), layout.align(), GRANULES).is_none()
            && let Some(local) = self.local()
        {
            // SAFETY: the part is this thread's.
            let block = unsafe {
                match class_for(layout.size(), layout.align()) {
                    Some(class) if layout.size() <= MAX_SMALL => Local::pop(local, class),
                    Some(class) if Local::has_room(local, class) => {
                        Local::pop(local, class).inspect(|_| Local::count_run(local))
                    }
                    _ => self.run_at_hand(local, layout),
                }
            };
            if block.is_some() {
                return block;
            }
        }
        self.allocate_slowly(layout)
    }

    /// A block without a class, in a run that the thread keeps, if it is not time to look at the time.
    ///
    /// # Safety
    ///
    /// The part is this thread's.
    unsafe fn run_at_hand(&self, local: NonNull<Local>, layout: Layout) -> Option<NonNull<u8>> {
        let shared = self.shared()?;
        // SAFETY: the caller promises its own part.
        unsafe {
            let _turn = shared.turn(local);
            if !Local::has_time_for_a_run(local) {
                return None;
            }
            shared.kept_run(local, layout).inspect(|_| Local::count_run(local))
        }
    }

    /// As [`allocate_otherwise`](Self::allocate_otherwise). The size comes first, as it does to `malloc`: it stays in its
    /// register.
    #[inline(never)]
    fn allocate_bytes_otherwise(size: usize, heap: &Self) -> Option<NonNull<u8>> {
        heap.allocate_otherwise(Layout::from_size_align(size, GRANULE).ok()?)
    }

    #[cold]
    #[inline(never)]
    fn allocate_slowly(&self, layout: Layout) -> Option<NonNull<u8>> {
        self.allocate_any(layout, Wanted::Any).map(|(block, _)| block)
    }

    /// A block, and whether it is zero.
    fn allocate_any(&self, layout: Layout, wanted: Wanted) -> Option<(NonNull<u8>, bool)> {
        if !Limits::GENERAL.admit(layout) {
            return None;
        }
        let (local, shared) = self.attach()?;
        let mut keeper = shared.keeper();
        // SAFETY: the part is this thread's.
        let _busy = unsafe { shared.turn(local) };
        let large = layout.size() > MAX_SMALL;
        let class = class_for(layout.size(), layout.align()).filter(|&class| {
            let whole = wanted != Wanted::Any || D::CHECKED;
            // SAFETY: the part is this thread's.
            !large || !whole && unsafe { Local::keeps(local, class) }
        });
        let serve = |keeper: &mut Keeper<'_, B, L, D>| {
            // SAFETY: the part is this thread's.
            unsafe {
                if let Some(class) = class {
                    let object = Local::take(local, class)
                        .or_else(|| Local::refill(local, class, D::CHECKED, keeper));
                    if object.is_some() || !large {
                        return object.map(|object| (object, false));
                    }
                }
                if let Some(block) = shared.kept_run(local, layout) {
                    return Some((block, false));
                }
                if layout.size() < LEAST_MAPPED {
                    shared.shrink_bins_for(local, layout.size().div_ceil(PAGE));
                }
                shared.allocate_large(local, layout, wanted == Wanted::Zeroed)
            }
        };
        // SAFETY: the part is this thread's.
        unsafe {
            if large || class.is_none() {
                Local::count_run(local);
            }
            if Local::is_time(local, &mut keeper) {
                shared.pass_time(local);
            }
            serve(&mut keeper).or_else(|| {
                shared.relieve(local, layout.size());
                serve(&mut keeper)
            })
        }
    }

    /// Frees an object of this thread's slabs, if its bin has room; of its layout if that is said. If not, says what it
    /// found.
    ///
    /// # Safety
    ///
    /// The block is in use, and was asked for with that layout.
    #[inline(always)]
    unsafe fn freed_at_once(
        &self,
        block: NonNull<u8>,
        layout: Option<Layout>,
    ) -> Result<(), Found> {
        let found = Found { local: None, entry: 0 };
        if D::CHECKED {
            return Err(found);
        }
        let Some(local) = self.local() else { return Err(found) };
        let found = Found { local: Some(local), ..found };
        // SAFETY: the part is this thread's. The caller promises the layout, which had that class; without one, the object's
        // slab tells.
        unsafe {
            if let Some(class) = layout.and_then(|layout| Local::believed_class(local, layout)) {
                return if Local::push(local, class, block) { Ok(()) } else { Err(found) };
            }
            let Some(entry) = Local::near_entry(local, block.addr().get()) else {
                return Err(found);
            };
            match Local::own(local, entry) {
                Some(class) if Local::push(local, class, block) => Ok(()),
                _ => Err(Found { entry, ..found }),
            }
        }
    }

    /// Frees what does not go into a bin at once. Called last, so that the path to the bin keeps nothing for later, and with
    /// the block first, as it comes to `free`. Calls another one last for the same reason.
    #[inline(never)]
    fn free_elsewhere(block: NonNull<u8>, heap: &Self, found: Found) {
        // SAFETY: found by this thread.
        if !unsafe { found.gathered(block) } {
            Self::free_otherwise(block, heap, found);
        }
    }

    /// Frees what is not just put with what goes home, and reports a misuse.
    #[inline(never)]
    fn free_otherwise(block: NonNull<u8>, heap: &Self, found: Found) {
        // SAFETY: found by this thread.
        if !unsafe { found.freed(block) }
            && let Err(error) = heap.deallocate_slowly(block)
        {
            misuse::report(error);
        }
    }

    /// The same for who is told of a misuse.
    #[inline(never)]
    fn deallocate_elsewhere(&self, block: NonNull<u8>, found: Found) -> Result<(), HeapError> {
        // SAFETY: found by this thread.
        if unsafe { found.freed(block) } { Ok(()) } else { self.deallocate_slowly(block) }
    }

    #[cold]
    #[inline(never)]
    fn deallocate_slowly(&self, block: NonNull<u8>) -> Result<(), HeapError> {
        let freed = match self.shared() {
            None => Err(HeapError::InvalidFree(block.addr().get())),
            Some(shared) => {
                let part = if slot::has_ended() { None } else { self.attach() };
                // SAFETY: the part is this thread's.
                unsafe { shared.free(part.map(|(local, _)| local), block) }
            }
        };
        freed.map_err(|error| self.misused(error))
    }

    /// Counts a misuse on its way out.
    #[cold]
    fn misused(&self, error: HeapError) -> HeapError {
        self.misuses.fetch_add(1, Relaxed);
        error
    }

    /// Resizes an object of this thread's slabs to one that is small too, if it stays, or another is at hand and there is
    /// room for it in its bin. What comes back fits in a register: errors are found by [`resize_as`](Self::resize_as).
    ///
    /// # Safety
    ///
    /// The block is in use, and may be read up to `old_size` or the size of its class.
    #[inline]
    unsafe fn resize_small(
        &self,
        block: NonNull<u8>,
        old_size: usize,
        new_size: usize,
        align: usize,
    ) -> Option<NonNull<u8>> {
        if D::CHECKED {
            return None;
        }
        let local = self.local()?;
        let class = class_for(new_size, align)?;
        // SAFETY: the part is this thread's. Both blocks are in use, hence disjoint, and at least that long.
        unsafe {
            // The class that the block has, not that of its layout, of which the alignment may be less than it was.
            let current = Local::own_class(local, block.addr().get())?;
            if class == current || may_stay(current, new_size) {
                return Some(block);
            }
            if new_size > MAX_SMALL {
                return None;
            }
            // Before anything is copied.
            if Local::is_full(local, current) {
                return None;
            }
            let new = Local::pop(local, class)?;
            let size = old_size.min(new_size).min(TABLE[current].size as usize);
            ptr::copy_nonoverlapping(block.as_ptr(), new.as_ptr(), size);
            if !Local::push(local, current, block) {
                self.take_back(new);
                return None;
            }
            Some(new)
        }
    }

    /// Frees a block that was just taken, of which nobody knows yet.
    #[cold]
    unsafe fn take_back(&self, new: NonNull<u8>) {
        // SAFETY: the caller promises that it was taken.
        let _ = unsafe { self.deallocate(new) };
    }

    /// Moves or stays, by what the block is.
    #[inline(never)]
    unsafe fn resize_as(
        &self,
        block: NonNull<u8>,
        layout: Option<Layout>,
        new_size: usize,
    ) -> Result<NonNull<u8>, HeapError> {
        let addr = block.addr().get();
        let (shared, what) = self
            .shared()
            .ok_or(HeapError::InvalidFree(addr))
            .and_then(|shared| Ok((shared, shared.what_is(addr, D::CHECKED)?)))
            .map_err(|error| self.misused(error))?;
        let align = layout.map_or(GRANULE, |layout| layout.align());
        let new_layout =
            Layout::from_size_align(new_size, align).map_err(|_| HeapError::OutOfMemory)?;
        if !Limits::GENERAL.admit(new_layout) {
            return Err(HeapError::OutOfMemory);
        }
        let class = class_for(new_size, align);
        let whole = new_size > MAX_SMALL || class.is_none();
        let usable = match what {
            Block::Small { class: current } => {
                if class == Some(current) || may_stay(current, new_size) {
                    return Ok(block);
                }
                TABLE[current].size as usize
            }
            Block::Large { run } => {
                if whole && shared.resize_run(run, new_size) {
                    return Ok(block);
                }
                run.pages * PAGE
            }
            Block::Mapped { mapping, bytes } => {
                if whole
                    // SAFETY: the caller promises a block in use, and this is its mapping.
                    && let Some(block) = unsafe { shared.remap(mapping, new_size) }
                {
                    return Ok(block);
                }
                bytes
            }
        };
        let old_size = layout.map_or(usable, |layout| layout.size());
        // What grows may grow on, and a run can where it stands.
        let new = if new_size > MAX_SMALL {
            self.allocate_any(new_layout, Wanted::Growing).map(|(block, _)| block)
        } else {
            self.allocate(new_layout)
        };
        let new = new.ok_or(HeapError::OutOfMemory)?;
        // SAFETY: both blocks are in use, hence disjoint, and at least that long.
        unsafe {
            ptr::copy_nonoverlapping(block.as_ptr(), new.as_ptr(), old_size.min(new_size));
            self.deallocate(block).map(|()| new).inspect_err(|_| self.take_back(new))
        }
    }
}

/// By how many pages the heap grows for each bin that is looked at.
const PAGES_A_BIN: usize = 8;
/// At most so many bins are looked at.
const MOST_BINS: usize = 16;

/// A thread's part, and what all share.
type Attached<'a, B, L, D> = (NonNull<Local>, &'a Shared<B, L, D>);
/// What all share, a thread's part, and its turn there.
type LookedAt<'a, B, L, D> = (&'a Shared<B, L, D>, Option<NonNull<Local>>, Option<Busy<'a>>);

/// Whether an object of a medium size that is shrunk stays where it is: less than half of it is given up, which is
/// worth no copy. Its size then has another class, but sizes so large are not believed when blocks are freed.
#[inline(always)]
fn may_stay(class: usize, new_size: usize) -> bool {
    let size = TABLE[class].size as usize;
    new_size > LOOKED_UP && new_size <= size && new_size >= size / 2
}

/// What a free that did not end in a bin has found out by then.
#[derive(Clone, Copy)]
struct Found {
    local: Option<NonNull<Local>>,
    /// The entry of the block's page; zero, if it was not looked at.
    entry: Entry,
}

impl Found {
    /// Puts the block with what goes home, if it is seen to be a smaller object of another thread's slab, and there is room.
    ///
    /// # Safety
    ///
    /// The part is this thread's.
    #[inline(always)]
    unsafe fn gathered(self, block: NonNull<u8>) -> bool {
        let Some(local) = self.local else { return false };
        // SAFETY: the caller promises the part.
        unsafe { Local::gather_at_once(local, block, self.entry) }
    }

    /// Frees the block, if it is an object of a chunk that is not near, or of another thread's slab, and there is
    /// room for it.
    ///
    /// # Safety
    ///
    /// The part is this thread's.
    #[inline(always)]
    unsafe fn freed(self, block: NonNull<u8>) -> bool {
        let Some(local) = self.local else { return false };
        // SAFETY: the caller promises the part.
        unsafe { Local::free_elsewhere_at_once(local, block, self.entry) }
    }
}

/// What a block is wanted for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Any,
    /// It is to be zero: little of it may ever be touched, and the kernel's zeros serve.
    Zeroed,
    /// It grows.
    Growing,
}

/// A block in use.
pub(crate) enum Block {
    Small { class: usize },
    Large { run: Run },
    Mapped { mapping: NonNull<Mapping>, bytes: usize },
}

/// The owner's turn at its part, for as long as this lives.
struct Busy<'a>(&'a Turn);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// How many objects a visitor takes in at a time: some milliseconds of work.
const OBJECTS_A_VISIT: usize = 1 << 18;
/// How many milliseconds pass before somebody goes on with what a visitor left.
const BETWEEN_VISITS: u64 = 20;
/// A time that does not come.
const NEVER: u64 = u64::MAX;

impl<B: HeapBackend, L: RawMutex, D: Design> Shared<B, L, D> {
    pub(crate) fn lock(&self) -> MutexGuard<'_, L, Central<B, D::Runs>> {
        self.central.lock()
    }

    /// As [`lock`](Self::lock), for what may take memory from the backend, after which there may be a new table.
    fn lock_to_grow(&self) -> Growing<'_, B, L, D> {
        Growing { table: &self.table, central: self.lock() }
    }

    /// A thread's way to the page heap.
    fn keeper(&self) -> Keeper<'_, B, L, D> {
        Keeper(self)
    }

    /// The turn of this thread at its part. Whoever visits that goes first.
    ///
    /// # Safety
    ///
    /// The part is this thread's, which has no turn yet, nor a lock.
    unsafe fn turn(&self, local: NonNull<Local>) -> Busy<'_> {
        // SAFETY: parts live as long as their heap.
        let turn = unsafe { &(*local.as_ptr()).turn };
        turn.begin(|| drop(self.visitors.lock()));
        Busy(turn)
    }

    /// Looks at the clock, and lets pages decay.
    unsafe fn pass_time(&self, local: NonNull<Local>) {
        let now = crate::pages::now();
        // SAFETY: the part is this thread's.
        if unsafe { Local::is_due(local, now) } {
            let idle = self.lock().pages.idle_pages();
            // SAFETY: as above, and nothing of it is being given back.
            unsafe { Local::do_with_less(local, &mut self.keeper()) };
            self.lock().pages.note_idle_beyond(idle);
        }
        // One of the threads does it.
        let is_due = |time: &AtomicU64, next| {
            let due = time.load(Relaxed);
            now >= due && time.compare_exchange(due, next, Relaxed, Relaxed).is_ok()
        };
        if !is_due(&self.next_decay, now + crate::pages::DECAY) {
            if is_due(&self.next_visit, NEVER) {
                self.visit(Some(local), false);
            }
            return;
        }
        let mut sleepers = false;
        if let Some(mut central) = self.central.try_lock() {
            central.pages.decay();
            if central.pages.give_back_clean_chunks() {
                central.stay_near();
            }
            central.rest_orphans(false);
            // SAFETY: as above.
            unsafe { central.share_with(local) };
            // SAFETY: what is in the list is a part.
            central.each_local(&mut |part| unsafe {
                sleepers |= Local::note_sleep(part) && !(*part.as_ptr()).orphan;
            });
        }
        if sleepers {
            self.visit(Some(local), false);
        }
    }

    /// Does for threads that sleep what they would do if they did not: takes in what was left for them, and gives back their
    /// slabs that serve nothing and the runs that they keep. Of all threads, as much as there is; or else of those that were
    /// found asleep, a bounded part of it, and some time later somebody goes on with the rest. What they keep at hand is not
    /// touched, and who is in the middle of something does it itself.
    fn visit(&self, own: Option<NonNull<Local>>, all: bool) {
        let alone = usize::from(own.is_some());
        if self.lock().threads() <= alone {
            return;
        }
        // The first of all barriers takes long, and nobody should have to wait for it.
        if !barrier_for_all() {
            return;
        }
        let (mut next, idle) = {
            let mut central = self.lock();
            central.orphan_the_bereft(&self.misuses);
            (central.locals, central.pages.idle_pages())
        };
        let mut objects = if all { usize::MAX } else { OBJECTS_A_VISIT };
        while let Some(part) = NonNull::new(next)
            && objects > 0
        {
            // SAFETY: the list leads through parts, new ones come in front, and none ever goes.
            unsafe {
                next = (*part.as_ptr()).next;
                if Some(part) != own && (all || (*part.as_ptr()).asleep.load(Relaxed)) {
                    self.visit_part(part, &mut objects, all);
                }
            }
        }
        self.lock().pages.note_idle_beyond(idle);
        if objects == 0 {
            self.next_visit.store(crate::pages::now() + BETWEEN_VISITS, Relaxed);
        }
    }

    /// Visits a part, if that is quiet.
    unsafe fn visit_part(&self, part: NonNull<Local>, objects: &mut usize, all: bool) {
        let _visiting = self.visitors.lock();
        let mut visitor = Keeper::<B, L, D, false>(self);
        // SAFETY: the caller promises a part. The owner of one that is visited and not busy waits before it touches anything
        // that is touched here, and before it ends.
        unsafe {
            let turn = &(*part.as_ptr()).turn;
            turn.come();
            // In this order: the owner may just have ended.
            if barrier_for_all() && !turn.is_busy() && self.needs_visits(part, all) {
                Local::receive_some(part, objects, &mut visitor);
                Local::settle(part, &mut visitor);
                if *objects > 0 {
                    // All is done.
                    (*part.as_ptr()).asleep.store(false, Relaxed);
                }
            }
            turn.go();
        }
    }

    /// Whether a part is a thread's, and, if not all are meant, of one that sleeps.
    unsafe fn needs_visits(&self, part: NonNull<Local>, all: bool) -> bool {
        let _central = self.lock();
        // SAFETY: the caller promises a part, and this is under the lock.
        unsafe { !(*part.as_ptr()).orphan && (all || Local::sleeps_on(part)) }
    }

    /// Before the heap grows by a run of so many pages, bins that hold more than they need give some back, and so do runs
    /// that are kept.
    unsafe fn shrink_bins_for(&self, local: NonNull<Local>, pages: usize) {
        if self.lock().pages.lacks(pages) {
            // SAFETY: the caller promises its own part.
            unsafe { Local::give_back_older(local, &mut self.keeper()) };
        }
        for _ in 0..pages.div_ceil(PAGES_A_BIN).min(MOST_BINS) {
            if !self.lock().pages.lacks(pages) {
                return;
            }
            // SAFETY: the caller promises its own part, of which nothing is being flushed.
            unsafe { Local::shrink_a_bin(local, &mut self.keeper()) };
        }
    }

    /// A block without a class, in a run that the thread keeps.
    unsafe fn kept_run(&self, local: NonNull<Local>, layout: Layout) -> Option<NonNull<u8>> {
        let pages = layout.size().div_ceil(PAGE);
        if layout.align() > PAGE {
            return None;
        }
        // SAFETY: the caller promises its own part; the run is the caller's from now on.
        unsafe {
            let run = Local::from_stash(local, pages)?;
            Chunk::entry(run.chunk.cast(), run.page).store(LARGE, Release);
            Some(run.start())
        }
    }

    /// A block without a class: a run of pages, or a mapping. And whether it is zero.
    unsafe fn allocate_large(
        &self,
        local: NonNull<Local>,
        layout: Layout,
        zeroed: bool,
    ) -> Option<(NonNull<u8>, bool)> {
        let mut central = self.lock_to_grow();
        let pages = layout.size().div_ceil(PAGE).max(1);
        let align = layout.align().div_ceil(PAGE);
        let too_long = pages + align > central.pages.longest();
        if too_long || central.pages.maps(layout) {
            let mapped = central.pages.map(layout, zeroed, too_long);
            if mapped.is_some() || too_long {
                return mapped;
            }
        }
        // SAFETY: the caller promises its own part, and the run is just given.
        unsafe {
            Local::count_drawn(local, pages * PAGE);
            central.share_with(local);
            let run = central.pages.take(pages, align)?;
            Chunk::entry(run.chunk.cast(), run.page).store(LARGE, Release);
            Some((run.start(), run.zeroed))
        }
    }

    /// What an address is.
    fn what_is(&self, addr: usize, exactly: bool) -> Result<Block, HeapError> {
        let table = self.table.load(Acquire);
        // SAFETY: there is a table, and chunks and mappings that it knows are there.
        unsafe {
            let Some((chunk, page)) = Table::find(table, addr) else {
                let mapping = Table::mapping(table, addr).ok_or(HeapError::InvalidFree(addr))?;
                return Ok(Block::Mapped { mapping, bytes: mapping.as_ref().bytes });
            };
            let entry = Chunk::entry(chunk, page).load(Relaxed);
            let chunk = chunk.cast::<Chunk>();
            let class = (entry & KIND) as usize;
            let aligned = addr & (PAGE - 1) == 0;
            if class < SHARING && entry > KIND {
                if exactly {
                    Local::verify(class, chunk, page, addr)?;
                }
                return Ok(Block::Small { class });
            }
            match entry {
                _ if is_whole(entry) && aligned => {
                    let desc = Chunk::desc(chunk, page);
                    let pages = Desc::pages(desc);
                    let run = Run { chunk, page, pages, zeroed: false };
                    Ok(Block::Large { run })
                }
                DIRTY | CLEAN | ASIDE if aligned => Err(HeapError::DoubleFree(addr)),
                _ => Err(HeapError::InvalidFree(addr)),
            }
        }
    }

    /// Frees any block, with this thread's part, or without: there is no memory for one, or the thread ends.
    unsafe fn free(
        &self,
        local: Option<NonNull<Local>>,
        block: NonNull<u8>,
    ) -> Result<(), HeapError> {
        // SAFETY: the caller promises its own part. What is freed is verified as far as the design says, and exactly
        // where it is written to.
        unsafe {
            let _busy = local.map(|local| self.turn(local));
            let addr = block.addr().get();
            match self.what_is(addr, D::CHECKED || local.is_none())? {
                Block::Small { class } => match local {
                    Some(local) => self.free_small(local, class, block)?,
                    None => {
                        let table = self.table.load(Acquire);
                        Local::post(table, block).ok_or(HeapError::InvalidFree(addr))?;
                    }
                },
                Block::Large { run } => {
                    if let Some(local) = local
                        && let Some(class) = Local::own_large_class(local, addr)
                    {
                        return Local::push_slowly(local, class, block, &mut self.keeper());
                    }
                    // Of two threads that free it at once, one is told. No other knows of it, of whatever class it is.
                    let entry = Chunk::entry(run.chunk.cast(), run.page);
                    let was = entry.load(Relaxed);
                    let freed = is_whole(was)
                        && entry.compare_exchange(was, ASIDE, AcqRel, Relaxed).is_ok();
                    if !freed {
                        return Err(HeapError::DoubleFree(addr));
                    }
                    let run = Run { pages: Desc::pages(run.desc()), ..run };
                    match local {
                        Some(local) => {
                            Local::hasten(local, u16::MAX);
                            Local::put_aside(local, run, &mut self.keeper());
                        }
                        None => self.lock().pages.give(run),
                    }
                }
                Block::Mapped { mapping, .. } => {
                    local.inspect(|&local| Local::hasten(local, u16::MAX));
                    self.lock().pages.unmap(mapping);
                }
            }
        }
        Ok(())
    }

    unsafe fn free_small(
        &self,
        local: NonNull<Local>,
        class: usize,
        block: NonNull<u8>,
    ) -> Result<(), HeapError> {
        let mut keeper = self.keeper();
        // SAFETY: the caller promises its own part, and an object of that class.
        unsafe {
            if Local::own_class(local, block.addr().get()) != Some(class) {
                return Local::free_elsewhere(local, block, !D::CHECKED, &mut keeper);
            }
            if D::CHECKED {
                Local::send_home(local, Some(class), block, &mut keeper);
                return Ok(());
            }
            Local::push_slowly(local, class, block, &mut keeper)
        }
    }

    /// Makes a run longer or shorter where it stands.
    fn resize_run(&self, run: Run, new_size: usize) -> bool {
        let pages = new_size.div_ceil(PAGE).max(1);
        if pages == run.pages {
            return true;
        }
        let mut central = self.lock();
        // SAFETY: the run is that of a large block in use, which the caller was given; if it was freed meanwhile, it is not
        // touched.
        unsafe {
            let entry = Chunk::entry(run.chunk.cast(), run.page);
            if !is_whole(entry.load(Relaxed)) {
                return false;
            }
            if pages < run.pages {
                central.pages.cut_end(run, pages);
            } else if !central.pages.extend(run, pages) {
                return false;
            }
            // It has the length of its class no more.
            entry.store(LARGE, Release);
        }
        true
    }

    unsafe fn remap(&self, mapping: NonNull<Mapping>, new_size: usize) -> Option<NonNull<u8>> {
        if new_size < LEAST_MAPPED {
            // Small enough to be a run, among others.
            return None;
        }
        // SAFETY: the caller promises the mapping of a block in use.
        unsafe { self.lock_to_grow().pages.remap(mapping, new_size) }
    }

    /// Everything that is free and this thread can reach goes back to the page heap: all but what others keep at hand, or
    /// are in the middle of.
    unsafe fn gather(&self, local: NonNull<Local>) {
        // SAFETY: the caller promises its own part; orphans are whose who holds the lock.
        unsafe {
            let mut keeper = self.keeper();
            // What orphans had of ours is home in the second round.
            for _ in 0..2 {
                Local::flush_all(local, &mut keeper);
                Local::settle(local, &mut keeper);
                self.visit(Some(local), true);
                self.lock().settle_orphans(&self.misuses);
            }
        }
    }

    /// The last resort, for so many bytes: what is free goes back to the page heap, and from there to the backend, unless no
    /// machine has as much.
    unsafe fn relieve(&self, local: NonNull<Local>, bytes: usize) {
        const BEYOND_ALL: usize = 1 << 46;
        if bytes < BEYOND_ALL {
            // SAFETY: the caller promises its own part.
            unsafe { self.gather(local) };
            self.lock().trim();
        }
    }

    /// A thread has ended: its part is an orphan from now on.
    ///
    /// # Safety
    ///
    /// `member` is that of a heap of this type; the part is this thread's, and is forgotten by it.
    unsafe fn retire(member: NonNull<Member>, local: NonNull<Local>) {
        // SAFETY: the caller promises both; the member is the first field of what threads share.
        unsafe {
            let shared = member.cast::<Self>().as_ref();
            let turn = shared.turn(local);
            let mut keeper = shared.keeper();
            Local::flush_all(local, &mut keeper);
            Local::settle(local, &mut keeper);
            let mut central = shared.lock();
            Local::orphan(local);
            central.orphans += 1;
            // Under the lock: who finds the part quiet finds that it is an orphan, and whose turn is next begins it after.
            drop(turn);
        }
    }
}

impl<B: HeapBackend, P: heapwright_core::Policy> Central<B, P> {
    /// A part for a thread: an orphan, or a new one.
    fn part(&mut self, kept: u32, misuses: &AtomicUsize) -> Option<NonNull<Local>> {
        self.orphan_the_bereft(misuses);
        let mut local = self.locals;
        // SAFETY: the list leads through parts.
        unsafe {
            while self.orphans > 0
                && let Some(here) = NonNull::new(local)
            {
                if (*here.as_ptr()).orphan {
                    (*here.as_ptr()).orphan = false;
                    (*here.as_ptr()).table = self.pages.table;
                    Local::awake(here);
                    self.orphans -= 1;
                    return Some(here);
                }
                local = (*here.as_ptr()).next;
            }
            if self.owners >= u32::MAX >> 8 {
                return None;
            }
            let run = self.pages.take(local::PAGES, 1)?;
            if let Some(first) = NonNull::new(self.locals) {
                Local::meet_another(first);
                self.pages.leave_to_threads();
            }
            self.owners += 1;
            let local = run.start().cast::<Local>();
            Local::make(local, self.owners, kept, self.pages.table, self.locals);
            self.locals = local.as_ptr();
            Some(local)
        }
    }

    /// How many parts belong to threads.
    fn threads(&self) -> usize {
        self.owners as usize - self.orphans
    }

    /// Lets a part keep its share of what the heap has, and tell what it took.
    unsafe fn share_with(&mut self, local: NonNull<Local>) {
        // SAFETY: the caller promises its own part.
        unsafe {
            Local::share_in(local, self.pages.used(), self.threads());
            self.pages.note_progress(Local::taken(local));
        }
    }

    /// Makes the parts of threads that are gone orphans; not in the child at once, which mostly replaces itself soon, but
    /// before a second thread has a part there. A part that its thread was in the middle of is lost.
    fn orphan_the_bereft(&mut self, misuses: &AtomicUsize) {
        if !mem::take(&mut self.bereft) {
            return;
        }
        let mut local = self.locals;
        while let Some(here) = NonNull::new(local) {
            // SAFETY: the list leads through parts. That of a thread that is gone is whose who holds the lock.
            unsafe {
                let part = here.as_ptr();
                local = (*part).next;
                if part != self.survivor && !(*part).orphan && !(*part).turn.is_busy() {
                    let mut caretaker = Caretaker { pages: &mut self.pages, misuses };
                    Local::flush_all(here, &mut caretaker);
                    Local::settle(here, &mut caretaker);
                    Local::orphan(here);
                    self.orphans += 1;
                }
            }
        }
    }

    /// Gives back what is free, and says how many bytes that was.
    fn trim(&mut self) -> usize {
        self.rest_orphans(true);
        let given = self.pages.trim();
        self.stay_near();
        given
    }

    /// Chunks went: none of them is near any part.
    fn stay_near(&mut self) {
        // SAFETY: it is a part.
        self.each_local(&mut |local| unsafe { Local::stay_near(local) });
    }

    /// Discards what parts of threads that ended some time ago, or of all at once, do not touch until a new thread needs it.
    fn rest_orphans(&mut self, at_once: bool) {
        self.each_orphan(&mut |orphan, central| {
            // SAFETY: it is an orphan, and this is under the lock; what lies there is written before it is read.
            unsafe {
                if let Some(pages) = Local::rest(orphan, at_once) {
                    central.pages.discard_used(pages);
                }
            }
            false
        });
    }

    /// Visits the parts that belong to no thread.
    fn each_orphan(&mut self, visit: &mut dyn FnMut(NonNull<Local>, &mut Self) -> bool) {
        let mut local = self.locals;
        while self.orphans > 0
            && let Some(here) = NonNull::new(local)
        {
            // SAFETY: the list leads through parts.
            unsafe {
                local = (*here.as_ptr()).next;
                if (*here.as_ptr()).orphan && visit(here, self) {
                    return;
                }
            }
        }
    }

    /// Takes in what was left for orphans, and gives back their slabs that serve nothing.
    pub(crate) fn settle_orphans(&mut self, misuses: &AtomicUsize) {
        let mut mail = true;
        while mail {
            mail = false;
            self.each_orphan(&mut |orphan, central| {
                let mut caretaker = Caretaker { pages: &mut central.pages, misuses };
                // SAFETY: the part is an orphan, and this is under the lock.
                unsafe {
                    // What goes on from here may go to an orphan that was settled already.
                    mail |= !(*orphan.as_ptr()).mailbox.is_empty();
                    Local::receive(orphan, &mut caretaker);
                    Local::settle(orphan, &mut caretaker);
                }
                false
            });
        }
    }
}

/// The lock, for what may take memory from the backend: the newest table is made known when it is let go.
struct Growing<'a, B: HeapBackend, L: RawMutex, D: Design> {
    table: &'a AtomicPtr<Table>,
    central: MutexGuard<'a, L, Central<B, D::Runs>>,
}

impl<B: HeapBackend, L: RawMutex, D: Design> Deref for Growing<'_, B, L, D> {
    type Target = Central<B, D::Runs>;

    fn deref(&self) -> &Self::Target {
        &self.central
    }
}

impl<B: HeapBackend, L: RawMutex, D: Design> DerefMut for Growing<'_, B, L, D> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.central
    }
}

impl<B: HeapBackend, L: RawMutex, D: Design> Drop for Growing<'_, B, L, D> {
    fn drop(&mut self) {
        if self.table.load(Relaxed) != self.central.pages.table {
            self.table.store(self.central.pages.table, Release);
        }
    }
}

/// A thread's way to the page heap from its own part, or from one that it visits: the lock is taken when it is needed.
struct Keeper<'a, B, L, D: Design, const OWNS: bool = true>(&'a Shared<B, L, D>);

impl<B: HeapBackend, L: RawMutex, D: Design, const OWNS: bool> Runs for Keeper<'_, B, L, D, OWNS> {
    const AT_HAND: bool = OWNS && !D::CHECKED;
    const OWNS: bool = OWNS;

    fn slab(&mut self, class: usize, local: NonNull<Local>) -> Option<NewSlab> {
        if !OWNS {
            return None;
        }
        let fixed = &TABLE[class];
        let pages = usize::from(fixed.pages);
        // SAFETY: the part is this thread's.
        let from_stash = || unsafe { Local::from_stash(local, pages).map(NewSlab::Run) };
        if let Some(slab) = from_stash() {
            return Some(slab);
        }
        // SAFETY: as above.
        let count = if Self::AT_HAND { unsafe { Local::lacking(local, pages) } } else { 1 };
        let mut central = self.0.lock_to_grow();
        // Parcels alone are asked for while a bin is flushed.
        if class < CLASSES && central.pages.lacks(pages) {
            drop(central);
            // SAFETY: the part is this thread's.
            unsafe {
                Local::taking_in_nothing(local, || {
                    (0..count).for_each(|_| Local::shrink_a_bin(local, self));
                    Local::give_back_older(local, self);
                });
            }
            if let Some(slab) = from_stash() {
                return Some(slab);
            }
            central = self.0.lock_to_grow();
        }
        central.orphan_the_bereft(&self.0.misuses);
        let mut adopted = None;
        central.each_orphan(&mut |orphan, central| {
            let mut caretaker = Caretaker { pages: &mut central.pages, misuses: &self.0.misuses };
            // SAFETY: one is an orphan and this is under the lock, the other is this thread's.
            unsafe {
                Local::receive(orphan, &mut caretaker);
                adopted = Local::adopt(local, orphan, class);
            }
            adopted.is_some()
        });
        match adopted {
            Some(slab) => Some(NewSlab::Adopted(slab)),
            None => {
                // SAFETY: the part is this thread's.
                unsafe { central.share_with(local) };
                let run = central.pages.take(pages, 1);
                // Where there is little memory, a slab of fewer objects.
                let run = run.or_else(|| central.pages.take(usize::from(fixed.least), 1))?;
                for _ in 1..count {
                    // SAFETY: the part is this thread's, and has room when asked.
                    unsafe {
                        if !Local::has_room_for(local, pages) {
                            break;
                        }
                        let Some(next) = central.pages.take_free(pages) else { break };
                        Local::keep(local, next);
                    }
                }
                Some(NewSlab::Run(run))
            }
        }
    }

    unsafe fn release(&mut self, runs: impl IntoIterator<Item = Run>) {
        let mut central = self.0.lock();
        // SAFETY: the caller promises the runs.
        runs.into_iter().for_each(|run| unsafe { central.pages.give(run) });
    }

    fn table(&mut self) -> *const Table {
        self.0.table.load(Acquire)
    }

    fn misuse(&mut self, error: HeapError) {
        self.0.misuses.fetch_add(1, Relaxed);
        heapwright_core::misuse::report(error);
    }
}

/// The same for one who looks after an orphan and holds the lock.
struct Caretaker<'a, B, P> {
    pages: &'a mut Pages<B, P>,
    misuses: &'a AtomicUsize,
}

impl<B: HeapBackend, P: heapwright_core::Policy> Runs for Caretaker<'_, B, P> {
    const AT_HAND: bool = false;
    const OWNS: bool = false;

    fn slab(&mut self, _class: usize, _local: NonNull<Local>) -> Option<NewSlab> {
        None
    }

    unsafe fn release(&mut self, runs: impl IntoIterator<Item = Run>) {
        // SAFETY: the caller promises the runs.
        runs.into_iter().for_each(|run| unsafe { self.pages.give(run) });
    }

    fn table(&mut self) -> *const Table {
        self.pages.table
    }

    fn misuse(&mut self, error: HeapError) {
        self.misuses.fetch_add(1, Relaxed);
        heapwright_core::misuse::report(error);
    }
}

// SAFETY: an object is at hand or free in its slab at most once; runs and mappings are the page heap's. Parts are each
// one thread's, and all else is under the lock.
unsafe impl<B: HeapBackend, L: RawMutex, D: Design> Strategy for ThreadCached<B, L, D> {
    #[inline(always)]
    fn allocate(&self, layout: Layout) -> Option<NonNull<u8>> {
        match self.at_hand(layout.size(), layout.align()) {
            Some(object) => Some(object),
            None => self.allocate_otherwise(layout),
        }
    }

    #[inline(always)]
    fn allocate_bytes(&self, size: usize) -> Option<NonNull<u8>> {
        match self.at_hand(size, GRANULE) {
            Some(object) => Some(object),
            None => Self::allocate_bytes_otherwise(size, self),
        }
    }

    #[inline]
    fn allocate_zeroed(&self, layout: Layout) -> Option<NonNull<u8>> {
        let (block, zeroed) = if layout.size() <= MAX_SMALL {
            (self.allocate(layout)?, false)
        } else {
            self.allocate_any(layout, Wanted::Zeroed)?
        };
        if !zeroed {
            // SAFETY: at least that long, and ours.
            unsafe { ptr::write_bytes(block.as_ptr(), 0, layout.size()) };
        }
        Some(block)
    }

    #[inline(always)]
    unsafe fn deallocate(&self, block: NonNull<u8>) -> Result<(), HeapError> {
        // SAFETY: the caller promises the same.
        match unsafe { self.freed_at_once(block, None) } {
            Ok(()) => Ok(()),
            Err(found) => self.deallocate_elsewhere(block, found),
        }
    }

    #[inline(always)]
    unsafe fn deallocate_sized(&self, block: NonNull<u8>, layout: Layout) -> Result<(), HeapError> {
        // SAFETY: the caller promises the same.
        match unsafe { self.freed_at_once(block, Some(layout)) } {
            Ok(()) => Ok(()),
            Err(found) => self.deallocate_elsewhere(block, found),
        }
    }

    #[inline(always)]
    unsafe fn free(&self, block: NonNull<u8>) {
        // SAFETY: the caller promises the same.
        if let Err(found) = unsafe { self.freed_at_once(block, None) } {
            Self::free_elsewhere(block, self, found);
        }
    }

    #[inline(always)]
    unsafe fn free_sized(&self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller promises the same.
        if let Err(found) = unsafe { self.freed_at_once(block, Some(layout)) } {
            Self::free_elsewhere(block, self, found);
        }
    }

    #[inline]
    unsafe fn reallocate(
        &self,
        block: NonNull<u8>,
        layout: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, HeapError> {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: the caller promises the same.
        if let Some(resized) = unsafe { self.resize_small(block, size, new_size, align) } {
            return Ok(resized);
        }
        // SAFETY: the caller promises the same.
        unsafe { self.resize_as(block, Some(layout), new_size) }
    }

    #[inline]
    unsafe fn resize(&self, block: NonNull<u8>, new_size: usize) -> Result<NonNull<u8>, HeapError> {
        // SAFETY: the caller promises the same.
        if let Some(resized) = unsafe { self.resize_small(block, MAX_SMALL, new_size, GRANULE) } {
            return Ok(resized);
        }
        // SAFETY: the caller promises the same.
        unsafe { self.resize_as(block, None, new_size) }
    }

    unsafe fn usable_size(&self, block: NonNull<u8>) -> usize {
        match self
            .shared()
            .map_or(Err(HeapError::OutOfMemory), |shared| shared.what_is(block.addr().get(), false))
        {
            Ok(Block::Small { class }) => TABLE[class].size as usize,
            Ok(Block::Large { run }) => run.pages * PAGE,
            Ok(Block::Mapped { bytes, .. }) => bytes,
            Err(_) => 0,
        }
    }

    fn trim(&self) -> usize {
        let Some(shared) = self.shared() else { return 0 };
        match self.own(shared) {
            // SAFETY: the part is this thread's.
            Some(local) => unsafe {
                let _busy = shared.turn(local);
                shared.gather(local);
            },
            None => shared.visit(None, true),
        }
        let mut central = shared.lock();
        central.settle_orphans(&shared.misuses);
        central.trim()
    }

    fn stats(&self) -> Stats {
        let mut stats =
            self.looked_at().map_or_else(Stats::default, |(shared, own, _turn)| shared.stats(own));
        stats.misuses += self.misuses.load(Relaxed);
        stats
    }

    fn walk(&self, visit: &mut dyn FnMut(BlockInfo)) {
        if let Some((shared, own, _turn)) = self.looked_at() {
            let mut central = shared.lock();
            central.settle_orphans(&shared.misuses);
            central.walk(own, visit);
        }
    }

    fn tally(&self, visit: &mut dyn FnMut(BlockInfo, usize)) {
        if let Some((shared, own, _turn)) = self.looked_at() {
            let mut central = shared.lock();
            central.settle_orphans(&shared.misuses);
            central.tally(own, visit);
        }
    }

    fn check(&self) -> Result<(), Broken> {
        self.looked_at().map_or(Ok(()), |(shared, own, _turn)| shared.lock().check(own))
    }

    fn prepare(&self) {
        prepare_barriers();
    }

    fn freeze(&self) {
        // In the order in which the first request takes them.
        core::mem::forget(self.source.lock());
        registry::freeze();
        if let Some(shared) = self.shared() {
            core::mem::forget((shared.visitors.lock(), shared.lock()));
        }
    }

    fn try_freeze(&self) -> bool {
        let busy = self.shared().is_some_and(|shared| {
            // SAFETY: the part is this thread's.
            self.own(shared).is_some_and(|local| unsafe { (*local.as_ptr()).turn.is_busy() })
        });
        if busy || !registry::try_freeze() {
            return false;
        }
        if let Some(source) = self.source.try_lock() {
            match self.shared() {
                None => {
                    core::mem::forget(source);
                    return true;
                }
                Some(shared) => {
                    if let Some(visitors) = shared.visitors.try_lock()
                        && let Some(central) = shared.central.try_lock()
                    {
                        core::mem::forget((source, visitors, central));
                        return true;
                    }
                }
            }
        }
        // SAFETY: frozen above.
        unsafe { registry::thaw() };
        false
    }

    unsafe fn thaw_in_child(&self) {
        // SAFETY: the caller promises that this thread holds the lock since before the fork.
        unsafe {
            if let Some(shared) = self.shared() {
                let central = shared.central.data_ptr();
                (*central).bereft = true;
                (*central).survivor = self.own(shared).map_or(ptr::null_mut(), NonNull::as_ptr);
            }
            self.thaw();
        }
    }

    unsafe fn thaw(&self) {
        const { assert!(size_of::<L::Guard>() == 0, "a guard is a mark, not a value to be kept") };
        // SAFETY: the caller promises that `freeze` took the locks and forgot the marks that go with them, which have no
        // bytes, so that they are found again anywhere.
        unsafe {
            if let Some(shared) = self.shared() {
                shared.central.force_unlock(NonNull::dangling().read());
                shared.visitors.force_unlock(NonNull::dangling().read());
            }
            registry::thaw();
            self.source.force_unlock(NonNull::dangling().read());
        }
    }
}

impl<B: HeapBackend, L: RawMutex, D: Design> Drop for ThreadCached<B, L, D> {
    fn drop(&mut self) {
        let Some(shared) = NonNull::new(*self.shared.get_mut()) else { return };
        registry::leave(shared.cast());
        // SAFETY: nobody uses the heap any more, and no thread that ends finds it. What threads share is read out of the
        // memory before that goes back.
        unsafe {
            slot::forget(shared.as_ref().member.heap);
            let shared = shared.read();
            let mut central = shared.central.into_inner();
            central.pages.give_all_back();
        }
    }
}

impl<B: HeapBackend + New, L: RawMutex, D: Design> ThreadCached<B, L, D> {
    /// An empty heap; the first request makes it ask its backend for memory.
    pub const fn new() -> Self {
        Self::over(B::NEW)
    }
}

impl<B: HeapBackend + New, L: RawMutex, D: Design> New for ThreadCached<B, L, D> {
    const NEW: Self = Self::new();
}

impl<B: HeapBackend + New, L: RawMutex, D: Design> Default for ThreadCached<B, L, D> {
    fn default() -> Self {
        Self::new()
    }
}

impl<B: HeapBackend, L: RawMutex, D: Design> core::fmt::Debug for ThreadCached<B, L, D> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("ThreadCached").field("stats", &self.stats()).finish()
    }
}

/// A backend on its way into a heap.
#[derive(Debug)]
pub struct Source<B>(B);

impl<B> Source<B> {
    /// Holds a backend.
    pub const fn over(backend: B) -> Self {
        Self(backend)
    }
}

impl<B: HeapBackend, L: RawMutex, D: Design> Parts for ThreadCached<B, L, D> {
    type Engine = Source<B>;
    type Lock = L;

    fn with(Source(backend): Source<B>) -> Self {
        Self::over(backend)
    }
}

faces! { [B: HeapBackend, L: RawMutex, D: Design] ThreadCached<B, L, D> }
