//! Sizes and alignments.

use core::alloc::Layout;

use super::{Source, on_mappings, run};
use crate::model::{layout, require, walked};
use crate::{Kept, Model, Subject};

/// Sizes at which heaps change what they do: around the granules, powers of two, pages, mapping
/// thresholds.
pub(super) fn sizes(max: usize) -> Vec<usize> {
    let mut sizes: Vec<usize> = (0..=130).collect();
    for power in 8..=24 {
        let size = 1_usize << power;
        sizes.extend([size - 1, size, size + 1]);
        if power <= 18 {
            sizes.extend([size - 16, size - 8, size + 8, size + 16, size + size / 2]);
        }
    }
    sizes.retain(|&size| size < max);
    sizes.push(max.min(1 << 25));
    sizes
}

/// Blocks of every size, from none to 32 MiB, are served and hold what is written into them.
///
/// # Errors
///
/// What came back and should not have.
pub fn all_sizes_are_served(subject: &Subject) -> Kept {
    on_mappings(subject, |model| {
        let sizes = sizes(model.limits().max_size);
        for (slot, &size) in sizes.iter().enumerate() {
            model.must_allocate(slot, size, 1)?;
            if size <= 4096 {
                model.check()?;
            }
        }
        model.verify_all()?;
        let count = sizes.len();
        // The odd ones first, so that every block is freed beside one in use, or beside a free one.
        model.free_all(|slots| slots.sort_by_key(|&slot| (slot % 2 == 0, (slot * 7) % count)))?;
        model.verify_all()
    })
}

/// Blocks are aligned as they were asked for, from 1 byte to 1 GiB within the limits, at any size and
/// beside any neighbours.
///
/// # Errors
///
/// What came back and should not have.
pub fn alignments_are_kept(subject: &Subject) -> Kept {
    let aligns = |model: &Model<'_>| {
        let max = model.limits().max_align.min(1 << 30);
        (0..=30).map(|power| 1_usize << power).filter(move |&align| align <= max)
    };
    on_mappings(subject, |model| {
        let mut slot = 0;
        for align in aligns(model).filter(|&align| align <= 1 << 16) {
            for size in [0, 1, align / 2, align - 1, align, align + 1, 3 * align] {
                if !model.limits().admit(layout(size, align)) {
                    continue;
                }
                // A small block in front makes each start at another place.
                let fronts: &[usize] = if align <= 1024 { &[1, 24, 40] } else { &[24] };
                for &front in fronts {
                    if model.limits().max_size >= front {
                        model.must_allocate(slot, front, 1)?;
                    }
                    model.must_allocate(slot + 1, size, align)?;
                    model.check()?;
                    slot += 2;
                }
            }
            // Half of them go, so that the next ones are cut from free blocks too.
            for gone in (slot.saturating_sub(40)..slot).step_by(3) {
                if model.get(gone).is_some() {
                    model.free(gone)?;
                    model.check()?;
                }
            }
        }
        model.verify_all()?;
        model.free_all(<[usize]>::reverse)?;
        model.verify_all()
    })?;
    // Each of the large ones takes address space for itself, and is given back at once.
    on_mappings(subject, |model| {
        for align in aligns(model).filter(|&align| align > 1 << 16) {
            for size in [1, 100, 70_000] {
                if model.limits().admit(layout(size, align)) {
                    model.must_allocate(0, size, align)?;
                    model.must_allocate(1, 24, 8)?;
                    model.check()?;
                    model.free(0)?;
                    model.free(1)?;
                    model.check()?;
                }
            }
        }
        model.verify_all()
    })
}

/// Requests for zero bytes get blocks of their own.
///
/// # Errors
///
/// What came back and should not have.
pub fn empty_requests_get_blocks_of_their_own(subject: &Subject) -> Kept {
    on_mappings(subject, |model| {
        for slot in 0..32 {
            let align = 1 << (slot % 8).min(model.limits().max_align.ilog2() as usize);
            model.must_allocate(slot, 0, align)?;
            model.check()?;
        }
        model.verify_all()?;
        for slot in 0..32 {
            let size = 50.min(model.limits().max_size);
            model.reallocate(slot, if slot % 2 == 0 { size } else { 0 })?;
            model.check()?;
        }
        model.verify_all()?;
        model.free_all(|_| ())?;
        model.verify_all()
    })
}

/// All usable bytes of a block are the program's, also when they are named as its old size in a resize.
///
/// # Errors
///
/// What came back and should not have.
pub fn all_usable_bytes_are_the_programs(subject: &Subject) -> Kept {
    // That they may be written and stay as they are is verified by the model, for every block.
    on_mappings(subject, |model| {
        let max = model.limits().max_size;
        let sizes = sizes(max.min(1 << 18));
        for (slot, &size) in sizes.iter().enumerate() {
            model.must_allocate(slot, size, 1)?;
        }
        model.verify_contents()?;
        for (slot, &size) in sizes.iter().enumerate() {
            if size.saturating_mul(2) + 64 <= max {
                model.reallocate_usable(slot, size * 2 + 64)?;
                model.check()?;
                let usable = model.get(slot).map_or(0, |live| live.usable);
                model.reallocate_usable(slot, usable / 2)?;
                model.check()?;
            }
        }
        model.verify_all()
    })
}

/// Requests that no heap can serve, and those beyond the strategy's limits, fail and change nothing.
///
/// # Errors
///
/// What came back and should not have.
pub fn impossible_requests_fail_and_change_nothing(subject: &Subject) -> Kept {
    on_mappings(subject, |model| {
        let limits = model.limits();
        let ordinary = 100.min(limits.max_size);
        for slot in 0..8 {
            model.must_allocate(slot, ordinary, 8)?;
        }
        model.free(3)?;
        let mut sizes = vec![1 << 47, (1 << 47) + 1, 1 << 50, 1 << 62, usize::MAX];
        sizes.extend(limits.max_size.checked_add(1));
        sizes.extend((0..=32).map(|less| isize::MAX as usize - less));
        let aligns = [1, 16, 32, 4096, 1 << 30, 1 << 47, 1 << 62];
        let requests = sizes
            .iter()
            .flat_map(|&size| aligns.map(|align| layout(size, align)))
            .chain(limits.max_align.checked_mul(2).map(|align| layout(ordinary, align)))
            .chain(aligns.map(|align| layout(ordinary, align)));
        let hopeless = |layout: &Layout| {
            !limits.admit(*layout) || layout.size() >= 1 << 47 || layout.align() >= 1 << 47
        };
        for request in requests.filter(hopeless) {
            let before = (walked(model.heap()), model.heap().stats());
            for zeroed in [false, true] {
                let served = model.allocate(100, request, zeroed)?;
                require!(!served, "{request:?} was served");
            }
            if request.align() <= limits.max_align && request.size() > ordinary {
                let served = model.reallocate(0, request.size())?;
                require!(!served, "a resize to {} bytes was served", request.size());
            }
            let after = (walked(model.heap()), model.heap().stats());
            let used = |state: &(Vec<heapwright_core::BlockInfo>, heapwright_core::Stats)| {
                let stats = state.1;
                (stats.live_blocks, stats.live_bytes, stats.footprint, stats.misuses)
            };
            require!(
                used(&before) == used(&after),
                "{request:?} failed and changed the heap from {:?} to {:?}",
                before.1,
                after.1
            );
            model.check()?;
        }
        model.verify_all()?;
        model.must_allocate(100, ordinary, 8)?;
        model.free_all(|_| ())?;
        model.verify_all()
    })
}

/// Memory that begins and ends at odd addresses serves like any other: of a buffer, and from a backend
/// whose every region is odd.
///
/// # Errors
///
/// What came back and should not have.
pub fn odd_memory_serves(subject: &Subject) -> Kept {
    let served = |model: &mut Model<'_>| {
        let mut count = 0;
        for slot in 0..200 {
            let size = (slot * 37 % 700).min(model.limits().max_size);
            let align = 1 << (slot % 7).min(model.limits().max_align.ilog2() as usize);
            count += usize::from(model.allocate(slot, layout(size, align), slot % 3 == 0)?);
            model.check()?;
        }
        model.verify_all()?;
        require!(count == 200, "of 200 small requests {count} were served");
        // Up to the odd end.
        for size in [1000, 100, 1] {
            let size = size.min(model.limits().max_size);
            while model.allocate(count, layout(size, 1), false)? {
                count += 1;
            }
            model.verify_all()?;
        }
        model.free_all(|slots| slots.sort_by_key(|slot| slot % 5))?;
        model.verify_all()
    };
    let little = if subject.nature.coarse { 4 << 20 } else { 128 << 10 };
    run(subject, Source::OddArena(little), &mut |model, _| served(model))?;
    run(subject, Source::Odd(4 << 20), &mut |model, _| served(model)).map(drop)
}
