use crate::list::Schedule;
use crate::methods::v_pattern::{self, Block};

/// V-Half (Qi et al. 2024, "Pipeline Parallelism with Controllable Memory", on V-shaped building
/// blocks): half the memory of 1F1B and half its idle time. Each rank has two stages, and the model
/// is folded into a V.
///
/// ```text
/// rank 0  0F0 0F1 0F2 0F3 0F4 .   .   7F0 7I0 7W0 7F1 7I1 7W1 7F2 .   .   0I0 7I2 0W0 7F3 7W2 0F5 0I1 7I3 0W1 7F4 7I4 7W3 0I2 7W4 0W2 7F5 7I5 0I3 7W5 0I4 0W3 0W4 .   0I5 0W5
/// rank 1  .   1F0 1F1 1F2 1F3 .   6F0 .   6F1 6I0 6W0 6F2 6I1 6W1 .   1I0 1W0 1F4 6F3 6I2 6W2 1I1 1F5 1W1 6F4 6I3 6W3 1I2 6I4 1W2 6F5 6W4 1I3 6I5 1I4 1W3 6W5 1W4 1I5 1W5 .
/// rank 2  .   .   2F0 2F1 2F2 5F0 .   5F1 .   5F2 5I0 5W0 2F3 5I1 2I0 5W1 2W0 5F3 2F4 .   2I1 5I2 2W1 5F4 5W2 2F5 2I2 5I3 2W2 5F5 5I4 2I3 5W3 2I4 5I5 5W4 2W3 2I5 2W4 5W5 2W5
/// rank 3  .   .   .   3F0 4F0 3F1 4F1 3F2 4F2 .   .   4I0 4W0 3I0 3W0 3F3 4F3 4I1 4W1 3I1 3F4 3W1 4F4 4I2 3I2 4W2 3F5 3W2 4F5 4I3 3I3 4I4 3I4 4W3 3W3 4I5 3I5 4W4 3W4 4W5 3W5
/// ```
pub(super) fn v_half(ranks: usize, micro_batches: usize) -> Schedule {
    v_pattern::repeat(ranks, micro_batches, block(ranks))
}

/// Peak number of (stage, micro-batch) pairs in flight, over both stages of a rank.
pub(super) fn peak_in_flight(ranks: usize, micro_batches: usize) -> usize {
    v_pattern::peak_in_flight(ranks, micro_batches, block(ranks))
}

fn block(ranks: usize) -> impl Fn(usize) -> Block {
    // This keeps two passes from using the same slot.
    let delay = if ranks.is_multiple_of(2) { 3 } else { 0 };
    move |rank| [2 * rank, 3 * ranks - rank - 2, 3 * ranks + delay + 2 * rank - 1, 6 * ranks + delay - rank - 2]
}
