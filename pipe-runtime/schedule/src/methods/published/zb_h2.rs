use crate::list::Schedule;
use crate::methods::rank_list::RankList;

/// ZB-H2 (Qi et al. 2023, "Zero Bubble Pipeline Parallelism", section 2.2): so many forwards come
/// first that no rank ever waits for a gradient, at twice the memory of 1F1B. The backward for the
/// parameters is delayed until the ranks end as far apart as they start.
///
/// ```text
/// rank 0  F0 F1 F2 F3 F4 F5 F6 I0 W0 F7 I1 W1 I2 W2 I3 W3 I4 W4 I5 W5 I6 W6 I7 W7 .  .  .
/// rank 1  .  F0 F1 F2 F3 F4 I0 F5 I1 F6 I2 W0 F7 I3 W1 I4 W2 I5 W3 I6 W4 I7 W5 W6 W7 .  .
/// rank 2  .  .  F0 F1 F2 I0 F3 I1 F4 I2 F5 I3 F6 I4 W0 F7 I5 W1 I6 W2 I7 W3 W4 W5 W6 W7 .
/// rank 3  .  .  .  F0 I0 F1 I1 F2 I2 F3 I3 F4 I4 F5 I5 F6 I6 W0 F7 I7 W1 W2 W3 W4 W5 W6 W7
/// ```
pub(super) fn zb_h2(ranks: usize, micro_batches: usize) -> Schedule {
    let list_of = |rank| {
        let mut list = RankList::new([rank], micro_batches);
        (0..2 * (ranks - rank) - 1).for_each(|_| list.f(0));
        for step in 0..micro_batches {
            list.i(0);
            if step >= 2 * rank {
                list.w(0);
            }
            list.f(0);
        }
        list.flush()
    };
    Schedule { stages: ranks, micro_batches, ranks: (0..ranks).map(list_of).collect() }
}

/// Peak number of (stage, micro-batch) pairs in flight.
pub(super) fn peak_in_flight(ranks: usize, micro_batches: usize) -> usize {
    micro_batches.min(2 * ranks - 1)
}
