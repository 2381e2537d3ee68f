use super::v_pattern::{self, Block};
use crate::Schedule;

/// V-Min (Qi et al. 2024, "Pipeline Parallelism with Controllable Memory", sections 3.2 and 3.3): a third of the memory of 1F1B, which
/// is the least at which there is no idle time in the steady state, with two stages per rank, the model folded like a V.
///
/// ```text
/// ```
pub(super) fn v_min(ranks: usize, micro_batches: usize) -> Schedule {
    v_pattern::repeat(ranks, micro_batches, block(ranks))
}

/// How many forwards are open at once, over both of a rank's stages.
pub(super) fn peak(ranks: usize, micro_batches: usize) -> usize {
    v_pattern::peak(ranks, micro_batches, block(ranks))
}

fn block(ranks: usize) -> impl Fn(usize) -> Block {
    // Keeps two passes out of one slot.
    let delay = if ranks % 3 == 0 { 2 } else { 0 };
    move |rank| [rank, 2 * ranks - rank - 1, 2 * ranks + delay + rank, 4 * ranks + delay - rank - 1]
}
