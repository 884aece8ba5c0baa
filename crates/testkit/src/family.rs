//! A strategy with its backend and its lock left open: what the conformance suite is run on.

use heapwright_core::{HeapBackend, Strategy};
use lock_api::RawMutex;

/// A strategy whose backend and lock can be chosen. [`conformance!`](crate::conformance) implements it
/// for the type alias of a strategy crate.
pub trait Family {
    /// The strategy over a backend `B` under a lock `L`.
    type Over<B: HeapBackend, L: RawMutex>: Strategy;

    /// The strategy with its own choice of both.
    type Default: Strategy + 'static;

    /// What it is called in messages.
    const NAME: &'static str;

    /// The path of the module that holds the tests, by which a test can run itself in a process of its
    /// own.
    const MODULE: &'static str;

    /// What it cannot do.
    const NATURE: Nature;

    /// An empty heap over `backend`.
    fn over<B: HeapBackend, L: RawMutex>(backend: B) -> Self::Over<B, L>;

    /// An empty heap of the strategy's own choice.
    fn new() -> Self::Default;

    /// A static heap of the strategy's own choice.
    fn shared() -> &'static Self::Default;
}

/// What a strategy cannot do by its nature. Whatever is not given up here is promised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nature {
    /// Freed blocks are not used again before the heap is dropped.
    pub never_frees: bool,
    /// Misuse is not found.
    pub unchecked: bool,
    /// Free neighbours are not merged.
    pub never_merges: bool,
    /// Nothing goes back to the backend before the heap is dropped.
    pub never_trims: bool,
    /// A block whose size changes may move even where there is room.
    pub moves: bool,
    /// Memory is dealt out in large pieces, so that little of it serves few sizes.
    pub coarse: bool,
}

impl Nature {
    /// Nothing is given up.
    pub const NONE: Self = Self {
        never_frees: false,
        unchecked: false,
        never_merges: false,
        never_trims: false,
        moves: false,
        coarse: false,
    };
}
