use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use super::context::Context;
use super::state::Part;
use crate::flow::Flow;
use crate::lock::lock;

/// State that a layer carries from one micro-batch to the next: a cache, a hidden state, a running
/// sum.
///
/// In a plain cell, the recomputation of a micro-batch would find the value that the last
/// micro-batch left. Here, each recomputation gets the value that its first pass got, and a call
/// that fails restores the value from before it. Micro-batches come in order. Tensors in a
/// `Carried` must be detached, because gradients do not go from one micro-batch to another. The
/// value that `get` returns shares its memory with the value for a recomputation, so set a new
/// tensor instead of changing it in place.
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
/// Keep a value that lasts over calls and is saved with the model in a variable
/// (`path.zeros_no_train(..)`), for which the same holds.
pub struct Carried<T>(Arc<Mutex<Values<T>>>);

struct Values<T> {
    now: Option<T>,
    /// For each call, the values that its passes got, as long as one of them may be recomputed or
    /// undone.
    calls: HashMap<u64, Passes<T>>,
}

struct Passes<T> {
    /// The value before the call.
    before: Option<T>,
    /// For each micro-batch and segment, the value that its first pass got.
    given: HashMap<Part, Option<T>>,
    /// The value that a recomputation has set, with the number of the pass. There is at most one at
    /// a time.
    recomputing: Option<(u64, Option<T>)>,
}

/// A cell that a call has used, of any type.
pub(crate) trait Cell: Send + Sync {
    /// Restores the value from before the call.
    fn undo(&self, call: u64);

    /// Frees what a recomputation of the micro-batch would need, because there will be none.
    fn recomputed(&self, call: u64, micro_batch: usize);

    /// Frees what recomputations of the call would need, because there will be none.
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
    /// Makes an empty cell.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the value that was set last, by this micro-batch or an earlier one: a second handle
    /// to it.
    pub fn get(&self, cx: &Context) -> Option<T> {
        self.enter(cx, |values, recomputing| match recomputing {
            Some(value) => share(value),
            None => share(&values.now),
        })
    }

    /// Sets the value, for the rest of this micro-batch and for later ones.
    pub fn set(&self, cx: &Context, value: T) {
        self.replace(cx, Some(value));
    }

    /// Takes the value out.
    pub fn clear(&self, cx: &Context) {
        self.replace(cx, None);
    }

    fn replace(&self, cx: &Context, value: Option<T>) {
        self.enter(cx, |values, recomputing| match recomputing {
            Some(recomputed) => *recomputed = value,
            None => values.now = value,
        });
    }

    /// Calls `body` with the values and, in a recomputation, with the value that it works on.
    fn enter<R>(&self, cx: &Context, body: impl FnOnce(&mut Values<T>, Option<&mut Option<T>>) -> R) -> R {
        let (call, part) = (cx.call(), cx.part());
        let mut values = lock(&self.0);
        if !values.calls.contains_key(&call) && cx.uses_cell(self.0.clone()) {
            let before = share(&values.now);
            values.calls.insert(call, Passes { before, given: HashMap::new(), recomputing: None });
        }
        let Values { now, calls } = &mut *values;
        let Some(passes) = calls.get_mut(&call) else { return body(&mut values, None) };
        if !cx.is_recomputing() {
            if cx.will_be_recomputed() {
                passes.given.entry(part).or_insert_with(|| share(now));
            }
            return body(&mut values, None);
        }
        if passes.recomputing.as_ref().is_none_or(|(pass, _)| *pass != cx.number()) {
            let given = passes.given.get(&part).and_then(share);
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
            passes.given.retain(|(other, _), _| *other != micro_batch);
            passes.recomputing = None;
        }
    }

    fn forget(&self, call: u64) {
        lock(self).calls.remove(&call);
    }
}

/// The cells that a call has used, each with the stage of its layer.
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
