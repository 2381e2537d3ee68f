use std::any::Any;
use std::sync::{Arc, Mutex};

use pipe_engine::{Job, News};
use pipe_schedule::{Action, ActionKind, Order};
use tch::Tensor;

use super::forward::Call;
use super::passes::KeptSegment;
use super::{Table, step};
use crate::error::{Error, Failure, Phase, Result};
use crate::lock::lock;
use crate::model::{Rewound, Statistics};
use crate::run::device_streams::Direction;
use crate::stages::{crossings, is_inner};
use crate::torch::{Event, Holder, Modes, Offloaded, Sums, TorchError, compact, engine_is_choosy};

/// The gradient of one tensor of a value, and the position of the tensor in it.
pub(super) type Slot = (usize, Tensor);

/// The pipelined backward of a call.
pub(super) struct BackwardRun {
    call: Arc<Call>,
    order: Arc<Order>,
    keep_graph: bool,
    /// Whether the last micro-batch comes first, as in one backward through all of them.
    joined: bool,
    /// Whether libtorch's engine runs the stages' backwards.
    by_engine: bool,
    /// The torch modes of the thread that called the backward.
    modes: Modes,
    /// For each port and micro-batch, the gradients that were sent back and not received yet.
    pub(super) gradients: Table<Vec<Slot>>,
    /// For each port and micro-batch, the event after which they are complete, if they are computed
    /// on an accelerator.
    pub(super) ready: Table<Option<Arc<Event>>>,
    /// For each stage, the sums of its parameters' gradients.
    sums: Vec<Mutex<StageSums>>,
}

/// The sum of the micro-batches' gradients of a stage's parameters.
struct StageSums {
    sums: Option<Sums>,
    /// The number of micro-batches that are still to be added.
    left: usize,
}

impl BackwardRun {
    /// Makes the backward for the steps of `order`, which may also contain other steps.
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
            by_engine: engine_is_choosy(),
            modes: Modes::capture()?,
            call,
            keep_graph,
        })
    }

    /// The gradients of the parameters, summed over micro-batches within each stage and then over
    /// stages, the last one first.
    pub(super) fn take_sums(&self) -> Result<Sums> {
        let mut total = Sums::new(self.joined, self.by_engine)?;
        for stage in self.sums.iter().rev() {
            if let Some(sums) = lock(stage).sums.take() {
                sums.used_here()?;
                total.merge(sums)?;
            }
        }
        Ok(total)
    }

    /// Runs one of the three kinds of backward.
    pub(super) fn perform_backward(&self, action: Action) -> Result<(), Failure> {
        let cx = self.call.context(action, false);
        let mut recomputation = Ok(());
        let done = step(Phase::Backward, &cx, || {
            self.call.bring_back(action).map_err(|error| error.to_string())?;
            let _stream = self.call.pipeline.streams.enter(action.stage).map_err(|error| error.to_string())?;
            let state = self.call.state_after(action.stage, action.micro_batch);
            let state = state.map_err(|error| error.to_string())?;
            match action.kind {
                ActionKind::BackwardWeight => self.backward_weight(action),
                _ => self.backward(action, &mut recomputation),
            }?;
            state.map_or(Ok(()), Rewound::end).map_err(|error| error.to_string())
        });
        // A recomputation says itself where it has failed.
        recomputation.and(done)
    }

    fn backward(&self, action: Action, recomputation: &mut Result<(), Failure>) -> Result<(), String> {
        let Action { kind, stage, micro_batch } = action;
        let mut segments = std::mem::take(&mut self.call.backward_states.at(stage, micro_batch).segments);
        if segments.is_empty() {
            return Err("its state was freed by an earlier backward".into());
        }
        let again = self.keep_graph && self.call.backward_states.at(stage, micro_batch).start.is_none();
        let found = self.with_sums(action, |sums, last| {
            let mut received = Vec::new();
            let mut inner = Vec::new();
            let mut statistics = Statistics::default();
            for segment in segments.iter_mut().rev() {
                let is_kept = segment.recorded.is_some();
                let seeds = self.seeds(action, segment.roots(), &mut inner).map_err(TorchError)?;
                if !is_kept && seeds.iter().all(Option::is_none) {
                    continue;
                }
                self.call.recompute_segment(action, segment, again, &mut statistics).map_err(|failure| {
                    *recomputation = Err(failure);
                    TorchError("the recomputation has failed".into())
                })?;
                let part = segment.recomputed();
                let Some(recorded) = &mut segment.recorded else { continue };
                let state =
                    self.call.state_after_segment(action, part).map_err(|error| TorchError(error.to_string()))?;
                let parameters = &self.call.parameters;
                let found = match kind {
                    ActionKind::BackwardInput => recorded.graph.backward_input(&seeds, parameters, sums)?,
                    _ => recorded.graph.backward(&seeds, again && is_kept, parameters, sums, last)?,
                };
                state.map_or(Ok(()), Rewound::end).map_err(|error| TorchError(error.to_string()))?;
                for (&(port, position), gradient) in recorded.received.iter().zip(found) {
                    match gradient {
                        Some(gradient) if is_inner(&self.call.pipeline.routes, port) => {
                            inner.push((port, position, gradient));
                        }
                        Some(gradient) => received.push((port, position, self.compacted(stage, port, gradient)?)),
                        None => {}
                    }
                }
                // The second half of a split backward still needs the graph.
                if !is_kept && kind == ActionKind::Backward {
                    segment.recorded = None;
                }
            }
            statistics.end().map_err(|error| TorchError(error.to_string()))?;
            Ok(received)
        });
        let recomputes = segments.iter().any(KeptSegment::is_recomputed);
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                if again {
                    // What was made again may be freed in part. It can be made again.
                    for segment in segments.iter_mut().filter(|segment| segment.is_recomputed()) {
                        segment.recorded = None;
                    }
                    self.call.backward_states.at(stage, micro_batch).segments = segments;
                }
                return Err(error.to_string());
            }
        };
        if recomputes && !again {
            self.call.has_been_recomputed(stage, micro_batch);
        }
        let ready = self.call.pipeline.streams.mark(stage).map_err(|error| error.to_string())?;
        let mut elsewhere: Vec<(usize, Vec<Slot>)> = Vec::new();
        for (port, position, gradient) in found {
            if self.call.elsewhere(self.call.pipeline.routes[port].from).is_some() {
                match elsewhere.iter_mut().find(|(at, _)| *at == port) {
                    Some((_, gradients)) => gradients.push((position, gradient)),
                    None => elsewhere.push((port, vec![(position, gradient)])),
                }
                continue;
            }
            self.ready.at(port, micro_batch).clone_from(&ready);
            let route = &self.call.pipeline.routes[port];
            self.call.are_under_way([(&gradient, route.waits_at(stage, route.from))]);
            self.gradients.at(port, micro_batch).push((position, gradient));
        }
        self.measure_gradients(stage, micro_batch);
        self.send_back(stage, micro_batch, &elsewhere)?;
        // A recomputed graph is made for each backward. The graph of a split backward is still
        // needed for its second half.
        if again || kind == ActionKind::BackwardInput {
            if !self.call.is_used_next(action) {
                let mut offloaded = segments.iter_mut().filter_map(|segment| segment.offloaded.as_mut());
                offloaded.try_for_each(Offloaded::release).map_err(|error| error.to_string())?;
            }
            self.call.backward_states.at(stage, micro_batch).segments = segments;
        } else {
            self.call.has_gone_backward(stage, micro_batch);
        }
        Ok(())
    }

    /// The gradient as it is sent from the stage. In a stage on the same device, it may wait for
    /// long, and a part of a concatenation's gradient would hold all of that meanwhile. Sending to
    /// another device or process copies it anyway.
    fn compacted(&self, stage: usize, port: usize, gradient: Tensor) -> Result<Tensor, TorchError> {
        let from = self.call.pipeline.routes[port].from;
        let stays = self.call.elsewhere(from).is_none()
            && from.is_some_and(|from| self.call.pipeline.streams.share_device(stage, from));
        if stays { compact(&gradient) } else { Ok(gradient) }
    }

    /// If the call is traced, records the memory of the gradients that the stage has sent: a view
    /// of a larger tensor holds all of it.
    fn measure_gradients(&self, stage: usize, micro_batch: usize) {
        let Some((meter, recording)) = self.call.meter.get().zip(self.call.pipeline.recorder.current()) else { return };
        for (port, _) in self.call.pipeline.routes.iter().enumerate().filter(|(_, route)| route.to == Some(stage)) {
            let bytes =
                self.gradients.at(port, micro_batch).iter().map(|(_, gradient)| meter.under_way(gradient)).sum();
            recording.carries(port, 0, bytes);
        }
    }

    /// Sends the gradients of a stage to those of other processes that have sent it values. They
    /// wait for them even if there are none.
    fn send_back(&self, stage: usize, micro_batch: usize, gradients: &[(usize, Vec<Slot>)]) -> Result<(), String> {
        for crossing in crossings(&self.call.pipeline.routes).filter(|crossing| crossing.to == stage) {
            let Some((remote, from)) = self.call.elsewhere(Some(crossing.from)) else { continue };
            let found = gradients.iter().find(|(port, _)| *port == crossing.route);
            let found = found.map_or(&[][..], |(_, gradients)| gradients);
            remote.send_gradients((crossing.route, stage, from), micro_batch, found)?;
        }
        Ok(())
    }

    /// Takes in what has arrived from other processes.
    pub(super) fn poll(&self) -> Result<Vec<News>> {
        self.call.poll(|port, micro_batch, gradients, ready| {
            *self.ready.at(port, micro_batch) = ready;
            self.gradients.at(port, micro_batch).extend(gradients);
        })
    }

    fn backward_weight(&self, action: Action) -> Result<(), String> {
        let Action { stage, micro_batch, .. } = action;
        let mut segments = std::mem::take(&mut self.call.backward_states.at(stage, micro_batch).segments);
        if segments.is_empty() {
            return Err("the backward for its inputs has not run".into());
        }
        self.with_sums(action, |sums, last| {
            segments.iter_mut().rev().try_for_each(|segment| {
                let part = segment.recomputed();
                let Some(recorded) = &mut segment.recorded else { return Ok(()) };
                let state =
                    self.call.state_after_segment(action, part).map_err(|error| TorchError(error.to_string()))?;
                recorded.graph.backward_weight(&self.call.parameters, sums, last)?;
                state.map_or(Ok(()), Rewound::end).map_err(|error| TorchError(error.to_string()))
            })
        })
        .map_err(|error| error.to_string())?;
        self.call.has_gone_backward(stage, micro_batch);
        Ok(())
    }

    /// Receives the gradients for the graph's roots, on the device of the stage. Those within the
    /// stage are `inner`.
    fn seeds(
        &self,
        action: Action,
        roots: &[(usize, usize)],
        inner: &mut Vec<(usize, usize, Tensor)>,
    ) -> Result<Vec<Option<Tensor>>, String> {
        let mut seeds = Vec::with_capacity(roots.len());
        for &(port, position) in roots {
            if is_inner(&self.call.pipeline.routes, port) {
                let index = inner.iter().position(|(at, of, _)| (*at, *of) == (port, position));
                seeds.push(index.map(|index| inner.swap_remove(index).2));
                continue;
            }
            let mut arrived = self.gradients.at(port, action.micro_batch);
            let index = arrived.iter().position(|(at, _)| *at == position);
            let mut gradient = index.map(|index| arrived.swap_remove(index).1);
            let ready = self.ready.at(port, action.micro_batch);
            let route = (port, Direction::Back);
            let arrived =
                self.call.pipeline.streams.move_to_stage(action.stage, route, ready.as_deref(), gradient.iter_mut());
            arrived.map_err(|error| error.to_string())?;
            self.call.are_received(&gradient, action.stage, Holder::Working);
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
            *sums = Some(Sums::new(self.joined, self.by_engine)?);
        }
        let sums = sums.as_mut().expect("made above");
        let done = body(sums, *left == 0);
        if let Some(meter) = self.call.meter.get() {
            // As in `are_under_way`.
            let _ = meter.hold_sums(sums, action.stage);
        }
        done
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
