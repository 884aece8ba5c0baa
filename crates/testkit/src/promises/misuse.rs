//! What a program gets wrong is found, said, and does no harm.
//!
//! Freeing what is not the heap's, or is nowhere, or is not aligned, and freeing a block twice while its
//! place is not used for anything else, must be found always. A pointer into the heap's own memory that is
//! not a block in use is told from one by what stands there, and that may look right by chance: once in
//! 65,536 times with the checks of the block engine. Those promises are tested on many heaps, one of which
//! may be deceived.
//!
//! Each test runs in a process of its own, for a heap that is deceived may crash.

use core::ptr::NonNull;

use heapwright_backends::Mmap;
use heapwright_core::HeapError;

use super::{Source, run};
use crate::model::{layout, require, walked};
use crate::rig::{Ledger, Rig};
use crate::{Complaint, Kept, Model, Subject, child};

/// The answers that are right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Double,
    Invalid,
    /// The block is no more, and nothing tells whether it ever was: where it was freed and merged with
    /// others, its mark may be gone.
    Either,
}

impl Answer {
    fn admits(self, addr: usize, result: Result<(), HeapError>) -> bool {
        match result {
            Err(HeapError::DoubleFree(at)) => self != Self::Invalid && at == addr,
            Err(HeapError::InvalidFree(at)) => self != Self::Double && at == addr,
            _ => false,
        }
    }
}

/// The ways in which a pointer is given to a heap.
#[derive(Clone, Copy, Debug)]
enum Call {
    Deallocate,
    DeallocateSized,
    Shrink,
    Grow,
}

const CALLS: [Call; 4] = [Call::Deallocate, Call::DeallocateSized, Call::Shrink, Call::Grow];

/// Hands the heap a pointer that it should refuse.
fn make(model: &mut Model<'_>, call: Call, addr: usize, size: usize) -> Result<(), HeapError> {
    let Some(block) = NonNull::new(core::ptr::with_exposed_provenance_mut::<u8>(addr)) else {
        return Ok(());
    };
    let heap = model.heap();
    let said = layout(size, 8);
    let largest = model.limits().max_size;
    // SAFETY: a heap with checks tolerates any pointer; that is what is tested here.
    let result = unsafe {
        match call {
            Call::Deallocate => heap.deallocate(block),
            Call::DeallocateSized => heap.deallocate_sized(block, said),
            Call::Shrink => heap.reallocate(block, said, size / 2).map(drop),
            Call::Grow => heap.reallocate(block, said, (size * 20).min(largest)).map(drop),
        }
    };
    model.note_misuse(addr, result);
    result
}

/// Hands the heap a pointer in every way; each must be refused, and change nothing but the count of
/// misuses.
fn is_refused(model: &mut Model<'_>, what: &str, addr: usize, size: usize, answer: Answer) -> Kept {
    for call in CALLS {
        let before = (walked(model.heap()), model.heap().stats());
        let result = make(model, call, addr, size);
        if !answer.admits(addr, result) {
            return Err(model.complaint(format!(
                "{call:?} of {what}, {addr:#x}, should be refused ({answer:?}), and gave {result:?}"
            )));
        }
        let mut after = (walked(model.heap()), model.heap().stats());
        if after.1.misuses != before.1.misuses + 1 {
            return Err(model.complaint(format!(
                "{call:?} of {what}, {addr:#x}, was refused, and stats count {} misuses after {}",
                after.1.misuses, before.1.misuses
            )));
        }
        after.1.misuses = before.1.misuses;
        if before != after {
            return Err(model.complaint(format!(
                "{call:?} of {what}, {addr:#x}, was refused and changed the heap from {:?} to {:?}",
                before.1, after.1
            )));
        }
        model.check()?;
    }
    model.verify_contents()
}

/// Blocks side by side, of which some may be freed without touching others.
fn fill(model: &mut Model<'_>, size: usize) -> Result<usize, Complaint> {
    let size = size.min(model.limits().max_size);
    (0..64).try_for_each(|slot| model.must_allocate(slot, size, 8))?;
    Ok(size)
}

fn addr_of(model: &Model<'_>, slot: usize) -> usize {
    model.get(slot).map_or(0, |live| live.addr())
}

/// After a misuse, the heap serves as before.
fn serves_on(model: &mut Model<'_>) -> Kept {
    let max = model.limits().max_size;
    for slot in 200..300 {
        model.must_allocate(slot, (slot * 7 % 300).min(max), 8)?;
    }
    model.check()?;
    model.free_all(|slots| slots.sort_by_key(|slot| slot % 3))?;
    model.verify_all()
}

fn in_child(
    subject: &Subject,
    test: &str,
    body: &mut dyn FnMut(&mut Model<'_>, &Ledger) -> Kept,
) -> Kept {
    child::in_child(subject.module, test, || run(subject, Source::Mappings, body).map(drop))
}

/// Freeing or resizing a block that was just freed is refused as a double free.
///
/// # Errors
///
/// What came back and should not have.
pub fn a_double_free_is_found(subject: &Subject) -> Kept {
    in_child(subject, "a_double_free_is_found", &mut |model, _| {
        for size in [48, 1, 600] {
            let size = fill(model, size)?;
            for slot in [31, 7, 50] {
                let addr = addr_of(model, slot);
                model.free(slot)?;
                is_refused(model, "a block that was just freed", addr, size, Answer::Double)?;
            }
            serves_on(model)?;
        }
        Ok(())
    })
}

/// So is one that was freed some time ago, as long as its place serves nothing else.
///
/// # Errors
///
/// What came back and should not have.
pub fn a_double_free_after_other_work_is_found(subject: &Subject) -> Kept {
    in_child(subject, "a_double_free_after_other_work_is_found", &mut |model, _| {
        let size = fill(model, 48)?;
        let slots = [5, 31, 40, 58];
        let addrs = slots.map(|slot| addr_of(model, slot));
        for slot in slots {
            model.free(slot)?;
        }
        // Too large for the places that became free; where all blocks are of one size, there is no
        // such work.
        let larger = (size * 20).min(model.limits().max_size);
        if larger >= size * 2 {
            for slot in 100..120 {
                model.must_allocate(slot, larger, 8)?;
            }
            for slot in (100..120).step_by(2) {
                model.free(slot)?;
            }
        }
        for addr in addrs {
            is_refused(
                model,
                "a block that was freed before other work",
                addr,
                size,
                Answer::Double,
            )?;
        }
        serves_on(model)
    })
}

/// Freeing a block that was freed and then merged with its neighbours is refused.
///
/// # Errors
///
/// What came back and should not have.
pub fn a_double_free_of_a_merged_block_is_found(subject: &Subject) -> Kept {
    let orders = [[30, 31, 32], [32, 31, 30], [30, 32, 31], [31, 30, 32], [31, 32, 30]];
    in_child(subject, "a_double_free_of_a_merged_block_is_found", &mut |model, _| {
        for size in [48, 600] {
            for order in orders {
                let size = fill(model, size)?;
                let addrs = order.map(|slot| addr_of(model, slot));
                order.iter().try_for_each(|&slot| model.free(slot))?;
                for addr in addrs {
                    is_refused(
                        model,
                        "a block that was freed and merged",
                        addr,
                        size,
                        Answer::Either,
                    )?;
                }
                model.trim();
                for addr in addrs {
                    is_refused(
                        model,
                        "a block that was freed and trimmed",
                        addr,
                        size,
                        Answer::Either,
                    )?;
                }
                serves_on(model)?;
            }
        }
        Ok(())
    })
}

/// Pointers that are not aligned as any block is are refused as invalid.
///
/// # Errors
///
/// What came back and should not have.
pub fn a_misaligned_pointer_is_refused(subject: &Subject) -> Kept {
    in_child(subject, "a_misaligned_pointer_is_refused", &mut |model, _| {
        let size = fill(model, 100)?;
        for offset in [1, 2, 3, 4, 7] {
            let inside = addr_of(model, 31) + offset;
            is_refused(model, "a misaligned pointer into a block", inside, size, Answer::Invalid)?;
            let before = addr_of(model, 31) - offset;
            is_refused(
                model,
                "a misaligned pointer before a block",
                before,
                size,
                Answer::Invalid,
            )?;
        }
        serves_on(model)
    })
}

/// Memory of the program that no heap gave is refused as invalid: the stack, statics, code, other
/// allocators' blocks.
///
/// # Errors
///
/// What came back and should not have.
pub fn foreign_memory_is_refused(subject: &Subject) -> Kept {
    #[repr(align(64))]
    struct Buffer([u8; 256]);
    static STATIC: Buffer = Buffer([7; 256]);

    in_child(subject, "foreign_memory_is_refused", &mut |model, _| {
        let size = fill(model, 100)?;
        let stack = Buffer([1; 256]);
        let boxed = Box::new(Buffer([2; 256]));
        let code = (foreign_memory_is_refused as fn(&Subject) -> Kept) as usize;
        let places = [
            ("the stack", stack.0.as_ptr() as usize + 64),
            ("a static", STATIC.0.as_ptr() as usize + 64),
            ("a block of another allocator", boxed.0.as_ptr() as usize),
            ("code", code & !63),
        ];
        // An empty heap has nothing to compare with.
        for (what, addr) in places {
            is_refused(model, what, addr, size, Answer::Invalid)?;
        }
        require!(stack.0 == [1; 256] && boxed.0 == [2; 256], "foreign memory was written to");
        serves_on(model)?;
        model.trim();
        for (what, addr) in places {
            is_refused(model, what, addr, size, Answer::Invalid)?;
        }
        Ok(())
    })
}

/// Blocks of another heap of the same kind, small and large, are refused as invalid, by a new heap too.
///
/// # Errors
///
/// What came back and should not have.
pub fn blocks_of_another_heap_are_refused(subject: &Subject) -> Kept {
    in_child(subject, "blocks_of_another_heap_are_refused", &mut |model, _| {
        let (rig, ledger) = Rig::over(Mmap::new());
        let other = (subject.over)(rig);
        let mut other = Model::observed(&*other, subject.nature, &ledger);
        let max = model.limits().max_size;
        let sizes = [40, 1000, 30_000, 300_000, 5 << 20].map(|size| size.min(max));
        for (slot, &size) in sizes.iter().enumerate() {
            other.must_allocate(slot, size, 16)?;
        }
        let size = 40.min(max);
        for (slot, large) in sizes.into_iter().enumerate() {
            let what = format!("a block of {large} bytes of another heap");
            is_refused(model, &what, addr_of(&other, slot), size, Answer::Invalid)?;
        }
        fill(model, 100)?;
        for (slot, large) in sizes.into_iter().enumerate() {
            model.must_allocate(100 + slot, large, 16)?;
            let what = format!("a block of {large} bytes of another heap");
            is_refused(model, &what, addr_of(&other, slot), size, Answer::Invalid)?;
        }
        other.verify_all()?;
        other.free_all(|_| ())?;
        other.verify_all()?;
        serves_on(model)
    })
}

/// Addresses where there is nothing, or nothing for this program, are refused as invalid.
///
/// # Errors
///
/// What came back and should not have.
pub fn wild_addresses_are_refused(subject: &Subject) -> Kept {
    in_child(subject, "wild_addresses_are_refused", &mut |model, ledger| {
        let size = fill(model, 100)?;
        let page = 4096;
        // SAFETY: a new mapping without access takes nothing from anyone. It stays until the process
        // ends, so that nothing else can come to lie there.
        let closed = unsafe {
            let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            libc::mmap(core::ptr::null_mut(), 4 * page, libc::PROT_NONE, kind, -1, 0)
        };
        require!(closed != libc::MAP_FAILED, "the test itself needs a mapping and gets none");
        let addrs = [
            ("close to null", 8),
            ("close to null", 16),
            ("close to null", 64),
            ("an unmapped address", page),
            ("memory without access", closed as usize + 2 * page),
            ("memory without access", closed as usize + 2 * page + 64),
            ("no address of this machine", 1 << 47),
            ("no address of this machine", 1 << 60),
            ("an address of the kernel", 0xFFFF_8000_0000_0000_u64 as usize),
            ("an address of the kernel", usize::MAX & !(page - 1)),
            ("the last address", usize::MAX & !15),
        ];
        for (what, addr) in addrs {
            is_refused(model, what, addr, size, Answer::Invalid)?;
        }
        // The pages in front of the heap's memory and behind it.
        let (start, end) = ledger.grant_of(addr_of(model, 0)).unwrap_or((page, page));
        for addr in [start - page, end, end + page] {
            if ledger.grant_of(addr).is_none() {
                is_refused(model, "a page beside the heap", addr, size, Answer::Invalid)?;
            }
        }
        serves_on(model)
    })
}

/// Of sixteen heaps at different places, how many a pointer inside them may deceive.
const HEAPS: usize = 16;
const DECEIVED: usize = 1;

/// Pointers into a block are refused as invalid, whatever the program wrote there, and so are pointers to
/// the heap's own bookkeeping.
///
/// # Errors
///
/// What came back and should not have.
pub fn a_pointer_inside_a_block_is_refused(subject: &Subject) -> Kept {
    child::in_child(subject.module, "a_pointer_inside_a_block_is_refused", || {
        let mut deceived = Vec::new();
        for heap in 0..HEAPS {
            let result = run(subject, Source::Mappings, &mut |model, ledger| inside(model, ledger));
            deceived.extend(
                result.err().map(|complaint| complaint.during(format_args!("heap {heap}"))),
            );
        }
        match deceived.pop() {
            Some(complaint) if deceived.len() >= DECEIVED => {
                Err(complaint
                    .during(format_args!("and in {} more of {HEAPS} heaps", deceived.len())))
            }
            _ => Ok(()),
        }
    })
}

fn inside(model: &mut Model<'_>, ledger: &Ledger) -> Kept {
    for size in [64, 1000, 10_000] {
        fill(model, size)?;
        let Some(&live) = model.get(31) else { return Ok(()) };
        let offsets = [16, 32, 48, (live.usable / 2) & !15, live.usable.saturating_sub(16) & !15];
        for offset in offsets.into_iter().filter(|&offset| offset > 0 && offset < live.usable) {
            let addr = live.addr() + offset;
            is_refused(model, "a pointer inside a block", addr, 16, Answer::Invalid)?;
        }
        forge(model, ledger, 31)?;
        model.free_all(|_| ())?;
    }
    fill(model, 64)?;
    let Some((start, end)) = ledger.grant_of(addr_of(model, 31)) else { return Ok(()) };
    let blocks = walked(model.heap());
    for addr in [start, start + 16, start + 32, end - 16, end - 32] {
        if !blocks.iter().any(|block| block.address == addr) {
            is_refused(model, "a pointer to the heap's bookkeeping", addr, 16, Answer::Invalid)?;
        }
    }
    serves_on(model)
}

/// What stands in front of a block is copied into it: a pointer behind the copy is not a block for that.
fn forge(model: &mut Model<'_>, ledger: &Ledger, slot: usize) -> Kept {
    let live = model.give(slot)?;
    let addr = live.addr();
    let room = live.usable >= 96 && ledger.holds(addr - 16, addr);
    let mut kept = [0_u8; 16];
    if room {
        // SAFETY: the block is in use and long enough, and the bytes before it are the heap's, readable.
        unsafe {
            let copy = live.block.add(32);
            copy.cast::<[u8; 16]>().as_ptr().copy_to_nonoverlapping(&raw mut kept, 1);
            live.block.sub(16).copy_to_nonoverlapping(copy, 16);
        }
        is_refused(model, "a pointer behind a forged header", addr + 48, 16, Answer::Invalid)?;
        // SAFETY: as above.
        unsafe { live.block.add(32).cast::<[u8; 16]>().write(kept) };
    }
    model.take(slot, live)
}

/// Whether a heap finds all of: a double free, one after other work, a foreign pointer. What it does not
/// find may have broken it.
pub(super) fn finds_misuse(model: &mut Model<'_>) -> Result<bool, Complaint> {
    #[repr(align(64))]
    struct Buffer([u8; 256]);

    let size = fill(model, 48)?;
    let (first, second) = (addr_of(model, 31), addr_of(model, 40));
    model.free(31)?;
    model.free(40)?;
    let foreign = Buffer([0; 256]);
    let found = make(model, Call::Deallocate, second, size).is_err()
        && make(model, Call::Deallocate, first, size).is_err()
        && make(model, Call::Deallocate, foreign.0.as_ptr() as usize + 64, size).is_err();
    Ok(found)
}
