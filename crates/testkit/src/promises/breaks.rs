//! Other code moves the program break.

use core::ptr::NonNull;

use heapwright_backends::Sbrk;
use heapwright_core::{FutexMutex, Strategy};

use crate::model::require;
use crate::{Family, Kept, Model, Nature, Rng, child, pattern};

/// Memory above the break that is not the heap's.
struct Foreign {
    start: NonNull<u8>,
    size: usize,
    seed: u64,
}

/// Raises the break by `size` bytes, as other code does, and writes into what it got.
fn raise(size: usize, seed: u64) -> Option<Foreign> {
    // SAFETY: raising the break takes nothing from anyone.
    let start = unsafe { libc::sbrk(size as isize) };
    let start = NonNull::new(start.cast::<u8>()).filter(|start| start.as_ptr() as isize != -1)?;
    // SAFETY: the memory between the old break and the new one is ours.
    unsafe { pattern::write(start, size, seed) };
    Some(Foreign { start, size, seed })
}

impl Foreign {
    fn verify(&self) -> Kept {
        // SAFETY: the memory is ours until it is lowered.
        let verified = unsafe { pattern::verify(self.start, self.size, self.seed, self.size) };
        require!(
            verified.is_ok(),
            "something wrote into {} bytes at {:p}, which other code took from the break: {verified:?}",
            self.size,
            self.start
        );
        Ok(())
    }

    /// Lowers the break again, if it still stands at the end of this piece. Nothing else in the process
    /// may move it meanwhile.
    fn lower(self) -> Result<bool, crate::Complaint> {
        self.verify()?;
        // SAFETY: asking where the break stands moves nothing.
        let now = unsafe { libc::sbrk(0) } as usize;
        if now != self.start.addr().get() + self.size {
            return Ok(false);
        }
        // SAFETY: the end below the break is this piece, which is ours and is not used any more.
        let lowered = unsafe { libc::sbrk(-(self.size as isize)) };
        require!(lowered as usize == now, "the break could not be lowered by {}", self.size);
        Ok(true)
    }
}

/// Over the program break, a heap survives that other code raises it, by odd amounts too, and lowers it
/// again: it neither loses its own memory nor takes that of others.
///
/// # Errors
///
/// What came back and should not have.
pub fn foreign_moves_of_the_break_are_survived<F: Family>() -> Kept {
    child::in_child(F::MODULE, "foreign_moves_of_the_break_are_survived", || {
        survives_foreign_moves(Box::new(F::over::<Sbrk, FutexMutex>(Sbrk::new())), F::NATURE)
    })
}

/// A heap over the program break survives what other code does to that.
fn survives_foreign_moves(heap: Box<dyn Strategy>, nature: Nature) -> Kept {
    let mut model = Model::new(&*heap, nature);
    let (max_size, mut rng) = (model.limits().max_size, Rng::new(81));
    let mut foreign: Vec<Foreign> = Vec::new();
    let (mut raised, mut lowered) = (0, 0);
    for step in 0..400 {
        let slot = rng.below(40);
        match model.get(slot) {
            None => model.must_allocate(slot, rng.size(60_000).min(max_size), 16)?,
            Some(_) if rng.percent(60) => model.free(slot)?,
            Some(_) => {
                model.reallocate(slot, rng.size(60_000).min(max_size))?;
            }
        }
        model.check()?;
        if rng.percent(25) {
            let size = *rng.pick(&[1, 7, 16, 100, 4096, 5000, 65_536, 200_001]);
            foreign.extend(raise(size, 1000 + step));
            raised += 1;
        }
        if rng.percent(15)
            && let Some(last) = foreign.pop()
            && last.lower()?
        {
            lowered += 1;
        }
        if rng.percent(5) {
            model.trim();
            model.check()?;
        }
        foreign.iter().try_for_each(Foreign::verify)?;
    }
    model.verify_all()?;
    model.free_all(|slots| rng.shuffle(slots))?;
    model.trim();
    model.verify_all()?;
    require!(
        raised > 50 && lowered > 0,
        "the test itself is wrong: the break was raised {raised} times and lowered {lowered}"
    );
    drop(heap);
    foreign.iter().try_for_each(Foreign::verify)
}
