use super::lane::Lane;
use crate::Schedule;

/// DualPipeV (DeepSeek-AI 2025, <https://github.com/deepseek-ai/DualPipe>, "DualPipeV"; Qi and Wan's "cut-in-half" of DualPipe
/// of DeepSeek-AI 2024, "DeepSeek-V3 Technical Report", section 3.2.1): two stages per rank, the model folded like a V. In the
/// steady state a forward of one direction goes with a backward of the other, so that the communication of either
/// hides behind the other's work.
///
/// Here the two of such a pair run one after the other, the forward first, and the forward's result is on its way
/// before the backward starts.
///
/// ```text
/// ```
pub(super) fn dualpipe_v(ranks: usize, micro_batches: usize) -> Schedule {
    let list = |rank| {
        let mut lane = Lane::new([rank, 2 * ranks - 1 - rank], micro_batches);
        let above = ranks - 1 - rank;
        (0..2 * above).for_each(|_| lane.f(0));
        for _ in 0..rank + 1 {
            lane.f(0);
            lane.f(1);
        }
        for _ in 0..above {
            lane.i(1);
            lane.oldest_w();
            lane.f(1);
        }
        for _ in 0..micro_batches + rank + 1 - 2 * ranks {
            lane.f(0);
            lane.b(1);
            lane.f(1);
            lane.b(0);
        }
        for _ in 0..above {
            lane.b(1);
            lane.f(1);
            lane.b(0);
        }
        // The second half is split, so that what the ranks above wait for comes first.
        for i in 0..=2 * rank + 1 {
            let split = i >= rank + 1;
            let chunk = 1 - i % 2;
            if split { lane.i(chunk) } else { lane.b(chunk) }
        }
        for _ in 0..above {
            lane.oldest_w();
            lane.i(0);
        }
        lane.flush()
    };
    Schedule { stages: 2 * ranks, micro_batches, ranks: (0..ranks).map(list).collect() }
}

/// How many forwards are open at once, over both of a rank's stages.
pub(super) fn peak(ranks: usize) -> usize {
    2 * ranks + 1
}
