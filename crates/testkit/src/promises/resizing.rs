//! Blocks keep their contents and their alignment when their size changes, in every direction.

use super::{Source, on_mappings, run};
use crate::model::{layout, require};
use crate::{Kept, Model, Rng, Subject};

const SIZES: [usize; 14] =
    [0, 1, 15, 16, 24, 100, 500, 4095, 4097, 20_000, 65_536, 131_073, (1 << 20) + 1, 3 << 20];

/// From each size to each other, beside blocks in use, beside free ones and at the end of the heap;
/// aligned blocks stay aligned.
///
/// # Errors
///
/// What came back and should not have.
pub fn resizing_keeps_contents_in_every_direction(subject: &Subject) -> Kept {
    for align in [1, 64, 4096, 1 << 16] {
        on_mappings(subject, |model| {
            let limits = model.limits();
            if align > limits.max_align {
                return Ok(());
            }
            // Large blocks in two alignments only: their pages take time.
            let many = align == 1 || align == 4096;
            let max = limits.max_size.min(if many { usize::MAX } else { 200_000 });
            let sizes = || SIZES.into_iter().filter(|&size| size <= max);
            for from in sizes() {
                for to in sizes() {
                    resize_among(model, from, to, align)?;
                }
            }
            model.verify_all()
        })?;
    }
    Ok(())
}

fn resize_among(model: &mut Model<'_>, from: usize, to: usize, align: usize) -> Kept {
    let small = 33.min(model.limits().max_size);
    model.must_allocate(0, small, 1)?;
    model.must_allocate(1, from, align)?;
    if !(from + to).is_multiple_of(3) {
        model.must_allocate(2, small, 1)?;
    }
    if (from + to) % 3 == 1 {
        // Room behind the block.
        model.must_allocate(3, (to / 2).max(1), 1)?;
        model.free(2)?;
        model.must_allocate(4, small, 1)?;
        model.free(3)?;
    }
    let served = model.reallocate(1, to)?;
    require!(served, "there is no memory to resize a block from {from} to {to} bytes");
    model.check()?;
    let served = model.reallocate(1, from)?;
    require!(served, "there is no memory to resize a block from {to} back to {from} bytes");
    model.check()?;
    model.free_all(|slots| slots.rotate_left(1))?;
    model.check()
}

/// Blocks that are resized again and again, side by side, as vectors are that grow together.
///
/// # Errors
///
/// What came back and should not have.
pub fn resizing_back_and_forth_keeps_contents(subject: &Subject) -> Kept {
    on_mappings(subject, |model| {
        let max = model.limits().max_size;
        for slot in 0..6 {
            model.must_allocate(slot, slot, 8)?;
        }
        let mut rng = Rng::new(21);
        let mut sizes = [8_usize; 6];
        for round in 0..300 {
            let slot = rng.below(6);
            let size = &mut sizes[slot];
            *size = if rng.percent(60) { *size * 3 / 2 + 1 } else { *size / 3 };
            *size = if *size > 2 << 20 { 8 } else { *size }.min(max);
            let served = model.reallocate(slot, sizes[slot])?;
            require!(served, "there is no memory to resize a block to {} bytes", sizes[slot]);
            model.check()?;
            if round % 16 == 0 {
                model.verify_contents()?;
            }
        }
        model.verify_all()
    })
}

/// A resize that fails leaves the block as it was, and the heap usable.
///
/// # Errors
///
/// What came back and should not have.
pub fn a_failed_resize_leaves_the_block_as_it_was(subject: &Subject) -> Kept {
    for source in [Source::Limited(1 << 20), Source::Arena(1 << 20)] {
        run(subject, source, &mut |model, _| {
            let max = model.limits().max_size;
            let size = 3000.min(max);
            let mut slot = 0;
            while model.allocate(slot, layout(size, 16), false)? {
                slot += 1;
                require!(slot * size <= 2 << 20, "1 MiB served {slot} blocks of {size} bytes");
            }
            require!(slot > 0, "1 MiB did not serve a block of {size} bytes");
            let (mut failed, count) = (0, slot);
            for slot in 0..count {
                // The model verifies that a failed one has its contents and its usable size.
                failed += usize::from(!model.reallocate(slot, (2 * size + 100).min(max))?);
                if slot % (count / 128 + 1) == 0 {
                    model.check()?;
                }
            }
            require!(failed > 0 || size == max, "a full heap of 1 MiB served every resize");
            for &impossible in &[usize::MAX, isize::MAX as usize, 1 << 47] {
                let served = model.reallocate(0, impossible)?;
                require!(!served, "a resize to {impossible} bytes was served");
                model.check()?;
            }
            model.verify_all()?;
            for slot in (0..slot).step_by(2) {
                model.free(slot)?;
            }
            if !model.nature().never_frees {
                let served = model.allocate(0, layout(size, 16), false)?;
                require!(served, "half of a full heap was freed, and it has no {size} bytes");
            }
            model.verify_all()
        })?;
    }
    Ok(())
}

/// A block that shrinks stays where it is and lets go of its end; one that grows stays where there is
/// room behind it, at the end of the heap or in a free neighbour.
///
/// # Errors
///
/// What came back and should not have.
pub fn resizing_stays_in_place_where_it_can(subject: &Subject) -> Kept {
    on_mappings(subject, stays_at_the_end)?;
    on_mappings(subject, stays_beside_a_free_neighbour)?;
    on_mappings(subject, stays_when_it_shrinks)
}

/// A size of the tests below, which are made for ten thousand bytes, brought within the limits.
fn scaled(model: &Model<'_>, size: usize) -> usize {
    let max = model.limits().max_size;
    if max < 10_000 { size * max / 10_000 } else { size }
}

/// Resizes the block of slot 1, and complains if it moves.
fn stays(model: &mut Model<'_>, size: usize, what: &str) -> Kept {
    let size = scaled(model, size);
    let before = model.get(1).map(|live| live.addr());
    let served = model.reallocate(1, size)?;
    model.check()?;
    let after = model.get(1).map(|live| live.addr());
    if served && before == after {
        Ok(())
    } else {
        Err(model.complaint(format!("{what}, and a resize to {size} bytes moved it")))
    }
}

fn stays_at_the_end(model: &mut Model<'_>) -> Kept {
    model.must_allocate(0, scaled(model, 40), 8)?;
    model.must_allocate(1, scaled(model, 100), 8)?;
    for size in [200, 3000, 9000, 50, 5000] {
        stays(model, size, "a block is at the end of the heap")?;
    }
    Ok(())
}

fn stays_beside_a_free_neighbour(model: &mut Model<'_>) -> Kept {
    for slot in 0..4 {
        model.must_allocate(slot, scaled(model, 1000), 8)?;
    }
    model.free(2)?;
    for size in [1500, 1900, 900, 1980] {
        stays(model, size, "a block has as much free behind it as it is long")?;
    }
    Ok(())
}

fn stays_when_it_shrinks(model: &mut Model<'_>) -> Kept {
    for slot in 0..3 {
        model.must_allocate(slot, scaled(model, 8000), 8)?;
    }
    let end = model.get(1).map_or(0, |live| live.end());
    stays(model, 1000, "a block shrinks")?;
    let size = scaled(model, 5000);
    model.must_allocate(3, size, 8)?;
    let taken = model.get(3).is_some_and(|live| live.end() <= end);
    // Where all blocks are small, the end of one is no block.
    if taken || size < 5000 {
        Ok(())
    } else {
        Err(model.complaint("the end of a block that shrank does not serve a request that fits it"))
    }
}
