use std::any::Any;
use std::sync::{Arc, Mutex};

use pipe_engine::Job;
use pipe_schedule::{Action, ActionKind, Order};
use tch::Tensor;

use super::forward::Call;
use super::{Table, step};
use crate::error::{Error, Failure, Phase, Result};
use crate::lock::lock;
use crate::run::device_streams::Direction;
use crate::stages::Recorded;
use crate::torch::{Event, Modes, Sums, TorchError};

/// The position of a tensor in its value, with the tensor's gradient.
pub(super) type Slot = (usize, Tensor);

/// The pipelined backward of a call.
pub(super) struct BackwardRun {
    call: Arc<Call>,
    order: Arc<Order>,
    keep_graph: bool,
    /// Whether the last micro-batch runs first, as in one backward through all of them.
    joined: bool,
    /// The torch modes of the thread that requested the backward.
    modes: Modes,
    /// For each port and micro-batch: the gradients of the value that was sent, on their way back.
    pub(super) gradients: Table<Vec<Slot>>,
    /// For each port and micro-batch: the event after which the gradients are complete, if they are
    /// computed on an accelerator.
    pub(super) ready: Table<Option<Arc<Event>>>,
    /// For each stage: the sums of its parameters' gradients.
    sums: Vec<Mutex<StageSums>>,
}

/// The gradients of a stage's parameters, summed over micro-batches.
struct StageSums {
    sums: Option<Sums>,
    /// The number of micro-batches that have not been added yet.
    left: usize,
}

impl BackwardRun {
    /// Creates a backward over the steps of `order`, which may also contain steps of the forward.
    pub(super) fn new(call: Arc<Call>, order: Arc<Order>, keep_graph: bool) -> Result<Self> {
        let mut backwards = order.steps.iter().map(|step| step.action).filter(|action| action.kind.is_backward());
        Ok(Self {
            joined: backwards.next().is_some_and(|first| first.micro_batch + 1 == call.micro_batches),
            order,
            gradients: Table::new(call.pipeline.routes.len(), call.micro_batches),
            ready: Table::new(call.pipeline.routes.len(), call.micro_batches),
            sums: call
                .pipeline
                .stages
                .iter()
                .map(|_| Mutex::new(StageSums { sums: None, left: call.micro_batches }))
                .collect(),
            modes: Modes::capture()?,
            call,
            keep_graph,
        })
    }

    /// Takes the parameters' gradients, summed over micro-batches within each stage and then over
    /// stages, from the last stage to the first.
    pub(super) fn take_sums(&self) -> Result<Sums> {
        let mut total = Sums::new(self.joined)?;
        for stage in self.sums.iter().rev() {
            if let Some(sums) = lock(stage).sums.take() {
                sums.used_here()?;
                total.merge(sums)?;
            }
        }
        Ok(total)
    }

    /// Performs one backward action, of any of the three kinds.
    pub(super) fn perform_backward(&self, action: Action) -> Result<(), Failure> {
        let cx = self.call.context(action, false);
        step(Phase::Backward, &cx, || {
            let _stream = self.call.pipeline.streams.enter(action.stage).map_err(|error| error.to_string())?;
            let state = self.call.state_after(action.stage, action.micro_batch);
            let _state = state.map_err(|error| error.to_string())?;
            match action.kind {
                ActionKind::BackwardWeight => self.backward_weight(action),
                _ => self.backward(action),
            }
        })
    }

    fn backward(&self, action: Action) -> Result<(), String> {
        let Action { kind, stage, micro_batch } = action;
        let taken = self.call.backward_states.at(stage, micro_batch).recorded.take();
        let mut recorded = taken.ok_or("its state was freed by an earlier backward")?;
        let again = self.keep_graph && self.call.backward_states.at(stage, micro_batch).start.is_none();
        let seeds = self.seeds(action, &recorded)?;
        let found = match kind {
            ActionKind::BackwardInput => {
                self.with_sums(action, |sums, _| recorded.graph.backward_input(&seeds, &self.call.parameters, sums))
            }
            _ => {
                let keep = self.keep_graph;
                self.with_sums(action, |sums, last| {
                    recorded.graph.backward(&seeds, keep, &self.call.parameters, sums, last)
                })
            }
        };
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                if again {
                    self.call.backward_states.at(stage, micro_batch).recorded = Some(recorded);
                }
                return Err(error.to_string());
            }
        };
        let ready = self.call.pipeline.streams.mark(stage).map_err(|error| error.to_string())?;
        for (&(port, position), gradient) in recorded.received.iter().zip(found) {
            if let Some(gradient) = gradient {
                self.ready.at(port, micro_batch).clone_from(&ready);
                self.gradients.at(port, micro_batch).push((position, gradient));
            }
        }
        // Keep the graph if its weight half is still to run (split backward) or if another backward
        // may follow. A recomputed graph is not kept for another backward, which recomputes it.
        if again || kind == ActionKind::BackwardInput {
            self.call.backward_states.at(stage, micro_batch).recorded = Some(recorded);
        } else {
            self.call.has_gone_backward(stage, micro_batch);
        }
        Ok(())
    }

    fn backward_weight(&self, action: Action) -> Result<(), String> {
        let Action { stage, micro_batch, .. } = action;
        let taken = self.call.backward_states.at(stage, micro_batch).recorded.take();
        let mut recorded = taken.ok_or("the backward for its inputs has not run")?;
        self.with_sums(action, |sums, last| recorded.graph.backward_weight(&self.call.parameters, sums, last))
            .map_err(|error| error.to_string())?;
        self.call.has_gone_backward(stage, micro_batch);
        Ok(())
    }

    /// Takes the gradients that have arrived for the graph's roots, on the stage's device.
    fn seeds(&self, action: Action, recorded: &Recorded) -> Result<Vec<Option<Tensor>>, String> {
        let mut seeds = Vec::with_capacity(recorded.roots.len());
        for &(port, position) in &recorded.roots {
            let mut arrived = self.gradients.at(port, action.micro_batch);
            let index = arrived.iter().position(|(at, _)| *at == position);
            let mut gradient = index.map(|index| arrived.swap_remove(index).1);
            let ready = self.ready.at(port, action.micro_batch);
            let route = (port, Direction::Back);
            let arrived =
                self.call.pipeline.streams.move_to_stage(action.stage, route, ready.as_deref(), gradient.iter_mut());
            arrived.map_err(|error| error.to_string())?;
            seeds.push(gradient);
        }
        Ok(seeds)
    }

    /// Calls `body` with the sums of the stage, and whether this is the last step that adds to
    /// them.
    pub(super) fn with_sums<T>(
        &self,
        action: Action,
        body: impl FnOnce(&mut Sums, bool) -> Result<T, TorchError>,
    ) -> Result<T, TorchError> {
        let mut stage = lock(&self.sums[action.stage]);
        let StageSums { sums, left } = &mut *stage;
        if matches!(action.kind, ActionKind::Backward | ActionKind::BackwardWeight) {
            *left -= 1;
        }
        if sums.is_none() {
            *sums = Some(Sums::new(self.joined)?);
        }
        body(sums.as_mut().expect("made above"), *left == 0)
    }
}

impl Job for BackwardRun {
    type Error = Error;

    fn order(&self) -> &Order {
        &self.order
    }

    fn perform(&self, action: Action) -> Result<()> {
        match action.kind {
            ActionKind::Recompute => self.call.recompute(action, self.keep_graph)?,
            _ => self.perform_backward(action)?,
        }
        Ok(())
    }

    fn enter(&self) -> Result<Box<dyn Any>> {
        Ok(Box::new((self.modes.enter()?, self.call.pipeline.threads.enter())))
    }
}
