//! Threads use one heap at the same time, and free each other's blocks.

use std::sync::{Mutex, PoisonError};
use std::thread;

use heapwright_backends::Mmap;
use heapwright_core::{FutexMutex, Strategy};

use crate::model::{Live, layout};
use crate::rig::Rig;
use crate::{Complaint, Family, Kept, Model, Nature, Rng};

const THREADS: u64 = 4;
const STEPS: usize = 2500;

/// Where threads leave blocks for each other.
type Mailbox = Mutex<Vec<Live>>;

fn post(mailbox: &Mailbox, live: Live) {
    mailbox.lock().unwrap_or_else(PoisonError::into_inner).push(live);
}

fn fetch(mailbox: &Mailbox) -> Option<Live> {
    mailbox.lock().unwrap_or_else(PoisonError::into_inner).pop()
}

/// One thread's work. Whatever another thread's block does to one of ours shows in its contents.
fn work(heap: &dyn Strategy, nature: Nature, mailbox: &Mailbox, seed: u64) -> Kept {
    let mut model = Model::new(heap, nature);
    let mut rng = Rng::new(seed);
    let (max_size, max_align) = (model.limits().max_size, model.limits().max_align);
    for step in 0..STEPS {
        let slot = rng.below(64);
        let size = rng.size(40_000).min(max_size);
        match rng.below(100) {
            _ if model.get(slot).is_none() => {
                match rng.percent(25).then(|| fetch(mailbox)).flatten() {
                    Some(live) => model.take(slot, live)?,
                    None => {
                        let layout = layout(size, rng.align(1024).min(max_align));
                        if !model.allocate(slot, layout, rng.percent(20))? {
                            return Err(
                                model.complaint(format!("there is no memory for {layout:?}"))
                            );
                        }
                    }
                }
            }
            0..40 => model.free(slot)?,
            40..60 => post(mailbox, model.give(slot)?),
            60..85 => {
                model.reallocate(slot, size)?;
            }
            _ if step % 256 == 0 => {
                model.trim();
            }
            _ if step % 64 == 0 => model.check()?,
            _ => {}
        }
    }
    model.verify_contents()?;
    model.free_all(|slots| rng.shuffle(slots))
}

/// All threads' work on one heap. At the end nothing is in use.
fn hammer(heap: &(dyn Strategy + Sync), nature: Nature) -> Kept {
    let mailbox = Mailbox::default();
    let died = |_| Err(Complaint::new("a thread panicked"));
    thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|seed| {
                let mailbox = &mailbox;
                scope.spawn(move || work(heap, nature, mailbox, 61 + seed))
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(died))
    })?;
    nothing_is_left(heap, nature, &mailbox)
}

/// What threads left for others is in use and in order, and nothing is when that is freed.
fn nothing_is_left(heap: &dyn Strategy, nature: Nature, mailbox: &Mailbox) -> Kept {
    let mut model = Model::new(heap, nature);
    let mut slot = 0;
    while let Some(live) = fetch(mailbox) {
        model.take(slot, live)?;
        slot += 1;
    }
    model.verify_all()?;
    model.free_all(|_| ())?;
    model.verify_all()
}

/// Threads hammer one heap under the futex mutex.
///
/// # Errors
///
/// What came back and should not have.
pub fn threads_share_a_heap<F: Family>() -> Kept
where
    F::Over<Rig<'static>, FutexMutex>: Sync,
{
    let (rig, ledger) = Rig::over(Mmap::new());
    let heap = F::over::<Rig<'static>, FutexMutex>(rig);
    hammer(&heap, F::NATURE)?;
    Model::observed(&heap, F::NATURE, &ledger).verify_all()?;
    drop(heap);
    let seen = ledger.seen();
    crate::model::require!(seen.held == 0, "{} bytes never went back", seen.held);
    Ok(())
}

/// Threads hammer one heap under the lock of the parking_lot crate.
///
/// # Errors
///
/// What came back and should not have.
pub fn threads_share_a_heap_under_parking_lot<F: Family>() -> Kept
where
    F::Over<Mmap, parking_lot::RawMutex>: Sync,
{
    hammer(&F::over::<Mmap, parking_lot::RawMutex>(Mmap::new()), F::NATURE)
}

/// A static heap of the strategy's own choice of backend and lock serves threads that outlive the test.
///
/// # Errors
///
/// What came back and should not have.
pub fn threads_share_a_static_heap<F: Family>() -> Kept
where
    F::Default: Sync,
{
    outlives_its_threads(F::shared(), F::NATURE)
}

/// A heap serves threads that end when they like.
fn outlives_its_threads(heap: &'static (dyn Strategy + Sync), nature: Nature) -> Kept {
    let mailbox: &'static Mailbox = Box::leak(Box::default());
    let workers: Vec<_> = (0..THREADS)
        .map(|seed| thread::spawn(move || work(heap, nature, mailbox, 71 + seed)))
        .collect();
    let died = |_| Err(Complaint::new("a thread panicked"));
    workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(died))?;
    nothing_is_left(heap, nature, mailbox)
}
