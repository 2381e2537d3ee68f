use super::{Action, Index, Schedule};

/// One action of an [`Order`], and what it waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Step {
    /// The action.
    pub action: Action,
    /// The rank.
    pub rank: usize,
    /// The steps on other ranks that it waits for, as positions in the order. The rank's own
    /// earlier steps come first anyway.
    pub after: Vec<usize>,
}

/// All actions of a schedule in one total order, in which each action comes after everything that
/// it waits for. They are ordered by the tick at which they would start if every action took one
/// tick, then by stage.
///
/// This order decides which of several failures is reported: the first one in it, whichever
/// happened first in time.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct Order {
    /// The steps.
    pub steps: Vec<Step>,
    /// The steps of each rank, as positions in `steps`, in the order of its list.
    pub ranks: Vec<Vec<usize>>,
}

/// The error if no order exists: each of these actions waits for one that never ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the schedule cannot finish: {}", waiting(.0))]
#[non_exhaustive]
pub struct DeadlockError(
    /// Each rank that cannot finish, with its first action that cannot start.
    pub Vec<(usize, Action)>,
);

fn waiting(heads: &[(usize, Action)]) -> String {
    let list: Vec<_> = heads.iter().map(|(rank, action)| format!("rank {rank} waits to start {action}")).collect();
    list.join(", ")
}

impl Order {
    /// An order of actions that do not wait for each other: the lists of the ranks, one after the
    /// other. It is for work that no schedule describes, such as the updates of an optimizer.
    pub fn independent(lists: Vec<Vec<Action>>) -> Self {
        let mut order = Self { steps: Vec::new(), ranks: Vec::with_capacity(lists.len()) };
        for (rank, list) in lists.into_iter().enumerate() {
            let first = order.steps.len();
            order.steps.extend(list.into_iter().map(|action| Step { action, rank, after: Vec::new() }));
            order.ranks.push((first..order.steps.len()).collect());
        }
        order
    }
}

impl Schedule {
    /// Returns the total order of the actions.
    ///
    /// A forward waits for the stage before. A backward, whole or for the inputs, waits for its own
    /// graph (the forward, and the recomputation if the lists have one) and for the backward of the
    /// next stage, whole or for the inputs. A backward for the parameters waits for the one for the
    /// inputs. An action that the lists do not have counts as done, so that the backward half of a
    /// schedule can be ordered by itself.
    ///
    /// # Errors
    ///
    /// Fails if actions wait for each other, so that the lists cannot finish.
    pub fn order(&self) -> Result<Order, DeadlockError> {
        const NOT_YET: usize = usize::MAX;
        let index = Index::new(self);
        let mut positions = vec![NOT_YET; index.len()];
        let mut next = vec![0; self.ranks.len()];
        let mut order = Order {
            steps: Vec::with_capacity(index.len()),
            ranks: self.ranks.iter().map(|list| Vec::with_capacity(list.len())).collect(),
        };
        let mut tick: Vec<(usize, Action)> = Vec::new();
        while order.steps.len() < index.len() {
            for (rank, list) in self.ranks.iter().enumerate() {
                let Some(&action) = list.get(next[rank]) else { continue };
                let mut needed = action.needs(self.stages).filter_map(|needed| index.find(needed));
                if needed.all(|number| positions[number] != NOT_YET) {
                    tick.push((rank, action));
                }
            }
            if tick.is_empty() {
                let heads =
                    self.ranks.iter().enumerate().filter_map(|(rank, list)| Some((rank, *list.get(next[rank])?)));
                return Err(DeadlockError(heads.collect()));
            }
            tick.sort_by_key(|(_, action)| action.stage);
            for (rank, action) in tick.drain(..) {
                let needed = action.needs(self.stages).filter_map(|needed| index.find(needed));
                let after =
                    needed.map(|number| positions[number]).filter(|&position| order.steps[position].rank != rank);
                let step = Step { action, rank, after: after.collect() };
                positions[index.first(rank) + next[rank]] = order.steps.len();
                order.ranks[rank].push(order.steps.len());
                order.steps.push(step);
                next[rank] += 1;
            }
        }
        Ok(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::ActionKind;
    use crate::methods::gpipe;
    use proptest::prelude::*;

    #[test]
    fn clock_cycles_of_three_stages_and_two_micro_batches() {
        let order = gpipe(&[0, 1, 2], 2, |_| false).forward().order().unwrap();
        let actions: Vec<_> = order.steps.iter().map(|step| step.action.to_string()).collect();
        assert_eq!(actions, ["0F0", "0F1", "1F0", "1F1", "2F0", "2F1"]);
    }

    #[test]
    fn a_cycle_is_named() {
        let crossed = Schedule {
            stages: 2,
            micro_batches: 1,
            ranks: vec![
                vec![Action::backward(0, 0), Action::forward(0, 0)],
                vec![Action::forward(1, 0), Action::backward(1, 0)],
            ],
        };
        let error = crossed.order().unwrap_err().to_string();
        assert_eq!(error, "the schedule cannot finish: rank 0 waits to start 0B0, rank 1 waits to start 1F0");
    }

    #[test]
    fn independent_actions_wait_for_their_own_rank_alone() {
        let order = Order::independent(vec![vec![Action::forward(0, 0), Action::forward(0, 1)], vec![]]);
        assert_eq!(order.ranks, [vec![0, 1], vec![]]);
        assert!(order.steps.iter().all(|step| step.rank == 0 && step.after.is_empty()));
    }

    proptest! {
        #[test]
        fn every_step_comes_after_what_it_waits_for(
            stages in 1usize..7,
            micro_batches in 1usize..12,
            checkpointed in 0usize..12,
            loops in 1usize..3,
        ) {
            let rank_of: Vec<_> = (0..stages * loops).map(|stage| stage % stages).collect();
            let schedule = gpipe(&rank_of, micro_batches, |i| i < checkpointed);
            let order = schedule.order().unwrap();
            let recomputed = checkpointed.min(micro_batches);
            prop_assert_eq!(order.steps.len(), stages * loops * (2 * micro_batches + recomputed));
            for (position, step) in order.steps.iter().enumerate() {
                prop_assert!(step.after.iter().all(|&needed| needed < position));
                // A recomputation may start before the gradient arrives: it waits for no other
                // rank.
                prop_assert!(step.action.kind != ActionKind::Recompute || step.after.is_empty());
            }
            for (rank, list) in order.ranks.iter().enumerate() {
                prop_assert!(list.is_sorted());
                let actions: Vec<_> = list.iter().map(|&position| order.steps[position].action).collect();
                prop_assert_eq!(&actions, &schedule.ranks[rank]);
            }
        }
    }
}
