//! Looking at a heap: the walk over its blocks, their sums, and the verification of what the modules promise.
//!
//! The page heap is locked meanwhile; what other threads do in their slabs and bins is not stopped. Of a heap that they
//! use, what is shown of their slabs is a snapshot that may be off by what they were just doing.

use core::ptr::NonNull;
use core::sync::atomic::Ordering::Relaxed;

use heapwright_core::{BlockInfo, BlockState, Broken, HeapBackend, Policy, Stats, ensure};
use lock_api::RawMutex;

use crate::Design;
use crate::chunk::{
    ASIDE, CLEAN, Chunk, DIRTY, Desc, Entry, KIND, LARGE, Table, WORDS, slab_class,
};
use crate::classes::{ALL, CLASSES, PAGE, TABLE};
use crate::heap::{Central, Shared};
use crate::local::Local;
use crate::pages::{BEFORE_BLOCK, Pages, Run};
use crate::shown::Shown;

/// Bits for the objects of any slab.
type Bits = [u64; WORDS];

fn is_set(bits: &Bits, index: usize) -> bool {
    bits[index / 64] >> (index % 64) & 1 != 0
}

/// What a heap is made of.
enum Piece {
    /// A run that is a slab of a class.
    Slab(Run, usize),
    /// A block, used or not, by its address and its size.
    Whole(usize, usize, BlockState),
}

fn shown(address: usize, size: usize, state: BlockState) -> BlockInfo {
    BlockInfo { address, size, overhead: 0, state, next_free: None }
}

/// What an object is that is neither free nor at hand: the program's, or of a class that is none of its, the heap's own.
fn taken(class: usize) -> BlockState {
    if class < CLASSES { BlockState::Used } else { BlockState::Cached }
}

impl<B: HeapBackend, L: RawMutex, D: Design> Shared<B, L, D> {
    pub(crate) fn stats(&self, own: Option<NonNull<Local>>) -> Stats {
        let mut central = self.lock();
        central.settle_orphans(&self.misuses);
        let counts = central.pages.source().counts();
        let mut stats = Stats {
            footprint: counts.held(),
            peak_footprint: counts.high_water,
            grows: counts.grows,
            shrinks: counts.shrinks,
            misuses: self.misuses.load(Relaxed),
            ..Stats::default()
        };
        central.tally(own, &mut |block, count| stats.count_alike(block, count));
        central.each_chunk(&mut |_| stats.regions += 1);
        // Heads, parts of threads, and what is left at the ends of slabs.
        let blocks = stats.live_bytes + stats.free_bytes + stats.cached_bytes;
        stats.overhead = stats.footprint.saturating_sub(blocks);
        stats
    }
}

impl<B: HeapBackend, P: Policy> Central<B, P> {
    fn each_chunk(&self, visit: &mut dyn FnMut(NonNull<Chunk>)) {
        let mut chunk = self.pages.chunks;
        while let Some(here) = NonNull::new(chunk) {
            visit(here);
            // SAFETY: the list leads from chunk to chunk.
            chunk = unsafe { here.as_ref().next };
        }
    }

    pub(crate) fn each_local(&self, visit: &mut dyn FnMut(NonNull<Local>)) {
        let mut local = self.locals;
        while let Some(here) = NonNull::new(local) {
            visit(here);
            // SAFETY: the list leads through parts.
            local = unsafe { (*here.as_ptr()).next };
        }
    }

    /// The objects of a slab that some thread keeps at hand or is sending home, as `own` and orphans do, or `all` parts. What
    /// those of threads at work show may be about to go to the slab, or gone: in a child of a fork it stays so for good.
    fn cached(&self, own: Option<NonNull<Local>>, all: bool, class: usize, slab: Run) -> Bits {
        let mut bits = Bits::default();
        let start = slab.start().addr().get();
        let size = TABLE[class].size as usize;
        // SAFETY: the caller promises a slab.
        let capacity = unsafe { Desc::capacity(slab.desc()) };
        let mut note = |object: *mut u8| {
            let offset = object.addr().wrapping_sub(start);
            if offset < capacity * size {
                let index = offset / size;
                bits[index / 64] |= 1 << (index % 64);
            }
        };
        self.each_local(&mut |local| {
            // SAFETY: what is read of another thread's part may be stale, and is only compared.
            unsafe {
                let ours = Some(local) == own || (*local.as_ptr()).orphan;
                if ours || all {
                    Local::at_hand(local, class, &mut note);
                    Local::on_their_way(local, ours, &mut note);
                }
            }
        });
        bits
    }

    /// Visits what the heap is made of, by rising address in each chunk; mappings last.
    fn each_piece(&self, visit: &mut dyn FnMut(Piece)) {
        self.each_chunk(&mut |chunk| {
            // SAFETY: the lock is held.
            unsafe {
                Pages::<B, P>::runs(chunk, &mut |run, entry| {
                    let state = match entry {
                        LARGE => BlockState::Used,
                        DIRTY | CLEAN => BlockState::Free,
                        ASIDE => BlockState::Cached,
                        _ => {
                            let class = (entry & KIND) as usize;
                            if class < ALL {
                                visit(Piece::Slab(run, class));
                            }
                            return;
                        }
                    };
                    visit(Piece::Whole(run.start().addr().get(), run.pages * PAGE, state));
                });
            }
        });
        let mut mapping = self.pages.mappings.first;
        while let Some(here) = NonNull::new(mapping) {
            // SAFETY: the list leads from mapping to mapping.
            unsafe {
                let bytes = here.as_ref().bytes;
                visit(Piece::Whole(here.addr().get() + BEFORE_BLOCK, bytes, BlockState::Mapped));
                mapping = here.as_ref().next;
            }
        }
    }

    pub(crate) fn walk(&self, own: Option<NonNull<Local>>, visit: &mut dyn FnMut(BlockInfo)) {
        self.each_piece(&mut |piece| match piece {
            Piece::Whole(address, size, state) => visit(shown(address, size, state)),
            // SAFETY: it is a slab.
            Piece::Slab(run, class) => unsafe { self.walk_slab(own, run, class, visit) },
        });
    }

    unsafe fn walk_slab(
        &self,
        own: Option<NonNull<Local>>,
        run: Run,
        class: usize,
        visit: &mut dyn FnMut(BlockInfo),
    ) {
        let cached = self.cached(own, true, class, run);
        // SAFETY: the caller promises a slab.
        unsafe {
            let bits = Desc::bits(run.desc());
            for index in 0..Desc::capacity(run.desc()) {
                let word = bits.get(index / 64).map_or(0, Shown::look);
                let free = word >> (index % 64) & 1 != 0;
                let state = match (free, is_set(&cached, index)) {
                    (true, _) => BlockState::Free,
                    (false, true) => BlockState::Cached,
                    (false, false) => taken(class),
                };
                let size = TABLE[class].size as usize;
                visit(shown(run.start().addr().get() + index * size, size, state));
            }
        }
    }

    /// As [`walk`](Self::walk), with the objects of a class shown at once: slabs and bins count them.
    pub(crate) fn tally(
        &self,
        own: Option<NonNull<Local>>,
        visit: &mut dyn FnMut(BlockInfo, usize),
    ) {
        let (mut objects, mut free, mut cached) = ([0; ALL], [0; ALL], [0; ALL]);
        self.each_piece(&mut |piece| match piece {
            Piece::Whole(address, size, state) => visit(shown(address, size, state), 1),
            // SAFETY: it is a slab.
            Piece::Slab(run, class) => unsafe {
                objects[class] += Desc::capacity(run.desc());
                free[class] += Desc::free_by_bits(run.desc());
            },
        });
        self.each_local(&mut |local| {
            // SAFETY: as in `cached`. What is in the heap's table is a chunk.
            unsafe {
                for (class, cached) in cached.iter_mut().enumerate() {
                    Local::at_hand(local, class, &mut |_| *cached += 1);
                }
                let ours = Some(local) == own || (*local.as_ptr()).orphan;
                Local::on_their_way(local, ours, &mut |object| {
                    if let Some((chunk, page)) = Table::find(self.pages.table, object.addr())
                        && let Some(class) = slab_class(Chunk::entry(chunk, page).load(Relaxed))
                    {
                        cached[class] += 1;
                    }
                });
            }
        });
        for (class, fixed) in TABLE.iter().enumerate() {
            // They may change while they are counted.
            let cached = cached[class].min(objects[class] - free[class]);
            let in_use = objects[class] - free[class] - cached;
            let counts = [
                (BlockState::Free, free[class]),
                (BlockState::Cached, cached),
                (taken(class), in_use),
            ];
            for (state, count) in counts.into_iter().filter(|&(_, count)| count > 0) {
                visit(shown(0, fixed.size as usize, state), count);
            }
        }
    }

    /// Verifies what the modules promise: of the page heap, of `own`, the caller's part, and of orphans; of other parts
    /// only which chunks they take for near.
    pub(crate) fn check(&self, own: Option<NonNull<Local>>) -> Result<(), Broken> {
        self.pages.check()?;
        let mut found = Ok(());
        self.each_local(&mut |local| {
            // SAFETY: orphans are ours under the lock; of other parts only that is looked at which is atomic, or under it.
            unsafe {
                let (orphan, place) = ((*local.as_ptr()).orphan, local.addr().get());
                if found.is_ok() {
                    let near = Local::knows_its_chunks(local, self.pages.table);
                    found = ensure(near, "a chunk that is near is the heap's", place);
                }
                if found.is_err() || !orphan && Some(local) != own {
                    return;
                }
                // First, as the others read from there.
                found =
                    ensure(Local::bins_are_in_their_slots(local), "a bin is in its slots", place);
                if found.is_err() {
                    return;
                }
                let mut empty = true;
                if orphan {
                    (0..ALL).for_each(|class| Local::at_hand(local, class, &mut |_| empty = false));
                    Local::on_their_way(local, false, &mut |_| empty = false);
                }
                let counted = Local::counts_room(local);
                let known = Local::knows_its_classes(local);
                found = ensure(empty, "an orphan has nothing at hand", place)
                    .and(ensure(counted, "room for larger objects is counted", place))
                    .and(ensure(known, "a class with slabs had its bin filled", place));
            }
        });
        self.each_chunk(&mut |chunk| {
            // SAFETY: the lock is held.
            unsafe {
                Pages::<B, P>::runs(chunk, &mut |run, entry| {
                    if found.is_ok() && slab_class(entry).is_some() {
                        found = self.check_slab(run, entry, own);
                    }
                });
            }
        });
        found
    }

    unsafe fn check_slab(
        &self,
        run: Run,
        entry: Entry,
        own: Option<NonNull<Local>>,
    ) -> Result<(), Broken> {
        let class = (entry & KIND) as usize;
        let at = run.start().addr().get();
        // SAFETY: the caller promises a slab; that of a thread at work is left alone.
        unsafe {
            let slab = run.desc();
            let Some(owner) = NonNull::new((*slab.as_ptr()).owner.load(Relaxed)) else {
                return ensure(false, "a slab has an owner", at);
            };
            if Some(owner) != own && !(*owner.as_ptr()).orphan {
                return Ok(());
            }
            let marked = (*owner.as_ptr()).tag | class as u32 == entry;
            ensure(marked, "a slab's pages bear its owner's number", at)?;
            let set = Desc::free_by_bits(slab);
            ensure(set == usize::from(slab.as_ref().free), "a slab counts its free objects", at)?;
            let placed = Local::is_in_place(owner, class, slab);
            ensure(placed, "a slab with free objects is current or listed", at)?;
            let cached = self.cached(own, false, class, run);
            let mut words = Desc::bits(slab).iter().zip(&cached);
            let disjoint = words.all(|(bits, cached)| bits.look() & cached == 0);
            ensure(disjoint, "an object at hand is not free in its slab", at)
        }
    }
}
