//! Sequences that allocators do badly on. Each is a function of a few numbers, so that a failure can be
//! repeated and a measurement compared; each ends with everything freed.

use crate::{Rng, Step};

fn allocate(slot: usize, size: usize) -> Step {
    Step::Allocate { slot, size, align: 16, zeroed: false }
}

/// Combs of ever larger teeth, the part of Robson's bad programs that needs no knowledge of addresses
/// (J. M. Robson, *Worst case fragmentation of first fit and best fit storage allocation strategies*,
/// 1977): fills `bytes` with blocks of one size, frees every other block of this round and of what the
/// rounds before have left, and goes on with twice the size, which fits into none of the holes.
///
/// An allocator that places blocks side by side needs half of `bytes` more in each of the
/// log₂(`largest` / `smallest`) rounds. For the adversary that looks at addresses see [`Robson`].
pub fn combs(bytes: usize, smallest: usize, largest: usize) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rounds: Vec<(usize, Vec<usize>)> = Vec::new();
    let (mut next, mut live, mut size) = (0, 0, smallest.max(1));
    while size <= largest {
        let mut round = Vec::new();
        while live + size <= bytes {
            steps.push(allocate(next, size));
            round.push(next);
            next += 1;
            live += size;
        }
        rounds.push((size, round));
        for (size, slots) in &mut rounds {
            let mut stays = false;
            slots.retain(|&slot| {
                stays = !stays;
                if !stays {
                    steps.push(Step::Free { slot });
                    live -= *size;
                }
                stays
            });
        }
        size *= 2;
    }
    steps.extend(rounds.into_iter().flat_map(|(_, slots)| slots).map(|slot| Step::Free { slot }));
    steps
}

/// Memory use that rises and falls, as of a program in phases: `teeth` times, `blocks` blocks are
/// allocated and all but one in `survivors` freed, the youngest first.
pub fn sawtooth(teeth: usize, blocks: usize, survivors: usize, max: usize, seed: u64) -> Vec<Step> {
    let mut rng = Rng::new(seed);
    let (mut steps, mut kept) = (Vec::new(), Vec::new());
    for tooth in 0..teeth {
        let slots = tooth * blocks..(tooth + 1) * blocks;
        steps.extend(slots.clone().map(|slot| allocate(slot, rng.size(max))));
        for slot in slots.rev() {
            if slot.is_multiple_of(survivors.max(1)) {
                kept.push(slot);
            } else {
                steps.push(Step::Free { slot });
            }
        }
    }
    steps.extend(kept.into_iter().map(|slot| Step::Free { slot }));
    steps
}

/// In which order blocks die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deaths {
    /// The youngest first: a stack.
    Lifo,
    /// The oldest first: a queue.
    Fifo,
    /// Any: a cache.
    Random,
    /// Mostly the young ones, as programs do; the rest stay for long.
    Young,
}

/// `steps` allocations, with frees between them that keep about `live` blocks in use; one in eight of the
/// blocks is resized on its way.
pub fn churn(steps: usize, live: usize, deaths: Deaths, max: usize, seed: u64) -> Vec<Step> {
    let mut rng = Rng::new(seed);
    let mut result = Vec::new();
    let mut slots = std::collections::VecDeque::new();
    for slot in 0..steps {
        let align = if rng.percent(5) { 1 << rng.between(5, 12) } else { 16 };
        let zeroed = rng.percent(10);
        result.push(Step::Allocate { slot, size: rng.size(max), align, zeroed });
        slots.push_back(slot);
        if rng.percent(12)
            && let Some(&slot) = slots.get(rng.below(slots.len()))
        {
            result.push(Step::Reallocate { slot, size: rng.size(max) });
        }
        // The number of live blocks wanders between half of `live` and all of it.
        let dying = match slots.len() {
            held if held > live => live / 2,
            held if held > live / 2 => rng.below(3),
            _ => 0,
        };
        for _ in 0..dying.min(slots.len()) {
            let at = match deaths {
                Deaths::Lifo => slots.len() - 1,
                Deaths::Fifo => 0,
                Deaths::Random => rng.below(slots.len()),
                Deaths::Young if rng.percent(90) => {
                    slots.len() - 1 - rng.below(slots.len().div_ceil(8))
                }
                Deaths::Young => rng.below(slots.len()),
            };
            if let Some(slot) = slots.remove(at) {
                result.push(Step::Free { slot });
            }
        }
    }
    result.extend(slots.into_iter().map(|slot| Step::Free { slot }));
    result
}

/// Robson's adversary: it looks where its blocks lie and frees so that what stays is in the way of the
/// next larger size (J. M. Robson, *Bounds for some functions concerning dynamic storage allocation*,
/// 1974, §4). Against any allocator that does not move blocks it forces a footprint of about
/// ½ · log₂(`largest` / `smallest`) times the live bytes.
///
/// Ask for [`next`](Self::next) steps until there are none; the caller says where a slot's block lies.
#[derive(Clone, Debug)]
pub struct Robson {
    bytes: usize,
    largest: usize,
    /// The size of this round.
    size: usize,
    /// The blocks that stay lie across an address that is this modulo `size`.
    offset: usize,
    live: Vec<(usize, usize)>,
    live_bytes: usize,
    next_slot: usize,
    pending: Vec<Step>,
}

impl Robson {
    /// The adversary that never has more than `bytes` live, in blocks of `smallest` to `largest` bytes,
    /// both powers of two.
    pub fn new(bytes: usize, smallest: usize, largest: usize) -> Self {
        Self {
            bytes,
            largest,
            size: smallest,
            offset: 0,
            live: Vec::new(),
            live_bytes: 0,
            next_slot: 0,
            pending: Vec::new(),
        }
    }

    /// The next step. `address` says where the block of a slot lies, `None` for one that could not be
    /// allocated.
    pub fn next(&mut self, address: impl Fn(usize) -> Option<usize>) -> Option<Step> {
        loop {
            if let Some(step) = self.pending.pop() {
                return Some(step);
            }
            if self.size > self.largest {
                let (slot, size) = self.live.pop()?;
                self.live_bytes -= size;
                return Some(Step::Free { slot });
            }
            if self.live_bytes + self.size <= self.bytes {
                let slot = self.next_slot;
                self.next_slot += 1;
                self.live.push((slot, self.size));
                self.live_bytes += self.size;
                return Some(allocate(slot, self.size));
            }
            self.size *= 2;
            if self.size <= self.largest {
                self.choose(&address);
            }
        }
    }

    /// Between two rounds: of two offsets, keeps what lies across the one where less room is left in the
    /// pieces that stay, and frees the rest.
    fn choose(&mut self, address: &impl Fn(usize) -> Option<usize>) {
        let half = self.size / 2;
        let lies_across = |&(slot, size): &(usize, usize), offset: usize| {
            address(slot).is_some_and(|at| {
                let first = at + (offset.wrapping_sub(at) & (self.size - 1));
                first < at + size
            })
        };
        // Each block that stays blocks one piece of `size` bytes: the fewer bytes it does that with,
        // the more the next round has to spend.
        let worth = |offset: usize| -> usize {
            let across = self.live.iter().filter(|block| lies_across(block, offset));
            across.map(|&(_, size)| self.size.saturating_sub(size)).sum()
        };
        let (low, high) = (self.offset, self.offset + half);
        let offset = if worth(high) > worth(low) { high } else { low };
        let (stay, go): (Vec<_>, Vec<_>) =
            self.live.iter().copied().partition(|block| lies_across(block, offset));
        self.offset = offset;
        self.live = stay;
        self.live_bytes -= go.iter().map(|&(_, size)| size).sum::<usize>();
        self.pending = go.into_iter().rev().map(|(slot, _)| Step::Free { slot }).collect();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Live bytes after each step; panics where a step does not apply.
    fn live_bytes(steps: &[Step]) -> Vec<usize> {
        let mut slots = HashMap::new();
        let live = steps.iter().map(|step| {
            match *step {
                Step::Allocate { slot, size, .. } => {
                    assert!(slots.insert(slot, size).is_none(), "{step}: the slot is taken")
                }
                Step::Free { slot } => {
                    assert!(slots.remove(&slot).is_some(), "{step}: the slot is empty")
                }
                Step::Reallocate { slot, size } => {
                    assert!(slots.insert(slot, size).is_some(), "{step}: the slot is empty")
                }
                Step::Trim => {}
            }
            slots.values().sum()
        });
        live.collect()
    }

    #[test]
    fn all_sequences_apply_and_end_with_everything_freed() {
        let kinds = [Deaths::Lifo, Deaths::Fifo, Deaths::Random, Deaths::Young];
        let mut sequences: Vec<_> =
            kinds.iter().map(|&deaths| churn(500, 50, deaths, 1000, 1)).collect();
        sequences.push(combs(1 << 14, 16, 1 << 10));
        sequences.push(sawtooth(5, 100, 10, 1000, 2));
        for steps in sequences {
            let live = live_bytes(&steps);
            assert_eq!(live.last(), Some(&0));
            assert!(live.iter().max() > Some(&4096), "hardly anything is live: {steps:?}");
        }
    }

    #[test]
    fn combs_stay_within_their_bytes_and_reach_every_size() {
        let steps = combs(1 << 14, 16, 1 << 10);
        assert!(live_bytes(&steps).into_iter().max() <= Some(1 << 14));
        for size in [16, 64, 1024] {
            let found = |step: &Step| matches!(step, Step::Allocate { size: s, .. } if *s == size);
            assert!(steps.iter().any(found), "no block of {size} bytes");
        }
    }

    /// Against the best allocator that there is without headers, first fit over a plain array.
    #[test]
    fn robson_forces_fragmentation_on_first_fit() {
        let (bytes, largest) = (1 << 12, 1 << 8);
        let mut robson = Robson::new(bytes, 1, largest);
        let mut memory = vec![false; bytes * 16];
        let mut placed: HashMap<usize, (usize, usize)> = HashMap::new();
        let (mut footprint, mut live, mut peak) = (0, 0, 0);
        while let Some(step) = robson.next(|slot| placed.get(&slot).map(|&(at, _)| at)) {
            match step {
                Step::Allocate { slot, size, .. } => {
                    let at = (0..).find(|&at| !memory[at..at + size].contains(&true)).unwrap();
                    memory[at..at + size].fill(true);
                    placed.insert(slot, (at, size));
                    footprint = footprint.max(at + size);
                    live += size;
                    peak = live.max(peak);
                }
                Step::Free { slot } => {
                    let (at, size) = placed.remove(&slot).unwrap();
                    memory[at..at + size].fill(false);
                    live -= size;
                }
                other => panic!("{other}"),
            }
        }
        assert_eq!(live, 0);
        assert!(peak <= bytes);
        // Half of log2(256), the least that theory promises, is four.
        assert!(footprint >= 4 * bytes, "a footprint of {footprint} for {bytes} live bytes");
    }
}
