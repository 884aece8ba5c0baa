//! Heaps move, are trimmed and are dropped.

use heapwright_backends::Mmap;
use heapwright_core::FutexMutex;

use super::{Source, on_mappings, run};
use crate::hostile::{self, Deaths};
use crate::model::require;
use crate::rig::Rig;
use crate::{Complaint, Family, Kept, Live, Model, Subject};

fn fill(model: &mut Model<'_>, seed: u64) -> Kept {
    let limits = model.limits();
    let steps = hostile::churn(200, 80, Deaths::Random, 200_000, seed);
    // Without the end of the sequence, which frees everything.
    for step in &steps[..steps.len() * 2 / 3] {
        model.apply(step.within(limits.max_size, limits.max_align))?;
    }
    require!(model.slots().len() > 20, "the test itself is wrong: hardly any block is in use");
    Ok(())
}

/// A heap is a value: when it is moved, blocks stay where they are, and it goes on as before.
///
/// # Errors
///
/// What came back and should not have.
pub fn moving_the_heap_moves_no_block<F: Family>() -> Kept {
    let (rig, ledger) = Rig::over(Mmap::new());
    let first = F::over::<Rig<'_>, FutexMutex>(rig);
    let lives = filled(&mut Model::observed(&first, F::NATURE, &ledger))?;
    let moved = Box::new(first);
    goes_on_with(&mut Model::observed(&*moved, F::NATURE, &ledger), lives)
}

/// Fills a heap, and says with what.
fn filled(model: &mut Model<'_>) -> Result<Vec<(usize, Live)>, Complaint> {
    fill(model, 51)?;
    model.slots().into_iter().map(|slot| Ok((slot, model.give(slot)?))).collect()
}

/// A heap that was moved has these blocks, and serves on.
fn goes_on_with(model: &mut Model<'_>, lives: Vec<(usize, Live)>) -> Kept {
    for (slot, live) in lives {
        model.take(slot, live)?;
    }
    model.verify_all().map_err(|complaint| complaint.during("after the heap was moved"))?;
    let limits = model.limits();
    // New blocks get slots of their own, so that what is freed are the old ones.
    for step in hostile::churn(200, 80, Deaths::Fifo, 200_000, 52) {
        let step = match step.within(limits.max_size, limits.max_align) {
            crate::Step::Allocate { slot, size, align, zeroed } => {
                crate::Step::Allocate { slot: slot + 1000, size, align, zeroed }
            }
            other => other,
        };
        model.apply(step)?;
        model.check()?;
    }
    model.free_all(|_| ())?;
    model.verify_all()
}

/// Dropping a heap gives everything back, with all freed or with blocks that nobody freed.
///
/// # Errors
///
/// What came back and should not have.
pub fn dropping_the_heap_gives_everything_back(subject: &Subject) -> Kept {
    for freed in [true, false] {
        let seen = run(subject, Source::Mappings, &mut |model, _| {
            fill(model, 53)?;
            if freed { model.free_all(|_| ()) } else { Ok(()) }
        })?;
        let state = if freed { "all freed" } else { "blocks in use" };
        require!(seen.peak > 0, "a heap in use held nothing of its backend");
        require!(seen.dropped, "a dropped heap did not drop its backend");
        require!(
            seen.held == 0,
            "a heap with {state} was dropped, and {} of {} bytes never went back",
            seen.held,
            seen.peak
        );
    }
    Ok(())
}

/// After a trim, at whatever moment, blocks are as they were, and the heap serves on.
///
/// # Errors
///
/// What came back and should not have.
pub fn trimming_leaves_the_heap_usable(subject: &Subject) -> Kept {
    for source in
        [Source::Mappings, Source::Dirty, Source::Arena(16 << 20), Source::Limited(16 << 20)]
    {
        run(subject, source, &mut |model, ledger| {
            let limits = model.limits();
            let steps = hostile::churn(250, 80, Deaths::Random, 200_000, 54);
            for (at, step) in steps.iter().enumerate() {
                model.apply(step.within(limits.max_size, limits.max_align))?;
                if at % 8 == 0 {
                    let held = ledger.seen().held;
                    let given = model.trim();
                    let shrunk = held - ledger.seen().held.min(held);
                    if given < shrunk {
                        return Err(model.complaint(format!(
                            "trim says it gave back {given} bytes, and the backend got {shrunk}"
                        )));
                    }
                    model.check()?;
                    model.verify_contents()?;
                }
            }
            model.trim();
            model.verify_all()
        })?;
    }
    Ok(())
}

/// When all is freed, a trim gives everything back, and the heap starts anew.
///
/// # Errors
///
/// What came back and should not have.
pub fn trimming_gives_memory_back(subject: &Subject) -> Kept {
    on_mappings(subject, |model| {
        let limits = model.limits();
        for round in 0..3 {
            let steps = hostile::churn(250, 80, Deaths::Random, 200_000, 55 + round);
            for step in &steps {
                model.apply(step.within(limits.max_size, limits.max_align))?;
            }
            model.free_all(|_| ())?;
            let before = model.heap().stats();
            let given = model.trim();
            model.verify_all()?;
            let after = model.heap().stats();
            if after.footprint > 0 {
                return Err(model.complaint(format!(
                    "with all freed, trim gave back {given} of {} bytes and keeps {}: {after:?}",
                    before.footprint, after.footprint
                )));
            }
        }
        Ok(())
    })
}
