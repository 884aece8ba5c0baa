//! Random sequences of requests, compared with the model; a failing one is shrunk to its core.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};

use super::{Source, run};
use crate::{Complaint, Kept, Step, Subject};

/// How many sequences are tried where `PROPTEST_CASES` does not say.
const CASES: u32 = 48;

/// How many blocks there are at most, and how many requests.
const SLOTS: usize = 24;
const STEPS: usize = 100;
/// So often a failing sequence is carried out again for its complaint.
const AGAIN: usize = 8;

/// Sizes as programs ask for them: tiny ones mostly, those around powers of two, some large ones.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        50 => 0_usize..=128,
        20 => 129_usize..=2048,
        15 => (3_u32..=17, -1_isize..=1).prop_map(|(power, by)| (1_usize << power).wrapping_add_signed(by)),
        10 => 2049_usize..=70_000,
        3 => 70_000_usize..=400_000,
        1 => 400_000_usize..=4_000_000,
    ]
}

fn align() -> impl Strategy<Value = usize> {
    prop_oneof![
        80 => (0_u32..=4).prop_map(|power| 1 << power),
        15 => (5_u32..=9).prop_map(|power| 1 << power),
        5 => (10_u32..=16).prop_map(|power| 1 << power),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        45 => (0..SLOTS, size(), align(), proptest::bool::weighted(0.2))
            .prop_map(|(slot, size, align, zeroed)| Step::Allocate { slot, size, align, zeroed }),
        30 => (0..SLOTS).prop_map(|slot| Step::Free { slot }),
        22 => (0..SLOTS, size()).prop_map(|(slot, size)| Step::Reallocate { slot, size }),
        3 => Just(Step::Trim),
    ]
}

/// Carries out a sequence over a source, with everything verified after every step.
fn carry_out(subject: &Subject, source: Source, steps: &[Step]) -> Kept {
    let seen = run(subject, source, &mut |model, _| {
        let limits = model.limits();
        for (at, step) in steps.iter().enumerate() {
            let step = step.within(limits.max_size, limits.max_align);
            let applied = model.apply(step).and_then(|_| model.verify_all());
            applied.map_err(|complaint| complaint.during(format_args!("step {at}, {step}")))?;
        }
        model.free_all(|_| ())?;
        model.verify_all()
    })?;
    crate::model::require!(
        seen.held == 0 || !matches!(source, Source::Mappings | Source::Dirty),
        "{} bytes never went back",
        seen.held
    );
    Ok(())
}

/// A failing sequence without the steps that it fails without.
///
/// proptest leaves out steps first and makes them simpler then, and does not ask again which of the simpler
/// ones are needed.
fn without_needless_steps(subject: &Subject, source: Source, mut steps: Vec<Step>) -> Vec<Step> {
    let mut needed = 0;
    while needed < steps.len() {
        let mut fewer = steps.clone();
        fewer.remove(needed);
        if carry_out(subject, source, &fewer).is_err() {
            steps = fewer;
            needed = 0;
        } else {
            needed += 1;
        }
    }
    steps
}

/// Carries out a sequence that a failing test has printed, over mappings: for a test of its own, once the
/// fault is found, `sequence_is_served(&SUBJECT, &[…])` beside its [`conformance!`](crate::conformance).
///
/// # Errors
///
/// What came back and should not have.
pub fn sequence_is_served(subject: &Subject, steps: &[Step]) -> Kept {
    carry_out(subject, Source::Mappings, steps)
}

/// Random sequences of requests do what the model does, over mappings, dirty mappings, and an arena that
/// they use up. Everything is verified after every step. `PROPTEST_CASES` sets how many sequences are tried
/// (48 if it does not), `PROPTEST_RNG_SEED` which.
///
/// # Errors
///
/// The shortest failing sequence that was found, as code for [`sequence_is_served`].
pub fn random_sequences_agree_with_the_model(subject: &Subject) -> Kept {
    let mut config =
        Config { failure_persistence: None, max_shrink_iters: 4096, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = CASES;
    }
    for source in [Source::Mappings, Source::Dirty, Source::Arena(1 << 18)] {
        let mut runner = TestRunner::new(config.clone());
        let sequences = proptest::collection::vec(step(), 1..STEPS);
        let result = runner.run(&sequences, |steps| {
            carry_out(subject, source, &steps)
                .map_err(|complaint| TestCaseError::fail(complaint.to_string()))
        });
        match result {
            Ok(()) => {}
            Err(TestError::Abort(reason)) => {
                return Err(Complaint::new(format!("the test itself failed: {reason}")));
            }
            Err(TestError::Fail(_, steps)) => {
                let steps = without_needless_steps(subject, source, steps);
                let lines: Vec<String> = steps.iter().map(|step| format!("    {step},")).collect();
                let code = lines.join("\n");
                // Again, for the complaint of just this sequence, which may depend on what is written into blocks.
                let complaint = (0..AGAIN)
                    .find_map(|_| carry_out(subject, source, &steps).err())
                    .unwrap_or_else(|| Complaint::new("this sequence fails at times only"));
                let steps = steps.len();
                return Err(complaint.during(format_args!(
                    "the shortest failing sequence found has {steps} steps over {source:?}:\n{code}\n"
                )));
            }
        }
    }
    Ok(())
}
