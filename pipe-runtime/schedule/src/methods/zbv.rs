use super::lane::Lane;
use crate::Schedule;

/// ZBV (Qi et al. 2024, "Pipeline Parallelism with Controllable Memory", section 3.2; first in Qi et al. 2023, "Zero Bubble Pipeline
/// Parallelism", section 6): two stages per rank, the model folded like a V, so that the last stage's gradient is at hand where it is
/// made. Zero idle time where forward and both parts of the backward take equally long, at the memory of 1F1B.
///
/// ```text
/// ```
pub(super) fn zbv(ranks: usize, micro_batches: usize) -> Schedule {
    let list = |rank| {
        // The order is made for a pipeline that fills; of a shorter one, what is not there is left out.
        let full = micro_batches.max(2 * ranks - 1);
        let mut lane = Lane::new([rank, 2 * ranks - 1 - rank], micro_batches);
        (0..2 * (ranks - rank) - 1).for_each(|_| lane.f(0));
        for _ in 0..rank {
            lane.f(1);
            lane.f(0);
        }
        for _ in 0..ranks - rank {
            lane.f(1);
            lane.i(1);
            lane.w(1);
        }
        while lane.forwards(1) < lane.forwards(0) || lane.forwards(0) < full {
            if lane.forwards(0) < full {
                lane.f(0);
            }
            lane.i(0);
            lane.w(0);
            lane.f(1);
            lane.i(1);
            lane.w(1);
        }
        for _ in 0..rank {
            lane.i(0);
            lane.i(1);
        }
        for _ in 0..ranks - rank {
            lane.i(0);
            lane.w(0);
        }
        (0..rank).for_each(|_| lane.w(1));
        lane.flush()
    };
    Schedule { stages: 2 * ranks, micro_batches, ranks: (0..ranks).map(list).collect() }
}

/// How many forwards are open at once, over both of a rank's stages.
pub(super) fn peak(ranks: usize, micro_batches: usize) -> usize {
    2 * micro_batches.min(ranks)
}
