use std::collections::BTreeSet;

use super::{Action, ActionKind, Schedule};

impl Schedule {
    /// Returns the schedule with a recomputation right before the backward (`B` or `I`) of each
    /// micro-batch for which `recomputed(stage, micro_batch)` is true. Recomputations that are
    /// there stay where they are.
    ///
    /// A backward that comes right after its own forward gets none: keeping the forward's graph
    /// takes as much memory as the recomputation would, at the same time.
    pub fn with_recompute(self, recomputed: impl Fn(usize, usize) -> bool) -> Self {
        let already: BTreeSet<_> = self.actions().filter(|action| action.kind == ActionKind::Recompute).collect();
        let insert = |list: &[Action]| {
            let mut longer = Vec::with_capacity(2 * list.len());
            for &action in list {
                let (stage, micro_batch) = (action.stage, action.micro_batch);
                let first = Action::recompute(stage, micro_batch);
                let starts_backward = matches!(action.kind, ActionKind::Backward | ActionKind::BackwardInput);
                let gains = longer.last() != Some(&Action::forward(stage, micro_batch));
                if starts_backward && gains && recomputed(stage, micro_batch) && !already.contains(&first) {
                    longer.push(first);
                }
                longer.push(action);
            }
            longer
        };
        let ranks = self.ranks.iter().map(|list| insert(list)).collect();
        Self { ranks, ..self }
    }

    /// Returns the schedule without the recomputations of the micro-batches for which `dropped` is
    /// true.
    pub fn without_recompute(mut self, dropped: impl Fn(usize) -> bool) -> Self {
        let stays = |action: &Action| action.kind != ActionKind::Recompute || !dropped(action.micro_batch);
        self.ranks.iter_mut().for_each(|list| list.retain(stays));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::gpipe;

    #[test]
    fn a_recomputation_comes_right_before_whichever_backward_there_is() {
        let mixed = "0F0,0F1,0F2,0I0,0W0,0B1,0I2,0W2".parse::<Schedule>().unwrap();
        let recomputed = mixed.with_recompute(|_, i| i != 1);
        assert_eq!(recomputed.to_csv(), "0F0,0F1,0F2,0R0,0I0,0W0,0B1,0R2,0I2,0W2\n");
        assert!(recomputed.order().is_ok());
    }

    #[test]
    fn gpipe_checkpointed_and_recomputed_are_the_same() {
        let checkpointed = gpipe(&[0, 1], 3, |i| i < 2);
        assert_eq!(gpipe(&[0, 1], 3, |_| false).with_recompute(|_, i| i < 2), checkpointed);
        assert_eq!(checkpointed.clone().with_recompute(|_, i| i < 2), checkpointed);
    }
}
