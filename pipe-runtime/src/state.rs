//! What layers change while they run: running statistics and whatever else they keep in variables.
//!
//! A variable is copied right before the first operator of a pass that writes to it. The copies
//! serve twice: a recomputation runs on the state that its first pass began with, and a call that
//! fails leaves the state that it found. A variable that no layer changes is never copied.
//!
//! Stages run at the same time, so a variable that changes belongs to one stage, the one that its
//! name says, and no other stage may use it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use tch::Tensor;

use crate::lock::lock;
use crate::torch::{Change, GradMode, TorchError, Variables, Watch, is_finite};
use crate::{Result, Vars};

/// The variables of a pipeline, and what is known of their use.
#[derive(Debug)]
pub(crate) struct State {
    /// By stage: each looks at its own again when they have got other memory, and at no other
    /// stage's, which may just be getting some.
    variables: Vec<Mutex<Arc<Variables>>>,
    uses: Mutex<Uses>,
}

#[derive(Debug)]
struct Uses {
    /// By variable.
    changed: Vec<bool>,
    /// By variable: the stages whose layers have been seen to use it.
    users: Vec<BTreeSet<usize>>,
    /// Whether the uses of a whole call have been noted, in evaluation and in training.
    noted: [bool; 2],
}

impl State {
    /// # Errors
    ///
    /// If a variable is under no layer's path.
    pub(crate) fn new(vars: &Vars) -> Result<Self> {
        let list = vars.by_stage()?;
        let count = list.len();
        let variables = Arc::new(Variables::new(list)?);
        Ok(Self {
            variables: vars.devices().iter().map(|_| Mutex::new(Arc::clone(&variables))).collect(),
            uses: Mutex::new(Uses {
                changed: vec![false; count],
                users: vec![BTreeSet::new(); count],
                noted: [false; 2],
            }),
        })
    }

    /// Before a call: all variables where they are now.
    pub(crate) fn refresh(&self) -> Result<()> {
        let Some(fresh) = lock(&self.variables[0]).again(None)? else { return Ok(()) };
        let fresh = Arc::new(fresh);
        for variables in &self.variables {
            *lock(variables) = Arc::clone(&fresh);
        }
        Ok(())
    }

    /// The variables for a pass of `stage`, whose own are where they are now.
    pub(crate) fn variables(&self, stage: usize) -> Result<Arc<Variables>, TorchError> {
        let mut variables = lock(&self.variables[stage]);
        if let Some(fresh) = variables.again(Some(stage))? {
            *variables = Arc::new(fresh);
        }
        Ok(Arc::clone(&variables))
    }

    /// Whether the next call in this mode is to note which variables its layers use.
    pub(crate) fn notes_uses(&self, training: bool) -> bool {
        !lock(&self.uses).noted[usize::from(training)]
    }

    /// The uses of a whole call have been noted.
    pub(crate) fn have_been_noted(&self, training: bool) {
        lock(&self.uses).noted[usize::from(training)] = true;
    }

    /// Adds what a pass of `stage` has changed and used.
    ///
    /// # Errors
    ///
    /// If a variable that changes is used by another stage than its own.
    fn note(&self, variables: &Variables, stage: usize, changes: &[Change], used: &[usize]) -> Result<(), String> {
        if changes.is_empty() && used.is_empty() {
            return Ok(());
        }
        let mut uses = lock(&self.uses);
        for &variable in used {
            uses.users[variable].insert(stage);
        }
        for &Change { variable, .. } in changes {
            uses.changed[variable] = true;
        }
        for variable in used.iter().copied().chain(changes.iter().map(|change| change.variable)) {
            let owner = variables.get(variable).stage;
            let other = uses.users[variable].iter().find(|&&user| user != owner);
            if let Some(other) = other.filter(|_| uses.changed[variable]) {
                return Err(format!(
                    "the variable `{}` of stage {owner} is changed by its layers, and stage {other} uses it too: the two stages run at the same time, so \
                     what stage {other} would see is a matter of luck. Send the value along, or use it in stage {owner} alone",
                    variables.get(variable).name
                ));
            }
        }
        Ok(())
    }
}

/// A variable's number, and a value of it.
type Value = (usize, Tensor);

/// What comes after a first pass, for its micro-batch in its stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// No backward.
    Nothing,
    /// The backward of the graph that the pass has recorded.
    Backward,
    /// A recomputation, and its backward.
    Recomputation,
}

/// What the passes of one stage have changed in one call, as long as somebody may ask for it.
#[derive(Debug, Default)]
pub(crate) struct History {
    passes: usize,
    changes: Vec<Recorded>,
    /// The micro-batches that will be recomputed, and the number of their first pass. As few as
    /// are in flight.
    pending: Vec<(usize, usize)>,
    /// The same of those whose backward is still to come.
    backwards: Vec<(usize, usize)>,
    /// The call has succeeded: it will not be undone.
    kept: bool,
}

#[derive(Debug)]
struct Recorded {
    pass: usize,
    change: Change,
}

impl History {
    /// A pass has changed this.
    fn passed(&mut self, changes: Vec<Change>) {
        let pass = self.passes;
        self.passes += 1;
        self.changes.extend(changes.into_iter().map(|change| Recorded { pass, change }));
    }

    /// What will become of the micro-batch of the last pass.
    fn will(&mut self, micro_batch: usize, next: Next) {
        if next == Next::Recomputation {
            self.pending.push((micro_batch, self.passes - 1));
        }
        if next != Next::Nothing {
            self.backwards.push((micro_batch, self.passes - 1));
        }
    }

    /// The variables that have changed since the micro-batch's first pass began, as they were
    /// then.
    fn before(&self, micro_batch: usize) -> Vec<Value> {
        let Some(first) = first_pass(&self.pending, micro_batch) else { return Vec::new() };
        self.earliest(|recorded| recorded.pass >= first)
    }

    /// The variables that have changed since the micro-batch's first pass ended, as they were
    /// then, if a backward may read them.
    fn after(&self, micro_batch: usize) -> Vec<Value> {
        let Some(first) = first_pass(&self.backwards, micro_batch) else { return Vec::new() };
        self.earliest(|recorded| recorded.pass > first && !recorded.change.statistic)
    }

    /// Of each variable, its first change among those for which `counts` holds.
    fn earliest(&self, counts: impl Fn(&Recorded) -> bool) -> Vec<Value> {
        let mut seen = BTreeSet::new();
        let first = self.changes.iter().filter(|recorded| counts(recorded) && seen.insert(recorded.change.variable));
        first.map(|recorded| (recorded.change.variable, recorded.change.before.shallow_clone())).collect()
    }

    /// The micro-batch has been recomputed for the last time.
    fn has_been_recomputed(&mut self, micro_batch: usize) {
        self.pending.retain(|&(other, _)| other != micro_batch);
        self.forget();
    }

    /// The micro-batch has gone backward for the last time.
    pub(crate) fn has_gone_backward(&mut self, micro_batch: usize) {
        self.backwards.retain(|&(other, _)| other != micro_batch);
        self.forget();
    }

    /// The call will not be undone any more.
    pub(crate) fn keep(&mut self) {
        self.kept = true;
        self.forget();
    }

    /// Frees the copies that nobody will ask for.
    fn forget(&mut self) {
        if self.changes.is_empty() {
            return;
        }
        let mut last: BTreeMap<usize, usize> = BTreeMap::new();
        let Self { changes, pending, backwards, kept, .. } = self;
        changes.retain(|Recorded { pass, change }| {
            let previous = last.insert(change.variable, *pass);
            let for_undo = !*kept && previous.is_none();
            let for_recomputation =
                |&(_, first): &(usize, usize)| previous.is_none_or(|previous| first > previous) && first <= *pass;
            let for_backward =
                |&(_, first): &(usize, usize)| previous.is_none_or(|previous| first >= previous) && first < *pass;
            for_undo
                || pending.iter().any(for_recomputation)
                || (!change.statistic && backwards.iter().any(for_backward))
        });
    }

    /// Puts all variables back to what they were before the call.
    pub(crate) fn undo(&mut self, variables: &Variables) -> Result<()> {
        let first = self.earliest(|_| true);
        self.changes.clear();
        self.pending.clear();
        self.backwards.clear();
        Ok(first.into_iter().try_for_each(|(variable, before)| write(variables, variable, &before))?)
    }

    /// What has changed in the call, with what it was before.
    pub(crate) fn all_changes(&self) -> Vec<Value> {
        self.earliest(|_| true)
    }
}

/// The number of the micro-batch's first pass.
fn first_pass(of: &[(usize, usize)], micro_batch: usize) -> Option<usize> {
    of.iter().find(|(other, _)| *other == micro_batch).map(|(_, pass)| *pass)
}

/// The first pass of a micro-batch: what it changes goes into the history, also if it fails.
pub(crate) struct FirstPass<'a> {
    history: &'a Mutex<History>,
    stage: usize,
    watch: Watch,
    done: bool,
}

impl<'a> FirstPass<'a> {
    pub(crate) fn start(
        state: &State,
        history: &'a Mutex<History>,
        stage: usize,
        uses: bool,
    ) -> Result<Self, TorchError> {
        Ok(Self { history, stage, watch: Watch::start(state.variables(stage)?, stage, uses)?, done: false })
    }

    /// It has succeeded, and this is what comes next for its micro-batch.
    ///
    /// # Errors
    ///
    /// If a variable is used by two stages, or (where that is asked for) has stopped being finite.
    pub(crate) fn finish(
        mut self,
        state: &State,
        micro_batch: usize,
        next: Next,
        must_be_finite: bool,
    ) -> Result<(), String> {
        self.done = true;
        let seen = self.watch.read().map_err(|error| error.to_string())?;
        let noted = state.note(self.watch.variables(), self.stage, &seen.changed, &seen.used);
        let finite = if must_be_finite { finite(self.watch.variables(), &seen.changed) } else { Ok(()) };
        let mut history = lock(self.history);
        history.passed(seen.changed);
        history.will(micro_batch, next);
        history.forget();
        noted.and(finite)
    }
}

impl Drop for FirstPass<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        // Reading fails only where memory is out; the failure of the pass is what the caller
        // hears of.
        if let Ok(seen) = self.watch.read() {
            lock(self.history).passed(seen.changed);
        }
    }
}

/// Whether what has changed is as finite as it was; of the CPU's variables.
fn finite(variables: &Variables, changes: &[Change]) -> Result<(), String> {
    for Change { variable, before, .. } in changes {
        let is = |tensor: &Tensor| is_finite(tensor).map_err(|error| error.to_string());
        if is(&variables.get(*variable).tensor)? == Some(false) && is(before)? == Some(true) {
            return Err(not_finite(&variables.get(*variable).name));
        }
    }
    Ok(())
}

/// The words for a variable that has stopped being finite.
pub(crate) fn not_finite(name: &str) -> String {
    format!(
        "the variable `{name}` is no longer finite (a batch norm over a single value has no variance, for one): it has been put back. Give every \
         micro-batch more rows, or allow it by `allow_non_finite(true)`"
    )
}

/// The state as it was at another moment of the call. Dropped, it is as it was found.
pub(crate) struct Rewound {
    /// What is to be put back.
    saved: Vec<Value>,
    watch: Watch,
}

impl Rewound {
    /// As it was when the micro-batch's first pass began, for its recomputation.
    pub(crate) fn before(state: &State, history: &Mutex<History>, stage: usize, micro_batch: usize) -> Result<Self> {
        Self::to(state, stage, lock(history).before(micro_batch))
    }

    /// As it was when the micro-batch's first pass ended, for its backward: the graph may have
    /// saved a variable that later passes have changed. Nothing if none has.
    pub(crate) fn after(
        state: &State,
        history: &Mutex<History>,
        stage: usize,
        micro_batch: usize,
    ) -> Result<Option<Self>> {
        let after = lock(history).after(micro_batch);
        if after.is_empty() {
            return Ok(None);
        }
        Self::to(state, stage, after).map(Some)
    }

    fn to(state: &State, stage: usize, values: Vec<Value>) -> Result<Self> {
        let watch = Watch::start(state.variables(stage)?, stage, false)?;
        let mut rewound = Self { saved: Vec::with_capacity(values.len()), watch };
        for (variable, value) in values {
            let now = copy(&rewound.watch.variables().get(variable).tensor)?;
            rewound.saved.push((variable, now));
            write(rewound.watch.variables(), variable, &value)?;
        }
        Ok(rewound)
    }

    /// The recomputation has succeeded, and there will be no other one of the micro-batch.
    pub(crate) fn finish(self, history: &Mutex<History>, micro_batch: usize) {
        lock(history).has_been_recomputed(micro_batch);
    }
}

impl Drop for Rewound {
    fn drop(&mut self) {
        // Copying between tensors of equal shape and device fails only where libtorch itself is
        // broken.
        if let Ok(seen) = self.watch.read() {
            for Change { variable, before, .. } in seen.changed {
                if self.saved.iter().all(|(saved, _)| *saved != variable) {
                    self.saved.push((variable, before));
                }
            }
        }
        for (variable, saved) in &self.saved {
            let _ = write(self.watch.variables(), *variable, saved);
        }
    }
}

fn copy(tensor: &Tensor) -> Result<Tensor, tch::TchError> {
    let _constant = GradMode::set(false);
    let mut copy = tensor.f_empty_like()?;
    copy.f_copy_(tensor)?;
    Ok(copy)
}

fn write(variables: &Variables, variable: usize, value: &Tensor) -> Result<(), tch::TchError> {
    let _constant = GradMode::set(false);
    // Through `data`: the graphs that saved the variable must not take this for a change.
    let mut now = variables.get(variable).tensor.f_data()?;
    if now.size() == value.size() && now.kind() == value.kind() {
        return now.f_copy_(value);
    }
    variables.get(variable).tensor.shallow_clone().f_set_data(&copy(value)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(number: f64) -> Tensor {
        Tensor::from(number)
    }

    fn change(before: f64) -> Change {
        Change { variable: 7, before: value(before), statistic: false }
    }

    fn numbers(changes: Vec<Value>) -> Vec<(usize, f64)> {
        changes.into_iter().map(|(variable, before)| (variable, before.double_value(&[]))).collect()
    }

    /// Variable 7 counts the passes that change it: 0 and 2.
    fn history() -> History {
        let mut history = History::default();
        for (micro_batch, changes) in [(0, vec![change(0.)]), (1, vec![]), (2, vec![change(1.)])] {
            history.passed(changes);
            history.will(micro_batch, Next::Recomputation);
        }
        history
    }

    #[test]
    fn a_recomputation_sees_what_its_first_pass_saw_also_where_only_a_later_pass_changed_it() {
        let history = history();
        assert_eq!(numbers(history.before(0)), [(7, 0.)]);
        assert_eq!(numbers(history.before(1)), [(7, 1.)]);
        assert_eq!(numbers(history.before(2)), [(7, 1.)]);
    }

    #[test]
    fn a_backward_sees_what_its_first_pass_left() {
        let history = history();
        assert_eq!(numbers(history.after(0)), [(7, 1.)]);
        assert_eq!(numbers(history.after(1)), [(7, 1.)]);
        assert!(history.after(2).is_empty(), "it is so now");
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
