//! A strategy with its backend and its lock left open: what the conformance suite is run on.

use heapwright_core::{FutexMutex, HeapBackend, Limits, Strategy};
use lock_api::RawMutex;

use crate::rig::Rig;

/// A strategy whose backend and lock can be chosen. [`conformance!`](crate::conformance) implements it
/// for the type alias of a strategy crate. It borrows nothing, so that its heaps live as long as their backends.
pub trait Family: 'static {
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

/// What most promises need to know of a family. They take this in place of the type, so that they are compiled once, and
/// not for each strategy.
#[derive(Clone, Copy)]
pub struct Subject {
    pub(crate) name: &'static str,
    pub(crate) module: &'static str,
    pub(crate) nature: Nature,
    /// The limits of a heap of the strategy's own choice.
    pub(crate) limits: fn() -> Limits,
    /// An empty heap over an observed backend.
    pub(crate) over: for<'a> fn(Rig<'a>) -> Box<dyn Strategy + 'a>,
}

impl Subject {
    /// What promises need to know of the family `F`.
    pub const fn of<F: Family>() -> Self {
        fn over<'a, F: Family>(rig: Rig<'a>) -> Box<dyn Strategy + 'a> {
            Box::new(F::over::<Rig<'a>, FutexMutex>(rig))
        }
        Self {
            name: F::NAME,
            module: F::MODULE,
            nature: F::NATURE,
            limits: || F::new().limits(),
            over: over::<F>,
        }
    }
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
