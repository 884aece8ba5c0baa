//! Whichever call to the backend fails, nothing is lost.

use heapwright_backends::{Failing, Mmap, Switch};

use super::over_rig;
use crate::model::require;
use crate::rig::{Ledger, Refuse, Rig};
use crate::{Complaint, Kept, Model, Step, Subject};

/// A short life in which a heap asks its backend for all there is to ask for: it grows, in small steps and
/// large ones, takes large and aligned blocks, resizes them, gives back its end and its middle.
fn script() -> Vec<Step> {
    let allocate = |slot, size, align| Step::Allocate { slot, size, align, zeroed: slot % 3 == 0 };
    let mut steps = Vec::new();
    steps.extend((0..12).map(|slot| allocate(slot, 700 * (slot + 1), 16)));
    steps.push(allocate(12, 300_000, 16));
    steps.push(allocate(13, 50_000, 1 << 16));
    steps.push(Step::Reallocate { slot: 12, size: 900_000 });
    steps.extend((0..12).step_by(2).map(|slot| Step::Free { slot }));
    steps.push(allocate(14, 200_000, 16));
    steps.push(Step::Reallocate { slot: 1, size: 150_000 });
    steps.push(Step::Reallocate { slot: 14, size: 40 });
    steps.push(Step::Trim);
    steps.push(allocate(15, 2 << 20, 16));
    steps.push(Step::Reallocate { slot: 15, size: 3 << 20 });
    steps.push(Step::Reallocate { slot: 12, size: 100_000 });
    steps.push(Step::Free { slot: 15 });
    steps.push(Step::Free { slot: 13 });
    steps.extend((20..60).map(|slot| allocate(slot, 3000, 8)));
    steps.extend((20..60).rev().map(|slot| Step::Free { slot }));
    steps.push(Step::Trim);
    steps.push(allocate(16, 100_000, 4096));
    steps
}

/// Lives the script, with everything verified after each step in which the backend was called or a request
/// failed. What was refused once is asked for again, and must be served if `recovers`.
fn live(model: &mut Model<'_>, ledger: &Ledger, recovers: bool) -> Kept {
    let limits = model.limits();
    for step in script() {
        let step = step.within(limits.max_size, limits.max_align);
        let calls = ledger.seen().calls;
        if !model.apply(step)? {
            model.verify_all()?;
            let served = model.apply(step)?;
            require!(served || !recovers, "{step} failed again, though the backend has recovered");
        }
        if ledger.seen().calls > calls {
            model.verify_all()?;
        }
    }
    model.verify_all()
}

/// Lives the script with the first call failing, then the second, until there is no such call.
fn at_every_call(
    subject: &Subject,
    name: &str,
    recovers: bool,
    prepare: &dyn Fn(usize) -> (Rig<'static>, Ledger),
    failed: &dyn Fn(&Ledger, usize) -> bool,
    repair: &dyn Fn(&Ledger),
) -> Kept {
    for call in 1..5000 {
        let (rig, ledger) = prepare(call);
        let mut over = false;
        let seen = over_rig(subject, rig, &ledger, &mut |model, ledger| {
            live(model, ledger, recovers)?;
            over = !failed(ledger, call);
            repair(ledger);
            // With the backend repaired, the heap serves again, and all goes back.
            model.must_allocate(100, 100_000.min(model.limits().max_size), 8)?;
            model.free_all(|_| ())?;
            model.verify_all()
        })
        .map_err(|complaint: Complaint| {
            complaint.during(format_args!("with call {call} to the backend failing ({name})"))
        })?;
        require!(
            seen.held == 0,
            "with call {call} to the backend failing ({name}), {} bytes never went back",
            seen.held
        );
        if over {
            return Ok(());
        }
    }
    Err(Complaint::new("a script of 150 requests makes more than 5000 calls to the backend"))
}

/// Any one call for memory may fail, and any may be the first of which all fail: requests fail cleanly,
/// nothing is lost, and the heap serves again when the backend does.
///
/// # Errors
///
/// What came back and should not have.
pub fn every_failing_call_for_memory_is_survived(subject: &Subject) -> Kept {
    for recovers in [true, false] {
        // A heap cannot lend what is inside its backend, so the switch outlives it.
        let switch: &'static Switch = Box::leak(Box::new(Switch::new()));
        let before = std::cell::Cell::new(0);
        let prepare = |call| {
            before.set(switch.failures());
            if recovers {
                switch.fail_once(call)
            } else {
                switch.fail_from(call)
            }
            Rig::over(Failing::by(Mmap::new(), switch))
        };
        at_every_call(
            subject,
            if recovers { "once" } else { "and all that follow" },
            recovers,
            &prepare,
            &|_, _| switch.failures() > before.get(),
            &|_| switch.repair(),
        )?;
    }
    Ok(())
}

/// A backend may also refuse to take memory back, to discard pages or to resize: the heap keeps what it
/// could not give.
///
/// # Errors
///
/// What came back and should not have.
pub fn every_failing_call_to_the_backend_is_survived(subject: &Subject) -> Kept {
    for recovers in [true, false] {
        let prepare = |call| {
            let (rig, ledger) = Rig::over(Mmap::new());
            ledger.refuse(if recovers { Refuse::Once(call) } else { Refuse::From(call) });
            (rig, ledger)
        };
        at_every_call(
            subject,
            if recovers { "once" } else { "and all that follow" },
            recovers,
            &prepare,
            &|ledger, call| ledger.seen().calls >= call,
            &|ledger| ledger.refuse(Refuse::Nothing),
        )?;
    }
    Ok(())
}
