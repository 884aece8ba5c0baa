//! Blocks in use are disjoint and keep what is written into them, whatever happens beside them.

use heapwright_backends::{Arena, Counting, Failing, Limited, Mmap};
use heapwright_core::{FutexMutex, NoLock};

use super::{Source, live_over, on_mappings, run};
use crate::hostile::{self, Deaths, Robson};
use crate::{Family, Kept, Model, Step, Subject};

/// Carries out a sequence within the heap's limits; `check` after every so many steps.
fn carry_out(model: &mut Model<'_>, steps: &[Step], every: usize) -> Kept {
    let limits = model.limits();
    for (at, step) in steps.iter().enumerate() {
        model.apply(step.within(limits.max_size, limits.max_align))?;
        if at % every == 0 {
            model.check()?;
        }
    }
    model.verify_all()
}

/// Through thousands of requests of realistic sizes, no two blocks overlap and none loses its contents.
///
/// # Errors
///
/// What came back and should not have.
pub fn blocks_are_disjoint_and_keep_their_contents(subject: &Subject) -> Kept {
    for (source, seed) in [(Source::Mappings, 1), (Source::Dirty, 2), (Source::Arena(8 << 20), 3)] {
        run(subject, source, &mut |model, _| {
            let max = 1 << 17;
            carry_out(model, &hostile::churn(1500, 150, Deaths::Young, max, seed), 16)
        })?;
    }
    Ok(())
}

/// Sequences that allocators do badly on are survived.
///
/// # Errors
///
/// What came back and should not have.
pub fn hostile_sequences_are_survived(subject: &Subject) -> Kept {
    let sequences = [
        ("combs", hostile::combs(1 << 17, 32, 1 << 14)),
        ("sawtooth", hostile::sawtooth(8, 150, 20, 10_000, 4)),
        ("lifo", hostile::churn(600, 100, Deaths::Lifo, 10_000, 5)),
        ("fifo", hostile::churn(600, 100, Deaths::Fifo, 10_000, 6)),
        ("random", hostile::churn(600, 100, Deaths::Random, 10_000, 7)),
    ];
    for (name, steps) in sequences {
        on_mappings(subject, |model| carry_out(model, &steps, 32))
            .map_err(|complaint| complaint.during(name))?;
    }
    on_mappings(subject, |model| {
        let max = model.limits().max_size;
        let mut robson =
            Robson::new(1 << 15, 16, (1 << 12).min(max.next_power_of_two() / 2).max(16));
        while let Some(step) = robson.next(|slot| model.get(slot).map(|live| live.addr())) {
            model.apply(step.within(max, model.limits().max_align))?;
        }
        model.verify_all()
    })
    .map_err(|complaint| complaint.during("Robson's adversary"))
}

/// A heap serves over an arena, and under wrappers that count, limit and fail.
///
/// # Errors
///
/// What came back and should not have.
pub fn any_backend_serves<F: Family>() -> Kept {
    let mut buffer = vec![core::mem::MaybeUninit::uninit(); 8 << 20];
    live_over::<F, Arena<'_>, FutexMutex>(Arena::new(&mut buffer))
        .map_err(|complaint| complaint.during("over Arena"))?;
    let wrapped = Counting::over(Failing::over(Limited::over(Mmap::new(), 64 << 20)));
    live_over::<F, Counting<Failing<Limited<Mmap>>>, FutexMutex>(wrapped)
        .map_err(|complaint| complaint.during("over Counting<Failing<Limited<Mmap>>>"))
}

/// One thread is served without a lock.
///
/// # Errors
///
/// What came back and should not have.
pub fn one_thread_is_served_without_a_lock<F: Family>() -> Kept {
    live_over::<F, Mmap, NoLock>(Mmap::new())
}

/// Requests as large as the limits, or 16 MiB, in a heap of small blocks: contents stay, and the large
/// ones can be had again.
///
/// # Errors
///
/// What came back and should not have.
pub fn large_and_small_blocks_live_together(subject: &Subject) -> Kept {
    on_mappings(subject, |model| {
        let max = model.limits().max_size;
        for round in 0..40 {
            model.must_allocate(round, (round * 13).min(max), 8)?;
            let large = ((64 << 10) << (round % 9)).min(max);
            model.must_allocate(1000 + round % 3, large, 16)?;
            model.check()?;
            if round % 3 == 2 {
                for slot in [1001, 1000, 1002] {
                    model.free(slot)?;
                    model.check()?;
                }
            }
        }
        model.verify_all()
    })
}
