//! One thread, distributions of sizes and lifetimes: the project's own.

use anyhow::Result;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Exp, Pareto};

use super::Random;
use crate::script::{Builder, Script};

/// Sizes: 64 bytes. Lifetimes: at each step one of 20,000 objects, each as likely as any, makes room for a new one.
pub(super) fn fixed_64(seed: u64, operations: usize) -> Result<Script> {
    const PLACES: usize = 20_000;
    let mut random = Random::seed_from_u64(seed);
    let mut builder = Builder::default();
    let mut places = Vec::new();
    for _ in 0..PLACES {
        places.push(builder.allocate(64)?);
    }
    for _ in 0..operations.saturating_sub(2 * PLACES) / 2 {
        let place = random.random_range(0..PLACES);
        builder.free(places[place]);
        places[place] = builder.allocate(64)?;
    }
    places.into_iter().for_each(|object| builder.free(object));
    builder.finish()
}

/// Sizes: Pareto, shape 1.1, at least 16 bytes, cut off at 1 MiB. Lifetimes: exponential, mean 10,000 allocations.
pub(super) fn pareto(seed: u64, operations: usize) -> Result<Script> {
    const SMALLEST: f64 = 16.0;
    const LARGEST: usize = 1 << 20;
    let mut random = Random::seed_from_u64(seed);
    let sizes = Pareto::new(SMALLEST, 1.1)?;
    let lifetimes = Exp::new(1.0 / 10_000.0)?;
    let mut builder = Builder::default();
    // What dies at which allocation. A list for each moment; beyond the end, things live on.
    let allocations = operations / 2;
    let mut deaths = vec![Vec::new(); allocations + 1];
    for now in 0..allocations {
        for object in std::mem::take(&mut deaths[now]) {
            builder.free(object);
        }
        let size = (sizes.sample(&mut random) as usize).min(LARGEST);
        let object = builder.allocate(size)?;
        let death = now + 1 + lifetimes.sample(&mut random) as usize;
        deaths[death.min(allocations)].push(object);
    }
    for object in std::mem::take(&mut deaths[allocations]) {
        builder.free(object);
    }
    builder.finish()
}

/// Sizes: 1,000 vectors side by side, which grow from 32 bytes by doubling to 64 bytes up to 64 KiB, most of them not
/// far, shrink to fit once, and go.
pub(super) fn vectors(seed: u64, operations: usize) -> Result<Script> {
    const SIDE_BY_SIDE: usize = 1_000;
    let mut random = Random::seed_from_u64(seed);
    let mut builder = Builder::default();
    let mut done = 0;
    let mut vectors: Vec<Option<(u32, usize, usize)>> = vec![None; SIDE_BY_SIDE];
    while done < operations {
        let vector = &mut vectors[random.random_range(0..SIDE_BY_SIDE)];
        done += 1;
        *vector = match *vector {
            None => {
                // Most vectors stay short: how often each doubles is itself a coin tossed again and again.
                let limit = 64 << random.random_range(0..=10_u32).min(random.random_range(0..=10));
                Some((builder.allocate(32)?, 32, limit))
            }
            Some((object, size, limit)) if size < limit => {
                builder.reallocate(object, size * 2)?;
                Some((object, size * 2, limit))
            }
            Some((object, size, _)) => {
                builder.reallocate(object, size / 2 + random.random_range(1..=size / 2))?;
                builder.free(object);
                done += 1;
                None
            }
        };
    }
    for (object, ..) in vectors.into_iter().flatten() {
        builder.free(object);
    }
    builder.finish()
}

/// Sizes: 1 to 400 bytes, small ones more often. Lifetimes: batches of 2,000; one object in sixteen outlives its batch by
/// four.
pub(super) fn batch(seed: u64, operations: usize) -> Result<Script> {
    const OBJECTS: usize = 2_000;
    let mut random = Random::seed_from_u64(seed);
    let mut builder = Builder::default();
    let mut survivors = Vec::new();
    let mut done = 0;
    for round in 0.. {
        if done >= operations {
            break;
        }
        let mut batch = Vec::new();
        for _ in 0..OBJECTS {
            // Small sizes are the most frequent ones.
            let most = random.random_range(1..=400);
            batch.push(builder.allocate(random.random_range(1..=most))?);
        }
        // One in sixteen outlives its batch, by four batches.
        let mut left = Vec::new();
        let mut going = Vec::new();
        for object in batch {
            if random.random_ratio(1, 16) { left.push(object) } else { going.push(object) }
        }
        if round % 2 == 1 {
            going.reverse();
        }
        survivors.push(left);
        if survivors.len() > 4 {
            going.extend(survivors.remove(0));
        }
        done += OBJECTS + going.len();
        going.into_iter().for_each(|object| builder.free(object));
    }
    survivors.into_iter().flatten().for_each(|object| builder.free(object));
    builder.finish()
}

/// Sizes: 1 to 64 MiB, such that doubling a size makes it half as frequent. Lifetimes: at each step one of 6 places, each
/// as likely as any, gets a new block; one in four grows by a half before it goes.
pub(super) fn large(seed: u64, operations: usize) -> Result<Script> {
    const PLACES: usize = 6;
    const SMALLEST: f64 = (1 << 20) as f64;
    const LARGEST: usize = 64 << 20;
    let mut random = Random::seed_from_u64(seed);
    let sizes = Pareto::new(SMALLEST, 1.0)?;
    let mut builder = Builder::default();
    let mut places = [None; PLACES];
    let mut done = 0;
    while done + PLACES < operations {
        let place: &mut Option<(u32, usize)> = &mut places[random.random_range(0..PLACES)];
        if let Some((object, size)) = place.take() {
            if random.random_ratio(1, 4) {
                builder.reallocate(object, (size + size / 2).min(LARGEST))?;
                done += 1;
            }
            builder.free(object);
            done += 1;
        }
        let size = (sizes.sample(&mut random) as usize).min(LARGEST);
        *place = Some((builder.allocate(size)?, size));
        done += 1;
    }
    for (object, _) in places.into_iter().flatten() {
        builder.free(object);
    }
    builder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_64_can_be_served_by_a_pool() {
        let facts = fixed_64(1, 100_000).unwrap().facts().clone();
        assert_eq!((facts.max_size, facts.max_align), (64, 16));
    }

    #[test]
    fn large_blocks_are_large_and_not_too_many() {
        let script = large(1, 100).unwrap();
        assert!(script.streams()[0].iter().all(|op| (1 << 20..=64 << 20).contains(&op.size())));
        assert!(script.facts().peak_live < 400 << 20, "{:?}", script.facts());
        assert!(script.facts().total < 1 << 30, "{:?}", script.facts());
    }
}
