use super::interleaved::Rounds;
use super::lane::Lane;
use crate::Schedule;

/// ZB-H1 (Qi et al. 2023, "Zero Bubble Pipeline Parallelism", section 2.3, figure 3; for several stages per rank as PyTorch's
/// interleaved zero bubble): 1F1B with the backward split, the part for the parameters put off by as many micro-batches as the rank's
/// number, so that it fills the gaps at the end and every rank holds as much as the first one.
///
/// ```text
/// ```
pub(super) fn zb_h1(ranks: usize, chunks: usize, micro_batches: usize) -> Schedule {
    let rounds = Rounds::new(ranks, chunks, micro_batches);
    let list = |rank| {
        let mut lane = Lane::new((0..chunks).map(|chunk| chunk * ranks + rank), micro_batches);
        let (warm_up, all) = (rounds.warm_up(ranks - 1 - rank), micro_batches * chunks);
        for step in 0..all + warm_up {
            if step < all {
                lane.f(rounds.forward_chunk(step));
            }
            if let Some(backward) = step.checked_sub(warm_up) {
                lane.i(rounds.backward_chunk(backward));
                if backward >= rank {
                    lane.oldest_w();
                }
            }
        }
        lane.flush()
    };
    Schedule { stages: ranks * chunks, micro_batches, ranks: (0..ranks).map(list).collect() }
}

/// How many forwards are open at once, over all of a rank's stages.
pub(super) fn peak(rank: usize, ranks: usize, chunks: usize, micro_batches: usize) -> usize {
    let warm_up = Rounds::new(ranks, chunks, micro_batches).warm_up(ranks - 1 - rank);
    (micro_batches * chunks).min(warm_up + 1 + rank)
}
