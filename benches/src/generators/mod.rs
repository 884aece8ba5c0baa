//! Workloads that are made up: what a benchmark is written for rather than what a program happened to do.
//!
//! Each is a function from a seed and a number of operations to a script, so every contender gets the very same one. Those
//! of the literature are written from its descriptions; where they differ, their function says in what and why. The number
//! of threads is fixed, so that a workload is the same on every machine.

mod handover;
mod hoard;
mod plain;
pub mod robson;
mod servers;
mod smartheap;

use anyhow::Result;
use rand::rngs::Xoshiro256PlusPlus;

use crate::script::Script;

/// A generator: its name, what it does, and the function that makes its script.
pub struct Generator {
    /// Its name in tables and on the command line.
    pub name: &'static str,
    /// What it does, with its parameters.
    pub about: &'static str,
    /// Who described it, where and when; or that it is the project's own.
    pub source: &'static str,
    /// It makes one operation for so many that are asked for: its operations are large.
    pub per_operation: usize,
    /// The seed makes a difference.
    pub seeded: bool,
    /// Makes about so many operations, divided by `per_operation`, from a seed.
    make: fn(seed: u64, operations: usize) -> Result<Script>,
}

impl Generator {
    /// Makes its script from a seed, at a scale of so many operations.
    ///
    /// # Errors
    ///
    /// When it is too large to be numbered with 32 bits.
    pub fn generate(&self, seed: u64, operations: usize) -> Result<Script> {
        (self.make)(seed, operations / self.per_operation)
    }
}

const OURS: &str = "the project's own";
const HOARD: &str = "Berger, McKinley, Blumofe and Wilson, Hoard, 2000";
const SMARTHEAP: &str = "MicroQuill, SmartHeap, about 1998";

/// What most generators are.
const PLAIN: Generator = Generator {
    name: "",
    about: "",
    source: OURS,
    per_operation: 1,
    seeded: true,
    make: plain::pareto,
};

/// All of them.
pub const GENERATORS: &[Generator] = &[
    Generator {
        name: "fixed-64",
        about: "one size, 64 bytes; each of 20,000 places frees its object and gets a new one at random times",
        make: plain::fixed_64,
        ..PLAIN
    },
    Generator {
        name: "pareto",
        about: "sizes from a Pareto distribution (shape 1.1, 16 bytes up), lifetimes exponential (mean 10,000 allocations)",
        make: plain::pareto,
        ..PLAIN
    },
    Generator {
        name: "vectors",
        about: "1,000 vectors grow side by side by doubling, up to 64 KiB, and shrink to fit before they go",
        make: plain::vectors,
        ..PLAIN
    },
    Generator {
        name: "batch",
        about: "batches of small objects (1 to 400 bytes), some freed in order, some backwards, some surviving",
        make: plain::batch,
        ..PLAIN
    },
    Generator {
        name: "large",
        about: "blocks of 1 to 64 MiB in 6 places, some growing before they go; few operations, each large",
        per_operation: 4_000,
        make: plain::large,
        ..PLAIN
    },
    Generator {
        name: "sh6",
        about: "blocks of 1 to 1,000 bytes fill 5,000 places; a fifth stays, the rest goes in order and backwards",
        source: SMARTHEAP,
        seeded: false,
        make: smartheap::sh6,
        ..PLAIN
    },
    Generator {
        name: "robson",
        about: "an attack on first fit: powers of two, 64 bytes to 16 KiB, of which those stay that leave gaps without use",
        source: "Robson, An Estimate of the Store Size Necessary for Dynamic Storage Allocation, 1971",
        seeded: false,
        make: robson::robson,
        ..PLAIN
    },
    Generator {
        name: "larson",
        about: "2 threads replace random objects (8 to 1,000 bytes) of 5,000 each and then swap them, so that frees cross",
        source: "Larson and Krishnan, Memory Allocation for Long-Running Server Applications, 1998",
        make: servers::larson,
        ..PLAIN
    },
    Generator {
        name: "threadtest",
        about: "2 threads allocate many objects of 8 bytes and free them, 4 times over, sharing nothing",
        source: HOARD,
        seeded: false,
        make: hoard::threadtest,
        ..PLAIN
    },
    Generator {
        name: "cache-thrash",
        about: "2 threads allocate 8 bytes, write to them 100 times and free them: active false sharing, if any",
        source: HOARD,
        seeded: false,
        make: hoard::cache_thrash,
        ..PLAIN
    },
    Generator {
        name: "cache-scratch",
        about: "the same, but both threads begin with objects from one of them: passive false sharing, if any",
        source: HOARD,
        seeded: false,
        make: hoard::cache_scratch,
        ..PLAIN
    },
    Generator {
        name: "producer-consumer",
        about: "one thread allocates (8 to 2,048 bytes), another frees, at most 16 batches of 256 behind",
        source: "Lever and Boreham, malloc() Performance in a Multithreaded Linux Environment, 2000",
        make: handover::producer_consumer,
        ..PLAIN
    },
    Generator {
        name: "sh8",
        about: "2 threads do as sh6 does, and a quarter of the blocks is freed by the other thread",
        source: SMARTHEAP,
        make: smartheap::sh8,
        ..PLAIN
    },
    Generator {
        name: "mstress",
        about: "phases of 4 new threads with unequal work (8 bytes to 64 KiB), objects wander and outlive their threads",
        source: "Leijen, mimalloc-bench, 2019",
        make: servers::mstress,
        ..PLAIN
    },
    Generator {
        name: "thread-churn",
        about: "a new thread for each 150 objects (16 to 1,024 bytes), 2 at a time; one object in 16 outlives its thread",
        make: servers::thread_churn,
        ..PLAIN
    },
    Generator {
        name: "channels",
        about: "2 threads send each other messages of 16 and 32 KiB, which the receiver reads and frees",
        per_operation: 8,
        make: handover::channels,
        ..PLAIN
    },
];

type Random = Xoshiro256PlusPlus;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::Kind;

    /// How many operations of a kind a script has.
    pub(super) fn count(script: &Script, kind: Kind) -> usize {
        script.streams().concat().iter().filter(|op| op.kind() == kind).count()
    }

    #[test]
    fn the_same_seed_makes_the_same_workload_and_another_seed_another() {
        for generator in GENERATORS {
            let bytes = |seed| {
                let script = generator.generate(seed, 100_000).unwrap();
                let streams = script.streams();
                streams
                    .iter()
                    .map(|ops| bytemuck::cast_slice(ops).to_vec())
                    .collect::<Vec<Vec<u8>>>()
            };
            assert_eq!(bytes(7), bytes(7), "{}", generator.name);
            assert_eq!(bytes(7) != bytes(8), generator.seeded, "{}", generator.name);
        }
    }

    #[test]
    fn generators_make_about_as_many_operations_as_asked_and_free_everything() {
        for generator in GENERATORS {
            let script = generator.generate(1, 200_000).unwrap();
            let operations = script.facts().operations as usize * generator.per_operation;
            let name = generator.name;
            assert!((180_000..=220_000).contains(&operations), "{name}: {operations}");
            let (allocated, freed) = (count(&script, Kind::Allocate), count(&script, Kind::Free));
            assert_eq!(allocated, freed, "{name}");
        }
    }

    #[test]
    fn every_workload_can_be_verified_and_run() {
        use std::sync::atomic::AtomicBool;

        use crate::replay::testing::Careful;
        use crate::replay::{self, Table, Unobserved};
        for generator in GENERATORS {
            let script = generator.generate(3, 60_000).unwrap();
            let streams = script.streams();
            let stop = AtomicBool::new(false);
            let operations = script.facts().operations;
            let verified =
                crate::verify::run(&std::alloc::System, None, &streams, script.slots(), &stop);
            assert_eq!(verified.unwrap().operations, operations, "{}", generator.name);
            let heap = Careful::default();
            let mut tables: Vec<_> =
                streams.iter().map(|_| Table::new(script.slots()).unwrap()).collect();
            let mut observers: Vec<_> = streams.iter().map(|_| Unobserved).collect();
            let done = replay::run(&heap, &streams, &mut tables, &stop, &mut observers).unwrap();
            assert_eq!(done.operations, operations, "{}", generator.name);
            assert_eq!(heap.clear(), 0, "{}", generator.name);
        }
    }

    #[test]
    fn names_are_unique_and_each_line_says_where_it_comes_from() {
        let mut names: Vec<&str> = GENERATORS.iter().map(|generator| generator.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), GENERATORS.len());
        for Generator { name, about, source, .. } in GENERATORS {
            assert!(!about.is_empty() && !about.contains('\n'), "{name}");
            let year = source.split(|c: char| !c.is_ascii_digit()).any(|part| part.len() == 4);
            assert!(year || *source == OURS, "{name}: {source}");
        }
    }
}
