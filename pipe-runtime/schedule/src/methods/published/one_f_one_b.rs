use crate::list::Schedule;
use crate::methods::rank_list::RankList;

/// 1F1B (Narayanan et al. 2019, "PipeDream: Generalized Pipeline Parallelism for DNN Training",
/// section 3.2; with a flush per step as in Fan et al. 2021, "DAPPLE: A Pipelined Data Parallel
/// Approach for Training Large Models", "early backward scheduling"). A rank runs forwards until
/// its first gradient arrives, then alternates one backward and one forward.
///
/// ```text
/// rank 0  F0 F1 F2 F3 .  .  .  B0 F4 B1 F5 B2 .  B3 .  B4 .  B5
/// rank 1  .  F0 F1 F2 .  .  B0 F3 B1 F4 B2 F5 B3 .  B4 .  B5 .
/// rank 2  .  .  F0 F1 .  B0 F2 B1 F3 B2 F4 B3 F5 B4 .  B5 .  .
/// rank 3  .  .  .  F0 B0 F1 B1 F2 B2 F3 B3 F4 B4 F5 B5 .  .  .
/// ```
pub(super) fn one_f_one_b(ranks: usize, micro_batches: usize) -> Schedule {
    let list_of = |rank| {
        let mut list = RankList::new([rank], micro_batches);
        let warm_up = peak_in_flight(rank, ranks, micro_batches);
        (0..warm_up).for_each(|_| list.f(0));
        for _ in warm_up..micro_batches {
            list.b(0);
            list.f(0);
        }
        (0..warm_up).for_each(|_| list.b(0));
        list.flush()
    };
    Schedule { stages: ranks, micro_batches, ranks: (0..ranks).map(list_of).collect() }
}

/// Peak number of (stage, micro-batch) pairs in flight, which is also the number of warm-up
/// forwards.
pub(super) fn peak_in_flight(rank: usize, ranks: usize, micro_batches: usize) -> usize {
    micro_batches.min(ranks - rank)
}
