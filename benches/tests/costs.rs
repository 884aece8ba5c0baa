//! Costs of real replays, counted by callgrind: what is known of them beforehand, and what thread-cached promises.
//!
//! Where valgrind is not installed these tests are skipped, and say so; in CI they fail.

use std::path::Path;
use std::time::Duration;

use heapwright_benches::measure;
use heapwright_benches::passes::costs::{self, Costs};
use heapwright_benches::worker::{Finding, Pass};
use heapwright_benches::workload::{Scale, Workload};

/// Whether there is a valgrind.
fn available() -> bool {
    let result = costs::available();
    if let Err(error) = &result {
        assert!(std::env::var_os("CI").is_none(), "{error:#}");
        eprintln!("skipped: {error:#}");
    }
    result.is_ok()
}

/// What so many operations of a workload cost.
fn costs(workload: &str, contender: &str, operations: usize) -> Costs {
    let folder = tempfile::tempdir().unwrap();
    let workload = Workload::generated().into_iter().find(|it| it.name == workload).unwrap();
    let prepared = workload.prepare(Scale { seed: 1, operations }, folder.path(), 0).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_heapwright-bench"));
    let limit = Duration::from_secs(120);
    let finding = measure::work(program, &prepared.script, contender, Pass::Costs, limit).unwrap();
    let Finding::Costs { costs } = finding else { panic!("{finding:?}") };
    assert_eq!((&costs.unavailable, costs.operations), (&None, prepared.facts.operations));
    costs
}

#[test]
fn a_lock_around_each_call_is_two_atomic_operations_and_the_harness_has_none() {
    if !available() {
        return;
    }
    let (floor, tlsf) = (costs("fixed-64", "floor", 50_000), costs("fixed-64", "tlsf", 50_000));
    assert_eq!(floor.atomics, 0);
    assert!((2 * tlsf.operations..2 * tlsf.operations + 100).contains(&tlsf.atomics), "{tlsf:?}");
    assert_eq!((floor.locks, tlsf.locks), (None, Some(tlsf.operations)));
    assert!(10 * floor.operations < floor.instructions, "{floor:?}");
    assert!(floor.instructions < tlsf.instructions, "{floor:?}, {tlsf:?}");
    for Costs { data_misses, last_level_misses, instructions, .. } in [floor, tlsf] {
        assert!((1..data_misses).contains(&last_level_misses) && data_misses < instructions);
    }
}

#[test]
fn in_the_steady_state_a_thread_alone_needs_neither_atomic_operations_nor_locks_of_thread_cached() {
    if !available() {
        return;
    }
    // The heap has its size after the first quarter; what the other half of the work needs more is the steady state.
    let [half, whole] = [100_000, 200_000].map(|work| costs("fixed-64", "thread-cached", work));
    let few = (whole.operations - half.operations) / 1000;
    assert!(whole.atomics.saturating_sub(half.atomics) < few, "{half:?}, {whole:?}");
    assert!(whole.locks.unwrap().saturating_sub(half.locks.unwrap()) < few, "{half:?}, {whole:?}");
}

#[test]
fn frees_that_cross_to_another_thread_need_an_atomic_operation_of_thread_cached_in_32_at_most() {
    if !available() {
        return;
    }
    // How threads meet differs from run to run, and with it how many slabs come and go.
    let runs = [(); 3].map(|()| costs("producer-consumer", "thread-cached", 200_000));
    // Every second operation is a free, and every free crosses.
    let few = |costs: &Costs| (1..costs.operations / 2 / 32).contains(&costs.atomics);
    assert!(runs.iter().any(few), "{runs:?}");
}
