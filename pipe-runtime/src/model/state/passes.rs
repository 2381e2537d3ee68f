//! The passes of a micro-batch through a stage, and the state that each of them sees.

use std::sync::Mutex;

use tch::Tensor;

use super::history::{History, Next};
use super::{State, Value, copy, write};
use crate::error::Result;
use crate::lock::lock;
use crate::torch::{Change, TorchError, Variables, Watch, is_finite};

/// The first pass of a micro-batch. Its changes go into the history even if it fails.
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

    /// Ends a pass that has succeeded. `next` is the step that follows for its micro-batch.
    ///
    /// # Errors
    ///
    /// If two stages use a variable that changes or, with `must_be_finite`, if a variable has
    /// stopped being finite.
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
        // Reading fails only if memory is exhausted. The caller gets the failure of the pass
        // instead.
        if let Ok(seen) = self.watch.read() {
            lock(self.history).passed(seen.changed);
        }
    }
}

/// Checks that no changed variable on the CPU has stopped being finite.
fn finite(variables: &Variables, changes: &[Change]) -> Result<(), String> {
    for Change { variable, before, .. } in changes {
        let is = |tensor: &Tensor| is_finite(tensor).map_err(|error| error.to_string());
        if is(&variables.get(*variable).tensor)? == Some(false) && is(before)? == Some(true) {
            return Err(not_finite(&variables.get(*variable).name));
        }
    }
    Ok(())
}

/// The error message for a variable that has stopped being finite.
pub(crate) fn not_finite(name: &str) -> String {
    format!(
        "the variable `{name}` is no longer finite (a batch norm over a single value has no variance, for one): it has been put back. Give every \
         micro-batch more rows, or allow it by `allow_non_finite(true)`"
    )
}

/// The stage's state, set back to an earlier moment of the call. Dropping this restores the state
/// that it replaced.
pub(crate) struct Rewound {
    /// The values to restore.
    saved: Vec<Value>,
    watch: Watch,
}

impl Rewound {
    /// Sets the state back to the start of the micro-batch's first pass, for its recomputation.
    pub(crate) fn before(state: &State, history: &Mutex<History>, stage: usize, micro_batch: usize) -> Result<Self> {
        Self::to(state, stage, lock(history).before(micro_batch))
    }

    /// Sets the state back to the end of the micro-batch's first pass, for its backward: the graph
    /// may have saved a variable that later passes changed. `None` if there is no such variable.
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

    /// Ends a recomputation that has succeeded, if it is the micro-batch's last one.
    pub(crate) fn finish(self, history: &Mutex<History>, micro_batch: usize) {
        lock(history).has_been_recomputed(micro_batch);
    }
}

impl Drop for Rewound {
    fn drop(&mut self) {
        // Copying between tensors of equal shape and device fails only if libtorch itself is
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
