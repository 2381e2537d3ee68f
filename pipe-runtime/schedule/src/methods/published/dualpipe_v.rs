use crate::list::Schedule;
use crate::methods::rank_list::RankList;

/// DualPipeV (DeepSeek-AI 2025, <https://github.com/deepseek-ai/DualPipe>, "DualPipeV"; Qi and
/// Wan's "cut-in-half" of DualPipe of DeepSeek-AI 2024, "DeepSeek-V3 Technical Report", section
/// 3.2.1). Each rank has two stages, and the model is folded into a V. In the steady state, a
/// forward of one direction is paired with a backward of the other, so that the communication of
/// each overlaps with the work of the other.
///
/// Here, the two actions of a pair run one after the other, the forward first, and the result of
/// the forward is sent before the backward starts.
///
/// ```text
/// rank 0  0F0 0F1 0F2 0F3 0F4 0F5 0F6 7F0 7I0 7W0 7F1 7I1 7W1 7F2 7I2 7W2 7F3 0F7 7B3 -   7F4 0B0 -   7B4 -   7F5 .   0B1 -   7B5 -   7F6 .   0B2 -   7B6 -   7F7 .   0B3 -   7B7 -   0I4 0W4 0I5 0W5 0I6 0W6 0I7 0W7
/// rank 1  .   1F0 1F1 1F2 1F3 1F4 6F0 1F5 6F1 6I0 6W0 6F2 6I1 6W1 6F3 1F6 6B2 -   6F4 1B0 -   1F7 6B3 -   6F5 1B1 -   6B4 -   6F6 .   1B2 -   6B5 -   6F7 .   1B3 -   6B6 -   1B4 -   6I7 1I5 6W7 1I6 1W5 1I7 1W6 1W7
/// rank 2  .   .   2F0 2F1 2F2 5F0 2F3 5F1 2F4 5F2 5I0 5W0 5F3 2F5 5B1 -   5F4 2B0 -   2F6 5B2 -   5F5 2B1 -   2F7 5B3 -   5F6 2B2 -   5B4 -   5F7 .   2B3 -   5B5 -   2B4 -   5B6 -   2I5 5I7 2I6 2W5 2I7 5W7 2W6 2W7
/// rank 3  .   .   .   3F0 4F0 3F1 4F1 3F2 4F2 3F3 4F3 3F4 4B0 -   4F4 3B0 -   3F5 4B1 -   4F5 3B1 -   3F6 4B2 -   4F6 3B2 -   3F7 4B3 -   4F7 3B3 -   4B4 -   3B4 -   4B5 -   3B5 -   4I6 3I6 4I7 3I7 4W6 3W6 4W7 3W7
/// ```
pub(super) fn dualpipe_v(ranks: usize, micro_batches: usize) -> Schedule {
    let list_of = |rank| {
        let mut list = RankList::new([rank, 2 * ranks - 1 - rank], micro_batches);
        let above = ranks - 1 - rank;
        (0..2 * above).for_each(|_| list.f(0));
        for _ in 0..rank + 1 {
            list.f(0);
            list.f(1);
        }
        for _ in 0..above {
            list.i(1);
            list.oldest_w();
            list.f(1);
        }
        for _ in 0..micro_batches + rank + 1 - 2 * ranks {
            list.f(0);
            list.b(1);
            list.f(1);
            list.b(0);
        }
        for _ in 0..above {
            list.b(1);
            list.f(1);
            list.b(0);
        }
        // The second half is split, so that the gradients that other ranks wait for come first.
        for i in 0..=2 * rank + 1 {
            let split = i > rank;
            let stage = 1 - i % 2;
            if split { list.i(stage) } else { list.b(stage) }
        }
        for _ in 0..above {
            list.oldest_w();
            list.i(0);
        }
        list.flush()
    };
    Schedule { stages: 2 * ranks, micro_batches, ranks: (0..ranks).map(list_of).collect() }
}

/// Peak number of (stage, micro-batch) pairs in flight, over both stages of a rank.
pub(super) fn peak_in_flight(ranks: usize) -> usize {
    2 * ranks + 1
}
