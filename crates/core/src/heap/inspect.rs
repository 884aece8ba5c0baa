//! Looking into a heap: its blocks one by one, their sums, and whether every invariant holds.

use core::ptr::NonNull;

use super::Heap;
use super::regions::{FIRST_PAYLOAD, RegionHead};
use crate::block::{Block, CACHED, MIN_INDEXED, PREV_USED, SEAL_BITS, SIZE_BITS, USED, WORD};
use crate::large::Large;
use crate::mechanism::{Checks, Coalescing, Mechanism, QuickBlock};
use crate::policy::Indexed;
use crate::{BlockInfo, BlockState, Broken, FreeBlock, HeapBackend, Policy, Stats, ensure};

impl<B: HeapBackend, P: Policy, M: Mechanism> Heap<B, P, M> {
    pub(super) fn sum_up(&self) -> Stats {
        let mut stats = Stats {
            footprint: self.footprint + self.large.footprint(),
            peak_footprint: self.peak_footprint,
            grows: self.grows,
            shrinks: self.shrinks,
            misuses: self.misuses,
            ..Stats::default()
        };
        let mut at = self.regions;
        // SAFETY: the list holds regions of ours.
        while let Some(head) = unsafe { at.as_ref() } {
            stats.regions += 1;
            // The head, and the epilogue with what alignment leaves behind it.
            stats.overhead += FIRST_PAYLOAD - Self::HEADER;
            stats.overhead += head.end() - head.epilogue.as_ptr() as usize;
            at = head.next;
        }
        self.visit_blocks(&mut |block| stats.count(block));
        stats
    }

    pub(super) fn visit_blocks(&self, visit: &mut dyn FnMut(BlockInfo)) {
        let mut at = self.regions;
        // SAFETY: the list holds regions of ours, in which size leads from header to header.
        unsafe {
            while let Some(head) = at.as_ref() {
                let mut block =
                    Block(NonNull::from(head).cast::<u8>().add(FIRST_PAYLOAD - Self::HEADER));
                while block.size() != 0 {
                    visit(self.describe(block));
                    block = block.after(block.size());
                }
                if block.0 == self.top && self.top_size > 0 {
                    let overhead = Self::HEADER.min(self.top_size);
                    visit(BlockInfo {
                        address: block.addr() + Self::HEADER,
                        size: self.top_size - overhead,
                        overhead,
                        state: BlockState::Wilderness,
                        next_free: None,
                    });
                }
                at = head.next;
            }
        }
        self.large.walk(Self::HEADER, &mut |address, size, held| {
            visit(BlockInfo {
                address,
                size,
                overhead: held - size,
                state: BlockState::Mapped,
                next_free: None,
            });
        });
    }

    pub(super) fn check_all(&self) -> Result<(), Broken> {
        let mut free = Indexed::default();
        let (mut cached, mut held, mut in_use) = (0, 0, true);
        let mut at = self.regions;
        // SAFETY: the list holds regions of ours; each step is verified before it is taken.
        while let Some(head) = unsafe { at.as_ref() } {
            held += head.size;
            // SAFETY: as above.
            unsafe { self.check_region(head, in_use, &mut free, &mut cached)? };
            in_use = false;
            at = head.next;
        }
        ensure(held == self.footprint, "the regions' sizes add up to the footprint", held)?;
        ensure(cached == self.quick.bytes(), "the quick lists hold the cached blocks", cached)?;
        let indexed = self.policy.check()?;
        ensure(indexed == free, "the index holds the free blocks, each once", indexed.blocks)?;
        self.large.check()
    }

    /// What `walk` shows of a block that is not the wilderness.
    unsafe fn describe(&self, block: Block) -> BlockInfo {
        // SAFETY: the caller promises a header; the state tells which list the block is in.
        unsafe {
            let word = block.word();
            let size = word & SIZE_BITS;
            let next = if word & CACHED != 0 {
                let next = self.quick.next(QuickBlock { at: block.0, size });
                next.map(|quick| Block(quick.at))
            } else if word & USED == 0 && size >= MIN_INDEXED {
                self.policy.next_free(FreeBlock::new(block, size)).map(FreeBlock::block)
            } else {
                None
            };
            BlockInfo {
                address: block.addr() + Self::HEADER,
                size: size - Self::HEADER,
                overhead: Self::HEADER,
                state: match (word & USED != 0, word & CACHED != 0) {
                    (_, true) => BlockState::Cached,
                    (true, false) => BlockState::Used,
                    (false, false) => BlockState::Free,
                },
                next_free: next.map(|next| next.addr() + Self::HEADER),
            }
        }
    }

    unsafe fn check_region(
        &self,
        head: &RegionHead,
        in_use: bool,
        free: &mut Indexed,
        cached: &mut usize,
    ) -> Result<(), Broken> {
        let epilogue = head.epilogue.as_ptr() as usize;
        let mut prev_used = true;
        // SAFETY: the walk goes on only while sizes stay within the region.
        unsafe {
            let mut block =
                Block(NonNull::from(head).cast::<u8>().add(FIRST_PAYLOAD - Self::HEADER));
            loop {
                let (word, addr) = (block.word(), block.addr());
                let size = word & SIZE_BITS;
                ensure(
                    word & SEAL_BITS == M::Checks::seal(addr),
                    "every header carries the seal of its place",
                    addr,
                )?;
                ensure(
                    (word & PREV_USED != 0) == prev_used,
                    "PREV_USED tells whether the block before is in use",
                    addr,
                )?;
                if size == 0 {
                    ensure(word & USED != 0, "an epilogue is marked as used", addr)?;
                    break;
                }
                ensure(size <= epilogue - addr, "blocks end before the epilogue", addr)?;
                if word & USED == 0 {
                    ensure(
                        prev_used || !M::Coalescing::MERGES,
                        "free neighbours are merged",
                        addr,
                    )?;
                    ensure(block.footer(size) == size, "a free block ends in its size", addr)?;
                    ensure(
                        size >= MIN_INDEXED || addr + size == epilogue,
                        "slivers are only at the end of a region",
                        addr,
                    )?;
                    if size >= MIN_INDEXED {
                        free.count(FreeBlock::new(block, size));
                    }
                } else if word & CACHED != 0 {
                    *cached += size;
                } else if M::Checks::CANARIES {
                    ensure(
                        block.after(WORD).word() == M::Checks::canary(addr),
                        "every used block has its canary",
                        addr,
                    )?;
                }
                prev_used = word & USED != 0;
                block = block.after(size);
            }
            if in_use {
                ensure(
                    block.0 == self.top,
                    "the region in use ends in the wilderness",
                    block.addr(),
                )?;
                ensure(prev_used, "the block before the wilderness is in use", block.addr())?;
                ensure(
                    block.addr() + self.top_size == epilogue,
                    "the wilderness ends at the epilogue",
                    block.addr(),
                )?;
            } else {
                ensure(
                    block.addr() == epilogue,
                    "an old region ends in its epilogue",
                    block.addr(),
                )?;
            }
            ensure(Block(head.epilogue).size() == 0, "an epilogue has size zero", epilogue)
        }
    }
}
