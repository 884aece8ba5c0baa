//! Contenders: what a workload can be run against.

use heapwright_core::Strategy;

use crate::replay::Allocator;
use crate::script::Facts;

/// Who made a contender.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// One of ours.
    Strategy,
    /// A well-known allocator built by someone else.
    Peer,
    /// No allocator: what the harness itself costs.
    Floor,
}

/// Something that a workload can be run against.
pub struct Contender {
    /// Its name in tables and on the command line.
    pub name: &'static str,
    /// Ours, or a peer.
    pub kind: Kind,
    /// What it is, in one sentence.
    pub about: &'static str,
    /// Its boundary; `None` for a peer that is not built into this binary.
    pub allocator: Option<&'static Allocator>,
    /// What a strategy shows of itself beyond `GlobalAlloc`.
    pub strategy: Option<&'static (dyn Strategy + Sync)>,
    /// Called once before the first request; its memory counts, its time does not.
    pub prepare: fn(),
    /// Never reuses memory, so it can run only what fits into memory all at once.
    pub never_frees: bool,
}

impl Contender {
    /// Whether this binary can replay with it.
    #[must_use]
    pub fn is_built(&self) -> bool {
        self.allocator.is_some() || self.kind == Kind::Floor
    }

    /// Why it cannot run a workload, if so.
    #[must_use]
    pub fn unfit_for(&self, facts: &Facts) -> Option<String> {
        let limits = self.strategy.map(|strategy| strategy.limits()).unwrap_or_default();
        let Facts { max_size, max_align, total, .. } = *facts;
        if max_size > limits.max_size {
            let (asked, served) = (count(max_size as u64), count(limits.max_size as u64));
            return Some(format!("objects up to {asked} bytes; {} serves {served}", self.name));
        }
        if max_align > limits.max_align {
            let (asked, served) = (count(max_align as u64), count(limits.max_align as u64));
            return Some(format!("alignments up to {asked} bytes; {} serves {served}", self.name));
        }
        let memory = available_memory();
        if self.never_frees && total > memory / 2 {
            return Some(format!(
                "it asks for {} bytes in all; {} never frees, and {} are available",
                count(total),
                self.name,
                count(memory)
            ));
        }
        None
    }
}

/// A number with its thousands marked.
fn count(number: u64) -> String {
    indicatif::HumanCount(number).to_string()
}

/// Bytes of memory that can be had without swapping; a lot where the kernel does not say.
fn available_memory() -> u64 {
    let field = |text: String| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?.trim();
        line.strip_suffix(" kB")?.parse::<u64>().ok()
    };
    std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(field)
        .map_or(u64::MAX, |kilobytes| kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use std::alloc::Layout;
    use std::ptr::NonNull;

    use heapwright_core::{BlockInfo, Broken, HeapError, Limits, Stats};

    use super::*;

    /// Serves 64 bytes at 16, in words only.
    struct Small;

    // SAFETY: never returns a block.
    unsafe impl Strategy for Small {
        fn limits(&self) -> Limits {
            Limits { max_size: 64, max_align: 16 }
        }
        fn allocate(&self, _: Layout) -> Option<NonNull<u8>> {
            None
        }
        fn allocate_zeroed(&self, _: Layout) -> Option<NonNull<u8>> {
            None
        }
        unsafe fn deallocate(&self, _: NonNull<u8>) -> Result<(), HeapError> {
            Ok(())
        }
        unsafe fn deallocate_sized(&self, _: NonNull<u8>, _: Layout) -> Result<(), HeapError> {
            Ok(())
        }
        unsafe fn reallocate(
            &self,
            _: NonNull<u8>,
            _: Layout,
            _: usize,
        ) -> Result<NonNull<u8>, HeapError> {
            Err(HeapError::OutOfMemory)
        }
        unsafe fn resize(&self, _: NonNull<u8>, _: usize) -> Result<NonNull<u8>, HeapError> {
            Err(HeapError::OutOfMemory)
        }
        unsafe fn usable_size(&self, _: NonNull<u8>) -> usize {
            64
        }
        fn trim(&self) -> usize {
            0
        }
        fn stats(&self) -> Stats {
            Stats::default()
        }
        fn walk(&self, _: &mut dyn FnMut(BlockInfo)) {}
        fn check(&self) -> Result<(), Broken> {
            Ok(())
        }
        fn freeze(&self) {}
        fn try_freeze(&self) -> bool {
            true
        }
        unsafe fn thaw(&self) {}
    }

    fn small(never_frees: bool) -> Contender {
        Contender {
            name: "small",
            kind: Kind::Strategy,
            about: "",
            allocator: None,
            strategy: Some(&Small),
            prepare: || (),
            never_frees,
        }
    }

    #[test]
    fn what_cannot_be_run_is_said_with_the_reason() {
        let facts =
            |max_size, max_align, total| Facts { max_size, max_align, total, ..Facts::default() };
        assert_eq!(small(false).unfit_for(&facts(64, 16, u64::MAX)), None);
        assert_eq!(small(true).unfit_for(&facts(64, 16, 1_000)), None);
        let reason = small(false).unfit_for(&facts(5_000, 16, 0)).unwrap();
        assert_eq!(reason, "objects up to 5,000 bytes; small serves 64");
        let reason = small(false).unfit_for(&facts(64, 4096, 0)).unwrap();
        assert_eq!(reason, "alignments up to 4,096 bytes; small serves 16");
        assert!(small(true).unfit_for(&facts(64, 16, 1 << 60)).unwrap().contains("never frees"));
    }
}
