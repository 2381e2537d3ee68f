use super::{Action, ActionKind};

/// An ordered list of actions for each rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// The number of stages of the model.
    pub stages: usize,
    /// The number of micro-batches of a mini-batch.
    pub micro_batches: usize,
    /// The actions of each rank, in the order in which it performs them.
    pub ranks: Vec<Vec<Action>>,
}

impl Schedule {
    /// Makes a schedule from its lists. The highest stage and micro-batch in them give the numbers
    /// of stages and micro-batches.
    pub(crate) fn of_lists(ranks: Vec<Vec<Action>>) -> Self {
        let count = |number: fn(&Action) -> usize| {
            ranks.iter().flatten().map(number).max().map_or(0, |last| last.saturating_add(1))
        };
        Self { stages: count(|action| action.stage), micro_batches: count(|action| action.micro_batch), ranks }
    }

    /// Iterates over all actions: rank by rank, in the order of its list.
    pub fn actions(&self) -> impl Iterator<Item = Action> + '_ {
        self.ranks.iter().flatten().copied()
    }

    /// The schedule reduced to its forward actions, in the same order.
    pub fn forward(&self) -> Self {
        self.only(|kind| kind == ActionKind::Forward)
    }

    /// The schedule without its forward actions, in the same order.
    pub fn backward(&self) -> Self {
        self.only(|kind| kind != ActionKind::Forward)
    }

    /// The schedule reduced to its first `micro_batches` micro-batches, in the same order.
    ///
    /// A valid schedule stays valid: an action waits only for actions of its own micro-batch and
    /// for earlier ones in its list, and this removes only actions of other micro-batches.
    pub fn with_first(&self, micro_batches: usize) -> Self {
        let there = |action: &Action| action.micro_batch < micro_batches;
        let ranks = self.ranks.iter().map(|list| list.iter().copied().filter(there).collect()).collect();
        Self { ranks, micro_batches: micro_batches.min(self.micro_batches), ..*self }
    }

    fn only(&self, keep: impl Fn(ActionKind) -> bool) -> Self {
        let ranks = self.ranks.iter().map(|list| list.iter().copied().filter(|a| keep(a.kind)).collect()).collect();
        Self { ranks, ..*self }
    }
}
