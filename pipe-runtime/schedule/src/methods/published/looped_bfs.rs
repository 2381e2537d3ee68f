use super::gpipe::gpipe;
use crate::list::Schedule;

/// Looped breadth-first (Lamy-Poirier 2023, "Breadth-First Pipeline Parallelism", the schedule of
/// that name). Stage `s` is on rank `s % ranks`, and all micro-batches go through one of a rank's
/// stages before any goes through its next one. This is GPipe on looped stages.
///
/// ```text
/// rank 0  0F0 0F1 0F2 0F3 4F0 4F1 4F2 4F3 .   .   .   .   .   .   4B3 4B2 4B1 4B0 0B3 0B2 0B1 0B0
/// rank 1  .   1F0 1F1 1F2 1F3 5F0 5F1 5F2 5F3 .   .   .   .   5B3 5B2 5B1 5B0 1B3 1B2 1B1 1B0 .
/// rank 2  .   .   2F0 2F1 2F2 2F3 6F0 6F1 6F2 6F3 .   .   6B3 6B2 6B1 6B0 2B3 2B2 2B1 2B0 .   .
/// rank 3  .   .   .   3F0 3F1 3F2 3F3 7F0 7F1 7F2 7F3 7B3 7B2 7B1 7B0 3B3 3B2 3B1 3B0 .   .   .
/// ```
pub(super) fn looped_bfs(ranks: usize, stages_per_rank: usize, micro_batches: usize) -> Schedule {
    let rank_of: Vec<_> = (0..ranks * stages_per_rank).map(|stage| stage % ranks).collect();
    gpipe(&rank_of, micro_batches, |_| false)
}
