use super::{Action, ActionKind};

/// Ordered op lists, one per rank, over `stages` stages and `micro_batches` micro-batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Number of stages of the model.
    pub stages: usize,
    /// Number of micro-batches in the mini-batch.
    pub micro_batches: usize,
    /// Each rank's actions, in the order in which it runs them.
    pub ranks: Vec<Vec<Action>>,
}

impl Schedule {
    /// Makes a schedule with as many stages and micro-batches as occur in the lists.
    pub(crate) fn of_lists(ranks: Vec<Vec<Action>>) -> Self {
        let count = |number: fn(&Action) -> usize| {
            ranks.iter().flatten().map(number).max().map_or(0, |last| last.saturating_add(1))
        };
        Self { stages: count(|action| action.stage), micro_batches: count(|action| action.micro_batch), ranks }
    }

    /// All actions, rank by rank, each rank's in the order of its list.
    pub fn actions(&self) -> impl Iterator<Item = Action> + '_ {
        self.ranks.iter().flatten().copied()
    }

    /// The forward actions alone, in the same order.
    pub fn forward(&self) -> Self {
        self.only(|kind| kind == ActionKind::Forward)
    }

    /// Everything but the forward actions, in the same order.
    pub fn backward(&self) -> Self {
        self.only(|kind| kind != ActionKind::Forward)
    }

    /// The actions of the first `micro_batches` micro-batches alone, in the same order.
    ///
    /// A valid schedule stays valid: an action waits only for actions of its own micro-batch and
    /// for those before it in its list, and the lists only become shorter.
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
