//! Memory that is promised to be zero is.

use super::{Source, run};
use crate::model::layout;
use crate::{Kept, Model, Step, Subject};

const SIZES: [usize; 15] = [
    1,
    8,
    16,
    24,
    100,
    255,
    1000,
    4095,
    4096,
    4097,
    20_000,
    70_000,
    140_000,
    (1 << 20) + 1,
    3 << 20,
];

fn aligns(model: &Model<'_>) -> Vec<usize> {
    let max = model.limits().max_align;
    [1, 16, 64, 4096, 1 << 16].into_iter().filter(|&align| align <= max).collect()
}

/// Large blocks in two alignments only: their pages take time.
fn sizes(model: &Model<'_>, align: usize) -> impl Iterator<Item = usize> + use<> {
    let many = align == 1 || align == 4096;
    let max = model.limits().max_size.min(if many { usize::MAX } else { 200_000 });
    SIZES.into_iter().filter(move |&size| size <= max)
}

/// Fresh memory that is asked for zeroed is zero, from a clean source and from a dirty one.
///
/// # Errors
///
/// What came back and should not have.
pub fn zeroed_memory_is_zero(subject: &Subject) -> Kept {
    for source in [Source::Mappings, Source::Dirty, Source::Arena(64 << 20)] {
        run(subject, source, &mut |model, _| {
            let mut slot = 0;
            for align in aligns(model) {
                for size in sizes(model, align) {
                    model.allocate(slot, layout(size, align), true)?;
                    model.check()?;
                    slot += 1;
                }
            }
            model.verify_contents()
        })?;
    }
    Ok(())
}

/// Memory that was written to and freed is zero when it is asked for zeroed again: the same block, a part
/// of it, several of them merged, after a resize, after a trim.
///
/// # Errors
///
/// What came back and should not have.
pub fn zeroed_memory_is_zero_after_reuse(subject: &Subject) -> Kept {
    for source in [Source::Mappings, Source::Dirty, Source::Arena(64 << 20)] {
        run(subject, source, &mut |model, _| {
            for align in aligns(model) {
                for size in sizes(model, align) {
                    reuse(model, size, align)?;
                }
            }
            model.verify_contents()
        })?;
    }
    Ok(())
}

/// The model fills every block that it is given with contents that are not zero. Where there is no memory
/// any more, as in a heap that never frees, there is nothing to verify.
fn reuse(model: &mut Model<'_>, size: usize, align: usize) -> Kept {
    let max = model.limits().max_size;
    // The same size again.
    for _ in 0..2 {
        model.allocate(0, layout(size, align), true)?;
        model.check()?;
        model.apply(Step::Free { slot: 0 })?;
    }
    // Three neighbours, and one block in place of all, then of parts.
    for slot in 0..3 {
        model.allocate(slot, layout(size, align), false)?;
    }
    for slot in [0, 2, 1] {
        model.apply(Step::Free { slot })?;
    }
    model.check()?;
    let parts = [size * 3, size / 2, size / 3 + 1];
    for (slot, part) in parts.into_iter().enumerate().filter(|&(_, part)| part <= max) {
        model.allocate(slot, layout(part, align), true)?;
        model.check()?;
    }
    model.free_all(|_| ())?;
    // A block that shrank and one that grew leave dirt behind.
    model.allocate(0, layout(size, align), false)?;
    model.apply(Step::Reallocate { slot: 0, size: size / 4 })?;
    model.allocate(1, layout(size / 2, align), true)?;
    model.apply(Step::Reallocate { slot: 0, size: (size * 2).min(max) })?;
    model.free_all(|_| ())?;
    model.trim();
    model.allocate(0, layout(size, align), true)?;
    model.check()?;
    model.free_all(|_| ())
}
