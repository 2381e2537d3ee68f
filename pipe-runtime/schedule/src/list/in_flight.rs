use std::collections::BTreeMap;

use super::{Action, ActionKind, Order, Schedule};

impl Schedule {
    /// Peak number of in-flight (stage, micro-batch) pairs, per rank. A pair is in flight from its
    /// forward until its backward (the one for the parameters, if it is split). The peak follows
    /// from the lists alone and does not depend on times.
    pub fn peak_in_flight(&self) -> Vec<usize> {
        let peak = |list: &Vec<Action>| InFlight::default().peak(list).map_or(0, |(peak, _)| peak);
        self.ranks.iter().map(peak).collect()
    }

    /// Peak number of micro-batches in flight, per stage, defined as for
    /// [`peak_in_flight`](Self::peak_in_flight).
    pub fn peak_in_flight_by_stage(&self) -> BTreeMap<usize, usize> {
        let mut stages: BTreeMap<usize, (InFlight, usize)> = BTreeMap::new();
        for action in self.actions() {
            let (in_flight, peak) = stages.entry(action.stage).or_default();
            *peak = in_flight.after(action).max(*peak);
        }
        stages.into_iter().map(|(stage, (_, peak))| (stage, peak)).collect()
    }
}

/// The number of pairs in flight after the actions that have been counted.
#[derive(Default)]
pub(crate) struct InFlight(usize);

impl InFlight {
    pub(crate) fn after(&mut self, action: Action) -> usize {
        match action.kind {
            ActionKind::Forward => self.0 += 1,
            // A list with more backwards than forwards is not valid, but must not panic.
            ActionKind::Backward | ActionKind::BackwardWeight => self.0 = self.0.saturating_sub(1),
            ActionKind::Recompute | ActionKind::BackwardInput => {}
        }
        self.0
    }

    /// The peak over `list`, and the first action that reaches it.
    pub(crate) fn peak(mut self, list: &[Action]) -> Option<(usize, Action)> {
        let counts = list.iter().map(|&action| (self.after(action), action));
        counts.reduce(|peak, next| if next.0 > peak.0 { next } else { peak })
    }
}

impl Order {
    /// The greatest possible number of values in transit from stage `from` to stage `to`, for any
    /// durations of the actions. A value is in transit from the end of its action in `from` until
    /// the start of its action in `to`.
    ///
    /// `kind` is [`ActionKind::Forward`] for values, or [`ActionKind::Backward`] (whole or for the
    /// inputs) for gradients, which go from the later stage to the earlier one.
    pub fn in_transit(&self, kind: ActionKind, from: usize, to: usize) -> usize {
        let same = |other: ActionKind| match kind {
            ActionKind::Backward | ActionKind::BackwardInput => {
                matches!(other, ActionKind::Backward | ActionKind::BackwardInput)
            }
            _ => other == kind,
        };
        // The values that are certainly received once a step has ended. A value that is sent may
        // coexist with all those sent before it, except these.
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
    use crate::methods::ScheduleKind;

    #[test]
    fn a_pair_is_in_flight_until_the_second_part_of_a_split_backward() {
        let whole = "0F0,0F1,0B0,0F2,0B1,0B2".parse::<Schedule>().unwrap();
        let split = "0F0,0F1,0I0,0F2,0I1,0W0,0I2,0W1,0W2".parse::<Schedule>().unwrap();
        assert_eq!((whole.peak_in_flight(), split.peak_in_flight()), (vec![2], vec![3]));
    }

    #[test]
    fn the_pairs_in_flight_of_a_rank_are_those_of_its_stages() {
        let schedule = ScheduleKind::Interleaved.schedule(2, 2, 4).unwrap();
        assert_eq!(schedule.peak_in_flight(), [5, 3]);
        assert_eq!(schedule.peak_in_flight_by_stage().into_values().collect::<Vec<_>>(), [4, 3, 2, 1]);
    }

    #[test]
    fn from_end_to_end_as_many_skips_lie_as_the_first_rank_may_run_ahead() {
        let order = ScheduleKind::OneFOneB.schedule(4, 1, 8).unwrap().order().unwrap();
        let transit = |from, to| order.in_transit(ActionKind::Forward, from, to);
        assert_eq!((transit(0, 3), transit(0, 1), transit(2, 3)), (4, 4, 2));
        let order = ScheduleKind::GPipe.schedule(4, 1, 8).unwrap().order().unwrap();
        assert_eq!(order.in_transit(ActionKind::Forward, 1, 2), 8);
        assert_eq!(order.in_transit(ActionKind::Backward, 2, 1), 8);
    }

    #[test]
    fn between_stages_of_one_rank_the_list_decides() {
        let order = ScheduleKind::Zbv.schedule(2, 2, 4).unwrap().order().unwrap();
        assert_eq!(order.in_transit(ActionKind::Forward, 1, 2), 1);
        assert_eq!(order.in_transit(ActionKind::Forward, 0, 3), 3);
    }
}
