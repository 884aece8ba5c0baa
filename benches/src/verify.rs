//! Verifying replay: slow, and sure that a contender kept every promise.
//!
//! Every byte of every block is filled with a pattern of its own and checked when the block is written to, freed or
//! reallocated;
//! blocks are aligned as asked and overlap no other live block; `alloc_zeroed` gives zeroes. At the end all that is
//! still live is checked and freed. A strategy of ours also passes its own `check` at intervals and at the end, knows
//! how many blocks are live, and has none left at the end.

use std::alloc::Layout;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::{Context, Result, anyhow, ensure};
use heapwright_core::Strategy;

use crate::replay::Allocator;
use crate::script::{self, Kind, Op, Schedule, Step};

/// What a verifying replay did without finding anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// Operations carried out.
    pub operations: u64,
    /// How often the strategy's own `check` was called.
    pub checks: u64,
}

/// A strategy of ours under verification.
#[derive(Clone, Copy)]
pub struct Watched<'a> {
    /// It.
    pub strategy: &'a dyn Strategy,
    /// It counts blocks that were freed as live for ever.
    pub never_frees: bool,
}

/// How often a strategy is checked during a replay, beside the end.
const CHECKS: usize = 64;

/// Replays all streams in one thread, in step, as a [`Schedule`] orders them.
///
/// # Errors
///
/// The first promise that was broken, and at which operation.
pub fn run(
    heap: &Allocator,
    strategy: Option<Watched<'_>>,
    streams: &[&[Op]],
    slots: usize,
    stop: &AtomicBool,
) -> Result<Verified> {
    let mut tables = vec![vec![None; slots]; streams.len()];
    let mut mailboxes = vec![None; script::mailboxes(streams)];
    let total = streams.iter().copied().flatten().filter(|op| op.kind().counts()).count();
    let interval = total.div_ceil(CHECKS).max(1);
    let mut verifier = Verifier { heap, strategy, live: BTreeMap::new(), done: 0, checks: 0 };
    let mut schedule = Schedule::new(streams);
    let mut stopped = false;
    for Step { table, op, .. } in &mut schedule {
        let slot = &mut tables[table][op.slot()];
        match op.kind() {
            Kind::Send => mailboxes[op.mailbox()] = slot.take(),
            Kind::Receive => *slot = mailboxes[op.mailbox()].take(),
            kind if kind.counts() => {
                stopped = verifier.done.is_multiple_of(256) && stop.load(Relaxed);
                if stopped {
                    break;
                }
                let at = verifier.done;
                verifier.carry_out(op, slot).with_context(|| format!("operation {at}"))?;
                if (verifier.done as usize).is_multiple_of(interval) {
                    verifier.check().with_context(|| format!("after operation {at}"))?;
                }
            }
            _ => {}
        }
    }
    ensure!(stopped || !schedule.is_stuck(), "the script's streams wait for each other");
    tables.push(mailboxes);
    verifier.free_all(&mut tables).context("after the last operation")?;
    verifier.check().context("at the end, with everything freed")?;
    Ok(Verified { operations: verifier.done, checks: verifier.checks })
}

/// A live block.
#[derive(Clone, Copy)]
struct Block {
    at: *mut u8,
    layout: Layout,
    /// The seed of the pattern in it.
    pattern: u64,
}

struct Verifier<'a> {
    heap: &'a Allocator,
    strategy: Option<Watched<'a>>,
    /// From the first byte of each live block to the one past its last.
    live: BTreeMap<usize, usize>,
    done: u64,
    checks: u64,
}

impl Verifier<'_> {
    fn carry_out(&mut self, op: &Op, slot: &mut Option<Block>) -> Result<()> {
        match op.kind() {
            Kind::Allocate | Kind::AllocateZeroed => {
                let layout = Layout::from_size_align(op.size(), op.align())?;
                // SAFETY: the script never asks for zero bytes.
                let at = unsafe {
                    match op.kind() {
                        Kind::Allocate => self.heap.alloc(layout),
                        _ => self.heap.alloc_zeroed(layout),
                    }
                };
                let block = self.enter(at, layout)?;
                if op.kind() == Kind::AllocateZeroed {
                    // SAFETY: all bytes of a zeroed block are initialised.
                    let bytes = unsafe { std::slice::from_raw_parts(at, layout.size()) };
                    let dirty = bytes.iter().position(|&byte| byte != 0);
                    ensure!(
                        dirty.is_none(),
                        "byte {dirty:?} of a zeroed block of {} is not zero",
                        layout.size()
                    );
                }
                block.fill(0);
                *slot = Some(block);
            }
            Kind::Reallocate => {
                let old = slot.take().context("the script reallocates an empty slot")?;
                ensure!(old.layout.size() == op.old_size(), "the script is wrong about a size");
                old.verify(old.layout.size()).context("before a reallocation")?;
                self.leave(&old);
                // SAFETY: the block is live and has this layout.
                let at = unsafe { self.heap.realloc(old.at, old.layout, op.size()) };
                let layout = Layout::from_size_align(op.size(), old.layout.align())?;
                let block = Block { pattern: old.pattern, ..self.enter(at, layout)? };
                let kept = layout.size().min(old.layout.size());
                block.verify(kept).with_context(|| {
                    format!(
                        "after a reallocation from {} to {} bytes",
                        old.layout.size(),
                        layout.size()
                    )
                })?;
                block.fill(kept);
                *slot = Some(block);
            }
            Kind::Free => {
                let block = slot.take().context("the script frees an empty slot")?;
                ensure!(block.layout.size() == op.size(), "the script is wrong about a size");
                self.free(&block)?;
            }
            Kind::Write => {
                let block = slot.as_mut().context("the script writes to an empty slot")?;
                block.verify(op.size()).context("before a write")?;
                block.pattern = self.new_pattern();
                block.fill(0);
            }
            // Not about the heap.
            Kind::Send | Kind::Receive | Kind::Signal | Kind::Await => {}
            Kind::Meet | Kind::Rotate | Kind::Renew => {}
        }
        self.done += 1;
        Ok(())
    }

    /// Takes up a new block.
    fn enter(&mut self, at: *mut u8, layout: Layout) -> Result<Block> {
        let (size, align) = (layout.size(), layout.align());
        ensure!(!at.is_null(), "no memory for {size} bytes at an alignment of {align}");
        let start = at as usize;
        ensure!(start.is_multiple_of(align), "the block at {start:#x} is not aligned to {align}");
        let end = start.checked_add(size).context("a block wraps around the address space")?;
        if let Some((&other, &other_end)) = self.live.range(..end).next_back() {
            ensure!(
                other_end <= start,
                "the new block {start:#x}..{end:#x} overlaps the live block {other:#x}..{other_end:#x}"
            );
        }
        self.live.insert(start, end);
        Ok(Block { at, layout, pattern: self.new_pattern() })
    }

    /// A pattern that no other operation makes.
    fn new_pattern(&self) -> u64 {
        self.done.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
    }

    fn leave(&mut self, block: &Block) {
        self.live.remove(&(block.at as usize));
    }

    fn free(&mut self, block: &Block) -> Result<()> {
        block.verify(block.layout.size()).context("before a free")?;
        self.leave(block);
        // SAFETY: the block is live and has this layout.
        unsafe { self.heap.dealloc(block.at, block.layout) };
        Ok(())
    }

    fn free_all(&mut self, tables: &mut [Vec<Option<Block>>]) -> Result<()> {
        for slot in tables.iter_mut().flatten() {
            if let Some(block) = slot.take() {
                self.free(&block)?;
            }
        }
        Ok(())
    }

    fn check(&mut self) -> Result<()> {
        let Some(Watched { strategy, never_frees }) = self.strategy else { return Ok(()) };
        self.checks += 1;
        strategy.check().map_err(|broken| anyhow!("the strategy's own check says: {broken}"))?;
        let (counted, live) = (strategy.stats().live_blocks, self.live.len());
        ensure!(
            counted == live || never_frees,
            "the strategy counts {counted} live blocks, but {live} are live"
        );
        Ok(())
    }
}

impl Block {
    /// The pattern's eight bytes at word `index`.
    fn word(&self, index: usize) -> [u8; 8] {
        (self.pattern ^ (index as u64).wrapping_mul(0xd6e8_feb8_6659_fd93))
            .rotate_left(29)
            .to_ne_bytes()
    }

    /// Writes the pattern from byte `from` to the end.
    fn fill(&self, from: usize) {
        let size = self.layout.size();
        // SAFETY: the block is live and ours, so its bytes from `from` on may be written.
        let bytes = unsafe {
            std::ptr::write_bytes(self.at.add(from), 0, size - from);
            std::slice::from_raw_parts_mut(self.at, size)
        };
        // The word that `from` lies in is written whole: what stands before it is the same pattern.
        for (index, word) in bytes.chunks_mut(8).enumerate().skip(from / 8) {
            word.copy_from_slice(&self.word(index)[..word.len()]);
        }
    }

    /// Verifies the pattern up to byte `to`.
    fn verify(&self, to: usize) -> Result<()> {
        // SAFETY: the block is live, at least `to` long, and was filled.
        let bytes = unsafe { std::slice::from_raw_parts(self.at, to) };
        for (index, word) in bytes.chunks(8).enumerate() {
            ensure!(
                *word == self.word(index)[..word.len()],
                "the contents of the block at {:p} of {} bytes were overwritten at byte {}",
                self.at,
                self.layout.size(),
                index * 8
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::alloc::{GlobalAlloc, System};
    use std::ptr;
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::script::{Builder, Script};

    /// Answers a request with something made of the block before.
    type Lie = fn(*mut u8) -> *mut u8;

    /// Breaks one promise at its fifth request.
    struct Liar {
        requests: AtomicUsize,
        lie: Lie,
    }

    // SAFETY: it lies; the tests use it only where the lie is found before it does harm.
    unsafe impl GlobalAlloc for Liar {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            static LAST: AtomicUsize = AtomicUsize::new(0);
            // SAFETY: a little more room than asked for, so that shifted blocks are still within.
            let block =
                unsafe { System.alloc(Layout::from_size_align_unchecked(layout.size() + 64, 16)) };
            let last = LAST.swap(block as usize, Relaxed) as *mut u8;
            match self.requests.fetch_add(1, Relaxed) {
                4 => (self.lie)(last),
                _ => block,
            }
        }

        unsafe fn dealloc(&self, _block: *mut u8, _layout: Layout) {}
    }

    fn script() -> Script {
        let mut builder = Builder::default();
        let objects: Vec<_> = (0..8).map(|_| builder.allocate(100).unwrap()).collect();
        for &object in &objects {
            builder.reallocate(object, 333).unwrap();
            builder.reallocate(object, 50).unwrap();
        }
        builder.free(objects[3]);
        builder.finish().unwrap()
    }

    fn verify(heap: &Allocator) -> Result<Verified> {
        let script = script();
        run(heap, None, &script.streams(), script.slots(), &AtomicBool::new(false))
    }

    #[test]
    fn an_honest_allocator_passes() {
        assert_eq!(verify(&System).unwrap(), Verified { operations: 25, checks: 0 });
    }

    #[test]
    fn each_lie_is_found() {
        let lies: [(Lie, &str); 3] = [
            (|_| ptr::null_mut(), "no memory"),
            (|last| last.wrapping_add(8), "not aligned"),
            (|last| last.wrapping_add(16), "overlaps"),
        ];
        for (lie, expected) in lies {
            let error = verify(&Liar { requests: AtomicUsize::new(0), lie }).unwrap_err();
            assert!(format!("{error:#}").contains(expected), "{error:#}");
        }
    }

    /// Writes into the block before, as a heap with a wrong size would.
    struct Scribbler;

    // SAFETY: it is not; the test finds that out.
    unsafe impl GlobalAlloc for Scribbler {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            static LAST: AtomicUsize = AtomicUsize::new(0);
            // SAFETY: the block before is live still, and longer than ten bytes.
            unsafe {
                let block = System.alloc(layout);
                let last = LAST.swap(block as usize, Relaxed) as *mut u8;
                if !last.is_null() {
                    *last.add(10) ^= 1;
                }
                block
            }
        }

        unsafe fn dealloc(&self, _block: *mut u8, _layout: Layout) {}

        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            // SAFETY: the caller promises the same.
            let block = unsafe { System.alloc_zeroed(layout) };
            // SAFETY: the block is longer than that.
            unsafe { *block.add(layout.size() - 1) = 1 };
            block
        }
    }

    #[test]
    fn overwritten_contents_are_found() {
        let error = verify(&Scribbler).unwrap_err();
        assert!(format!("{error:#}").contains("overwritten at byte 8"), "{error:#}");
    }

    #[test]
    fn a_dirty_zeroed_block_is_found() {
        use heapwright_trace::{Event, Header, Op, Trace};
        let op = Op::Allocate { object: 0, size: 100, align: 16, zeroed: true };
        let trace = Trace::from_events(Header::named("one"), [Event { thread: 0, op }]).unwrap();
        let script = Script::compile(&trace).unwrap();
        let error =
            run(&Scribbler, None, &script.streams(), script.slots(), &AtomicBool::new(false))
                .unwrap_err();
        assert!(format!("{error:#}").contains("byte Some(99) of a zeroed block"), "{error:#}");
    }

    #[test]
    fn patterns_of_two_blocks_differ_at_every_word() {
        let layout = Layout::new::<[u8; 64]>();
        let block = |done: u64| Block {
            at: ptr::null_mut(),
            layout,
            pattern: done.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        };
        assert!((0..8).all(|word| block(2).word(word) != block(4).word(word)));
        assert!((0..8).all(|word| block(2).word(word) != block(2).word(word + 1)));
    }
}
