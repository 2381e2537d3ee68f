use crate::list::Schedule;
use crate::methods::v_pattern::{self, Block};

/// V-Min (Qi et al. 2024, "Pipeline Parallelism with Controllable Memory", on V-shaped building
/// blocks): a third of the memory of 1F1B, which is the least with which the steady state has no
/// idle time. Each rank has two stages, and the model is folded into a V.
///
/// ```text
/// rank 0  0F0 0F1 0F2 .   .   .   .   7F0 7I0 7W0 7F1 7I1 7W1 .   .   0I0 0W0 0F3 .   7F2 7I2 0I1 7W2 0W1 0F4 7F3 7I3 0I2 7W3 0W2 0F5 7F4 7I4 0I3 7W4 0W3 .   7F5 7I5 0I4 7W5 0W4 .   .   .   0I5 0W5
/// rank 1  .   1F0 1F1 .   .   .   6F0 .   6F1 6I0 6W0 1F2 .   .   1I0 6I1 1W0 6W1 6F2 1F3 1I1 6I2 1W1 6W2 6F3 1F4 1I2 6I3 1W2 6W3 6F4 1F5 1I3 6I4 1W3 6W4 6F5 .   1I4 6I5 1W4 6W5 .   .   1I5 1W5 .
/// rank 2  .   .   2F0 2F1 .   5F0 .   5F1 .   .   5I0 5W0 2F2 2I0 2W0 .   5I1 5F2 5W1 2I1 2F3 2W1 5I2 5F3 5W2 2I2 2F4 2W2 5I3 5F4 5W3 2I3 2F5 2W3 5I4 5F5 5W4 2I4 2W4 .   5I5 5W5 .   2I5 2W5 .   .
/// rank 3  .   .   .   3F0 4F0 3F1 4F1 .   .   .   .   4I0 3I0 4W0 3W0 3F2 4F2 4I1 3I1 4W1 3W1 3F3 4F3 4I2 3I2 4W2 3W2 3F4 4F4 4I3 3I3 4W3 3W3 3F5 4F5 4I4 3I4 4W4 3W4 .   .   4I5 3I5 4W5 3W5 .   .
/// ```
pub(super) fn v_min(ranks: usize, micro_batches: usize) -> Schedule {
    v_pattern::repeat(ranks, micro_batches, block(ranks))
}

/// Peak number of (stage, micro-batch) pairs in flight, over both stages of a rank.
pub(super) fn peak_in_flight(ranks: usize, micro_batches: usize) -> usize {
    v_pattern::peak_in_flight(ranks, micro_batches, block(ranks))
}

fn block(ranks: usize) -> impl Fn(usize) -> Block {
    // This keeps two passes from using the same slot.
    let delay = if ranks.is_multiple_of(3) { 2 } else { 0 };
    move |rank| [rank, 2 * ranks - rank - 1, 2 * ranks + delay + rank, 4 * ranks + delay - rank - 1]
}
