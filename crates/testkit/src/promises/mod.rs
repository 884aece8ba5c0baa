//! What every strategy promises, one function a promise. [`conformance!`](crate::conformance) makes a
//! test of each; the name of a failing test is the name of the broken promise.

mod accounts;
mod breaks;
mod contents;
mod exhaustion;
mod faces;
mod faults;
mod layouts;
mod lifetime;
mod limits_of_nature;
mod misuse;
mod random;
mod resizing;
mod threads;
mod zeroing;

use core::mem::MaybeUninit;

use heapwright_backends::{Arena, Limited, Mmap};
use heapwright_core::HeapBackend;

pub use self::accounts::*;
pub use self::breaks::*;
pub use self::contents::*;
pub use self::exhaustion::*;
pub use self::faces::*;
pub use self::faults::*;
pub use self::layouts::*;
pub use self::lifetime::*;
pub use self::limits_of_nature::*;
pub use self::misuse::*;
pub use self::random::*;
pub use self::resizing::*;
pub use self::threads::*;
pub use self::zeroing::*;
use crate::rig::{Ledger, Odd, Rig, Seen};
use crate::{Complaint, Family, Kept, Model, Subject};

/// Where the memory of a heap under test comes from.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// Mappings, of which there are enough.
    Mappings,
    /// Mappings whose memory is dirty.
    Dirty,
    /// A buffer of so many bytes.
    Arena(usize),
    /// A buffer that begins and ends at odd addresses.
    OddArena(usize),
    /// Regions of odd sizes at odd addresses, of so many bytes together.
    Odd(usize),
    /// Mappings of so many bytes together.
    Limited(usize),
}

/// Runs `body` on an empty heap of the subject over an observed backend, drops the heap, and says what
/// the backend saw.
fn run(
    subject: &Subject,
    source: Source,
    body: &mut dyn FnMut(&mut Model<'_>, &Ledger) -> Kept,
) -> Result<Seen, Complaint> {
    let mut buffer: Vec<MaybeUninit<u8>> = Vec::new();
    let (rig, ledger) = match source {
        Source::Mappings => Rig::over(Mmap::new()),
        Source::Dirty => Rig::dirty(Mmap::new()),
        Source::Odd(bytes) => Rig::over(Odd::over(Limited::over(Mmap::new(), bytes))),
        Source::Limited(bytes) => Rig::over(Limited::over(Mmap::new(), bytes)),
        Source::Arena(bytes) => {
            buffer.resize(bytes + 64, MaybeUninit::uninit());
            let start = buffer.as_ptr().align_offset(64);
            Rig::over(Arena::new(&mut buffer[start..start + bytes]))
        }
        Source::OddArena(bytes) => {
            buffer.resize(bytes + 65, MaybeUninit::uninit());
            let start = buffer.as_ptr().align_offset(64) + 1;
            Rig::over(Arena::new(&mut buffer[start..start + (bytes | 15) - 2]))
        }
    };
    over_rig(subject, rig, &ledger, body)
        .map_err(|complaint| complaint.during(format_args!("over {source:?}")))
}

/// As [`run`], over a rig that was prepared.
fn over_rig(
    subject: &Subject,
    rig: Rig<'_>,
    ledger: &Ledger,
    body: &mut dyn FnMut(&mut Model<'_>, &Ledger) -> Kept,
) -> Result<Seen, Complaint> {
    let heap = (subject.over)(rig);
    body(&mut Model::observed(&*heap, subject.nature, ledger), ledger)?;
    drop(heap);
    Ok(ledger.seen())
}

/// As [`run`] over mappings, for promises that need no more.
fn on_mappings(subject: &Subject, mut body: impl FnMut(&mut Model<'_>) -> Kept) -> Kept {
    run(subject, Source::Mappings, &mut |model, _| body(model)).map(drop)
}

/// A short life of a heap, for the backends and locks that are not observed.
fn live_shortly(heap: &dyn heapwright_core::Strategy, nature: crate::Nature) -> Kept {
    let mut model = Model::new(heap, nature);
    let max = heap.limits().max_size.min(20_000);
    for step in crate::hostile::churn(300, 40, crate::hostile::Deaths::Random, max, 11) {
        model.apply(step.within(heap.limits().max_size, heap.limits().max_align))?;
        model.check()?;
    }
    model.verify_all()
}

/// `live_shortly` over any backend and lock.
fn live_over<F: Family, B: HeapBackend, L: lock_api::RawMutex>(backend: B) -> Kept {
    live_shortly(&F::over::<B, L>(backend), F::NATURE)
}
