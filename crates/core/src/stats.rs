//! What can be seen of a heap from outside: blocks one by one, and their sums.

/// What a block is being used for at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockState {
    /// Given to the program and not yet freed.
    Used,
    /// Given to the program, in a mapping of its own.
    Mapped,
    /// Free and indexed by the policy.
    Free,
    /// Freed by the program and kept as it is for a request of the same size
    /// (deferred coalescing, slabs, caches).
    Cached,
    /// The free end of a region, which serves a request only when no other block does.
    Wilderness,
}

/// One block as [`walk`](crate::Strategy::walk) shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockInfo {
    /// Address of the payload: what the program holds, or would hold.
    pub address: usize,
    /// Bytes of payload that the program may use.
    pub size: usize,
    /// Bytes of bookkeeping that this block costs beyond its payload.
    pub overhead: usize,
    /// What it is being used for.
    pub state: BlockState,
    /// Payload address of the block that follows in the free list, for a block that is in one.
    pub next_free: Option<usize>,
}

/// The sums of a heap at one moment. All sizes are in bytes.
///
/// `footprint = live_bytes + free_bytes + cached_bytes + overhead` for every heap; the conformance
/// suite holds each strategy to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Payload of all blocks in use, in mappings of their own too.
    pub live_bytes: usize,
    /// How many blocks are in use.
    pub live_blocks: usize,
    /// Payload of all free blocks, the wilderness among them.
    pub free_bytes: usize,
    /// How many free blocks there are.
    pub free_blocks: usize,
    /// Payload of the largest free block: the largest request that needs no growth.
    pub largest_free: usize,
    /// Payload of freed blocks that are kept as they are (see [`BlockState::Cached`]).
    pub cached_bytes: usize,
    /// How many such blocks there are.
    pub cached_blocks: usize,
    /// Bookkeeping: headers, tables, padding, the ends of regions.
    pub overhead: usize,
    /// Held from the backend now.
    pub footprint: usize,
    /// The most that was ever held from the backend at once.
    pub peak_footprint: usize,
    /// Regions held from the backend, mappings of single blocks not counted.
    pub regions: usize,
    /// Blocks that have a mapping of their own.
    pub mapped_blocks: usize,
    /// How often the backend was asked for memory with success.
    pub grows: usize,
    /// How often memory was given back.
    pub shrinks: usize,
    /// Misuses (double and invalid frees, corruptions) that were found.
    pub misuses: usize,
}

impl Stats {
    /// Every sum with its name, in the order of the structure: what is printed of a heap.
    #[must_use]
    pub const fn fields(&self) -> [(&'static str, usize); 15] {
        [
            ("live_bytes", self.live_bytes),
            ("live_blocks", self.live_blocks),
            ("free_bytes", self.free_bytes),
            ("free_blocks", self.free_blocks),
            ("largest_free", self.largest_free),
            ("cached_bytes", self.cached_bytes),
            ("cached_blocks", self.cached_blocks),
            ("overhead", self.overhead),
            ("footprint", self.footprint),
            ("peak_footprint", self.peak_footprint),
            ("regions", self.regions),
            ("mapped_blocks", self.mapped_blocks),
            ("grows", self.grows),
            ("shrinks", self.shrinks),
            ("misuses", self.misuses),
        ]
    }

    /// Adds one block of a walk to the sums.
    pub fn count(&mut self, block: BlockInfo) {
        self.count_alike(block, 1);
    }

    /// Adds so many blocks of one size and state to the sums, as a [`tally`](crate::Strategy::tally) shows them.
    pub fn count_alike(&mut self, block: BlockInfo, count: usize) {
        if count == 0 {
            return;
        }
        self.overhead += block.overhead * count;
        let bytes = block.size * count;
        match block.state {
            BlockState::Used | BlockState::Mapped => {
                self.live_bytes += bytes;
                self.live_blocks += count;
                self.mapped_blocks += if block.state == BlockState::Mapped { count } else { 0 };
            }
            BlockState::Cached => {
                self.cached_bytes += bytes;
                self.cached_blocks += count;
            }
            BlockState::Free | BlockState::Wilderness => {
                self.free_bytes += bytes;
                self.free_blocks += count;
                self.largest_free = self.largest_free.max(block.size);
            }
        }
    }
}
