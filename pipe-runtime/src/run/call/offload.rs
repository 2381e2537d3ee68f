//! When activations move to the host and back: see the shim's `offload.h` for how.

use std::collections::HashMap;

use pipe_schedule::{Action, Order};

use super::forward::Call;
use crate::run::built_pipeline::BuiltPipeline;
use crate::torch::{OffloadStreams, Offloaded, TorchError};

/// For each action of a rank, the one that the rank performs after it. Empty if nothing is moved.
pub(super) struct NextActions(HashMap<Action, Action>);

impl NextActions {
    pub(super) fn new(pipeline: &BuiltPipeline, orders: [&Order; 2]) -> Self {
        if pipeline.offload.is_none() {
            return Self(HashMap::new());
        }
        let of_rank = |order: &Order, rank: &[usize]| -> Vec<_> {
            rank.windows(2).map(|pair| (order.steps[pair[0]].action, order.steps[pair[1]].action)).collect()
        };
        let all = orders.into_iter().flat_map(|order| order.ranks.iter().flat_map(move |rank| of_rank(order, rank)));
        Self(all.collect())
    }

    fn after(&self, action: Action) -> Option<Action> {
        self.0.get(&action).copied()
    }
}

impl Call {
    /// The streams and the least size, if the graph of this forward is moved to the host. A graph
    /// that is used at once stays.
    pub(super) fn offloads(&self, action: Action) -> Option<(OffloadStreams, usize)> {
        let streams = self.pipeline.streams.offload(action.stage)?;
        let min_bytes = self.pipeline.offload.as_ref()?.min_bytes;
        (!self.is_used_next(action)).then_some((streams, min_bytes))
    }

    /// Whether the rank's next action is of the same stage and micro-batch.
    pub(super) fn is_used_next(&self, action: Action) -> bool {
        let is_same = |next: Action| (next.stage, next.micro_batch) == (action.stage, action.micro_batch);
        self.next_actions.after(action).is_some_and(is_same)
    }

    /// Called when a rank starts an action: starts to bring back what this action needs, and then
    /// what the next one needs.
    pub(super) fn bring_back(&self, action: Action) -> Result<(), TorchError> {
        if self.pipeline.streams.offload(action.stage).is_some() && action.kind.is_backward() {
            self.prefetch(action)?;
        }
        match self.next_actions.after(action) {
            Some(next) if next.kind.is_backward() => self.prefetch(next),
            _ => Ok(()),
        }
    }

    fn prefetch(&self, backward: Action) -> Result<(), TorchError> {
        let mut state = self.backward_states.at(backward.stage, backward.micro_batch);
        let mut offloaded = state.segments.iter_mut().rev().filter_map(|segment| segment.offloaded.as_mut());
        offloaded.try_for_each(Offloaded::prefetch)
    }
}
