//! The published schedules: their names, what each can run, and how its stages are placed.

mod error;
mod idle;
mod name;
mod place;
mod placement;
mod published;
mod rank_list;
mod rounds;
mod v_pattern;

pub use error::ScheduleKindError;
pub use name::UnknownScheduleError;
pub use place::PlacementError;
pub use placement::Placement;
pub use published::gpipe;

use rounds::Rounds;

use crate::list::Schedule;

/// A published schedule. It prints as its name and is parsed from it. The name is the paper's or
/// PyTorch's: `1f1b`, `zb_h1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ScheduleKind {
    /// `gpipe` (Huang et al. 2019): all micro-batches forward, then all backward, the last one
    /// first.
    #[doc(alias = "gpipe")]
    GPipe,
    /// `1f1b` (Narayanan et al. 2019): each backward runs as soon as its gradient is there, so a
    /// rank has no more micro-batches in flight than there are ranks from it to the end.
    #[doc(alias = "1f1b")]
    OneFOneB,
    /// `interleaved` (Narayanan et al. 2021): 1F1B over looped stages. The more stages a rank has,
    /// the less it is idle.
    Interleaved,
    /// `looped_bfs` (Lamy-Poirier 2023): GPipe over looped stages.
    #[doc(alias = "looped_bfs")]
    LoopedBfs,
    /// `zb_h1` (Qi et al. 2023): 1F1B with the backward split, for less idle time at the memory of
    /// 1F1B's first rank.
    #[doc(alias = "zb_h1")]
    ZbH1,
    /// `zb_h2` (Qi et al. 2023): no idle time for equal costs, at twice that memory.
    #[doc(alias = "zb_h2")]
    ZbH2,
    /// `zbv` (Qi et al. 2024): no idle time for equal costs at that memory, with two stages per
    /// rank.
    Zbv,
    /// `dualpipe_v` (DeepSeek-AI 2025): forwards paired with backwards of the other direction, with
    /// two stages per rank.
    #[doc(alias = "dualpipe_v")]
    DualPipeV,
    /// `v_half` (Qi et al. 2024): half of the memory of 1F1B, with two stages per rank.
    #[doc(alias = "v_half")]
    VHalf,
    /// `v_min` (Qi et al. 2024): a third of the memory of 1F1B, with two stages per rank.
    #[doc(alias = "v_min")]
    VMin,
}

impl ScheduleKind {
    /// All published schedules.
    pub const ALL: [ScheduleKind; 10] = [
        ScheduleKind::GPipe,
        ScheduleKind::OneFOneB,
        ScheduleKind::Interleaved,
        ScheduleKind::LoopedBfs,
        ScheduleKind::ZbH1,
        ScheduleKind::ZbH2,
        ScheduleKind::Zbv,
        ScheduleKind::DualPipeV,
        ScheduleKind::VHalf,
        ScheduleKind::VMin,
    ];

    /// The name as a setting is written: in quotes if it begins with a digit, which no identifier
    /// does.
    pub fn as_setting(self) -> String {
        match self.name() {
            name if name.starts_with(|first: char| first.is_ascii_digit()) => format!("\"{name}\""),
            name => name.to_owned(),
        }
    }

    /// The number of stages that a rank must have, if the schedule fixes it.
    pub const fn stages_per_rank(self) -> Option<usize> {
        match self {
            ScheduleKind::GPipe | ScheduleKind::Interleaved | ScheduleKind::LoopedBfs | ScheduleKind::ZbH1 => None,
            ScheduleKind::OneFOneB | ScheduleKind::ZbH2 => Some(1),
            ScheduleKind::Zbv | ScheduleKind::DualPipeV | ScheduleKind::VHalf | ScheduleKind::VMin => Some(2),
        }
    }

    /// The placement of the stages on the ranks.
    pub const fn placement(self) -> Placement {
        match self {
            ScheduleKind::Zbv | ScheduleKind::DualPipeV | ScheduleKind::VHalf | ScheduleKind::VMin => Placement::V,
            _ => Placement::Loop,
        }
    }

    /// The rank of `stage`.
    pub const fn rank_of(self, stage: usize, ranks: usize, _stages_per_rank: usize) -> usize {
        self.placement().rank_of(stage, ranks)
    }

    /// Whether it splits the backward.
    pub const fn splits_backward(self) -> bool {
        !matches!(
            self,
            ScheduleKind::GPipe | ScheduleKind::OneFOneB | ScheduleKind::Interleaved | ScheduleKind::LoopedBfs
        )
    }

    /// Makes the lists for stages that are already placed: stage `s` is on rank `rank_of[s]`. GPipe
    /// takes any placement.
    ///
    /// # Errors
    ///
    /// Fails if the schedule cannot run these stages on these ranks, or this number of
    /// micro-batches: with [`ScheduleKindError::NoStages`] if a rank has none,
    /// and, except for GPipe, with [`ScheduleKindError::Uneven`], [`ScheduleKindError::Placement`]
    /// or an error of [`check`](Self::check).
    pub fn schedule_on(self, rank_of: &[usize], micro_batches: usize) -> Result<Schedule, ScheduleKindError> {
        let (ranks, stages_per_rank) = self.check_on(rank_of, micro_batches)?;
        match self {
            ScheduleKind::GPipe => Ok(gpipe(rank_of, micro_batches, |_| false)),
            _ => self.schedule(ranks, stages_per_rank, micro_batches),
        }
    }

    /// Makes the lists for a mini-batch with `micro_batches` micro-batches, in a pipeline for up to
    /// `most`. If the schedule cannot run so few, the lists are those of the next number that it
    /// can run, without the actions of the missing micro-batches.
    ///
    /// # Errors
    ///
    /// Fails like [`schedule_on`](Self::schedule_on) for `micro_batches` if the schedule can run no
    /// number of micro-batches from there to `most`.
    pub fn schedule_within(
        self,
        rank_of: &[usize],
        micro_batches: usize,
        most: usize,
    ) -> Result<Schedule, ScheduleKindError> {
        let lists = |count| self.schedule_on(rank_of, count);
        match (micro_batches..=most).find_map(|count| lists(count).ok()) {
            Some(schedule) => Ok(schedule.with_first(micro_batches)),
            None => lists(micro_batches),
        }
    }

    /// Checks whether the schedule can run stages that are already placed, without making the
    /// lists. Returns the number of ranks, and the greatest number of stages of a rank.
    ///
    /// # Errors
    ///
    /// Fails in the same cases as [`schedule_on`](Self::schedule_on).
    pub fn check_on(self, rank_of: &[usize], micro_batches: usize) -> Result<(usize, usize), ScheduleKindError> {
        let ranks = rank_of.iter().max().map_or(0, |&last| last.saturating_add(1));
        if ranks > rank_of.len() {
            let rank = (0..ranks).find(|rank| !rank_of.contains(rank)).unwrap_or(0);
            return Err(ScheduleKindError::NoStages { kind: self, rank });
        }
        self.check_size(ranks.min(1), rank_of.len(), micro_batches)?;
        let mut stages = vec![0; ranks];
        rank_of.iter().for_each(|&rank| stages[rank] += 1);
        if let Some(rank) = stages.iter().position(|&stages| stages == 0) {
            return Err(ScheduleKindError::NoStages { kind: self, rank });
        }
        let most = stages.iter().copied().max().unwrap_or(0);
        if self == ScheduleKind::GPipe {
            return Ok((ranks, most));
        }
        if let Some(rank) = stages.iter().position(|&stages| stages < most) {
            return Err(ScheduleKindError::Uneven { kind: self, rank, stages: stages[rank], most });
        }
        self.check(ranks, most, micro_batches)?;
        for (stage, &rank) in rank_of.iter().enumerate() {
            let needed = self.rank_of(stage, ranks, most);
            if rank != needed {
                return Err(ScheduleKindError::Placement { kind: self, stage, rank, needed });
            }
        }
        Ok((ranks, most))
    }

    /// Checks whether the schedule can run these ranks, stages and micro-batches.
    ///
    /// # Errors
    ///
    /// * [`ScheduleKindError::Zero`] if a number is zero.
    /// * [`ScheduleKindError::TooLarge`] if the lists would not fit into memory.
    /// * [`ScheduleKindError::StagesPerRank`] if the schedule needs another number of stages per
    ///   rank.
    /// * [`ScheduleKindError::TooFewMicroBatches`] if the pipeline would not fill.
    /// * [`ScheduleKindError::Rounds`] if the micro-batches do not divide into equal rounds.
    pub fn check(self, ranks: usize, stages_per_rank: usize, micro_batches: usize) -> Result<(), ScheduleKindError> {
        self.check_size(ranks, stages_per_rank, micro_batches)?;
        if let Some(needed) = self.stages_per_rank().filter(|&needed| needed != stages_per_rank) {
            return Err(ScheduleKindError::StagesPerRank { kind: self, needed, stages_per_rank, ranks });
        }
        if self == ScheduleKind::DualPipeV && micro_batches < 2 * ranks {
            return Err(ScheduleKindError::TooFewMicroBatches { kind: self, needed: 2 * ranks, micro_batches, ranks });
        }
        if matches!(self, ScheduleKind::Interleaved | ScheduleKind::ZbH1) && stages_per_rank > 1 {
            let equal = |micro_batches: usize| micro_batches.is_multiple_of(Rounds::number(ranks, micro_batches));
            if !equal(micro_batches) {
                let rounds = Rounds::number(ranks, micro_batches);
                let below = (1..micro_batches).rev().find(|&fewer| equal(fewer)).unwrap_or(1);
                // A multiple of the number of ranks always divides.
                let above = (micro_batches + 1..).find(|&more| equal(more)).unwrap_or(usize::MAX);
                return Err(ScheduleKindError::Rounds { kind: self, rounds, micro_batches, ranks, below, above });
            }
        }
        Ok(())
    }

    fn check_size(self, ranks: usize, stages_per_rank: usize, micro_batches: usize) -> Result<(), ScheduleKindError> {
        if ranks == 0 || stages_per_rank == 0 || micro_batches == 0 {
            return Err(ScheduleKindError::Zero { kind: self, ranks, stages_per_rank, micro_batches });
        }
        let pairs = ranks.checked_mul(stages_per_rank).and_then(|stages| stages.checked_mul(micro_batches));
        match pairs {
            // Three actions per (stage, micro-batch) pair.
            Some(pairs) if pairs <= ScheduleKindError::MOST_ACTIONS / 3 => Ok(()),
            _ => Err(ScheduleKindError::TooLarge { kind: self, ranks, stages_per_rank, micro_batches }),
        }
    }
}
