//! The passes of a micro-batch through a stage, and the state that each pass runs on.

use std::sync::Mutex;

use tch::Tensor;

use super::history::{History, Next};
use super::{State, Value, write};
use crate::error::Result;
use crate::lock::lock;
use crate::torch::{Change, TorchError, Variables, Watch, duplicate, is_finite};

/// The first pass of a micro-batch. Its changes are added to the history, even if it fails.
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

    /// Ends a pass that succeeded; `next` follows for its micro-batch.
    ///
    /// # Errors
    ///
    /// Fails if a variable that changes is used by two stages or, unless that is allowed, has
    /// become infinite or NaN.
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
        // Reading can fail only if memory runs out. The caller gets the failure of the pass.
        if let Ok(seen) = self.watch.read() {
            lock(self.history).passed(seen.changed);
        }
    }
}

/// Checks that what changed is as finite as before, for variables on the CPU.
fn finite(variables: &Variables, changes: &[Change]) -> Result<(), String> {
    for Change { variable, before, .. } in changes {
        let is = |tensor: &Tensor| is_finite(tensor).map_err(|error| error.to_string());
        if is(&variables.get(*variable).tensor)? == Some(false) && is(before)? == Some(true) {
            return Err(not_finite(&variables.get(*variable).name));
        }
    }
    Ok(())
}

/// The message for a variable that is no longer finite.
pub(crate) fn not_finite(name: &str) -> String {
    format!(
        "the variable `{name}` is no longer finite (a batch norm over a single value has no variance, for one): it has been put back. Give every \
         micro-batch more rows, or allow it by `allow_non_finite(true)`"
    )
}

/// The state of another moment of the call, until this is dropped.
pub(crate) struct Rewound {
    /// The variables to restore, with their values.
    saved: Vec<Value>,
    watch: Watch,
}

impl Rewound {
    /// The state when the micro-batch's first pass began, for its recomputation.
    pub(crate) fn before(state: &State, history: &Mutex<History>, stage: usize, micro_batch: usize) -> Result<Self> {
        Self::to(state, stage, lock(history).before(micro_batch))
    }

    /// The state when the micro-batch's first pass ended, for its backward: the graph may have
    /// saved a variable that later passes changed. `None` if none has changed.
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
            let now = duplicate(&rewound.watch.variables().get(variable).tensor)?;
            rewound.saved.push((variable, now));
            write(rewound.watch.variables(), variable, &value)?;
        }
        Ok(rewound)
    }
}

impl Drop for Rewound {
    fn drop(&mut self) {
        // Copying between tensors of equal shape and device can fail only if libtorch itself is
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
