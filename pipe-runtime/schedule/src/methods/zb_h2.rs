use super::lane::Lane;
use crate::Schedule;

/// ZB-H2 (Qi et al. 2023, "Zero Bubble Pipeline Parallelism", section 2.3, figure 3): so many forwards first that no rank ever waits
/// for a gradient, at twice the memory of 1F1B, and the backward for the parameters put off until the ranks' ends are as
/// far apart as their starts.
///
/// ```text
/// ```
pub(super) fn zb_h2(ranks: usize, micro_batches: usize) -> Schedule {
    let list = |rank| {
        let mut lane = Lane::new([rank], micro_batches);
        (0..2 * (ranks - rank) - 1).for_each(|_| lane.f(0));
        for step in 0..micro_batches {
            lane.i(0);
            if step >= 2 * rank {
                lane.w(0);
            }
            lane.f(0);
        }
        lane.flush()
    };
    Schedule { stages: ranks, micro_batches, ranks: (0..ranks).map(list).collect() }
}

/// How many forwards are open at once.
pub(super) fn peak(ranks: usize, micro_batches: usize) -> usize {
    micro_batches.min(2 * ranks - 1)
}
