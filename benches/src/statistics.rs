//! How sure a figure is.
//!
//! What else a machine does makes a replay slower and never faster, and for seconds at a time. So the slower half of all
//! timings is about the machine, and the mean of the faster half is what a contender takes ([`typical`]). Of 163 rounds of
//! the self-test's pairs on two shared processors, sets of 40 give its ratio with a standard deviation of 0.7 %, that of
//! medians with 1.0 %, that of minima with more false alarms.
//!
//! A pair of contender and workload is timed once a round, and so is the reference, before, among and after the others
//! of its workload. What the machine does to a round it does to all of it, so rounds are what is resampled: the 95 %
//! interval of a ratio is that of the ratios in [`RESAMPLES`] sets of rounds, drawn with replacement (the
//! percentile bootstrap: Bradley Efron, *Bootstrap Methods: Another Look at the Jackknife*, Annals of Statistics 7 (1),
//! 1979), made wider for the few rounds that there are, as Student's distribution is wider than the normal one (Tim
//! Hesterberg, *What Teachers Should Know About the Bootstrap*, The American Statistician 69 (4), 2015, section 4.3).
//! Fewer than [`LEAST_ROUNDS`] rounds are too few to draw from: there the interval spans the ratios of all rounds.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

/// How many sets of rounds are drawn.
pub const RESAMPLES: usize = 1000;

/// Six values lie all on one side of the true middle once in 32 times: less than that is no 95 % interval.
pub const LEAST_ROUNDS: usize = 6;

/// One timing: the round that it was taken in, and what it found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timing {
    /// The round, from 1.
    pub round: usize,
    /// Nanoseconds for each operation, or any other unit that all share.
    pub value: f64,
}

/// What a comparison with the reference shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Difference {
    /// The whole interval is below one.
    Faster,
    /// The whole interval is above one.
    Slower,
    /// The interval includes one.
    #[serde(rename = "none shown")]
    NoneShown,
}

impl Difference {
    /// What an interval of a ratio shows.
    #[must_use]
    pub fn shown_by([low, high]: [f64; 2]) -> Self {
        if high < 1.0 {
            Self::Faster
        } else if low > 1.0 {
            Self::Slower
        } else {
            Self::NoneShown
        }
    }

    /// As in tables.
    #[must_use]
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Faster => "faster",
            Self::Slower => "slower",
            Self::NoneShown => "no difference shown",
        }
    }
}

/// The 95 % interval of the ratio of [typical] times, `ours` over `theirs`, over the rounds that both were timed in; `None` for
/// fewer than two.
#[must_use]
pub fn ratio_interval(ours: &[Timing], theirs: &[Timing], seed: u64) -> Option<[f64; 2]> {
    mean_ratio_interval(&[(ours, theirs)], seed)
}

/// The same of the geometric mean of ratios over several workloads, which is surer than any of them.
#[must_use]
pub fn mean_ratio_interval(workloads: &[(&[Timing], &[Timing])], seed: u64) -> Option<[f64; 2]> {
    let workloads: Vec<Vec<Round>> =
        workloads.iter().map(|(ours, theirs)| rounds(ours, theirs)).collect();
    let fewest = workloads.iter().map(Vec::len).min().filter(|&rounds| rounds > 1)?;
    let mean = |logarithms: &mut dyn Iterator<Item = f64>| {
        logarithms.sum::<f64>() / workloads.len() as f64
    };
    if fewest < LEAST_ROUNDS {
        let ratios =
            (0..fewest).map(|at| mean(&mut workloads.iter().map(|it| ratio([&it[at]]).ln())));
        let [low, high] = ratios
            .fold([f64::MAX, f64::MIN], |[low, high], ratio| [low.min(ratio), high.max(ratio)]);
        return Some([low.exp(), high.exp()]);
    }
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut resample = |rounds: &Vec<Round>| {
        let count = rounds.len();
        ratio((0..count).map(|_| &rounds[random.random_range(0..count)])).ln()
    };
    let mut ratios: Vec<f64> =
        (0..RESAMPLES).map(|_| mean(&mut workloads.iter().map(&mut resample))).collect();
    ratios.sort_by(f64::total_cmp);
    let middle = mean(&mut workloads.iter().map(|rounds| ratio(rounds).ln()));
    let end = |ratio: f64| (middle + (ratio - middle) * widening(fewest)).exp();
    let cut = RESAMPLES / 40;
    Some([end(ratios[cut]), end(ratios[RESAMPLES - 1 - cut])])
}

/// How much wider an interval of so many rounds must be than the bootstrap says: the bootstrap takes the rounds for all
/// that could be, and their spread for the normal distribution's.
fn widening(rounds: usize) -> f64 {
    let (rounds, freedom) = (rounds as f64, rounds as f64 - 1.0);
    // Student's quantile by that of the normal distribution: Fisher and Cornish, The Percentile Points of Distributions
    // Having Known Cumulants, Technometrics 2 (2), 1960.
    let normal: f64 = 1.959_964;
    let cube = normal.powi(3);
    let fifth = normal.powi(5);
    let student = normal
        + (cube + normal) / (4.0 * freedom)
        + (5.0 * fifth + 16.0 * cube + 3.0 * normal) / (96.0 * freedom.powi(2));
    (rounds / freedom).sqrt() * student / normal
}

/// What was timed, round by round, where both were.
fn rounds(ours: &[Timing], theirs: &[Timing]) -> Vec<Round> {
    let of_round = |timings: &[Timing], round: usize| -> Vec<f64> {
        timings.iter().filter(|timing| timing.round == round).map(|timing| timing.value).collect()
    };
    let mut numbers: Vec<usize> = ours.iter().map(|timing| timing.round).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
        .into_iter()
        .map(|round| (of_round(ours, round), of_round(theirs, round)))
        .filter(|(ours, theirs)| !ours.is_empty() && !theirs.is_empty())
        .collect()
}

/// What was timed in one round: ours, and theirs.
type Round = (Vec<f64>, Vec<f64>);

/// The ratio of typical times over some rounds.
fn ratio<'a>(rounds: impl IntoIterator<Item = &'a Round>) -> f64 {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in rounds {
        ours.extend_from_slice(&round.0);
        theirs.extend_from_slice(&round.1);
    }
    faster_half(&mut ours) / faster_half(&mut theirs)
}

/// What something takes, by several timings: the mean of the faster half, with the one in the middle.
#[must_use]
pub fn typical(times: &[f64]) -> Option<f64> {
    (!times.is_empty()).then(|| faster_half(&mut times.to_vec()))
}

/// There is at least one.
fn faster_half(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    let half = times.len().div_ceil(2);
    times[..half].iter().sum::<f64>() / half as f64
}

/// The middle value, or the mean of the two in the middle.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    Some(if values.len() % 2 == 1 { upper } else { values[middle - 1].midpoint(upper) })
}

/// The geometric mean of positive values.
#[must_use]
pub fn geometric_mean(values: &[f64]) -> Option<f64> {
    let sum: f64 = values.iter().map(|value| value.ln()).sum();
    (!values.is_empty()).then(|| (sum / values.len() as f64).exp())
}

/// Spearman's rank correlation: 1 where both orders are the same, -1 where one is the other reversed; `None` for fewer
/// than three values, or where all are equal. Equal values share the mean of their ranks.
#[must_use]
pub fn rank_correlation(ours: &[f64], theirs: &[f64]) -> Option<f64> {
    if ours.len() != theirs.len() || ours.len() < 3 {
        return None;
    }
    correlation(&ranks(ours), &ranks(theirs))
}

/// Pearson's correlation of as many values each; `None` where all of one are equal.
#[must_use]
pub fn correlation(ours: &[f64], theirs: &[f64]) -> Option<f64> {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (middle, their_middle) = (mean(ours), mean(theirs));
    let sum = |pairs: &dyn Fn(usize) -> f64| (0..ours.len()).map(pairs).sum::<f64>();
    let together = sum(&|at| (ours[at] - middle) * (theirs[at] - their_middle));
    let apart =
        sum(&|at| (ours[at] - middle).powi(2)) * sum(&|at| (theirs[at] - their_middle).powi(2));
    (apart > 0.0).then(|| together / apart.sqrt())
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let below = |value: f64| values.iter().filter(|&&other| other < value).count() as f64;
    let equal = |value: f64| values.iter().filter(|&&other| other == value).count() as f64;
    values.iter().map(|&value| below(value) + (equal(value) + 1.0) / 2.0).collect()
}

#[cfg(test)]
mod tests {
    use rand_distr::{Distribution, LogNormal};

    use super::*;

    fn timings(values: impl IntoIterator<Item = f64>) -> Vec<Timing> {
        (1..).zip(values).map(|(round, value)| Timing { round, value }).collect()
    }

    #[test]
    fn an_interval_holds_the_truth_about_as_often_as_it_says() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
        let noise = LogNormal::new(0.0, 0.05).unwrap();
        for rounds in [6, 9, 15] {
            let mut missed = 0;
            for seed in 0..400 {
                let mut draw =
                    |scale| timings((0..rounds).map(|_| scale * noise.sample(&mut random)));
                let (ours, theirs) = (draw(0.9), draw(1.0));
                let [low, high] = ratio_interval(&ours, &theirs, seed).unwrap();
                missed += usize::from(!(low..=high).contains(&0.9));
            }
            // 5 % of 400 are 20; three standard deviations more are 33.
            assert!(missed <= 33, "{rounds} rounds: missed {missed} of 400");
        }
    }

    #[test]
    fn what_happens_to_a_whole_round_does_not_widen_the_interval() {
        let weather = [1.0, 1.9, 1.1, 1.4, 3.0, 1.2, 1.0, 2.0, 1.3];
        let ours = timings(weather.map(|slow| 8.0 * slow));
        let theirs = timings(weather.map(|slow| 10.0 * slow));
        let [low, high] = ratio_interval(&ours, &theirs, 1).unwrap();
        assert!((low - 0.8).abs() < 1e-9 && (high - 0.8).abs() < 1e-9, "{low} {high}");
    }

    #[test]
    fn several_workloads_together_are_surer_than_one() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(2);
        let noise = LogNormal::new(0.0, 0.05).unwrap();
        let mut draw = |scale| timings((0..9).map(|_| scale * noise.sample(&mut random)));
        let all: Vec<_> = (0..8).map(|_| (draw(0.95), draw(1.0))).collect();
        let pairs: Vec<_> = all.iter().map(|(ours, theirs)| (&ours[..], &theirs[..])).collect();
        let width = |[low, high]: [f64; 2]| high - low;
        let [low, high] = mean_ratio_interval(&pairs, 1).unwrap();
        assert!((low..=high).contains(&0.95), "{low} {high}");
        let each =
            pairs.iter().map(|(ours, theirs)| width(ratio_interval(ours, theirs, 1).unwrap()));
        let mean = each.sum::<f64>() / pairs.len() as f64;
        assert!(width([low, high]) < mean / 2.0, "{low} {high}, one workload {mean} wide");
    }

    #[test]
    fn few_rounds_make_a_wide_interval_and_one_makes_none() {
        assert_eq!(ratio_interval(&timings([1.0]), &timings([1.0]), 1), None);
        let interval = ratio_interval(&timings([8.0, 9.0, 12.0]), &timings([10.0; 3]), 1);
        assert_eq!(interval, Some([0.8, 1.2]));
    }

    #[test]
    fn an_interval_around_one_shows_no_difference() {
        assert_eq!(Difference::shown_by([0.9, 0.99]), Difference::Faster);
        assert_eq!(Difference::shown_by([0.99, 1.01]), Difference::NoneShown);
        assert_eq!(Difference::shown_by([1.001, 2.0]), Difference::Slower);
    }

    #[test]
    fn wider_by_as_much_as_students_distribution_is() {
        // Quantiles from any table of it.
        for (rounds, student) in [(6, 2.571), (11, 2.228), (31, 2.042), (10_001, 1.960)] {
            let expected = student / 1.96 * (rounds as f64 / (rounds - 1) as f64).sqrt();
            let widening = widening(rounds);
            assert!((widening / expected - 1.0).abs() < 0.01, "{rounds}: {widening}, {expected}");
        }
    }

    #[test]
    fn a_busy_machine_for_less_than_half_of_the_time_does_not_change_what_is_typical() {
        assert_eq!(typical(&[]), None);
        assert_eq!(typical(&[7.0]), Some(7.0));
        assert_eq!(typical(&[10.0, 99.0, 11.0]), typical(&[10.0, 12.0, 11.0]));
        assert_eq!(typical(&[10.0, 12.0, 11.0, 99.0]), Some(10.5));
    }

    #[test]
    fn means_and_medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0]), Some(2.0));
        assert_eq!(geometric_mean(&[]), None);
        assert!((geometric_mean(&[0.5, 8.0]).unwrap() - 2.0).abs() < 1e-12);
    }

    #[test]
    fn ranks_correlate_as_spearman_says() {
        assert_eq!(rank_correlation(&[1.0, 2.0], &[1.0, 2.0]), None);
        assert_eq!(rank_correlation(&[1.0, 5.0, 9.0], &[10.0, 20.0, 21.0]), Some(1.0));
        assert_eq!(rank_correlation(&[1.0, 5.0, 9.0], &[3.0, 2.0, 1.0]), Some(-1.0));
        assert_eq!(rank_correlation(&[1.0, 1.0, 1.0], &[3.0, 2.0, 1.0]), None);
        let shared = rank_correlation(&[1.0, 2.0, 2.0, 3.0], &[1.0, 2.0, 3.0, 4.0]).unwrap();
        assert!((shared - 0.948_683).abs() < 1e-6, "{shared}");
        let straight = correlation(&[1.0, 2.0, 4.0], &[3.0, 5.0, 9.0]).unwrap();
        assert!((straight - 1.0).abs() < 1e-12, "{straight}");
    }
}
