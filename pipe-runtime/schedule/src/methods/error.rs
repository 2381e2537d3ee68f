use super::ScheduleKind;

/// Why a [`ScheduleKind`] cannot run some ranks, stages and micro-batches.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleKindError {
    /// There is nothing to schedule.
    #[error(
        "`{kind}` over {ranks} ranks with {stages_per_rank} stages each and {micro_batches} micro-batches: none of them may be zero"
    )]
    Zero {
        /// Which schedule.
        kind: ScheduleKind,
        /// How many ranks.
        ranks: usize,
        /// How many stages on each.
        stages_per_rank: usize,
        /// How many micro-batches.
        micro_batches: usize,
    },
    /// The schedule is defined for another number of stages per rank.
    #[error(
        "`{kind}` needs exactly {needed} stage{} per rank, not {stages_per_rank}: use {} stage{} on {ranks} rank{}, or {}",
        plural(*needed), needed.saturating_mul(*ranks), plural(needed.saturating_mul(*ranks)), plural(*ranks), other(*stages_per_rank)
    )]
    StagesPerRank {
        /// Which schedule.
        kind: ScheduleKind,
        /// How many stages per rank it needs.
        needed: usize,
        /// How many were given.
        stages_per_rank: usize,
        /// How many ranks.
        ranks: usize,
    },
    /// The pipeline would not fill.
    #[error(
        "`{kind}` needs at least {needed} micro-batches on {ranks} ranks, not {micro_batches}: use {needed} micro-batches, \
         or `gpipe`, `1f1b` or `zbv`"
    )]
    TooFewMicroBatches {
        /// Which schedule.
        kind: ScheduleKind,
        /// How many micro-batches it needs.
        needed: usize,
        /// How many there are.
        micro_batches: usize,
        /// How many ranks.
        ranks: usize,
    },
    /// The micro-batches do not divide into equal rounds.
    #[error(
        "`{kind}` goes through the micro-batches in {rounds} rounds on {ranks} ranks, and {micro_batches} micro-batches are not a multiple of \
         {rounds}: use {below} or {above}"
    )]
    Rounds {
        /// Which schedule.
        kind: ScheduleKind,
        /// How many rounds: as many as the ranks go into the micro-batches.
        rounds: usize,
        /// How many micro-batches there are.
        micro_batches: usize,
        /// How many ranks.
        ranks: usize,
        /// The next smaller number of micro-batches that would do.
        below: usize,
        /// The next larger one.
        above: usize,
    },
    /// The stages are not on the ranks on which the schedule has them.
    #[error("`{kind}` has stage {stage} on rank {needed}, not on rank {rank}: {}", kind.placement().words())]
    Placement {
        /// Which schedule.
        kind: ScheduleKind,
        /// Which stage.
        stage: usize,
        /// Where it was put.
        rank: usize,
        /// Where it must be.
        needed: usize,
    },
    /// Some ranks have fewer stages than others.
    #[error(
        "`{kind}` needs as many stages on every rank, and rank {rank} has {stages} where another has {most}: move stages to it, or \
         use `gpipe`"
    )]
    Uneven {
        /// Which schedule.
        kind: ScheduleKind,
        /// The first rank with fewer.
        rank: usize,
        /// How many it has.
        stages: usize,
        /// How many the others have.
        most: usize,
    },
    /// A rank has nothing to do.
    #[error("`{kind}` has no stage on rank {rank}: number the ranks without gaps from 0")]
    NoStages {
        /// Which schedule.
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
        /// Which schedule.
        kind: ScheduleKind,
        /// How many ranks.
        ranks: usize,
        /// How many stages on each.
        stages_per_rank: usize,
        /// How many micro-batches.
        micro_batches: usize,
    },
}

impl ScheduleKindError {
    /// The longest schedule that is made.
    pub const MOST_ACTIONS: usize = 1 << 30;

    /// The schedule that cannot run them.
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

/// What runs that many stages on a rank.
fn other(stages_per_rank: usize) -> &'static str {
    match stages_per_rank {
        1 => "`1f1b`, `zb_h1` or `zb_h2`",
        _ => "`interleaved`, `looped_bfs` or `zb_h1`",
    }
}
