use super::ScheduleKind;

/// Why a [`ScheduleKind`] cannot run with some numbers or placement of ranks, stages and
/// micro-batches.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleKindError {
    /// There is nothing to schedule.
    #[error(
        "`{kind}` over {ranks} ranks with {stages_per_rank} stages each and {micro_batches} micro-batches: none of them may be zero"
    )]
    Zero {
        /// The schedule.
        kind: ScheduleKind,
        /// Number of ranks.
        ranks: usize,
        /// Number of stages on each rank.
        stages_per_rank: usize,
        /// Number of micro-batches.
        micro_batches: usize,
    },
    /// The schedule is defined for another number of stages per rank.
    #[error(
        "`{kind}` needs exactly {needed} stage{} per rank, not {stages_per_rank}: use {} stage{} on {ranks} rank{}, or {}",
        plural(*needed), needed.saturating_mul(*ranks), plural(needed.saturating_mul(*ranks)), plural(*ranks), other(*stages_per_rank)
    )]
    StagesPerRank {
        /// The schedule.
        kind: ScheduleKind,
        /// Number of stages per rank that it needs.
        needed: usize,
        /// Number of stages per rank that was given.
        stages_per_rank: usize,
        /// Number of ranks.
        ranks: usize,
    },
    /// There are too few micro-batches to fill the pipeline.
    #[error(
        "`{kind}` needs at least {needed} micro-batches on {ranks} ranks, not {micro_batches}: use {needed} micro-batches, \
         or `gpipe`, `1f1b` or `zbv`"
    )]
    TooFewMicroBatches {
        /// The schedule.
        kind: ScheduleKind,
        /// Smallest number of micro-batches that it can run.
        needed: usize,
        /// How many there are.
        micro_batches: usize,
        /// Number of ranks.
        ranks: usize,
    },
    /// The micro-batches do not divide into equal rounds.
    #[error(
        "`{kind}` goes through the micro-batches in {rounds} rounds on {ranks} ranks, and {micro_batches} micro-batches are not a multiple of \
         {rounds}: use {below} or {above}"
    )]
    Rounds {
        /// The schedule.
        kind: ScheduleKind,
        /// Number of rounds: the micro-batches divided by the ranks, rounded down, and at least 1.
        rounds: usize,
        /// Number of micro-batches that was given.
        micro_batches: usize,
        /// Number of ranks.
        ranks: usize,
        /// The next smaller number of micro-batches that is possible.
        below: usize,
        /// The next larger number of micro-batches that is possible.
        above: usize,
    },
    /// A stage is not on the rank where the schedule has it.
    #[error("`{kind}` has stage {stage} on rank {needed}, not on rank {rank}: {}", kind.placement().words())]
    Placement {
        /// The schedule.
        kind: ScheduleKind,
        /// The stage.
        stage: usize,
        /// The rank that it was put on.
        rank: usize,
        /// The rank that it must be on.
        needed: usize,
    },
    /// Some ranks have fewer stages than others.
    #[error(
        "`{kind}` needs as many stages on every rank, and rank {rank} has {stages} where another has {most}: move stages to it, or \
         use `gpipe`"
    )]
    Uneven {
        /// The schedule.
        kind: ScheduleKind,
        /// The first rank with fewer stages.
        rank: usize,
        /// Number of stages on that rank.
        stages: usize,
        /// Largest number of stages on a rank.
        most: usize,
    },
    /// A rank has no stages.
    #[error("`{kind}` has no stage on rank {rank}: number the ranks without gaps from 0")]
    NoStages {
        /// The schedule.
        kind: ScheduleKind,
        /// The first such rank.
        rank: usize,
    },
    /// The lists would not fit into memory.
    #[error(
        "`{kind}` over {ranks} ranks with {stages_per_rank} stages each and {micro_batches} micro-batches is more than {} actions",
        Self::MOST_ACTIONS
    )]
    TooLarge {
        /// The schedule.
        kind: ScheduleKind,
        /// Number of ranks.
        ranks: usize,
        /// Number of stages on each rank.
        stages_per_rank: usize,
        /// Number of micro-batches.
        micro_batches: usize,
    },
}

impl ScheduleKindError {
    /// Largest number of actions in a schedule.
    pub const MOST_ACTIONS: usize = 1 << 30;

    /// The schedule that cannot run.
    pub fn kind(&self) -> ScheduleKind {
        match *self {
            ScheduleKindError::Zero { kind, .. }
            | ScheduleKindError::StagesPerRank { kind, .. }
            | ScheduleKindError::TooFewMicroBatches { kind, .. }
            | ScheduleKindError::Rounds { kind, .. }
            | ScheduleKindError::Placement { kind, .. }
            | ScheduleKindError::Uneven { kind, .. }
            | ScheduleKindError::NoStages { kind, .. }
            | ScheduleKindError::TooLarge { kind, .. } => kind,
        }
    }
}

fn plural(number: usize) -> &'static str {
    if number == 1 { "" } else { "s" }
}

/// The schedules that can run this number of stages per rank.
fn other(stages_per_rank: usize) -> &'static str {
    match stages_per_rank {
        1 => "`1f1b`, `zb_h1` or `zb_h2`",
        _ => "`interleaved`, `looped_bfs` or `zb_h1`",
    }
}
