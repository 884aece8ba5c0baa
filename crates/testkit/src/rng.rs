//! A small generator of random numbers whose sequence never changes, so that a seed in a failure
//! message, or in a checksum, means the same next year.

/// SplitMix64 (Steele, Lea and Flood, *Fast Splittable Pseudorandom Number Generators*, 2014).
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// The sequence of this seed.
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.state)
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next_u64() % bound as u64) as usize
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// Whether an event of `percent` happens.
    pub fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of `items`, which are not none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// Puts `items` in a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    /// A size as programs ask for them: mostly tiny, seldom large, never above `max`. Sizes around
    /// powers of two, where size classes end, are frequent.
    pub fn size(&mut self, max: usize) -> usize {
        let size = match self.below(100) {
            0..60 => self.between(0, 128),
            60..80 => self.between(129, 1024),
            80..92 => (1_usize << self.between(4, 14)) + self.below(3) - 1,
            92..98 => self.between(1025, 32 << 10),
            _ => self.between(32 << 10, 400 << 10),
        };
        size.min(max)
    }

    /// An alignment as programs ask for them: mostly that of a word, never above `max`.
    pub fn align(&mut self, max: usize) -> usize {
        let align = match self.below(100) {
            0..40 => 8,
            40..70 => 16,
            70..85 => 1 << self.below(4),
            85..97 => 1 << self.between(5, 9),
            _ => 1 << self.between(10, 16),
        };
        align.min(max)
    }
}

/// Mixes the bits of a number so that neighbours have nothing in common.
pub(crate) const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::Rng;

    #[test]
    fn the_sequence_of_a_seed_never_changes() {
        // From the reference implementation, seed 1234567.
        let mut rng = Rng::new(1_234_567);
        assert_eq!(rng.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(rng.next_u64(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn shuffling_loses_nothing() {
        let mut items: Vec<usize> = (0..100).collect();
        Rng::new(1).shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
