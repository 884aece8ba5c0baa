//! Workloads that are made up: what a benchmark is written for rather than what a program happened to do.
//!
//! Each is a function from a seed and a number of operations to a script, so every contender gets the very same one.

use anyhow::Result;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Exp, Pareto};

use crate::script::{Builder, Op, Script};

/// A generator: its name, what it does in one sentence, and the function that makes its script.
pub struct Generator {
    /// Its name in tables and on the command line.
    pub name: &'static str,
    /// What it does.
    pub about: &'static str,
    /// Makes about so many operations from a seed.
    pub generate: fn(seed: u64, operations: usize) -> Result<Script>,
}

/// All of them.
pub const GENERATORS: &[Generator] = &[
    Generator {
        name: "fixed-64",
        about: "one size, 64 bytes; each of 20,000 places frees its object and gets a new one at random times",
        generate: fixed_64,
    },
    Generator {
        name: "pareto",
        about: "sizes from a Pareto distribution (shape 1.1, 16 bytes up), lifetimes exponential (mean 10,000 allocations)",
        generate: pareto,
    },
    Generator {
        name: "vectors",
        about: "1,000 vectors grow side by side by doubling, up to 64 KiB, and shrink to fit before they go",
        generate: vectors,
    },
    Generator {
        name: "batch",
        about: "batches of small objects (1 to 400 bytes), some freed in order, some backwards, some surviving",
        generate: batch,
    },
    Generator {
        name: "larson",
        about: "2 threads replace random objects (8 to 1,000 bytes) of 5,000 each and then swap them, so that frees cross",
        generate: larson,
    },
];

type Random = Xoshiro256PlusPlus;

fn fixed_64(seed: u64, operations: usize) -> Result<Script> {
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

fn pareto(seed: u64, operations: usize) -> Result<Script> {
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

fn vectors(seed: u64, operations: usize) -> Result<Script> {
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

fn batch(seed: u64, operations: usize) -> Result<Script> {
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

/// After Larson and Krishnan, *Memory Allocation for Long-Running Server Applications* (ISMM 1998): a server whose
/// threads hand their objects on to the next thread.
fn larson(seed: u64, operations: usize) -> Result<Script> {
    const THREADS: usize = 2;
    const OBJECTS: usize = 5_000;
    const ROUNDS: usize = 10;
    const ALIGN: usize = 8;
    let mut random = Random::seed_from_u64(seed);
    let mut size = move || random.random_range(8..=1_000_usize);
    let mut places = Random::seed_from_u64(seed ^ 1);
    let mut streams = vec![Vec::new(); THREADS];
    let mut tables = vec![vec![0_usize; OBJECTS]; THREADS];
    for (stream, table) in streams.iter_mut().zip(&mut tables) {
        for (slot, held) in (0..).zip(table) {
            *held = size();
            stream.push(Op::allocate(slot, *held, ALIGN));
        }
    }
    let ends = 2 * THREADS * OBJECTS;
    let replaced = operations.saturating_sub(ends) / (2 * THREADS * ROUNDS);
    for round in 0..=ROUNDS {
        for (index, stream) in streams.iter_mut().enumerate() {
            let table = &mut tables[(index + round) % THREADS];
            if round == ROUNDS {
                stream.extend((0..).zip(table).map(|(slot, held)| Op::free(slot, *held, ALIGN)));
                continue;
            }
            for _ in 0..replaced {
                let slot = places.random_range(0..OBJECTS);
                stream.push(Op::free(slot as u32, table[slot], ALIGN));
                table[slot] = size();
                stream.push(Op::allocate(slot as u32, table[slot], ALIGN));
            }
            stream.push(Op::rotate());
        }
    }
    Script::concurrent(streams, OBJECTS as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::Kind;

    #[test]
    fn the_same_seed_makes_the_same_workload_and_another_seed_another() {
        for Generator { name, generate, .. } in GENERATORS {
            let bytes = |seed| {
                let script = generate(seed, 100_000).unwrap();
                script
                    .streams()
                    .concat()
                    .iter()
                    .flat_map(|op| bytemuck::bytes_of(op).to_vec())
                    .collect::<Vec<_>>()
            };
            assert_eq!(bytes(7), bytes(7), "{name}");
            assert_ne!(bytes(7), bytes(8), "{name}");
        }
    }

    #[test]
    fn generators_make_about_as_many_operations_as_asked_and_free_everything() {
        for Generator { name, generate, .. } in GENERATORS {
            let script = generate(1, 200_000).unwrap();
            let operations = script.facts().operations;
            assert!((180_000..=220_000).contains(&operations), "{name}: {operations}");
            let count = |kinds: &[Kind]| {
                script.streams().concat().iter().filter(|op| kinds.contains(&op.kind())).count()
            };
            assert_eq!(count(&[Kind::Allocate]), count(&[Kind::Free]), "{name}");
        }
    }

    #[test]
    fn fixed_64_can_be_served_by_a_pool() {
        let facts = fixed_64(1, 100_000).unwrap().facts().clone();
        assert_eq!((facts.max_size, facts.max_align), (64, 16));
    }
}
