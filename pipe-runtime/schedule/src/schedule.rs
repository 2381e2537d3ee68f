use crate::{Action, Kind};

/// Ordered op lists, one per rank, over `stages` stages and `micro_batches` micro-batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// How many stages the model has.
    pub stages: usize,
    /// How many micro-batches the mini-batch is split into.
    pub micro_batches: usize,
    /// What each rank does, in this order.
    pub ranks: Vec<Vec<Action>>,
}

impl Schedule {
    /// All actions, rank by rank, each rank's in the order of its list.
    pub fn actions(&self) -> impl Iterator<Item = Action> + '_ {
        self.ranks.iter().flatten().copied()
    }

    /// The forward actions alone, in the same order.
    pub fn forward(&self) -> Self {
        self.only(|kind| kind == Kind::Forward)
    }

    /// Everything but the forward actions, in the same order.
    pub fn backward(&self) -> Self {
        self.only(|kind| kind != Kind::Forward)
    }

    fn only(&self, keep: impl Fn(Kind) -> bool) -> Self {
        let ranks = self.ranks.iter().map(|list| list.iter().copied().filter(|a| keep(a.kind)).collect()).collect();
        Self { ranks, ..*self }
    }
}
