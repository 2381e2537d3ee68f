use super::{Action, Schedule};

/// Builds a custom schedule, action by action.
///
/// ```
/// use pipe_schedule::{Action, Builder, Limits};
///
/// let mut builder = Builder::new(2);
/// builder.rank(0).forward(0, 0).forward(0, 1).backward(0, 0).backward(0, 1);
/// builder.rank(1).forward(1, 0).backward(1, 0);
/// builder.rank(1).forward(1, 1).backward_input(1, 1).backward_weight(1, 1);
/// let schedule = builder.build();
/// assert!(schedule.validate(&Limits::default()).is_ok());
/// assert_eq!(schedule.to_csv(), "0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1I1,1W1\n");
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing until its schedule is built"]
pub struct Builder {
    ranks: Vec<Vec<Action>>,
}

/// Appends actions to one rank's list. It is returned by [`Builder::rank`].
#[derive(Debug)]
pub struct RankBuilder<'a>(&'a mut Vec<Action>);

impl Builder {
    /// Makes a builder with empty lists for `ranks` ranks.
    ///
    /// # Panics
    ///
    /// Panics if this number of lists exceeds the capacity of a `Vec`.
    pub fn new(ranks: usize) -> Self {
        Self { ranks: vec![Vec::new(); ranks] }
    }

    /// Returns the builder of the list of `rank`. Empty lists are added up to this rank if there
    /// are fewer.
    ///
    /// # Panics
    ///
    /// Panics if this number of lists exceeds the capacity of a `Vec`.
    pub fn rank(&mut self, rank: usize) -> RankBuilder<'_> {
        if self.ranks.len() <= rank {
            self.ranks.resize(rank + 1, Vec::new());
        }
        RankBuilder(&mut self.ranks[rank])
    }

    /// Returns the schedule. The highest stage and micro-batch that occur give its numbers of
    /// stages and micro-batches. [`Schedule::validate`] checks it.
    pub fn build(self) -> Schedule {
        Schedule::of_lists(self.ranks)
    }
}

impl RankBuilder<'_> {
    /// Appends an action.
    pub fn push(self, action: Action) -> Self {
        self.0.push(action);
        self
    }

    /// Appends a forward.
    pub fn forward(self, stage: usize, micro_batch: usize) -> Self {
        self.push(Action::forward(stage, micro_batch))
    }

    /// Appends a recomputation.
    pub fn recompute(self, stage: usize, micro_batch: usize) -> Self {
        self.push(Action::recompute(stage, micro_batch))
    }

    /// Appends a whole backward.
    pub fn backward(self, stage: usize, micro_batch: usize) -> Self {
        self.push(Action::backward(stage, micro_batch))
    }

    /// Appends a backward for the inputs.
    pub fn backward_input(self, stage: usize, micro_batch: usize) -> Self {
        self.push(Action::backward_input(stage, micro_batch))
    }

    /// Appends a backward for the parameters.
    pub fn backward_weight(self, stage: usize, micro_batch: usize) -> Self {
        self.push(Action::backward_weight(stage, micro_batch))
    }
}
