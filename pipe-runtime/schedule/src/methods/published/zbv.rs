use crate::list::Schedule;
use crate::methods::rank_list::RankList;

/// ZBV (Qi et al. 2024, "Pipeline Parallelism with Controllable Memory", on V-ZB; first in the
/// arXiv version of Qi et al. 2023, "Zero Bubble Pipeline Parallelism", on ZB-V). Each rank has two
/// stages, and the model is folded into a V, so that the last stage is on the first rank, where the
/// backward can start at once. If the forward and both parts of the backward take equally long,
/// there is no idle time, at the memory of 1F1B.
///
/// ```text
/// rank 0  0F0 0F1 0F2 0F3 0F4 0F5 0F6 7F0 7I0 7W0 7F1 7I1 7W1 7F2 7I2 7W2 7F3 7I3 7W3 0I0 0W0 7F4 7I4 7W4 0I1 0W1 7F5 7I5 7W5 0I2 0W2 7F6 7I6 7W6 0I3 0W3 0I4 0W4 0I5 0W5 0I6 0W6 .   .   .
/// rank 1  .   1F0 1F1 1F2 1F3 1F4 6F0 1F5 6F1 6I0 6W0 6F2 6I1 6W1 6F3 6I2 6W2 1F6 1I0 1W0 6F4 6I3 6W3 1I1 1W1 6F5 6I4 6W4 1I2 1W2 6F6 6I5 6W5 1I3 6I6 1I4 1W3 1I5 1W4 1I6 1W5 6W6 1W6 .   .
/// rank 2  .   .   2F0 2F1 2F2 5F0 2F3 5F1 2F4 5F2 5I0 5W0 5F3 5I1 5W1 2F5 2I0 2W0 5F4 5I2 5W2 2F6 2I1 2W1 5F5 5I3 5W3 2I2 2W2 5F6 5I4 5W4 2I3 5I5 2I4 5I6 2I5 2W3 2I6 2W4 5W5 5W6 2W5 2W6 .
/// rank 3  .   .   .   3F0 4F0 3F1 4F1 3F2 4F2 3F3 4F3 4I0 4W0 3F4 3I0 3W0 4F4 4I1 4W1 3F5 3I1 3W1 4F5 4I2 4W2 3F6 3I2 3W2 4F6 4I3 4W3 3I3 4I4 3I4 4I5 3I5 4I6 3I6 3W3 4W4 4W5 4W6 3W4 3W5 3W6
/// ```
pub(super) fn zbv(ranks: usize, micro_batches: usize) -> Schedule {
    let list_of = |rank| {
        // The order is made for a pipeline that fills. For a shorter one, the actions of the
        // missing micro-batches are left out.
        let full = micro_batches.max(2 * ranks - 1);
        let mut list = RankList::new([rank, 2 * ranks - 1 - rank], micro_batches);
        (0..2 * (ranks - rank) - 1).for_each(|_| list.f(0));
        for _ in 0..rank {
            list.f(1);
            list.f(0);
        }
        for _ in 0..ranks - rank {
            list.f(1);
            list.i(1);
            list.w(1);
        }
        while list.forwards(1) < list.forwards(0) || list.forwards(0) < full {
            if list.forwards(0) < full {
                list.f(0);
            }
            list.i(0);
            list.w(0);
            list.f(1);
            list.i(1);
            list.w(1);
        }
        for _ in 0..rank {
            list.i(0);
            list.i(1);
        }
        for _ in 0..ranks - rank {
            list.i(0);
            list.w(0);
        }
        (0..rank).for_each(|_| list.w(1));
        list.flush()
    };
    Schedule { stages: 2 * ranks, micro_batches, ranks: (0..ranks).map(list_of).collect() }
}

/// Peak number of (stage, micro-batch) pairs in flight, over both stages of a rank.
pub(super) fn peak_in_flight(ranks: usize, micro_batches: usize) -> usize {
    2 * micro_batches.min(ranks)
}
