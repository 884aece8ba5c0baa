//! Every order in which threads may meet, tried by loom.
//!
//! The mailbox is the real one, and so are turns. What is around them, in `heap` and `local`, is modelled: the locks, the
//! owner of a slab, and the rule that whoever receives an object of a slab that is not its own sends it on; and the barrier
//! that a visitor has all others pass, by a fence on either side.

#[allow(dead_code, unreachable_pub, reason = "used in part")]
#[path = "../src/mailbox.rs"]
mod mailbox;

#[allow(dead_code, unreachable_pub, reason = "used in part")]
#[path = "../src/turn.rs"]
mod turn;

/// What they meet by, as loom has it.
mod meeting {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicPtr, fence as compiler_fence};
}

use std::ptr::{self, NonNull};

use loom::cell::UnsafeCell;
use loom::sync::atomic::{
    AtomicUsize,
    Ordering::{Relaxed, SeqCst},
    fence,
};
use loom::sync::{Arc, Mutex};
use loom::thread;

use mailbox::{Mailbox, PARCEL, Parcel};
use turn::Turn;

/// A parcel with one object, which stands for what a freed object is to its owner: its contents are the owner's once
/// it was taken.
#[repr(C)]
struct Object {
    parcel: Parcel,
    freed: UnsafeCell<bool>,
}

/// An object that another thread has just freed.
fn freed() -> NonNull<Parcel> {
    let parcel = Parcel { next: ptr::null_mut(), count: 0, objects: [ptr::null_mut(); PARCEL] };
    let object = Box::leak(Box::new(Object { parcel, freed: UnsafeCell::new(false) }));
    // SAFETY: ours until it is pushed.
    object.freed.with_mut(|freed| unsafe { *freed = true });
    NonNull::from(object).cast()
}

/// Takes everything out of a mailbox.
fn drain(mailbox: &Mailbox) -> Vec<NonNull<Parcel>> {
    let mut next = mailbox.take_all();
    let mut taken = Vec::new();
    while let Some(parcel) = NonNull::new(next) {
        // SAFETY: taken, hence ours.
        next = unsafe { parcel.as_ref() }.next;
        taken.push(parcel);
    }
    taken
}

/// Gives an object back: what its sender wrote is seen, and it is seen once.
fn give_back(parcel: NonNull<Parcel>) {
    // SAFETY: taken, hence ours, and made by `freed`.
    let object = unsafe { Box::from_raw(parcel.cast::<Object>().as_ptr()) };
    object.freed.with(|freed| {
        // SAFETY: loom hands in what it points to.
        assert!(unsafe { *freed }, "what was written before a push is seen after it is taken")
    });
}

fn give_all_back(parcels: Vec<NonNull<Parcel>>) -> usize {
    let count = parcels.len();
    parcels.into_iter().for_each(give_back);
    count
}

#[test]
fn two_push_and_one_takes() {
    loom::model(|| {
        let mailbox = Arc::new(Mailbox::new());
        let taker = {
            let mailbox = mailbox.clone();
            thread::spawn(move || (0..2).map(|_| give_all_back(drain(&mailbox))).sum::<usize>())
        };
        let pusher = {
            let mailbox = mailbox.clone();
            // SAFETY: the parcel is this thread's.
            thread::spawn(move || unsafe { mailbox.push(freed()) })
        };
        // SAFETY: the parcel is this thread's.
        unsafe { mailbox.push(freed()) };
        pusher.join().unwrap();
        let taken = taker.join().unwrap() + give_all_back(drain(&mailbox));
        assert_eq!(taken, 2);
    });
}

/// A part, as far as others see it, and what of it is the owner's; of an orphan, whoever's who holds the lock.
struct Part {
    mailbox: Mailbox,
    /// Objects that came home: what `receive` writes in slabs.
    home: UnsafeCell<usize>,
}

// SAFETY: that `home` is one thread's at a time is what is tried.
unsafe impl Sync for Part {}
// SAFETY: as above.
unsafe impl Send for Part {}

impl Part {
    fn new() -> Self {
        Self { mailbox: Mailbox::new(), home: UnsafeCell::new(0) }
    }

    fn receive(&self) {
        let count = give_all_back(drain(&self.mailbox));
        // SAFETY: the caller promises to own the part.
        self.home.with_mut(|home| unsafe { *home += count });
    }
}

/// What the lock of the page heap guards: which part is an orphan.
#[derive(Default)]
struct Central {
    orphan: bool,
}

#[test]
fn a_thread_ends_while_others_push() {
    loom::model(|| {
        let part = Arc::new(Part::new());
        let central = Arc::new(Mutex::new(Central::default()));
        let pusher = {
            let part = part.clone();
            // SAFETY: the parcels are this thread's.
            thread::spawn(move || (0..2).for_each(|_| unsafe { part.mailbox.push(freed()) }))
        };
        // `settle_orphans` of another thread.
        let caretaker = {
            let (part, central) = (part.clone(), central.clone());
            thread::spawn(move || {
                let central = central.lock().unwrap();
                if central.orphan {
                    part.receive();
                }
            })
        };
        // `retire`: the mailbox is emptied without the lock, then the part is made an orphan under it.
        part.receive();
        central.lock().unwrap().orphan = true;
        // `part`: a new thread takes the orphan over, and from then on needs no lock.
        assert!(std::mem::take(&mut central.lock().unwrap().orphan));
        part.receive();
        pusher.join().unwrap();
        part.receive();
        caretaker.join().unwrap();
        // SAFETY: loom hands in what it points to.
        part.home.with(|home| assert_eq!(unsafe { *home }, 2));
    });
}

/// Two parts, the first an orphan with the only slab; its owner is read without the lock by who frees an object of it.
struct Heap {
    parts: [Part; 2],
    owner: AtomicUsize,
    central: Mutex<()>,
}

impl Heap {
    /// `receive`: objects of a slab that is not the part's go on to its owner.
    fn receive(&self, part: usize) {
        for parcel in drain(&self.parts[part].mailbox) {
            let owner = self.owner.load(Relaxed);
            if owner == part {
                give_back(parcel);
                // SAFETY: the caller promises to own the part.
                self.parts[part].home.with_mut(|home| unsafe { *home += 1 });
            } else {
                // SAFETY: taken, hence ours.
                unsafe { self.parts[owner].mailbox.push(parcel) };
            }
        }
    }
}

#[test]
fn a_slab_is_adopted_while_its_objects_are_freed() {
    loom::model(|| {
        let parts = [Part::new(), Part::new()];
        let heap = Arc::new(Heap { parts, owner: AtomicUsize::new(0), central: Mutex::new(()) });
        let freer = {
            let heap = heap.clone();
            thread::spawn(move || {
                // SAFETY: the parcel is this thread's.
                unsafe { heap.parts[heap.owner.load(Relaxed)].mailbox.push(freed()) };
            })
        };
        // `settle_orphans` of a third thread.
        let caretaker = {
            let heap = heap.clone();
            thread::spawn(move || {
                let _lock = heap.central.lock().unwrap();
                heap.receive(0);
            })
        };
        // `Keeper::slab`: this thread, whose part is the second one, adopts the slab under the lock.
        {
            let _lock = heap.central.lock().unwrap();
            heap.receive(0);
            heap.owner.store(1, Relaxed);
        }
        heap.receive(1);
        freer.join().unwrap();
        caretaker.join().unwrap();
        // Whatever was left goes on by whoever looks after the orphan next, and comes in with what the owner needs.
        {
            let _lock = heap.central.lock().unwrap();
            heap.receive(0);
        }
        heap.receive(1);
        // SAFETY: loom hands in what it points to.
        let home = |part: &Part| part.home.with(|home| unsafe { *home });
        assert_eq!(heap.parts.iter().map(home).sum::<usize>(), 1);
        assert!(heap.parts.iter().all(|part| part.mailbox.is_empty()));
    });
}

/// A part that others visit.
struct Visited {
    part: Part,
    turn: Turn,
    visitors: Mutex<()>,
    central: Mutex<Central>,
}

impl Visited {
    fn new() -> Self {
        let (part, turn) = (Part::new(), Turn::new());
        Self { part, turn, visitors: Mutex::new(()), central: Mutex::new(Central::default()) }
    }

    /// `receive` in a turn of the owner's.
    fn work(&self) {
        self.turn.begin(|| drop(self.visitors.lock().unwrap()));
        self.part.receive();
        self.turn.end();
    }

    /// `visit` of another thread, which takes in two parcels at most.
    fn visit(&self) {
        let _visiting = self.visitors.lock().unwrap();
        self.turn.come();
        fence(SeqCst);
        if !self.turn.is_busy() && !self.central.lock().unwrap().orphan {
            for _ in 0..2 {
                // SAFETY: it is the visitor's turn.
                if let Some(parcel) = unsafe { self.part.mailbox.take_one() } {
                    give_back(parcel);
                    // SAFETY: as above.
                    self.part.home.with_mut(|home| unsafe { *home += 1 });
                }
            }
        }
        self.turn.go();
    }

    fn visitor(visited: &Arc<Self>) -> thread::JoinHandle<()> {
        let visited = visited.clone();
        thread::spawn(move || visited.visit())
    }

    /// Everything came home.
    fn has(&self, count: usize) {
        self.part.receive();
        // SAFETY: loom hands in what it points to.
        self.part.home.with(|home| assert_eq!(unsafe { *home }, count));
    }
}

#[test]
fn a_part_is_visited_while_others_push() {
    loom::model(|| {
        let visited = Arc::new(Visited::new());
        let visitor = Visited::visitor(&visited);
        let pusher = {
            let visited = visited.clone();
            thread::spawn(move || {
                // SAFETY: the parcels are this thread's.
                (0..2).for_each(|_| unsafe { visited.part.mailbox.push(freed()) })
            })
        };
        visited.work();
        pusher.join().unwrap();
        visitor.join().unwrap();
        visited.has(2);
    });
}

#[test]
fn an_owner_has_turns_while_it_is_visited() {
    loom::model(|| {
        let visited = Arc::new(Visited::new());
        // SAFETY: the parcel is this thread's.
        unsafe { visited.part.mailbox.push(freed()) };
        let visitor = Visited::visitor(&visited);
        visited.work();
        visited.work();
        visitor.join().unwrap();
        visited.has(1);
    });
}

#[test]
fn a_thread_ends_while_it_is_visited() {
    loom::model(|| {
        let visited = Arc::new(Visited::new());
        // SAFETY: the parcel is this thread's.
        unsafe { visited.part.mailbox.push(freed()) };
        let visitor = Visited::visitor(&visited);
        // `part` of a third thread, which may take the orphan over, and has turns at it from then on.
        let heir = {
            let visited = visited.clone();
            thread::spawn(move || {
                if std::mem::take(&mut visited.central.lock().unwrap().orphan) {
                    visited.work();
                }
            })
        };
        // `retire`: the turn ends under the lock.
        visited.turn.begin(|| drop(visited.visitors.lock().unwrap()));
        visited.part.receive();
        {
            let mut central = visited.central.lock().unwrap();
            central.orphan = true;
            visited.turn.end();
        }
        visitor.join().unwrap();
        heir.join().unwrap();
        visited.has(1);
    });
}
