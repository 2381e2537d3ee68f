use super::ScheduleKind;

/// The reason why a [`ScheduleKind`] cannot run certain ranks, stages and micro-batches.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleKindError {
    /// There are no ranks, stages or micro-batches.
    #[error(
        "`{kind}` over {ranks} ranks with {stages_per_rank} stages each and {micro_batches} micro-batches: none of them may be zero"
    )]
    Zero {
        /// The schedule.
        kind: ScheduleKind,
        /// The number of ranks.
        ranks: usize,
        /// The number of stages per rank.
        stages_per_rank: usize,
        /// The number of micro-batches.
        micro_batches: usize,
    },
    /// The schedule needs another number of stages per rank.
    #[error(
        "`{kind}` needs exactly {needed} stage{} per rank, not {stages_per_rank}: use {} stage{} on {ranks} rank{}, or {}",
        plural(*needed), needed.saturating_mul(*ranks), plural(needed.saturating_mul(*ranks)), plural(*ranks), other(*stages_per_rank)
    )]
    StagesPerRank {
        /// The schedule.
        kind: ScheduleKind,
        /// The number of stages per rank that it needs.
        needed: usize,
        /// The number of stages per rank that was given.
        stages_per_rank: usize,
        /// The number of ranks.
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
        /// The least number of micro-batches.
        needed: usize,
        /// The number that was given.
        micro_batches: usize,
        /// The number of ranks.
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
        /// The number of rounds: how often the number of ranks fits into the number of
        /// micro-batches, and at least 1.
        rounds: usize,
        /// The number of micro-batches.
        micro_batches: usize,
        /// The number of ranks.
        ranks: usize,
        /// The next smaller number of micro-batches that divides into equal rounds.
        below: usize,
        /// The next larger number of micro-batches that does.
        above: usize,
    },
    /// A stage is not on the rank where the schedule has it.
    #[error("`{kind}` has stage {stage} on rank {needed}, not on rank {rank}: {}", kind.placement().words())]
    Placement {
        /// The schedule.
        kind: ScheduleKind,
        /// The stage.
        stage: usize,
        /// The rank that was given.
        rank: usize,
        /// The rank that the schedule needs.
        needed: usize,
    },
    /// The ranks have different numbers of stages.
    #[error(
        "`{kind}` needs as many stages on every rank, and rank {rank} has {stages} where another has {most}: move stages to it, or \
         use `gpipe`"
    )]
    Uneven {
        /// The schedule.
        kind: ScheduleKind,
        /// The first rank with fewer stages.
        rank: usize,
        /// Its number of stages.
        stages: usize,
        /// The greatest number of stages of a rank.
        most: usize,
    },
    /// A rank has no stage.
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
        /// The number of ranks.
        ranks: usize,
        /// The number of stages per rank.
        stages_per_rank: usize,
        /// The number of micro-batches.
        micro_batches: usize,
    },
}

impl ScheduleKindError {
    /// The greatest number of actions of a schedule.
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

/// The schedules that run this number of stages per rank, for a message.
fn other(stages_per_rank: usize) -> &'static str {
    match stages_per_rank {
        1 => "`1f1b`, `zb_h1` or `zb_h2`",
        _ => "`interleaved`, `looped_bfs` or `zb_h1`",
    }
}
