//! The passes of a micro-batch through a stage, and the state that each pass runs on.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex};

use tch::Tensor;

use super::history::{History, Part};
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

    /// Ends a pass that succeeded.
    ///
    /// # Errors
    ///
    /// Fails if a variable that changes is used by two stages or, unless that is allowed, has
    /// become infinite or NaN.
    pub(crate) fn finish(mut self, state: &State, must_be_finite: bool) -> Result<(), String> {
        self.done = true;
        let seen = self.watch.read().map_err(|error| error.to_string())?;
        let noted = state.note(self.watch.variables(), self.stage, &seen.changed, &seen.used);
        let finite = if must_be_finite { finite(self.watch.variables(), &seen.changed) } else { Ok(()) };
        lock(self.history).passed(seen.changed);
        noted.and(finite)
    }
}

impl Drop for FirstPass<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        // Reading needs no tensor. The caller gets the failure of the pass.
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

/// The statistics of an earlier moment, until [`end`](Self::end), or until this is dropped by a
/// failure. No backward reads them, so those of one micro-batch are set back once, and then further
/// from segment to segment.
#[derive(Default)]
pub(crate) struct Statistics {
    /// The variables to restore, with their values.
    saved: BTreeMap<usize, Tensor>,
    variables: Option<Arc<Variables>>,
    /// The first pass that has not been, at that moment; `None` for now.
    at: Option<usize>,
}

impl Statistics {
    fn back_to(&mut self, variables: Arc<Variables>, history: &Mutex<History>, first: usize) -> Result<()> {
        self.variables = Some(Arc::clone(&variables));
        let values = lock(history).statistics(first, self.at);
        for (variable, value) in values {
            if let Entry::Vacant(saved) = self.saved.entry(variable) {
                saved.insert(duplicate(&variables.get(variable).tensor)?);
            }
            write(&variables, variable, &value)?;
        }
        self.at = Some(first);
        Ok(())
    }

    /// Restores the statistics.
    pub(crate) fn end(mut self) -> Result<()> {
        self.restore()
    }

    fn restore(&mut self) -> Result<()> {
        let Some(variables) = &self.variables else { return Ok(()) };
        while let Some(first) = self.saved.first_entry() {
            write(variables, *first.key(), first.get())?;
            drop(first.remove());
        }
        Ok(())
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        // What is left after a failure, which is the error that the caller gets.
        let _ = self.restore();
    }
}

/// The state of another moment of the call, until [`end`](Self::end), or until this is dropped by a
/// failure.
pub(crate) struct Rewound {
    /// The variables to restore, with their values.
    saved: Vec<Value>,
    watch: Watch,
    /// Whether what the watch has seen is among the saved.
    has_read: bool,
}

impl Rewound {
    /// The state when the part's first pass began, for its recomputation. The statistics stay set
    /// back when this ends.
    pub(crate) fn before(
        state: &State,
        history: &Mutex<History>,
        stage: usize,
        part: Part,
        statistics: &mut Statistics,
    ) -> Result<Self> {
        let first = lock(history).first_pass(part);
        let Some(first) = first else { return Self::to(state, stage, Vec::new()) };
        statistics.back_to(state.variables(stage)?, history, first)?;
        let others = lock(history).others(first);
        Self::to(state, stage, others)
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

    /// The state when the own first pass of a recomputed part ended, for the backward of its graph,
    /// if later segments have changed it.
    pub(crate) fn after_part(
        state: &State,
        history: &Mutex<History>,
        stage: usize,
        part: Part,
    ) -> Result<Option<Self>> {
        let after = lock(history).after_part(part);
        if after.is_empty() {
            return Ok(None);
        }
        Self::to(state, stage, after).map(Some)
    }

    fn to(state: &State, stage: usize, values: Vec<Value>) -> Result<Self> {
        let watch = Watch::start(state.variables(stage)?, stage, false)?;
        let mut rewound = Self { saved: Vec::with_capacity(values.len()), watch, has_read: false };
        for (variable, value) in values {
            let now = duplicate(&rewound.watch.variables().get(variable).tensor)?;
            rewound.saved.push((variable, now));
            write(rewound.watch.variables(), variable, &value)?;
        }
        Ok(rewound)
    }

    /// Restores the state, also that which has changed meanwhile.
    pub(crate) fn end(mut self) -> Result<()> {
        self.restore()
    }

    fn restore(&mut self) -> Result<()> {
        if !self.has_read {
            for Change { variable, before, .. } in self.watch.read()?.changed {
                if self.saved.iter().all(|(saved, _)| *saved != variable) {
                    self.saved.push((variable, before));
                }
            }
            self.has_read = true;
        }
        while let Some((variable, saved)) = self.saved.last() {
            write(self.watch.variables(), *variable, saved)?;
            self.saved.pop();
        }
        Ok(())
    }
}

impl Drop for Rewound {
    fn drop(&mut self) {
        // What is left after a failure, which is the error that the caller gets.
        let _ = self.restore();
    }
}
