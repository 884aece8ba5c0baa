//! Sequences of requests: what the model carries out, what generators make, what fuzzing decodes.

use core::fmt;

/// One request to a heap.
///
/// Blocks go by *slots*, numbers that the sequence chooses. A step that does not apply (allocating into a
/// slot that is taken, freeing or reallocating an empty one) is left out, so that every part of a sequence
/// is a sequence, which is what shrinking a failing one needs. A slot stays empty when an allocation into
/// it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Allocates a block into an empty slot.
    Allocate {
        /// Where it is kept.
        slot: usize,
        /// Bytes.
        size: usize,
        /// A power of two, in bytes.
        align: usize,
        /// Whether its bytes are to be zero.
        zeroed: bool,
    },
    /// Frees the block of a slot.
    Free {
        /// Where it was kept.
        slot: usize,
    },
    /// Changes the size of the block of a slot.
    Reallocate {
        /// Where it is kept.
        slot: usize,
        /// The new size in bytes.
        size: usize,
    },
    /// Gives back what can be given back.
    Trim,
}

impl Step {
    /// The step with its sizes and alignments brought within limits.
    #[must_use]
    pub fn within(self, max_size: usize, max_align: usize) -> Self {
        match self {
            Self::Allocate { slot, size, align, zeroed } => Self::Allocate {
                slot,
                size: size.min(max_size),
                align: align.min(max_align),
                zeroed,
            },
            Self::Reallocate { slot, size } => Self::Reallocate { slot, size: size.min(max_size) },
            other => other,
        }
    }
}

/// As the code that makes the step, so that a failing sequence can be pasted into a test.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Step::{self:?}")
    }
}

/// The steps that a fuzzer's bytes stand for; every input stands for some sequence. Six bytes a step:
/// what, slot, two for the size, one for its magnitude, alignment.
pub fn decode(bytes: &[u8]) -> impl Iterator<Item = Step> + '_ {
    bytes.chunks_exact(6).map(|chunk| {
        let slot = usize::from(chunk[1]);
        let number = usize::from(u16::from_le_bytes([chunk[2], chunk[3]]));
        // Half of the sizes are tiny, the largest are of some megabytes.
        let size = match chunk[4] % 16 {
            0..8 => number % 256,
            8..12 => number % 4096,
            12..15 => number,
            _ => number << 6,
        };
        match chunk[0] % 16 {
            0..6 => {
                let align = 1 << (chunk[5] % 16).saturating_sub(3);
                Step::Allocate { slot, size, align, zeroed: chunk[5] & 0x80 != 0 }
            }
            6..11 => Step::Free { slot },
            11..15 => Step::Reallocate { slot, size },
            _ => Step::Trim,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_decodes_to_valid_steps() {
        let bytes: Vec<u8> =
            (0..6000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let steps: Vec<Step> = decode(&bytes).collect();
        assert_eq!(steps.len(), 1000);
        for step in &steps {
            if let Step::Allocate { align, .. } = step {
                assert!(align.is_power_of_two(), "{step}");
            }
        }
        let allocations = steps.iter().filter(|step| matches!(step, Step::Allocate { .. })).count();
        assert!((250..500).contains(&allocations), "{allocations} of 1000 allocate");
        assert_eq!(decode(&bytes[..5]).count(), 0);
    }

    #[test]
    fn a_step_prints_as_the_code_that_makes_it() {
        let step = Step::Reallocate { slot: 3, size: 40 };
        assert_eq!(step.to_string(), "Step::Reallocate { slot: 3, size: 40 }");
    }
}
