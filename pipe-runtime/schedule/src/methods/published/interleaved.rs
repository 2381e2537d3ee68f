use crate::list::Schedule;
use crate::methods::rank_list::RankList;
use crate::methods::rounds::Rounds;

/// Interleaved 1F1B (Narayanan et al. 2021, "Efficient Large-Scale Language Model Training on GPU
/// Clusters Using Megatron-LM", section 2.2.2). Stage `s` is on rank `s % ranks`. The micro-batches
/// are divided into rounds; a rank takes one round through each of its stages before the next
/// round. The rounds are those of PyTorch, so the number of micro-batches need not be a multiple of
/// the number of ranks.
///
/// ```text
/// rank 0  0F0 0F1 0F2 0F3 4F0 4F1 4F2 4F3 .   .   .   4B0 .   4B1 .   4B2 .   4B3 0B0 0B1 0B2 0B3
/// rank 1  .   1F0 1F1 1F2 1F3 5F0 5F1 5F2 5F3 .   5B0 .   5B1 .   5B2 .   5B3 1B0 1B1 1B2 1B3 .
/// rank 2  .   .   2F0 2F1 2F2 2F3 6F0 6F1 6F2 6B0 6F3 6B1 .   6B2 .   6B3 2B0 2B1 2B2 2B3 .   .
/// rank 3  .   .   .   3F0 3F1 3F2 3F3 7F0 7B0 7F1 7B1 7F2 7B2 7F3 7B3 3B0 3B1 3B2 3B3 .   .   .
/// ```
pub(super) fn interleaved(ranks: usize, stages_per_rank: usize, micro_batches: usize) -> Schedule {
    let rounds = Rounds::new(ranks, stages_per_rank, micro_batches);
    let list_of = |rank| {
        let mut list = RankList::new((0..stages_per_rank).map(|round| round * ranks + rank), micro_batches);
        let (warm_up, all) = (rounds.warm_up(2 * (ranks - 1 - rank)), micro_batches * stages_per_rank);
        for step in 0..all + warm_up {
            if step < all {
                list.f(rounds.forward_stage(step));
            }
            if step >= warm_up {
                list.b(rounds.backward_stage(step - warm_up));
            }
        }
        list.flush()
    };
    Schedule { stages: ranks * stages_per_rank, micro_batches, ranks: (0..ranks).map(list_of).collect() }
}

/// Peak number of (stage, micro-batch) pairs in flight, over all stages of a rank.
pub(super) fn peak_in_flight(rank: usize, ranks: usize, stages_per_rank: usize, micro_batches: usize) -> usize {
    let warm_up = Rounds::new(ranks, stages_per_rank, micro_batches).warm_up(2 * (ranks - 1 - rank));
    (micro_batches * stages_per_rank).min(warm_up + 1)
}
