//! Regions on their way back.

use core::ptr::{self, NonNull};

use heapwright_core::Region;

/// Regions that nobody uses any more, to be given back: the highest first, as a contiguous source takes
/// them.
///
/// The pile keeps its links in the regions, so it needs no memory and holds any number. Dropping it
/// forgets those that were not taken out.
///
/// Cost: pushing and popping O(1), sorting O(n log n).
#[derive(Debug)]
pub struct Pile {
    top: *mut Piled,
}

/// Stands at the start of a region on the pile.
struct Piled {
    below: *mut Piled,
    size: usize,
}

impl Default for Pile {
    fn default() -> Self {
        Self::new()
    }
}

impl Pile {
    /// The size of the smallest region that can be piled, in bytes.
    pub const LEAST: usize = size_of::<Piled>();

    /// Nothing.
    pub const fn new() -> Self {
        Self { top: ptr::null_mut() }
    }

    /// Puts a region on top.
    ///
    /// # Safety
    ///
    /// Its memory is writable, used by nobody, aligned for pointers and at least [`LEAST`](Self::LEAST)
    /// bytes long.
    pub unsafe fn push(&mut self, region: Region) {
        let piled = region.start.cast::<Piled>().as_ptr();
        // SAFETY: the caller promises that the memory is ours to write.
        unsafe { piled.write(Piled { below: self.top, size: region.size }) };
        self.top = piled;
    }

    /// Takes the top region off.
    pub fn pop(&mut self) -> Option<Region> {
        let start = NonNull::new(self.top)?;
        // SAFETY: what is on the pile was written when it was pushed, and is used by nobody else.
        let Piled { below, size } = unsafe { start.read() };
        self.top = below;
        Some(Region { start: start.cast(), size, zeroed: false })
    }

    /// Brings the highest region to the top, the second highest below it, and so on.
    pub fn sort(&mut self) {
        // Merge sort from the bottom up: slot n holds a sorted pile of 2^n regions, or none.
        let mut slots = [ptr::null_mut::<Piled>(); usize::BITS as usize];
        while let Some(region) = self.pop() {
            let mut carry = region.start.cast::<Piled>().as_ptr();
            // SAFETY: just taken off the pile; a pile of one.
            unsafe { (*carry).below = ptr::null_mut() };
            for slot in &mut slots {
                if slot.is_null() {
                    *slot = carry;
                    break;
                }
                // SAFETY: both are sorted piles of regions that are in no other.
                carry = unsafe { merge(core::mem::replace(slot, ptr::null_mut()), carry) };
            }
        }
        // SAFETY: as above.
        self.top = slots.into_iter().fold(ptr::null_mut(), |sum, slot| unsafe { merge(sum, slot) });
    }
}

/// One sorted pile of two.
///
/// # Safety
///
/// Both are sorted piles, or null, of regions that are in no other.
unsafe fn merge(mut one: *mut Piled, mut two: *mut Piled) -> *mut Piled {
    let mut top = ptr::null_mut();
    let mut end = &raw mut top;
    // SAFETY: what is on a pile was written when it was pushed; `end` is `top` or a link on the pile.
    unsafe {
        while !one.is_null() && !two.is_null() {
            let higher = if one > two { &mut one } else { &mut two };
            *end = *higher;
            end = &raw mut (**higher).below;
            *higher = *end;
        }
        *end = if one.is_null() { two } else { one };
    }
    top
}
