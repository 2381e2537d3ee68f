use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use super::context::Context;
use crate::flow::Flow;
use crate::lock::lock;

/// A value that a layer carries from one micro-batch to the next: a cache, a hidden state, a
/// running sum.
///
/// A plain cell in a layer would hold the last micro-batch's value when an earlier one is
/// recomputed. A `Carried` gives each recomputation the value that its first pass started with, and
/// a call that fails restores the value from before it. Micro-batches run in order.
///
/// Tensors in it must be detached: no gradient flows from one micro-batch to another. The value
/// that `get` returns shares memory with the one that a recomputation will read, so set a new
/// tensor rather than change it in place.
///
/// ```
/// use pipe_runtime::{Carried, Context, Layer};
/// use tch::Tensor;
///
/// /// Adds the mean of the previous micro-batch.
/// #[derive(Default)]
/// struct Drift(Carried<Tensor>);
///
/// impl Layer<Tensor> for Drift {
///     type Out = Tensor;
///
///     fn run(&self, x: Tensor, cx: &Context) -> Tensor {
///         let before = self.0.get(cx);
///         self.0.set(cx, x.detach().mean(None));
///         before.map_or_else(|| x.shallow_clone(), |before| &x + before)
///     }
/// }
/// ```
///
/// Keep a value that outlives calls and is saved with the model in a variable
/// (`path.zeros_no_train(..)`) instead. Variables are restored in the same way.
pub struct Carried<T>(Arc<Mutex<Values<T>>>);

struct Values<T> {
    now: Option<T>,
    /// For each call: the values that its passes started with, as long as one of them may be
    /// recomputed or undone.
    calls: HashMap<u64, Passes<T>>,
}

struct Passes<T> {
    /// The value before the call.
    before: Option<T>,
    /// For each micro-batch: the value that its first pass started with.
    given: HashMap<usize, Option<T>>,
    /// The value of the running recomputation, with the number of its pass. Only one runs at a
    /// time.
    recomputing: Option<(u64, Option<T>)>,
}

/// A cell that a call has used, whatever the type of its value.
pub(crate) trait Cell: Send + Sync {
    /// Restores the value from before the call.
    fn undo(&self, call: u64);

    /// Frees the value kept for the micro-batch, which will not be recomputed again.
    fn recomputed(&self, call: u64, micro_batch: usize);

    /// Frees all values kept for the call, which is over.
    fn forget(&self, call: u64);
}

impl<T> Default for Carried<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Values { now: None, calls: HashMap::new() })))
    }
}

impl<T> fmt::Debug for Carried<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carried").finish_non_exhaustive()
    }
}

fn share<T: Flow>(value: &Option<T>) -> Option<T> {
    value.as_ref().map(T::share)
}

impl<T: Flow> Carried<T> {
    /// Creates an empty cell.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a second handle on the value that this micro-batch or an earlier one set last.
    pub fn get(&self, cx: &Context) -> Option<T> {
        self.enter(cx, |values, recomputing| match recomputing {
            Some(value) => share(value),
            None => share(&values.now),
        })
    }

    /// Sets the value for later reads, by this micro-batch and later ones.
    pub fn set(&self, cx: &Context, value: T) {
        self.replace(cx, Some(value));
    }

    /// Empties the cell.
    pub fn clear(&self, cx: &Context) {
        self.replace(cx, None);
    }

    fn replace(&self, cx: &Context, value: Option<T>) {
        self.enter(cx, |values, recomputing| match recomputing {
            Some(recomputed) => *recomputed = value,
            None => values.now = value,
        });
    }

    /// Calls `body` with the values and, in a recomputation, the value that it reads and sets.
    fn enter<R>(&self, cx: &Context, body: impl FnOnce(&mut Values<T>, Option<&mut Option<T>>) -> R) -> R {
        let (call, micro_batch) = (cx.call(), cx.micro_batch());
        let mut values = lock(&self.0);
        if !values.calls.contains_key(&call) && cx.uses_cell(self.0.clone()) {
            let before = share(&values.now);
            values.calls.insert(call, Passes { before, given: HashMap::new(), recomputing: None });
        }
        let Values { now, calls } = &mut *values;
        let Some(passes) = calls.get_mut(&call) else { return body(&mut values, None) };
        if !cx.is_recomputing() {
            if cx.will_be_recomputed() {
                passes.given.entry(micro_batch).or_insert_with(|| share(now));
            }
            return body(&mut values, None);
        }
        if passes.recomputing.as_ref().is_none_or(|(pass, _)| *pass != cx.number()) {
            let given = passes.given.get(&micro_batch).and_then(share);
            passes.recomputing = Some((cx.number(), given));
        }
        let mut recomputing = passes.recomputing.take();
        let result = body(&mut values, recomputing.as_mut().map(|(_, value)| value));
        if let Some(passes) = values.calls.get_mut(&call) {
            passes.recomputing = recomputing;
        }
        result
    }
}

impl<T: Flow> Cell for Mutex<Values<T>>
where
    Values<T>: Send,
{
    fn undo(&self, call: u64) {
        let mut values = lock(self);
        if let Some(passes) = values.calls.remove(&call) {
            values.now = passes.before;
        }
    }

    fn recomputed(&self, call: u64, micro_batch: usize) {
        if let Some(passes) = lock(self).calls.get_mut(&call) {
            passes.given.remove(&micro_batch);
            passes.recomputing = None;
        }
    }

    fn forget(&self, call: u64) {
        lock(self).calls.remove(&call);
    }
}

/// The cells that a call has used, each with the stage whose layer it belongs to.
#[derive(Default)]
pub(crate) struct Cells(Mutex<Vec<(usize, Arc<dyn Cell>)>>);

impl fmt::Debug for Cells {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cells").finish_non_exhaustive()
    }
}

impl Cells {
    pub(crate) fn add(&self, stage: usize, cell: Arc<dyn Cell>) {
        lock(&self.0).push((stage, cell));
    }

    pub(crate) fn undo(&self, call: u64) {
        lock(&self.0).drain(..).for_each(|(_, cell)| cell.undo(call));
    }

    pub(crate) fn recomputed(&self, call: u64, stage: usize, micro_batch: usize) {
        for (_, cell) in lock(&self.0).iter().filter(|(of, _)| *of == stage) {
            cell.recomputed(call, micro_batch);
        }
    }

    pub(crate) fn forget(&self, call: u64) {
        lock(&self.0).drain(..).for_each(|(_, cell)| cell.forget(call));
    }
}
