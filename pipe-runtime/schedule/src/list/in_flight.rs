use std::collections::BTreeMap;

use super::{Action, Kind, Order, Schedule};

impl Schedule {
    /// For each rank, of how many pairs of a stage of its and a micro-batch something is held at most for the backward: from the forward until the
    /// backward, for the parameters if it is split. This is in the lists alone: it does not depend on any clock.
    pub fn held(&self) -> Vec<usize> {
        let peak = |list: &Vec<Action>| Held::default().peak(list).map_or(0, |(peak, _)| peak);
        self.ranks.iter().map(peak).collect()
    }

    /// The same for each stage alone: how many micro-batches it holds at most.
    pub fn held_by_stage(&self) -> BTreeMap<usize, usize> {
        let mut held: BTreeMap<usize, (Held, usize)> = BTreeMap::new();
        for action in self.actions() {
            let (held, peak) = held.entry(action.stage).or_default();
            *peak = held.after(action).max(*peak);
        }
        held.into_iter().map(|(stage, (_, peak))| (stage, peak)).collect()
    }
}

/// How many forwards of a list are open.
#[derive(Default)]
pub(crate) struct Held(usize);

impl Held {
    pub(crate) fn after(&mut self, action: Action) -> usize {
        match action.kind {
            Kind::Forward => self.0 += 1,
            // A list with more backwards than forwards is not valid, but not a reason to panic.
            Kind::Backward | Kind::BackwardWeight => self.0 = self.0.saturating_sub(1),
            Kind::Recompute | Kind::BackwardInput => {}
        }
        self.0
    }

    /// The most that are open at once, and the action with which they are.
    pub(crate) fn peak(mut self, list: &[Action]) -> Option<(usize, Action)> {
        let counts = list.iter().map(|&action| (self.after(action), action));
        counts.reduce(|peak, next| if next.0 > peak.0 { next } else { peak })
    }
}

impl Order {
    /// How many micro-batches' values lie between the stages `from` and `to` at most, however long each action takes: done in `from`, not
    /// yet started in `to`. `kind` is that of the values: [`Kind::Forward`], or [`Kind::Backward`] (whole or for the
    /// inputs) for gradients, which go from the later stage to the earlier one.
    pub fn in_transit(&self, kind: Kind, from: usize, to: usize) -> usize {
        let same = |other: Kind| match kind {
            Kind::Backward | Kind::BackwardInput => matches!(other, Kind::Backward | Kind::BackwardInput),
            _ => other == kind,
        };
        // What has been taken for certain once a step is done. A value that is put down can lie beside all that were put down before, but for these.
        let mut taken_before = vec![0; self.steps.len()];
        let mut last_of_rank = vec![None; self.ranks.len()];
        let (mut put, mut taken, mut peak) = (0, 0, 0);
        for (position, step) in self.steps.iter().enumerate() {
            let earlier = step.after.iter().copied().chain(last_of_rank[step.rank].replace(position));
            let mut certain = earlier.map(|earlier| taken_before[earlier]).max().unwrap_or(0);
            if same(step.action.kind) && step.action.stage == to {
                taken += 1;
                certain = taken;
            }
            if same(step.action.kind) && step.action.stage == from {
                put += 1;
                peak = peak.max(put - certain.min(put));
            }
            taken_before[position] = certain;
        }
        peak
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::Method;

    #[test]
    fn a_split_backward_holds_until_its_second_part() {
        let whole = "0F0,0F1,0B0,0F2,0B1,0B2".parse::<Schedule>().unwrap();
        let split = "0F0,0F1,0I0,0F2,0I1,0W0,0I2,0W1,0W2".parse::<Schedule>().unwrap();
        assert_eq!((whole.held(), split.held()), (vec![2], vec![3]));
    }

    #[test]
    fn a_stage_holds_its_part_of_what_its_rank_does() {
        let schedule = Method::Interleaved.schedule(2, 2, 4).unwrap();
        assert_eq!(schedule.held(), [5, 3]);
        assert_eq!(schedule.held_by_stage().into_values().collect::<Vec<_>>(), [4, 3, 2, 1]);
    }

    #[test]
    fn from_end_to_end_as_many_skips_lie_as_the_first_rank_may_run_ahead() {
        let order = Method::OneFOneB.schedule(4, 1, 8).unwrap().order().unwrap();
        let transit = |from, to| order.in_transit(Kind::Forward, from, to);
        assert_eq!((transit(0, 3), transit(0, 1), transit(2, 3)), (4, 4, 2));
        let order = Method::GPipe.schedule(4, 1, 8).unwrap().order().unwrap();
        assert_eq!(order.in_transit(Kind::Forward, 1, 2), 8);
        assert_eq!(order.in_transit(Kind::Backward, 2, 1), 8);
    }

    #[test]
    fn between_stages_of_one_rank_the_list_decides() {
        let order = Method::Zbv.schedule(2, 2, 4).unwrap().order().unwrap();
        assert_eq!(order.in_transit(Kind::Forward, 1, 2), 1);
        assert_eq!(order.in_transit(Kind::Forward, 0, 3), 3);
    }
}
