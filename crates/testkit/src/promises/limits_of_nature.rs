//! What a strategy says that it cannot do. Each is verified as well, so that nobody gives up a promise
//! that is kept, and is said on standard error, past the capture of test output.

use std::io::Write;

use heapwright_core::Limits;

use super::{Source, on_mappings, run};
use crate::model::require;
use crate::{Complaint, Kept, Subject};

/// Says what is not promised, and why, where it is seen even if all tests pass.
fn say(strategy: &str, what: &str, reason: &str) {
    // Nothing is lost but the message.
    let _ = writeln!(std::io::stderr(), "conformance of {strategy}: {what} ({reason})");
}

/// A promise that is given up is broken, and in the way that was said.
fn given_up(name: &str, promise: Kept, ways: &[&str]) -> Kept {
    match promise {
        Ok(()) => Err(Complaint::new(format!(
            "`{name}` is given up for nothing: the promise is kept. Take the option out"
        ))),
        Err(complaint) if ways.iter().any(|way| complaint.what().contains(way)) => Ok(()),
        Err(other) => Err(other),
    }
}

/// The strategy's limits, where it has any, are said aloud; they admit some request.
///
/// # Errors
///
/// The limits are none.
pub fn limits_are_stated(subject: &Subject) -> Kept {
    let limits = (subject.limits)();
    if limits != Limits::GENERAL {
        let what =
            format!("serves up to {} bytes, aligned to {}", limits.max_size, limits.max_align);
        say(subject.name, &what, "Strategy::limits");
    }
    require!(
        limits.max_size > 0 && limits.max_align.is_power_of_two(),
        "{limits:?} admit no request"
    );
    Ok(())
}

/// Memory that was freed, but for what was freed last, does not serve again.
///
/// # Errors
///
/// It does.
pub fn never_frees(subject: &Subject, reason: &str) -> Kept {
    say(subject.name, "never frees; reuse, merging and trimming are not promised", reason);
    on_mappings(subject, |model| {
        let size = 100.min(model.limits().max_size);
        for slot in 0..50 {
            model.must_allocate(slot, size, 8)?;
        }
        let first: Vec<usize> = (0..49).filter_map(|slot| Some(model.get(slot)?.addr())).collect();
        (0..49).try_for_each(|slot| model.free(slot))?;
        (100..149).try_for_each(|slot| model.must_allocate(slot, size, 8))?;
        for slot in 100..149 {
            let reused = model.get(slot).is_some_and(|live| first.contains(&live.addr()));
            require!(!reused, "`never_frees` is given up for nothing: freed memory serves again");
        }
        model.check()
    })
}

/// Small blocks that were freed side by side do not serve a large request.
///
/// # Errors
///
/// They do.
pub fn never_merges(subject: &Subject, reason: &str) -> Kept {
    say(subject.name, "never merges free neighbours", reason);
    given_up(
        "never_merges",
        super::free_neighbours_are_merged(subject),
        &["after use, with all freed"],
    )
}

/// With all freed, a trim leaves memory with the heap.
///
/// # Errors
///
/// It does not.
pub fn never_trims(subject: &Subject, reason: &str) -> Kept {
    say(subject.name, "trimming does not give everything back", reason);
    given_up(
        "never_trims",
        super::trimming_gives_memory_back(subject),
        &["with all freed, trim gave"],
    )
}

/// A block whose size changes moves, where there is room beside it.
///
/// # Errors
///
/// It does not.
pub fn moves(subject: &Subject, reason: &str) -> Kept {
    say(subject.name, "resizing may move a block where there is room", reason);
    let stays = super::resizing_stays_in_place_where_it_can(subject);
    given_up("moves", stays, &["moved it", "the end of a block that shrank does not serve"])
}

/// Two hundred blocks of many sizes do not come from 128 KiB.
///
/// # Errors
///
/// They do.
pub fn coarse(subject: &Subject, reason: &str) -> Kept {
    say(subject.name, "little memory serves few sizes", reason);
    run(subject, Source::Arena(128 << 10), &mut |model, _| {
        let mut served = 0;
        for slot in 0..200 {
            let size = (slot * 37 % 700).min(model.limits().max_size);
            served += usize::from(model.allocate(slot, crate::model::layout(size, 8), false)?);
        }
        require!(served < 200, "`coarse` is given up for nothing: all were served");
        model.verify_all()
    })
    .map(drop)
}

/// Of a double free, one after other work, and a foreign pointer, at least one is not found, or crashes.
///
/// # Errors
///
/// All of them are found.
pub fn unchecked(subject: &Subject, reason: &str) -> Kept {
    say(subject.name, "misuse is not found", reason);
    crate::child::in_child_that_may_crash(subject.module, "gives_up::unchecked", || {
        let mut all_found = false;
        run(subject, Source::Mappings, &mut |model, _| {
            all_found = super::misuse::finds_misuse(model)?;
            Ok(())
        })?;
        require!(
            !all_found,
            "`unchecked` is given up for nothing: misuse is found. Take the option out"
        );
        Ok(())
    })
}
