use super::ScheduleKind;

/// The reason why stages cannot be placed on ranks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlacementError {
    /// A number of ranks was given although a stage is on an accelerator: then each device is a
    /// rank.
    #[error("the number of ranks can only be chosen where all stages are on the CPU")]
    RanksAreDevices,
    /// The stages do not divide over the given number of ranks.
    #[error(
        "`{kind}` needs the same number of stages on each rank, but the model has {stages} stages for {ranks} ranks: change the number of \
         stages or of ranks"
    )]
    Ranks {
        /// The schedule.
        kind: ScheduleKind,
        /// The number of stages.
        stages: usize,
        /// The number of ranks that was given.
        ranks: usize,
    },
    /// The stages do not divide into ranks with as many stages as the schedule needs.
    #[error(
        "`{kind}` needs the same number of stages on each rank, but the model has {stages} stages for {stages_per_rank} per rank: change \
         the number of stages or of ranks"
    )]
    StagesPerRank {
        /// The schedule.
        kind: ScheduleKind,
        /// The number of stages.
        stages: usize,
        /// The number of stages per rank, by default.
        stages_per_rank: usize,
    },
}

impl ScheduleKind {
    /// Places stages on ranks: returns the rank of each stage. `accelerators` has the accelerator
    /// of each stage; `None` is the CPU.
    ///
    /// An accelerator is a rank, with all of its stages. Beside accelerators, each CPU stage is a
    /// rank. If all stages are on the CPU, any executor can run any stage: the stages are placed as
    /// the schedule needs, on `ranks` ranks if that is given.
    ///
    /// [`ScheduleKind::check_on`] checks whether the schedule can run with this placement.
    ///
    /// # Errors
    ///
    /// Fails if the stages do not divide evenly over the ranks, or if `ranks` is given although a
    /// stage is on an accelerator.
    pub fn place<D: PartialEq>(
        self,
        accelerators: &[Option<D>],
        ranks: Option<usize>,
    ) -> Result<Vec<usize>, PlacementError> {
        if accelerators.iter().any(Option::is_some) {
            return match ranks {
                None => Ok(by_device(accelerators)),
                Some(_) => Err(PlacementError::RanksAreDevices),
            };
        }
        let (kind, stages) = (self, accelerators.len());
        let stages_per_rank = self.usual_stages_per_rank();
        let ranks = match ranks {
            Some(ranks) if ranks == 0 || !stages.is_multiple_of(ranks) => {
                return Err(PlacementError::Ranks { kind, stages, ranks });
            }
            Some(ranks) => ranks,
            None if stages == 0 || !stages.is_multiple_of(stages_per_rank) => {
                return Err(PlacementError::StagesPerRank { kind, stages, stages_per_rank });
            }
            None => stages / stages_per_rank,
        };
        Ok((0..stages).map(|stage| self.rank_of(stage, ranks, stages / ranks)).collect())
    }

    /// The number of stages of a CPU rank, by default.
    const fn usual_stages_per_rank(self) -> usize {
        match (self.stages_per_rank(), self) {
            (Some(needed), _) => needed,
            (None, ScheduleKind::GPipe | ScheduleKind::ZbH1) => 1,
            (None, _) => 2,
        }
    }
}

/// Each CPU stage is a rank, and each accelerator is one rank for all of its stages.
fn by_device<'a, D: PartialEq>(accelerators: &'a [Option<D>]) -> Vec<usize> {
    let mut ranks: Vec<Option<&'a D>> = Vec::new();
    let rank_of = |accelerator: &'a Option<D>| {
        let known = ranks.iter().position(|&rank| rank.is_some() && rank == accelerator.as_ref());
        known.unwrap_or_else(|| {
            ranks.push(accelerator.as_ref());
            ranks.len() - 1
        })
    };
    accelerators.iter().map(rank_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPU: Option<&str> = None;

    #[test]
    fn stages_of_one_accelerator_share_an_op_list_and_cpu_stages_do_not() {
        let devices = [Some("cuda:0"), CPU, Some("cuda:1"), CPU, Some("cuda:0")];
        assert_eq!(ScheduleKind::OneFOneB.place(&devices, None), Ok(vec![0, 1, 2, 3, 0]));
        assert_eq!(ScheduleKind::OneFOneB.place(&devices, Some(2)), Err(PlacementError::RanksAreDevices));
    }

    #[test]
    fn cpu_stages_go_where_the_schedule_wants_them() {
        let place = |stages, kind: ScheduleKind, ranks| kind.place(&vec![CPU; stages], ranks);
        assert_eq!(place(4, ScheduleKind::OneFOneB, None), Ok(vec![0, 1, 2, 3]));
        assert_eq!(place(4, ScheduleKind::Zbv, None), Ok(vec![0, 1, 1, 0]));
        assert_eq!(place(4, ScheduleKind::Interleaved, None), Ok(vec![0, 1, 0, 1]));
        assert_eq!(place(6, ScheduleKind::Interleaved, Some(2)), Ok(vec![0, 1, 0, 1, 0, 1]));
        let error = place(3, ScheduleKind::Zbv, None).unwrap_err().to_string();
        assert!(error.contains("the model has 3 stages for 2 per rank"), "{error}");
        let error = place(5, ScheduleKind::Interleaved, Some(2)).unwrap_err().to_string();
        assert!(error.contains("the model has 5 stages for 2 ranks"), "{error}");
        assert!(place(0, ScheduleKind::GPipe, None).is_err() && place(4, ScheduleKind::GPipe, Some(0)).is_err());
    }
}
