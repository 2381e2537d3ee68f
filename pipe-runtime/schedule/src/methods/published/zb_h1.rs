use crate::list::Schedule;
use crate::methods::rank_list::RankList;
use crate::methods::rounds::Rounds;

/// ZB-H1 (Qi et al. 2023, "Zero Bubble Pipeline Parallelism", section 2.1; with several stages per
/// rank, PyTorch's interleaved zero bubble): 1F1B with a split backward. Rank `r` delays the
/// backward for the parameters by `r` micro-batches. It fills the gaps at the end, and every rank
/// has as much in flight as the first one.
///
/// ```text
/// rank 0  F0 F1 F2 F3 .  .  .  I0 W0 F4 I1 W1 F5 I2 W2 I3 W3 I4 W4 I5 W5
/// rank 1  .  F0 F1 F2 .  .  I0 F3 I1 W0 F4 I2 W1 F5 I3 W2 I4 W3 I5 W4 W5
/// rank 2  .  .  F0 F1 .  I0 F2 I1 F3 I2 W0 F4 I3 W1 F5 I4 W2 I5 W3 W4 W5
/// rank 3  .  .  .  F0 I0 F1 I1 F2 I2 F3 I3 W0 F4 I4 W1 F5 I5 W2 W3 W4 W5
/// ```
pub(super) fn zb_h1(ranks: usize, stages_per_rank: usize, micro_batches: usize) -> Schedule {
    let rounds = Rounds::new(ranks, stages_per_rank, micro_batches);
    let list_of = |rank| {
        let mut list = RankList::new((0..stages_per_rank).map(|round| round * ranks + rank), micro_batches);
        let (warm_up, all) = (rounds.warm_up(ranks - 1 - rank), micro_batches * stages_per_rank);
        for step in 0..all + warm_up {
            if step < all {
                list.f(rounds.forward_stage(step));
            }
            if let Some(backward) = step.checked_sub(warm_up) {
                list.i(rounds.backward_stage(backward));
                if backward >= rank {
                    list.oldest_w();
                }
            }
        }
        list.flush()
    };
    Schedule { stages: ranks * stages_per_rank, micro_batches, ranks: (0..ranks).map(list_of).collect() }
}

/// Peak number of (stage, micro-batch) pairs in flight, over all stages of a rank.
pub(super) fn peak_in_flight(rank: usize, ranks: usize, stages_per_rank: usize, micro_batches: usize) -> usize {
    let warm_up = Rounds::new(ranks, stages_per_rank, micro_batches).warm_up(ranks - 1 - rank);
    (micro_batches * stages_per_rank).min(warm_up + 1 + rank)
}
