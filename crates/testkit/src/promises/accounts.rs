//! What a heap says of itself is true at every moment.

use super::{Source, on_mappings, run};
use crate::hostile::{self, Deaths};
use crate::model::require;
use crate::{Kept, Model, Subject};

/// Runs a life of ups and downs, and `verify` after every step.
fn at_every_step(subject: &Subject, verify: fn(&mut Model<'_>) -> Kept) -> Kept {
    for source in [Source::Mappings, Source::Arena(4 << 20)] {
        run(subject, source, &mut |model, _| {
            let limits = model.limits();
            verify(model)?;
            for (at, step) in
                hostile::churn(250, 60, Deaths::Random, 400_000, 41).iter().enumerate()
            {
                model.apply(step.within(limits.max_size, limits.max_align))?;
                verify(model)?;
                if at % 50 == 49 {
                    model.trim();
                    verify(model)?;
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// `check` finds no fault in a heap that was used rightly.
///
/// # Errors
///
/// What came back and should not have.
pub fn check_finds_no_fault(subject: &Subject) -> Kept {
    at_every_step(subject, |model| model.check())
}

/// `walk` shows every block in use exactly once, where it is, as long as it is and as in use; nothing that
/// it shows overlaps; region by region, by rising address.
///
/// # Errors
///
/// What came back and should not have.
pub fn walk_shows_every_block_in_use_once(subject: &Subject) -> Kept {
    at_every_step(subject, |model| model.verify_walk())
}

/// `stats` are the sums of what `walk` shows, and the footprint is live, free, cached and overhead
/// together.
///
/// # Errors
///
/// What came back and should not have.
pub fn stats_are_the_sums_of_the_walk(subject: &Subject) -> Kept {
    at_every_step(subject, |model| model.verify_stats())
}

/// The footprint is what the backend gave and did not get back, and so is its peak.
///
/// # Errors
///
/// What came back and should not have.
pub fn the_footprint_is_what_the_backend_gave(subject: &Subject) -> Kept {
    at_every_step(subject, |model| model.verify_footprint())
}

/// The backend is used as its contract says: only what it gave goes back, once, and from the end.
///
/// # Errors
///
/// What came back and should not have.
pub fn the_backends_contract_is_kept(subject: &Subject) -> Kept {
    at_every_step(subject, |model| model.verify_contract())
}

/// With everything freed, nothing is live, and a heap that was never used holds nothing.
///
/// # Errors
///
/// What came back and should not have.
pub fn nothing_is_live_when_all_is_freed(subject: &Subject) -> Kept {
    on_mappings(subject, |model| {
        let stats = model.heap().stats();
        require!(
            stats.footprint == 0 && stats.live_blocks == 0 && stats.grows == 0,
            "a heap that was never used says: {stats:?}"
        );
        for round in 0..3 {
            for slot in 0..100 {
                let size = (slot * slot * 3 + round).min(model.limits().max_size);
                model.must_allocate(slot, size, 8)?;
            }
            model.free_all(|slots| slots.sort_by_key(|slot| slot % 7))?;
            model.check()?;
            let stats = model.heap().stats();
            require!(
                stats.live_blocks == 0 && stats.live_bytes == 0 && stats.mapped_blocks == 0,
                "with everything freed, stats say: {stats:?}"
            );
            require!(stats.misuses == 0, "without any misuse, stats say: {stats:?}");
        }
        model.verify_all()
    })
}
