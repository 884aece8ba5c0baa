//! Lets a call fail on purpose.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use heapwright_core::{HeapBackend, New, OutOfMemory, Region, hand_on};

use crate::fallback::{Owns, Stretch};

/// A backend whose n-th call of `grow` or `resize` fails: once, or from then on. What fails does not
/// reach the backend inside. For tests of every failure point of a heap:
///
/// ```
/// use core::mem::MaybeUninit;
/// use heapwright_backends::{Arena, Failing};
/// use heapwright_core::HeapBackend;
///
/// let mut buffer = [MaybeUninit::uninit(); 4096];
/// let mut backend = Failing::over(Arena::new(&mut buffer));
/// backend.switch().fail_once(2);
/// assert!(backend.grow(16, 16).is_ok());
/// assert!(backend.grow(16, 16).is_err());
/// assert!(backend.grow(16, 16).is_ok());
/// assert_eq!(backend.switch().failures(), 1);
/// ```
#[derive(Debug)]
pub struct Failing<B> {
    inner: B,
    own: Switch,
    shared: Option<&'static Switch>,
}

/// Decides which calls fail. May be set while a heap is in use, and may be a `static` that several
/// backends share ([`Failing::by`]).
#[derive(Debug)]
pub struct Switch {
    /// Which call fails, counted down; zero for none.
    countdown: AtomicUsize,
    keep: AtomicBool,
    calls: AtomicUsize,
    failures: AtomicUsize,
}

impl New for Switch {
    #[allow(clippy::declare_interior_mutable_const)]
    const NEW: Self = Self {
        countdown: AtomicUsize::new(0),
        keep: AtomicBool::new(false),
        calls: AtomicUsize::new(0),
        failures: AtomicUsize::new(0),
    };
}

impl Default for Switch {
    fn default() -> Self {
        Self::NEW
    }
}

impl Switch {
    /// No call fails.
    pub const fn new() -> Self {
        Self::NEW
    }

    /// The `call`-th call from now on fails, 1 being the next; those after it work again.
    pub fn fail_once(&self, call: usize) {
        self.set(call, false);
    }

    /// The `call`-th call from now on fails, 1 being the next, and all after it.
    pub fn fail_from(&self, call: usize) {
        self.set(call, true);
    }

    /// No call fails from now on.
    pub fn repair(&self) {
        self.set(0, false);
    }

    fn set(&self, call: usize, keep: bool) {
        self.keep.store(keep, Relaxed);
        self.countdown.store(call, Relaxed);
    }

    /// How many calls there were, failed ones among them.
    pub fn calls(&self) -> usize {
        self.calls.load(Relaxed)
    }

    /// How many calls failed on purpose.
    pub fn failures(&self) -> usize {
        self.failures.load(Relaxed)
    }

    /// Counts a call, and says whether it is to fail.
    fn fails(&self) -> bool {
        self.calls.fetch_add(1, Relaxed);
        let keep = self.keep.load(Relaxed);
        let step = |left: usize| match left {
            0 => None,
            1 if keep => Some(1),
            left => Some(left - 1),
        };
        let fails = self.countdown.fetch_update(Relaxed, Relaxed, step) == Ok(1);
        self.failures.fetch_add(usize::from(fails), Relaxed);
        fails
    }
}

impl<B: New> New for Failing<B> {
    const NEW: Self = Self::over(B::NEW);
}

impl<B: Default> Default for Failing<B> {
    fn default() -> Self {
        Self::over(B::default())
    }
}

impl<B> Failing<B> {
    /// A backend with a switch of its own, at which no call fails yet.
    pub const fn over(inner: B) -> Self {
        Self { inner, own: Switch::new(), shared: None }
    }

    /// A backend with a switch that others may have too.
    pub const fn by(inner: B, switch: &'static Switch) -> Self {
        Self { inner, own: Switch::new(), shared: Some(switch) }
    }

    /// The switch that decides.
    pub fn switch(&self) -> &Switch {
        self.shared.unwrap_or(&self.own)
    }

    /// The backend inside.
    pub const fn inner(&self) -> &B {
        &self.inner
    }
}

// SAFETY: everything is left to the backend inside, or refused.
unsafe impl<B: HeapBackend> HeapBackend for Failing<B> {
    fn grow(&mut self, size: usize, align: usize) -> Result<Region, OutOfMemory> {
        if self.switch().fails() {
            return Err(OutOfMemory);
        }
        self.inner.grow(size, align)
    }

    fn map(&mut self, size: usize, align: usize) -> Result<Region, OutOfMemory> {
        if self.switch().fails() {
            return Err(OutOfMemory);
        }
        self.inner.map(size, align)
    }

    unsafe fn resize(&mut self, region: Region, new_size: usize, may_move: bool) -> Option<Region> {
        if self.switch().fails() {
            return None;
        }
        // SAFETY: the caller promises the same.
        unsafe { self.inner.resize(region, new_size, may_move) }
    }

    unsafe fn relocate(&mut self, from: Region, to: Region) -> bool {
        // SAFETY: the caller promises the same.
        !self.switch().fails() && unsafe { self.inner.relocate(from, to) }
    }

    hand_on! {
        inner:
            page_size, shrink, discard, populate, offer_huge_pages, withdraw_huge_pages,
            is_readable, is_present, entropy,
    }
}

impl<B: Owns> Owns for Failing<B> {
    fn stretch_below(&self, end: usize) -> Stretch {
        self.inner.stretch_below(end)
    }
}
