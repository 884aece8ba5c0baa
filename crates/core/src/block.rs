//! Blocks and their boundary tags (Knuth, *The Art of Computer Programming* 1, §2.5, 1968).
//!
//! A block is a header, then payload, up to the next block's header; its size counts all of that.
//!
//! ```text
//!            header                payload (a multiple of 16)
//!            v                     v
//! one word:  | size, flags |       ........................................ | next header
//! two words: | size, flags | spare ........................................ | next header
//! free:      | size, flags | node: links of the policy .............. | size | next header
//! ```
//!
//! The header of one word costs eight bytes a block, and the footer of a free block lies in its own
//! payload: a block in use pays for neither footer nor padding. The node of a free block begins right
//! behind the size word, so with a header of two words it begins in the spare word.
//!
//! Invariants, which [`Heap::check`](crate::Heap) verifies:
//!
//! * every size is a multiple of [`GRANULE`], and the blocks of a region follow each other without a
//!   gap up to its epilogue, a header of size zero marked as used;
//! * `PREV_USED` says of the block before whether it is in use; only where it is clear does the word
//!   before a header hold that block's size;
//! * the upper sixteen bits of a size word are the seal of the heap's checks, zero without checks.

use core::ptr::NonNull;

use crate::secret;

/// The unit of block sizes, and the least alignment of payloads, in bytes.
pub const GRANULE: usize = 16;

/// Bytes of a machine word: a header's size word, a link, a footer.
pub(crate) const WORD: usize = size_of::<usize>();

pub(crate) const USED: usize = 1;
pub(crate) const PREV_USED: usize = 2;
/// The block has a mapping of its own.
pub(crate) const MAPPED: usize = 4;
/// The block was freed and waits in a quick list; its neighbours see it as used.
pub(crate) const CACHED: usize = 8;

#[cfg(target_pointer_width = "64")]
pub(crate) const SIZE_BITS: usize = ((1 << 48) - 1) & !(GRANULE - 1);
#[cfg(not(target_pointer_width = "64"))]
pub(crate) const SIZE_BITS: usize = !(GRANULE - 1);

pub(crate) const SEAL_BITS: usize = !(SIZE_BITS | (GRANULE - 1));

/// The largest block, a bound that keeps all sums of sizes from overflowing.
pub(crate) const MAX_BLOCK: usize = SIZE_BITS >> 2 & !(GRANULE - 1);

/// `value` rounded up to a multiple of `to`, a power of two. The caller rules out overflow.
#[inline(always)]
pub(crate) const fn round_up(value: usize, to: usize) -> usize {
    (value + to - 1) & !(to - 1)
}

/// A block, by the address of its header.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block(pub(crate) NonNull<u8>);

impl Block {
    #[inline(always)]
    pub(crate) fn addr(self) -> usize {
        self.0.as_ptr() as usize
    }

    /// The block, or any other thing, `bytes` further on.
    ///
    /// # Safety
    ///
    /// The place is within the same region.
    #[inline(always)]
    pub(crate) unsafe fn after(self, bytes: usize) -> Self {
        // SAFETY: within one region, as the caller promises, and a region does not wrap around.
        Self(unsafe { self.0.add(bytes) })
    }

    /// Reads the size word.
    ///
    /// # Safety
    ///
    /// A header stands here.
    #[inline(always)]
    pub(crate) unsafe fn word(self) -> usize {
        // SAFETY: the caller promises a header, which is aligned to a word.
        unsafe { self.0.cast::<usize>().read() }
    }

    /// Writes the size word.
    ///
    /// # Safety
    ///
    /// The place belongs to the heap.
    #[inline(always)]
    pub(crate) unsafe fn set_word(self, word: usize) {
        // SAFETY: the caller promises that the place is the heap's.
        unsafe { self.0.cast::<usize>().write(word) };
    }

    /// The block's size in bytes, header included.
    ///
    /// # Safety
    ///
    /// A header stands here.
    #[inline(always)]
    pub(crate) unsafe fn size(self) -> usize {
        // SAFETY: the caller promises a header.
        unsafe { self.word() & SIZE_BITS }
    }

    /// The free block that ends where this one begins.
    ///
    /// # Safety
    ///
    /// A header stands here, and its `PREV_USED` is clear.
    #[inline(always)]
    pub(crate) unsafe fn free_before(self) -> Self {
        // SAFETY: with PREV_USED clear, the word before this header is the footer of the free
        // block before it, hence its size.
        unsafe { Self(self.0.sub(self.0.sub(WORD).cast::<usize>().read())) }
    }

    /// Writes the footer of a free block.
    ///
    /// # Safety
    ///
    /// This is a free block of `size` bytes.
    #[inline(always)]
    pub(crate) unsafe fn set_footer(self, size: usize) {
        // SAFETY: the last word of a free block is the heap's.
        unsafe { self.0.add(size - WORD).cast::<usize>().write(size) };
    }

    #[inline(always)]
    pub(crate) unsafe fn footer(self, size: usize) -> usize {
        // SAFETY: as for `set_footer`.
        unsafe { self.0.add(size - WORD).cast::<usize>().read() }
    }
}

/// A free block, as policies see it: where it is, how large it is, and a node of two words in
/// which a policy keeps its links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeBlock {
    at: NonNull<u8>,
    size: usize,
}

impl FreeBlock {
    #[inline(always)]
    pub(crate) fn new(block: Block, size: usize) -> Self {
        Self { at: block.0, size }
    }

    #[inline(always)]
    pub(crate) fn block(self) -> Block {
        Block(self.at)
    }

    /// A free block for a mechanism of its own: writes the size into the word at `at`. What stands there may as well
    /// be the descriptor of something that lies elsewhere, a run of pages, so that a policy can choose among such.
    ///
    /// # Safety
    ///
    /// `at` is aligned to 16; it and the two words behind it, the node, are the mechanism's to write, and nobody else
    /// writes them while the block is in an index. `size` is a multiple of 16, at least 32 and below 2⁴⁸.
    #[inline(always)]
    pub unsafe fn lay(at: NonNull<u8>, size: usize) -> Self {
        // SAFETY: the caller promises the word.
        unsafe { Block(at).set_word(size) };
        Self { at, size }
    }

    /// Where the block is: what [`lay`](Self::lay) was given.
    #[inline(always)]
    pub fn start(self) -> NonNull<u8> {
        self.at
    }

    /// The address of the block's header: what address order is the order of.
    #[inline(always)]
    pub fn addr(self) -> usize {
        self.at.as_ptr() as usize
    }

    /// The size of the block in bytes, header included, as [`Request::size`] counts.
    #[inline(always)]
    pub fn size(self) -> usize {
        self.size
    }

    /// The address just past the block.
    #[inline(always)]
    pub fn end(self) -> usize {
        self.addr() + self.size
    }

    /// Reads the link in word `slot` of the node.
    ///
    /// # Safety
    ///
    /// `slot` is 0 or 1, and was set since the block was inserted.
    #[inline(always)]
    pub unsafe fn link(self, slot: usize) -> Link {
        // SAFETY: the node of a free block is the policy's to read and write.
        unsafe { self.node(slot).read() }
    }

    /// Writes the link in word `slot` of the node.
    ///
    /// # Safety
    ///
    /// `slot` is 0 or 1; the block is inserted or being inserted.
    #[inline(always)]
    pub unsafe fn set_link(self, slot: usize, link: Link) {
        // SAFETY: as for `link`.
        unsafe { self.node(slot).write(link) };
    }

    /// A link that leads to this block.
    #[inline(always)]
    pub fn as_link(self) -> Link {
        Link(self.at.as_ptr())
    }

    #[inline(always)]
    unsafe fn node(self, slot: usize) -> *mut Link {
        // SAFETY: the node begins behind the size word and lies within the block.
        unsafe { self.at.as_ptr().add(WORD).cast::<Link>().add(slot) }
    }

    /// The next free block in memory within `steps` blocks of this one, found by walking over the
    /// blocks behind it; `None` when there is none so near. Lets an address-ordered list find an
    /// insertion point without going through the list. The wilderness is not found.
    ///
    /// # Safety
    ///
    /// The block is in a heap whose headers are in order.
    pub unsafe fn free_block_behind(self, steps: usize) -> Option<Self> {
        // SAFETY: sizes lead from header to header, and an epilogue, of size zero, ends each region;
        // the last block of the region in use is followed by the wilderness, whose header is kept
        // as an epilogue, of size zero, too.
        unsafe {
            let mut block = self.block().after(self.size);
            for _ in 0..steps {
                let word = block.word();
                let size = word & SIZE_BITS;
                if size == 0 {
                    return None;
                }
                if word & USED == 0 && size >= MIN_INDEXED {
                    return Some(Self::new(block, size));
                }
                block = block.after(size);
            }
            None
        }
    }
}

/// The least size of a block that is given to a policy: header, node of two links, footer.
pub(crate) const MIN_INDEXED: usize = 4 * WORD;

/// A link from one free block to another, or to none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Link(*mut u8);

// SAFETY: a link is an address until `get`, which is unsafe, follows it; the heap whose block it names
// goes where the link goes.
unsafe impl Send for Link {}

impl Link {
    /// The link to nothing.
    pub const NONE: Self = Self(core::ptr::null_mut());

    /// Whether it leads nowhere.
    #[inline(always)]
    pub fn is_none(self) -> bool {
        self.0.is_null()
    }

    /// The block that it leads to.
    ///
    /// # Safety
    ///
    /// The link is [`NONE`](Self::NONE), or leads to a block that is free still.
    #[inline(always)]
    pub unsafe fn get(self) -> Option<FreeBlock> {
        let at = NonNull::new(self.0)?;
        // SAFETY: the caller promises a free block, which has a header.
        Some(FreeBlock { at, size: unsafe { Block(at).size() } })
    }

    /// The address of the block that it leads to, zero for none.
    #[inline(always)]
    pub fn addr(self) -> usize {
        self.0 as usize
    }

    /// The link with its bits mixed by `code`, to be stored in a node.
    #[inline(always)]
    pub fn coded<C: LinkCode>(self, node: FreeBlock) -> Self {
        Self(self.0.map_addr(|addr| addr ^ C::key(node.addr())))
    }
}

/// How links are written into the nodes of free blocks.
pub trait LinkCode: 'static {
    /// The bits that a link in the node at `node` is mixed with.
    fn key(node: usize) -> usize;
}

/// Links are written as they are.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

impl LinkCode for Plain {
    #[inline(always)]
    fn key(_node: usize) -> usize {
        0
    }
}

/// Links are mixed with a secret of the process and with their place, so that a program's stray
/// write, or an attacker's, does not lead the list to a place of its choice (the idea of
/// safe-linking: Eyal Itkin, 2020).
#[derive(Clone, Copy, Debug)]
pub struct Encoded;

impl LinkCode for Encoded {
    #[inline(always)]
    fn key(node: usize) -> usize {
        secret::get() ^ (node >> 4)
    }
}

/// What a policy is asked to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    size: usize,
}

impl Request {
    /// A request for a block of `size` bytes, header included.
    #[inline(always)]
    pub const fn new(size: usize) -> Self {
        Self { size }
    }

    /// The least size of block that serves it, in bytes, header included.
    #[inline(always)]
    pub const fn size(self) -> usize {
        self.size
    }

    /// Whether a block serves it.
    #[inline(always)]
    pub fn fits(self, block: FreeBlock) -> bool {
        block.size >= self.size
    }
}
