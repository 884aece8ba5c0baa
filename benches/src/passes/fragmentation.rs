//! Fragmentation as one number, in the four ways of Johnstone and Wilson, *The Memory Fragmentation Problem: Solved?*
//! (ISMM 1998, section 4.1). `held` is resident memory; all are ratios, 1 at best.
//!
//! 1. The mean over time of held over live bytes. It hides spikes, which is what matters for memory that runs out.
//! 2. Held over live bytes at the moment of most live bytes. It overlooks what is held when less is live.
//! 3. Most held over live bytes at that moment. It is pessimistic where little is live then.
//! 4. Most held over most live bytes, which need not be at the same moment.
//!
//! A moment without live bytes has no ratio; it is left out of the first three. Numbers 1 to 3 come from the samples of a
//! timeline, so they miss what happens between two samples; the fourth comes from the exact peaks where these are known.

use super::timeline::Timeline;

/// The four numbers. `peaks` are the most live and the most resident bytes, where they are known exactly; they stand
/// in for the samples' in number 4. `None` where no sample has a live byte.
#[must_use]
pub fn fragmentation(timeline: &Timeline, peaks: Option<(u64, u64)>) -> Option<[f64; 4]> {
    let samples: Vec<(u64, u64)> = timeline
        .live
        .iter()
        .zip(&timeline.resident)
        .map(|(&live, &held)| (live, held))
        .filter(|&(live, _)| live > 0)
        .collect();
    let ratio = |(live, held): (u64, u64)| held as f64 / live as f64;
    // The first of several moments.
    let at_most_live = *samples.iter().rev().max_by_key(|(live, _)| live)?;
    let at_most_held = *samples.iter().rev().max_by_key(|(_, held)| held)?;
    let mean = samples.iter().copied().map(ratio).sum::<f64>() / samples.len() as f64;
    let most_held = timeline.resident.iter().copied().max()?;
    let most = peaks.filter(|&(live, _)| live > 0).unwrap_or((at_most_live.0, most_held));
    Some([mean, ratio(at_most_live), ratio(at_most_held), ratio(most)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline(live: &[u64], resident: &[u64]) -> Timeline {
        Timeline {
            operations: (1..=live.len() as u64).collect(),
            live: live.to_vec(),
            resident: resident.to_vec(),
            held: None,
            parts: None,
        }
    }

    #[test]
    fn each_number_is_what_johnstone_and_wilson_define() {
        // Live memory peaks at the second sample; held memory at the third, when less is live.
        let timeline = timeline(&[100, 400, 200, 100], &[200, 600, 800, 400]);
        let [mean, at_most_live, at_most_held, most] = fragmentation(&timeline, None).unwrap();
        assert_eq!(mean, (2.0 + 1.5 + 4.0 + 4.0) / 4.0);
        assert_eq!(at_most_live, 600.0 / 400.0);
        assert_eq!(at_most_held, 800.0 / 200.0);
        assert_eq!(most, 800.0 / 400.0);
    }

    #[test]
    fn exact_peaks_stand_in_for_the_samples_in_the_fourth() {
        let timeline = timeline(&[100, 400], &[200, 600]);
        let numbers = fragmentation(&timeline, Some((500, 1000))).unwrap();
        assert_eq!(numbers, [1.75, 1.5, 1.5, 2.0]);
    }

    #[test]
    fn moments_without_live_bytes_have_no_ratio() {
        let numbers = fragmentation(&timeline(&[0, 10, 0], &[4096, 20, 8192]), None).unwrap();
        assert_eq!(numbers, [2.0, 2.0, 2.0, 819.2]);
        assert_eq!(fragmentation(&timeline(&[0, 0], &[1, 1]), None), None);
        assert_eq!(fragmentation(&timeline(&[], &[]), None), None);
    }
}
