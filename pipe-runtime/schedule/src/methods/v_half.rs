use super::v_pattern::{self, Block};
use crate::Schedule;

/// V-Half (Qi et al. 2024, "Pipeline Parallelism with Controllable Memory", sections 3.2 and 3.3): half the memory of 1F1B and half its
/// idle time, with two stages per rank, the model folded like a V.
///
/// ```text
/// ```
pub(super) fn v_half(ranks: usize, micro_batches: usize) -> Schedule {
    v_pattern::repeat(ranks, micro_batches, block(ranks))
}

/// How many forwards are open at once, over both of a rank's stages.
pub(super) fn peak(ranks: usize, micro_batches: usize) -> usize {
    v_pattern::peak(ranks, micro_batches, block(ranks))
}

fn block(ranks: usize) -> impl Fn(usize) -> Block {
    // Keeps two passes out of one slot.
    let delay = if ranks % 2 == 0 { 3 } else { 0 };
    move |rank| [2 * rank, 3 * ranks - rank - 2, 3 * ranks + delay + 2 * rank - 1, 6 * ranks + delay - rank - 2]
}
