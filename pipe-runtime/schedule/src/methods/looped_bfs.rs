use super::gpipe::gpipe;
use crate::Schedule;

/// Looped breadth-first (Lamy-Poirier 2023, "Breadth-First Pipeline Parallelism", section 4): the stages are looped over the ranks, and all
/// micro-batches go through a rank's stage before any goes through its next one. This is GPipe on looped stages.
///
/// ```text
/// ```
pub(super) fn looped_bfs(ranks: usize, chunks: usize, micro_batches: usize) -> Schedule {
    let rank_of: Vec<_> = (0..ranks * chunks).map(|stage| stage % ranks).collect();
    gpipe(&rank_of, micro_batches, |_| false)
}
