//! Objects that cross: what this thread frees of others' slabs, and what others freed of its own.
//!
//! They gather beside the entries of their pages, which say whose they are, and go in parcels, one for each owner; or they
//! stay and serve here: the larger ones, and those whose owner has not taken what was sent before. What comes home goes
//! into its bin as if it had been freed here, or back to its slab; what has another owner by now is sent on.

use core::cell::Cell;
use core::mem;
use core::ptr::{self, NonNull};
use core::sync::atomic::{
    Ordering::{Relaxed, Release},
    compiler_fence,
};

use heapwright_core::HeapError;

use super::stash::LEAST_ROOM;
use super::{Local, Runs};
use crate::chunk::{Chunk, Entry, KIND, Table};
use crate::classes::{ALL, CLASSES, PAGE, PARCELS, SHARING, SMALL_PARCELS, TABLE, size_of_class};
use crate::mailbox::{FEW_OBJECTS, PARCEL, Parcel};
use crate::shown::Shown;

/// Objects of other threads' slabs, before they go home.
pub(super) struct Outgoing {
    /// How many there are. Others look at the number and at the objects.
    count: Shown<u16>,
    /// How many bytes they have.
    bytes: Cell<u32>,
    /// The first is the one that was put here last before they went home, so that there always is one.
    objects: [Shown<*mut u8>; 1 + PARCEL],
    /// The entry of each one's page when it was freed.
    entries: [Cell<Entry>; 1 + PARCEL],
    /// The parcel in which the first of the objects went, if it did, as long as its slab is known to be ours; it may have come
    /// home since.
    sent: Cell<*mut Parcel>,
}

/// Objects go home when so many bytes of them are together.
pub(super) const OUTGOING_BYTES: usize = 64 << 10;

/// The first of the classes whose objects stay with who freed them, as far as a bin has room. What a larger object holds is in
/// the caches of who used it last, and costs more to fetch from there than all else about it: it serves best where it is.
/// It shares no line of a cache with its neighbours.
const STAYING: usize = {
    let mut class = 0;
    while size_of_class(class) <= PAGE / 2 {
        class += 1;
    }
    class
};

/// No index of an object on its way.
const NONE: u8 = PARCEL as u8;

impl Outgoing {
    /// Lays out an empty one.
    ///
    /// # Safety
    ///
    /// There is room for it.
    pub(super) unsafe fn make(at: *mut Self) {
        // SAFETY: the caller promises the room. Of objects and entries, only as many are read as there are.
        unsafe {
            (&raw mut (*at).count).write(Shown::new(0));
            (&raw mut (*at).bytes).write(Cell::new(0));
            (&raw mut (*at).objects[0]).write(Shown::new(ptr::null_mut()));
            (&raw mut (*at).sent).write(Cell::new(ptr::null_mut()));
        }
    }

    /// Whether one more object can be put here before they go home.
    ///
    /// # Safety
    ///
    /// It is the caller's.
    #[inline(always)]
    unsafe fn has_room(&self) -> bool {
        // SAFETY: the caller promises its own.
        unsafe {
            usize::from(self.count.get()) + 1 < PARCEL && self.bytes.get() <= OUTGOING_BYTES as u32
        }
    }

    /// Whether an object is the one that was put here just before, or before the others went home.
    ///
    /// # Safety
    ///
    /// As [`has_room`](Self::has_room).
    #[inline(always)]
    unsafe fn ends_with(&self, object: NonNull<u8>) -> bool {
        // SAFETY: the caller promises its own; there are as many, behind the first.
        unsafe {
            self.objects.get_unchecked(usize::from(self.count.get())).get() == object.as_ptr()
        }
    }

    /// Puts an object here, if there is room and it is not the one that was put here just before. Says whether it did.
    ///
    /// # Safety
    ///
    /// As [`add`](Self::add), but for the room.
    #[inline(always)]
    unsafe fn put(&self, object: NonNull<u8>, entry: Entry) -> bool {
        // SAFETY: the caller promises its own, and the entry.
        unsafe {
            let puts = !self.ends_with(object) && self.has_room();
            if puts {
                self.add(object, entry);
            }
            puts
        }
    }

    /// Puts an object here.
    ///
    /// # Safety
    ///
    /// As [`has_room`](Self::has_room); and there is room for it, and the entry is that of a slab.
    #[inline(always)]
    unsafe fn add(&self, object: NonNull<u8>, entry: Entry) {
        // SAFETY: the caller promises all this.
        unsafe {
            let count = self.count.get() + 1;
            let at = usize::from(count);
            self.objects.get_unchecked(at).set(object.as_ptr());
            self.entries.get_unchecked(at).set(entry);
            // Whoever interrupts this thread finds the object first.
            compiler_fence(Release);
            self.count.set(count);
            let size = TABLE.get_unchecked((entry & KIND) as usize).size;
            self.bytes.set(self.bytes.get() + size);
        }
    }

    /// Empties it, and says what there was: how many, the objects, and their entries.
    ///
    /// # Safety
    ///
    /// As [`has_room`](Self::has_room).
    unsafe fn take(&self) -> (usize, [*mut u8; PARCEL], [Entry; PARCEL]) {
        // SAFETY: the caller promises its own. As many as there are were written, and the others are not looked at.
        unsafe {
            let count = usize::from(self.count.get());
            self.objects[0].set(self.objects.get_unchecked(count).get());
            self.sent.set(ptr::null_mut());
            self.count.set(0);
            self.bytes.set(0);
            let objects = self.objects.as_ptr().add(1).cast::<[*mut u8; PARCEL]>();
            let entries = self.entries.as_ptr().add(1).cast::<[Entry; PARCEL]>();
            (count, objects.read(), entries.read())
        }
    }
}

impl Local {
    /// Puts an object with those that go home, if there is room and it does not stay, by the entry of its page; that is zero
    /// if it is not known.
    ///
    /// # Safety
    ///
    /// The part is this thread's.
    #[inline(always)]
    pub(crate) unsafe fn gather_at_once(
        local: NonNull<Self>,
        block: NonNull<u8>,
        entry: Entry,
    ) -> bool {
        // SAFETY: the caller promises the part.
        unsafe {
            let is_ours = (entry ^ (*local.as_ptr()).tag) <= KIND;
            let stays = (entry & KIND) as usize >= STAYING;
            if entry <= KIND || is_ours || stays {
                return false;
            }
            (*local.as_ptr()).outgoing.put(block, entry)
        }
    }

    /// Frees an object of any slab, if there is room for it in its bin, or with those that go home. The entry of its page
    /// is zero, if it is not known.
    ///
    /// # Safety
    ///
    /// The part is this thread's.
    #[inline(always)]
    pub(crate) unsafe fn free_elsewhere_at_once(
        local: NonNull<Self>,
        block: NonNull<u8>,
        entry: Entry,
    ) -> bool {
        // SAFETY: the caller promises the part.
        unsafe {
            let addr = block.addr().get();
            let entry = if entry == 0 { Self::entry(local, addr) } else { entry };
            let class = (entry ^ (*local.as_ptr()).tag) as usize;
            if class < CLASSES {
                let is_object = class < SHARING || addr & (PAGE - 1) == 0;
                return is_object && Self::push(local, class, block);
            }
            if (entry & KIND) as usize >= SHARING || entry <= KIND {
                return false;
            }
            let outgoing = &(*local.as_ptr()).outgoing;
            if outgoing.ends_with(block) {
                return false;
            }
            let class = (entry & KIND) as usize;
            if Self::stays(local, class) {
                if Self::push(local, class, block) {
                    return true;
                }
                if Self::freed_last(local, class) == block.as_ptr() {
                    return false;
                }
            }
            outgoing.put(block, entry)
        }
    }

    /// Puts an object of another thread's slab with those that go home. If so asked, it stays if it is a larger one, and some
    /// of those that go then may: unless it comes from a bin.
    ///
    /// # Errors
    ///
    /// The same object was put there just before, or stayed; or it is of no slab any more.
    ///
    /// # Safety
    ///
    /// The object was freed, and is of a slab. The part is this thread's.
    pub(crate) unsafe fn free_elsewhere<R: Runs>(
        local: NonNull<Self>,
        object: NonNull<u8>,
        keeps: bool,
        runs: &mut R,
    ) -> Result<(), HeapError> {
        // SAFETY: the caller promises object and part.
        unsafe {
            let addr = object.addr().get();
            let (chunk, page, entry) =
                Self::locate_slab(local, addr, runs).ok_or(HeapError::InvalidFree(addr))?;
            if !R::OWNS {
                return Self::post(runs.table(), object).ok_or(HeapError::InvalidFree(addr));
            }
            let outgoing = &(*local.as_ptr()).outgoing;
            let class = (entry & KIND) as usize;
            let stays = keeps && Self::stays(local, class);
            let gathered = outgoing.count.get() > 0;
            let mut twice = stays && Self::freed_last(local, class) == object.as_ptr();
            if outgoing.ends_with(object) {
                twice |= gathered;
                // What comes from a bin may have been the last that might have gone, and have stayed.
                if keeps && !gathered {
                    // Its owner may have taken it in.
                    Self::verify(class, chunk.cast(), page, addr)?;
                    twice |= Self::waits(local, class, object, runs);
                }
            }
            if twice {
                return Err(HeapError::DoubleFree(addr));
            }
            if stays && Self::push(local, class, object) {
                return Ok(());
            }
            outgoing.add(object, entry);
            if !outgoing.has_room() {
                Self::send(local, keeps, runs);
                // Who frees and never allocates gets at least its parcels back.
                if Self::has_mail(local) {
                    Self::receive(local, runs);
                }
            }
            Ok(())
        }
    }

    /// Whether the object that was the last to go home, or stayed then, is free still: it is at hand here, or the parcel that
    /// it went in is the one left last for its owner. Nobody but us leaves that in another's mailbox, and whenever something
    /// is sent, and when the slab that the parcel is from goes, it is forgotten.
    #[cold]
    unsafe fn waits<R: Runs>(
        local: NonNull<Self>,
        class: usize,
        object: NonNull<u8>,
        runs: &mut R,
    ) -> bool {
        // SAFETY: the caller promises its own part, and an object of a slab, of that class.
        unsafe {
            let sent = (*local.as_ptr()).outgoing.sent.get();
            if sent.is_null() {
                return Self::freed_last(local, class) == object.as_ptr();
            }
            Self::owner(runs.table(), object.as_ptr())
                .is_some_and(|owner| (*owner.as_ptr()).mailbox.top() == sent)
        }
    }

    /// A slab of parcels goes: others may use it for theirs.
    ///
    /// # Safety
    ///
    /// The part is this thread's, or one that it looks after.
    pub(super) unsafe fn forget_parcel(local: NonNull<Self>) {
        // SAFETY: the caller promises the part.
        unsafe { (*local.as_ptr()).outgoing.sent.set(ptr::null_mut()) };
    }

    /// Whether objects of a class stay, if there is room: larger ones, of which this thread had some before. Who never takes
    /// any has no use for them, and does not look at their bin by and by.
    ///
    /// # Safety
    ///
    /// The part is this thread's.
    #[inline(always)]
    unsafe fn stays(local: NonNull<Self>, class: usize) -> bool {
        // SAFETY: the caller promises its own part.
        (STAYING..SHARING).contains(&class)
            && unsafe { (*local.as_ptr()).ever_filled & (1 << class) != 0 }
    }

    /// Sends home what has gathered; some of it may stay, if so asked.
    #[inline(never)]
    pub(crate) unsafe fn send<R: Runs>(local: NonNull<Self>, keeps: bool, runs: &mut R) {
        // SAFETY: the caller promises its own part. What gathers meanwhile gathers in the part anew.
        unsafe {
            let (count, mut objects, entries) = (*local.as_ptr()).outgoing.take();
            let (all, entries) = (&mut objects[..count], &entries[..count]);
            let Some(&first) = entries.first() else { return };
            if entries.iter().fold(0, |bits, entry| bits | entry ^ first) & !KIND == 0 {
                return Self::send_to_one(local, all, entries, keeps, runs);
            }
            // Chains of those whose owners' numbers end alike.
            let mut next = [NONE; PARCEL];
            let mut chains = [NONE; 64];
            for (at, entry) in entries.iter().enumerate().rev() {
                let number = (entry / (KIND + 1)) as usize;
                next[at] = mem::replace(&mut chains[number % chains.len()], at as u8);
            }
            let mut group = ([ptr::null_mut(); PARCEL], [0; PARCEL]);
            for mut chain in chains {
                while chain != NONE {
                    let number = entries[usize::from(chain)] & !KIND;
                    let (mut others, mut count) = (NONE, 0);
                    while chain != NONE {
                        let at = usize::from(chain);
                        chain = next[at];
                        if entries[at] & !KIND == number {
                            (group.0[count], group.1[count]) = (all[at], entries[at]);
                            count += 1;
                        } else {
                            next[at] = mem::replace(&mut others, at as u8);
                        }
                    }
                    chain = others;
                    Self::send_to_one(local, &mut group.0[..count], &group.1[..count], keeps, runs);
                }
            }
        }
    }

    /// Sends objects home, with the entries of their pages, all of one owner. If what was sent there before waits still, and
    /// `keeps`, they stay here as far as bins have room: with many threads to a processor an owner waits long for its turn
    /// at one, and what all others free meanwhile would serve nobody.
    unsafe fn send_to_one<R: Runs>(
        local: NonNull<Self>,
        objects: &mut [*mut u8],
        entries: &[Entry],
        keeps: bool,
        runs: &mut R,
    ) {
        // SAFETY: the caller promises its own part, and objects that were freed.
        unsafe {
            let Some(owner) = Self::owner(runs.table(), objects[0]) else { return };
            let mut sent = objects.len();
            if keeps && !(*owner.as_ptr()).mailbox.is_empty() {
                let mut no_room = 0;
                sent = 0;
                for (at, &entry) in entries.iter().enumerate() {
                    let object = NonNull::new_unchecked(objects[at]);
                    let class = (entry & KIND) as usize;
                    // Parcels at hand are of our own slabs.
                    if entry == no_room
                        || class >= SHARING
                        || !Self::taken_in(local, class, object, runs)
                    {
                        no_room = entry;
                        objects[sent] = objects[at];
                        sent += 1;
                    }
                }
            }
            if sent > 0 {
                Self::deliver(local, owner, &objects[..sent], runs);
            }
        }
    }

    /// Leaves objects for their owner, in a parcel, or for want of memory each as it is.
    unsafe fn deliver<R: Runs>(
        local: NonNull<Self>,
        owner: NonNull<Self>,
        objects: &[*mut u8],
        runs: &mut R,
    ) {
        let class = if objects.len() <= FEW_OBJECTS { SMALL_PARCELS } else { PARCELS };
        // SAFETY: the caller promises its own part, the owner of these objects' slabs, and that they were freed; the parcel
        // has room for them.
        unsafe {
            let parcel = if R::OWNS { Self::parcel(local, class, runs) } else { None };
            let Some(parcel) = parcel else {
                let objects = objects.iter().map(|&object| NonNull::new_unchecked(object));
                return objects.for_each(|object| Self::leave(owner, object));
            };
            // Others may have been sent meanwhile.
            let outgoing = &(*local.as_ptr()).outgoing;
            if objects.last() == Some(&outgoing.objects[0].get()) {
                outgoing.sent.set(parcel.as_ptr());
            }
            let to = (&raw mut (*parcel.as_ptr()).objects).cast::<*mut u8>();
            to.copy_from_nonoverlapping(objects.as_ptr(), objects.len());
            (*parcel.as_ptr()).count = objects.len();
            (*owner.as_ptr()).mailbox.push(parcel);
        }
    }

    /// Leaves an object for its owner as it is: any is as long as the head of a parcel.
    unsafe fn leave(owner: NonNull<Self>, object: NonNull<u8>) {
        let parcel = object.cast::<Parcel>();
        // SAFETY: the caller promises an object that was freed, and the owner of its slab.
        unsafe {
            (*parcel.as_ptr()).count = 0;
            (*owner.as_ptr()).mailbox.push(parcel);
        }
    }

    /// Leaves an object as it is for the owner of its slab, if that has one.
    ///
    /// # Safety
    ///
    /// `table` is one of the heap, and the object was freed, and is of a slab.
    pub(crate) unsafe fn post(table: *const Table, object: NonNull<u8>) -> Option<()> {
        // SAFETY: the caller promises all this.
        unsafe {
            Self::leave(Self::owner(table, object.as_ptr())?, object);
            Some(())
        }
    }

    /// An object of one of the classes of parcels.
    unsafe fn parcel<R: Runs>(
        local: NonNull<Self>,
        class: usize,
        runs: &mut R,
    ) -> Option<NonNull<Parcel>> {
        // SAFETY: the caller promises its own part, and such a class. The bin is filled without looking into the mailbox.
        unsafe {
            if let Some(object) = Self::take(local, class) {
                return Some(object.cast());
            }
            let few = Self::kept_anyhow(local, class).min(4);
            Self::fill(local, class, few, runs)?;
            Self::take(local, class).map(NonNull::cast)
        }
    }

    /// The owner of the slab that an object is in.
    ///
    /// # Safety
    ///
    /// `table` is one of the heap; the address is that of an object, if it is in a chunk at all.
    unsafe fn owner(table: *const Table, object: *mut u8) -> Option<NonNull<Self>> {
        // SAFETY: the caller promises a freed object of a slab.
        unsafe {
            let (chunk, page) = Table::find(table, object.addr())?;
            let chunk = chunk.cast::<Chunk>();
            let desc = Chunk::desc(chunk, Chunk::head(chunk, page)).as_ptr();
            NonNull::new((*desc).owner.load(Relaxed))
        }
    }

    /// Whether something came home.
    ///
    /// # Safety
    ///
    /// The part is this thread's.
    pub(super) unsafe fn has_mail(local: NonNull<Self>) -> bool {
        // SAFETY: the caller promises its own part.
        unsafe {
            let looks = &(*local.as_ptr()).looks;
            looks.set(looks.get().wrapping_add(1));
            !(*local.as_ptr()).mailbox.is_empty()
        }
    }

    /// Takes in what others left in the mailbox.
    ///
    /// # Safety
    ///
    /// The part is this thread's, or one that it looks after.
    pub(crate) unsafe fn receive<R: Runs>(local: NonNull<Self>, runs: &mut R) {
        // SAFETY: the caller promises the part. Parcels are ours once taken.
        unsafe {
            if (*local.as_ptr()).receiving {
                return;
            }
            Self::taking_in_nothing(local, || {
                let mut parcel = (*local.as_ptr()).mailbox.take_all();
                while let Some(here) = NonNull::new(parcel) {
                    parcel = (*here.as_ptr()).next;
                    Self::unpack(local, here, runs);
                }
            });
        }
    }

    /// As [`receive`](Self::receive), but of about so many objects at most, which become fewer by those.
    ///
    /// # Safety
    ///
    /// As [`receive`](Self::receive).
    pub(crate) unsafe fn receive_some<R: Runs>(
        local: NonNull<Self>,
        objects: &mut usize,
        runs: &mut R,
    ) {
        // SAFETY: the caller promises the part. Parcels are ours once taken.
        unsafe {
            while *objects > 0
                && let Some(parcel) = (*local.as_ptr()).mailbox.take_one()
            {
                *objects = objects.saturating_sub(1 + Parcel::objects(parcel).len());
                Self::unpack(local, parcel, runs);
            }
        }
    }

    /// Takes in the objects of a parcel, and the parcel, which may be an object itself.
    unsafe fn unpack<R: Runs>(local: NonNull<Self>, parcel: NonNull<Parcel>, runs: &mut R) {
        // SAFETY: the caller promises part and parcel, in which are objects that were freed. An object that is sent as it is
        // may be shorter than a parcel.
        unsafe {
            let objects = Parcel::objects(parcel);
            Self::take_in(local, objects.as_ptr(), objects.len(), runs);
            Self::take_in(local, &parcel.as_ptr().cast(), 1, runs);
        }
    }

    /// Takes in objects: each goes into its bin, if that has room, or back to its slab; what is another's by now is sent on.
    unsafe fn take_in<R: Runs>(
        local: NonNull<Self>,
        objects: *const *mut u8,
        count: usize,
        runs: &mut R,
    ) {
        // SAFETY: the caller promises its own part, and that many objects that were freed.
        unsafe {
            let tag = (*local.as_ptr()).tag;
            let mut at = 0;
            while at < count {
                let object = NonNull::new_unchecked(objects.add(at).read());
                let addr = object.addr().get();
                let found = Self::find(local, addr);
                let class = found.map_or(ALL, |(chunk, page)| {
                    (Chunk::entry(chunk, page).load(Relaxed) ^ tag) as usize
                });
                if R::AT_HAND && class < SHARING && Self::taken_in(local, class, object, runs) {
                    at += 1;
                    continue;
                }
                match found {
                    Some((chunk, page)) if class < ALL => {
                        let chunk = chunk.cast();
                        Self::give_back_here(
                            local, class, chunk, page, objects, &mut at, count, runs,
                        );
                    }
                    _ => {
                        Self::send_home(local, None, object, runs);
                        at += 1;
                    }
                }
            }
        }
    }

    /// Puts an object that came home, or stays here, into its bin, if there is room. Whether nothing is left to be done: one
    /// that was put there just before is a misuse.
    #[inline(always)]
    unsafe fn taken_in<R: Runs>(
        local: NonNull<Self>,
        class: usize,
        object: NonNull<u8>,
        runs: &mut R,
    ) -> bool {
        // SAFETY: the caller promises its own part, and an object of the class that was freed.
        unsafe {
            if Self::push(local, class, object) {
                return true;
            }
            let twice = Self::freed_last(local, class) == object.as_ptr();
            if twice {
                runs.misuse(HeapError::DoubleFree(object.addr().get()));
            }
            twice
        }
    }

    /// A thread begins with a part: it is not asleep when somebody first asks. The first barrier of a process takes long.
    ///
    /// # Safety
    ///
    /// The part is the caller's, and the lock of the page heap is held.
    pub(crate) unsafe fn awake(local: NonNull<Self>) {
        // SAFETY: the caller promises its own part.
        unsafe { (*local.as_ptr()).looks_seen = (*local.as_ptr()).looks.get().wrapping_sub(1) };
    }

    /// Whether something waits in the mailbox, or more runs are kept than any thread may keep, and the owner has not looked
    /// since this was asked before. That is noted.
    ///
    /// # Safety
    ///
    /// It is a part, and the lock of the page heap is held.
    pub(crate) unsafe fn note_sleep(local: NonNull<Self>) -> bool {
        // SAFETY: the caller promises the part.
        unsafe {
            let part = local.as_ptr();
            let looks = (*part).looks.look();
            let seen = mem::replace(&mut (*part).looks_seen, looks);
            let to_do = !(*part).mailbox.is_empty() || (*part).stashed.look() > LEAST_ROOM as u16;
            let asleep = seen == looks && to_do;
            (*part).asleep.store(asleep, Relaxed);
            asleep
        }
    }

    /// Whether the owner has not looked since that was noted, either.
    ///
    /// # Safety
    ///
    /// It is a part, and the lock of the page heap is held.
    pub(crate) unsafe fn sleeps_on(local: NonNull<Self>) -> bool {
        // SAFETY: the caller promises the part.
        unsafe {
            let part = local.as_ptr();
            (*part).asleep.load(Relaxed) && (*part).looks.look() == (*part).looks_seen
        }
    }

    /// Visits the objects that are on their way home, to others and, if the part is that of the caller, from others.
    ///
    /// # Safety
    ///
    /// As [`at_hand`](Self::at_hand).
    pub(crate) unsafe fn on_their_way(
        local: NonNull<Self>,
        own: bool,
        visit: &mut dyn FnMut(*mut u8),
    ) {
        // SAFETY: who has the turn takes parcels out of a mailbox, and that is the caller, so those in it stay as they are.
        unsafe {
            let outgoing = &(*local.as_ptr()).outgoing;
            let gathered = outgoing.objects[1..].iter().take(outgoing.count.look().into());
            gathered.for_each(|object| visit(object.look()));
            let mut parcel = if own { (*local.as_ptr()).mailbox.top() } else { ptr::null_mut() };
            while let Some(here) = NonNull::new(parcel) {
                visit(parcel.cast());
                Parcel::objects(here).iter().for_each(|&object| visit(object));
                parcel = here.as_ref().next;
            }
        }
    }
}
