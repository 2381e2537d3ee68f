//! The changes that the passes of one stage make in one call.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::{Value, write};
use crate::error::Result;
use crate::torch::{Change, Variables};

/// A micro-batch, and the segment of the stage that runs on it: 0 for the whole stage.
pub(crate) type Part = (usize, usize);

/// In the place of a segment: those that are kept.
const KEPT: usize = usize::MAX;

/// The changes of variables by the passes of one stage in one call, as long as they may be needed.
#[derive(Debug, Default)]
pub(crate) struct History {
    passes: usize,
    changes: Vec<Recorded>,
    /// What will be recomputed, with the number of its first pass, in the order of these. There is
    /// only what is in flight.
    pending: Vec<(Part, usize)>,
    /// What will go backward, with the number of the first pass whose state its graph is of, in the
    /// order of these: its own for what is recomputed, the micro-batch's last for all else.
    backwards: Vec<(Part, usize)>,
    /// Whether the call has succeeded, so that it will not be undone.
    kept: bool,
}

#[derive(Debug)]
struct Recorded {
    pass: usize,
    change: Change,
}

impl History {
    /// Adds a change of a pass.
    pub(super) fn passed(&mut self, changes: Vec<Change>) {
        let pass = self.passes;
        self.passes += 1;
        self.changes.extend(changes.into_iter().map(|change| Recorded { pass, change }));
    }

    /// Records that the last pass was the first one of a part that will be recomputed.
    pub(crate) fn will_be_recomputed(&mut self, part: Part) {
        self.pending.push((part, self.passes - 1));
        self.backwards.push((part, self.passes - 1));
    }

    /// Records that the first passes of a micro-batch have ended, and whether its backward follows.
    pub(crate) fn has_gone_forward(&mut self, micro_batch: usize, goes_backward: bool) {
        if goes_backward {
            self.backwards.push(((micro_batch, KEPT), self.passes - 1));
        }
        self.forget();
    }

    /// The pass that a part will be recomputed from.
    pub(super) fn first_pass(&self, part: Part) -> Option<usize> {
        first_pass(&self.pending, part)
    }

    /// The statistics that have changed since the pass `first` began and, if there is a pass
    /// `until`, before that one, with their values when `first` began.
    pub(super) fn statistics(&self, first: usize, until: Option<usize>) -> Vec<Value> {
        let others = self.not_only_statistics();
        self.earliest(|recorded| {
            let is_between = recorded.pass >= first && until.is_none_or(|until| recorded.pass < until);
            is_between && !others.contains(&recorded.change.variable)
        })
    }

    /// The other variables that have changed since the pass `first` began, with their values when
    /// it began.
    pub(super) fn others(&self, first: usize) -> Vec<Value> {
        let others = self.not_only_statistics();
        self.earliest(|recorded| recorded.pass >= first && others.contains(&recorded.change.variable))
    }

    fn not_only_statistics(&self) -> BTreeSet<usize> {
        let others = self.changes.iter().filter(|recorded| !recorded.change.statistic);
        others.map(|recorded| recorded.change.variable).collect()
    }

    /// The variables that have changed since the micro-batch's first pass ended, with their values
    /// at that time, if a backward may read them.
    pub(super) fn after(&self, micro_batch: usize) -> Vec<Value> {
        let Some(last) = first_pass(&self.backwards, (micro_batch, KEPT)) else { return Vec::new() };
        self.earliest(|recorded| recorded.pass > last && !recorded.change.statistic)
    }

    /// The variables that later segments of the same first pass changed after the recomputed part,
    /// with their values when its own pass ended, if a backward may read them.
    pub(super) fn after_part(&self, part: Part) -> Vec<Value> {
        let passes = [part, (part.0, KEPT)].map(|part| first_pass(&self.backwards, part));
        let [Some(own), Some(last)] = passes else { return Vec::new() };
        self.earliest(|recorded| (own + 1..=last).contains(&recorded.pass) && !recorded.change.statistic)
    }

    /// For each variable, its first change for which `counts` is true.
    fn earliest(&self, counts: impl Fn(&Recorded) -> bool) -> Vec<Value> {
        let mut seen = BTreeSet::new();
        let first = self.changes.iter().filter(|recorded| counts(recorded) && seen.insert(recorded.change.variable));
        first.map(|recorded| (recorded.change.variable, recorded.change.before.shallow_clone())).collect()
    }

    /// Records that the micro-batch was recomputed for the last time.
    pub(crate) fn has_been_recomputed(&mut self, micro_batch: usize) {
        self.pending.retain(|&((other, _), _)| other != micro_batch);
        self.forget();
    }

    /// Records that the micro-batch's last backward has ended.
    pub(crate) fn has_gone_backward(&mut self, micro_batch: usize) {
        self.backwards.retain(|&((other, _), _)| other != micro_batch);
        self.forget();
    }

    /// Records that the call will not be undone.
    pub(crate) fn keep(&mut self) {
        self.kept = true;
        self.forget();
    }

    /// Frees the copies that neither an undo, a recomputation nor a backward needs any more.
    fn forget(&mut self) {
        if self.changes.is_empty() {
            return;
        }
        let mut last: BTreeMap<usize, usize> = BTreeMap::new();
        let Self { changes, pending, backwards, kept, .. } = self;
        changes.retain(|Recorded { pass, change }| {
            let previous = last.insert(change.variable, *pass);
            let for_undo = !*kept && previous.is_none();
            let before = previous.map_or(0, |previous| previous + 1);
            for_undo
                || has_pass(pending, before..*pass + 1)
                || (!change.statistic && has_pass(backwards, previous.unwrap_or(0)..*pass))
        });
    }

    /// Restores all variables to their values from before the call.
    pub(crate) fn undo(&mut self, variables: &Variables) -> Result<()> {
        let first = self.earliest(|_| true);
        self.changes.clear();
        self.pending.clear();
        self.backwards.clear();
        Ok(first.into_iter().try_for_each(|(variable, before)| write(variables, variable, &before))?)
    }

    /// The variables that changed in the call, with their values from before it.
    pub(crate) fn all_changes(&self) -> Vec<Value> {
        self.earliest(|_| true)
    }
}

/// The number of the pass of a micro-batch or a part.
fn first_pass<T: PartialEq>(of: &[(T, usize)], part: T) -> Option<usize> {
    of.iter().find(|(other, _)| *other == part).map(|(_, pass)| *pass)
}

/// Whether one of the passes, which are in order, is in the range.
fn has_pass<T>(of: &[(T, usize)], range: Range<usize>) -> bool {
    let index = of.partition_point(|(_, pass)| *pass < range.start);
    of.get(index).is_some_and(|(_, pass)| range.contains(pass))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Tensor;

    fn value(number: f64) -> Tensor {
        Tensor::from(number)
    }

    fn change(before: f64) -> Change {
        Change { variable: 7, before: value(before), statistic: false }
    }

    fn numbers(changes: Vec<Value>) -> Vec<(usize, f64)> {
        changes.into_iter().map(|(variable, before)| (variable, before.double_value(&[]))).collect()
    }

    /// The value of variable 7 counts the passes that have changed it: passes 0 and 2.
    fn history() -> History {
        let mut history = History::default();
        for (micro_batch, changes) in [(0, vec![change(0.)]), (1, vec![]), (2, vec![change(1.)])] {
            history.passed(changes);
            history.will_be_recomputed((micro_batch, 0));
            history.has_gone_forward(micro_batch, true);
        }
        history
    }

    #[test]
    fn a_recomputation_sees_what_its_first_pass_saw_also_where_only_a_later_pass_changed_it() {
        let history = history();
        let before = |micro_batch| numbers(history.others(history.first_pass((micro_batch, 0)).unwrap()));
        assert_eq!(before(0), [(7, 0.)]);
        assert_eq!(before(1), [(7, 1.)]);
        assert_eq!(before(2), [(7, 1.)]);
        assert!(history.statistics(0, None).is_empty());
    }

    #[test]
    fn a_segment_sees_what_earlier_segments_of_its_pass_left() {
        let mut history = History::default();
        let statistic = |before| Change { statistic: true, ..change(before) };
        for (pass, part) in [(0, 0), (0, 1), (1, 0), (1, 1)].into_iter().enumerate() {
            history.passed(vec![statistic(pass as f64)]);
            history.will_be_recomputed(part);
            if part.1 == 1 {
                history.has_gone_forward(part.0, true);
            }
        }
        let first = |part| history.first_pass(part).unwrap();
        assert_eq!(numbers(history.statistics(first((0, 1)), None)), [(7, 1.)]);
        assert_eq!(numbers(history.statistics(first((0, 0)), Some(first((0, 1))))), [(7, 0.)]);
        history.has_been_recomputed(0);
        assert_eq!(history.changes.len(), 3, "the first one is for the undo, the others for micro-batch 1");
    }

    #[test]
    fn a_backward_sees_what_its_first_pass_left() {
        let history = history();
        assert_eq!(numbers(history.after(0)), [(7, 1.)]);
        assert_eq!(numbers(history.after(1)), [(7, 1.)]);
        assert!(history.after(2).is_empty(), "it is so now");
    }

    #[test]
    fn a_backward_sees_what_the_last_segment_of_its_first_pass_left() {
        let mut history = History::default();
        history.passed(vec![change(0.)]);
        history.will_be_recomputed((0, 0));
        // No gradient comes back to this one.
        history.passed(vec![change(1.)]);
        history.has_gone_forward(0, true);
        history.passed(vec![change(2.)]);
        history.has_gone_forward(1, false);
        assert_eq!(numbers(history.after(0)), [(7, 2.)]);
        assert_eq!(numbers(history.after_part((0, 0))), [(7, 1.)]);
        assert!(history.after(1).is_empty());
    }

    #[test]
    fn a_copy_is_kept_as_long_as_a_recomputation_or_a_failure_may_ask_for_it() {
        let mut history = history();
        history.has_been_recomputed(2);
        history.has_gone_backward(2);
        assert_eq!(history.changes.len(), 2, "micro-batch 1 still needs the second copy");
        history.has_been_recomputed(1);
        history.has_gone_backward(1);
        assert_eq!(history.changes.len(), 2, "the backward of micro-batch 0 needs what it was after it");
        history.has_gone_backward(0);
        assert_eq!(history.changes.len(), 1);
        assert_eq!(numbers(history.all_changes()), [(7, 0.)]);
        history.keep();
        assert_eq!(history.changes.len(), 1, "micro-batch 0 is still to be recomputed");
        history.has_been_recomputed(0);
        assert!(history.changes.is_empty());
    }
}
