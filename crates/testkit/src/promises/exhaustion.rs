//! A heap that has no more memory says so, loses nothing, and serves again when memory is freed.

use super::{Source, run};
use crate::model::{layout, require};
use crate::{Complaint, Kept, Model, Rng, Subject};

/// The memory that is to be used up: less where blocks are small, for there would be too many.
fn capacity(subject: &Subject) -> usize {
    if (subject.limits)().max_size < 3000 { 1 << 18 } else { 1 << 20 }
}

/// Sizes that fill the capacity with a few hundred to a few thousand blocks, below any mapping threshold.
const SIZES: [usize; 4] = [400, 100, 3000, 12_000];

fn sizes(model: &Model<'_>) -> Vec<usize> {
    let max = model.limits().max_size;
    let mut sizes = SIZES.map(|size| size.min(max)).to_vec();
    sizes.dedup();
    sizes
}

/// Allocates until there is no more, and says how many blocks there were.
fn fill(model: &mut Model<'_>, size: usize, capacity: usize) -> Result<usize, Complaint> {
    let mut count = 0;
    while model.allocate(count, layout(size, 8), count % 5 == 4)? {
        count += 1;
        require!(
            count * size.max(1) <= capacity,
            "{count} blocks of {size} bytes came from {capacity} bytes"
        );
    }
    require!(count > 0, "{capacity} bytes did not serve a block of {size} bytes");
    Ok(count)
}

/// A heap without memory refuses, and what is in use stays as it is.
///
/// # Errors
///
/// What came back and should not have.
pub fn exhaustion_fails_cleanly(subject: &Subject) -> Kept {
    let capacity = capacity(subject);
    for source in [Source::Arena(capacity), Source::Limited(capacity)] {
        run(subject, source, &mut |model, _| {
            let mut next = 0;
            for size in sizes(model) {
                // What is too large now leaves room for what is smaller.
                while model.allocate(next, layout(size, 8), next % 5 == 4)? {
                    next += 1;
                    require!(next * 100.min(size) <= 2 * capacity, "{capacity} bytes never end");
                }
                model.verify_all()?;
            }
            for _ in 0..3 {
                let size = model.limits().max_size.min(capacity + 1);
                let served = model.allocate(next, layout(size, 8), false)?;
                require!(!served, "{size} bytes came from a full heap of {capacity}");
                model.check()?;
            }
            model.verify_all()
        })?;
    }
    Ok(())
}

/// When one block of a full heap is freed, a request of its size is served again.
///
/// # Errors
///
/// What came back and should not have.
pub fn a_freed_block_serves_again(subject: &Subject) -> Kept {
    let capacity = capacity(subject);
    for source in [Source::Arena(capacity), Source::Limited(capacity)] {
        for size in SIZES {
            run(subject, source, &mut |model, _| {
                let size = size.min(model.limits().max_size);
                let count = fill(model, size, capacity)?;
                for slot in [count / 2, 0, count - 1, count / 3] {
                    model.free(slot)?;
                    model.check()?;
                    let served = model.allocate(slot, layout(size, 8), false)?;
                    require!(served, "one block of {size} bytes was freed, and none can be had");
                    model.check()?;
                }
                model.verify_all()
            })?;
        }
    }
    Ok(())
}

/// A request that fails, though much is free in small pieces, leaves the pieces to smaller requests.
///
/// # Errors
///
/// What came back and should not have.
pub fn a_failed_request_takes_nothing(subject: &Subject) -> Kept {
    let capacity = capacity(subject);
    for source in [Source::Arena(capacity), Source::Limited(capacity)] {
        run(subject, source, &mut |model, _| {
            let size = 400.min(model.limits().max_size);
            let count = fill(model, size, capacity)?;
            (0..count).step_by(2).try_for_each(|slot| model.free(slot))?;
            for large in [3 * size, 20_000, 60_000] {
                let large = large.min(model.limits().max_size);
                if large > size {
                    let served = model.allocate(count, layout(large, 8), false)?;
                    require!(!served, "{large} bytes came out of pieces of {size}");
                }
                model.check()?;
            }
            for slot in (0..count).step_by(2) {
                let served = model.allocate(slot, layout(size, 8), false)?;
                require!(
                    served,
                    "every other of {count} blocks of {size} bytes was freed; after a larger request failed, the one in slot {slot} cannot be had again"
                );
            }
            model.verify_all()
        })?;
    }
    Ok(())
}

/// However often memory is used up and freed, in whatever order, as many blocks can be had as at first.
///
/// # Errors
///
/// What came back and should not have.
pub fn exhaustion_loses_nothing(subject: &Subject) -> Kept {
    let capacity = capacity(subject);
    for source in [Source::Arena(capacity), Source::Limited(capacity)] {
        for size in SIZES {
            run(subject, source, &mut |model, _| {
                let size = size.min(model.limits().max_size);
                let at_first = fill(model, size, capacity)?;
                let mut rng = Rng::new(31);
                for round in 0..4 {
                    model.free_all(|slots| match round {
                        0 => slots.reverse(),
                        1 => (),
                        _ => rng.shuffle(slots),
                    })?;
                    model.verify_all()?;
                    let now = fill(model, size, capacity)?;
                    require!(
                        now >= at_first,
                        "{capacity} bytes served {at_first} blocks of {size} bytes at first, and {now} after all were freed ({round})"
                    );
                }
                model.verify_all()
            })?;
        }
    }
    Ok(())
}

/// Whether one block of `size` bytes can be had.
fn serves(model: &mut Model<'_>, size: usize) -> Result<bool, Complaint> {
    const SLOT: usize = usize::MAX;
    let served = model.allocate(SLOT, layout(size, 8), false)?;
    if served {
        model.free(SLOT)?;
    }
    Ok(served)
}

/// The largest request that a new heap over `source` serves.
fn largest(subject: &Subject, source: Source, capacity: usize) -> Result<usize, Complaint> {
    let (mut served, mut refused) = (0, capacity + 1);
    while refused - served > 16 {
        let size = (served + refused) / 2;
        let mut result = false;
        run(subject, source, &mut |model, _| {
            result = size <= model.limits().max_size && serves(model, size)?;
            Ok(())
        })?;
        if result {
            served = size;
        } else {
            refused = size;
        }
    }
    Ok(served)
}

/// After any use, when all is freed, one request as large as a new heap serves is served: free neighbours
/// were merged, and nothing was lost between them.
///
/// # Errors
///
/// What came back and should not have.
pub fn free_neighbours_are_merged(subject: &Subject) -> Kept {
    let capacity = capacity(subject);
    let source = Source::Arena(capacity);
    let largest = largest(subject, source, capacity)?;
    require!(largest > 0, "a new heap over {capacity} bytes serves no block from them");
    for seed in 0..4 {
        run(subject, source, &mut |model, _| {
            let mut rng = Rng::new(seed);
            let mut next = 0;
            let max = model.limits().max_size.min(12_000);
            while model.allocate(next, layout(rng.size(max), rng.align(256)), false)? {
                next += 1;
                if rng.percent(20) {
                    let slots = model.slots();
                    model.free(*rng.pick(&slots))?;
                }
            }
            model.verify_all()?;
            model.free_all(|slots| rng.shuffle(slots))?;
            model.verify_all()?;
            let served = serves(model, largest)?;
            model.check()?;
            if !served {
                let stats = model.heap().stats();
                return Err(model.complaint(format!(
                    "a new heap over {capacity} bytes serves {largest} bytes; after use, with all freed, it does not: {stats:?}"
                )));
            }
            Ok(())
        })?;
    }
    Ok(())
}
