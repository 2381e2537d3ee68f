//! The passes of a micro-batch through a stage: the first one, and the recomputation for the
//! backward.

use pipe_schedule::Action;

use super::forward::Call;
use super::step;
use crate::error::{Failure, Phase};
use crate::flow::{PackedTensor, PackedValue};
use crate::lock::{give_up, lock};
use crate::model::{Context, Next, Rewound};
use crate::run::built_pipeline::StageSlot;
use crate::stages::{Io, Recorded, Route, Sent};
use crate::torch::{GradMode, LayerRng, digest};

/// The state that a stage keeps of one micro-batch for its backward.
#[derive(Default)]
pub(super) struct BackwardState {
    /// The graph, recorded by the forward or by a recomputation.
    pub(super) recorded: Option<Recorded>,
    /// The start of the recomputation, if the micro-batch is recomputed.
    pub(super) start: Option<Start>,
}

/// The start of a recomputation, and what its results must match.
pub(super) struct Start {
    inputs: Vec<ReceivedValue>,
    sent: Vec<Fingerprint>,
}

/// A received value that is kept for the recomputation.
struct ReceivedValue {
    port: usize,
    value: PackedValue,
}

/// Identifies a sent tensor: its port, whether it has a gradient, and a digest of its bits (only on
/// the CPU).
type Fingerprint = (usize, bool, Option<u64>);

impl Call {
    /// Runs the first pass of one micro-batch through one stage.
    pub(super) fn forward(&self, action: Action) -> Result<(), Failure> {
        let cx = self.context(action, false);
        step(Phase::Forward, &cx, || self.first_pass(action, &cx))
    }

    /// If gradients are kept, the graph is recorded even if the micro-batch will be recomputed, and
    /// dropped then. Without a graph, libtorch's operators may use another implementation, but the
    /// recomputation must give the same values. The dropped graph takes no more memory than that of
    /// the recomputation will.
    fn first_pass(&self, action: Action, cx: &Context) -> Result<(), String> {
        let Action { stage, micro_batch, .. } = action;
        let slot = &self.pipeline.stages[stage];
        let recomputes = self.recomputes(stage, micro_batch);
        let _stream = self.pipeline.streams.enter(stage).map_err(|error| error.to_string())?;
        let mut inputs = Vec::new();
        let mut receive = |port: usize| {
            let value = self.in_transit.take(port, micro_batch).expect("a value is sent before it is received");
            self.transit[port].fall();
            let value = self.receive(stage, port, value);
            if recomputes {
                inputs.push(ReceivedValue { port, value: value.share() });
            }
            value
        };
        let recording = match self.gradients {
            true => Recording::Graph,
            // Nothing is recorded here, but a layer may use autograd internally if the caller's
            // grad mode is on.
            false if self.grad_mode => Recording::LayersOwn,
            false => Recording::Nothing,
        };
        let pass = self.watch(stage).map_err(|error| error.to_string())?;
        let (sent, recorded) = run_stage(slot, &self.pipeline.routes, cx, &mut receive, recording)?;
        // If no gradient can come back to this stage, there is nothing to recompute.
        let goes_backward = recorded.as_ref().is_some_and(|recorded| !recorded.roots.is_empty());
        let next = match (goes_backward, recomputes) {
            (false, _) => Next::Nothing,
            (true, false) => Next::Backward,
            (true, true) => Next::Recomputation,
        };
        self.end_pass(pass, micro_batch, next)?;

        let mut state = BackwardState { recorded, start: None };
        if next == Next::Recomputation {
            state = BackwardState { recorded: None, start: Some(Start { inputs, sent: fingerprints(&sent)? }) };
        }
        let ready = self.pipeline.streams.mark(stage).map_err(|error| error.to_string())?;
        for (port, mut value) in sent {
            if let Some((remote, to)) = self.elsewhere(self.pipeline.routes[port].to) {
                remote.send_value((port, stage, to), micro_batch, &value)?;
                continue;
            }
            value.ready.clone_from(&ready);
            *self.in_transit.at(port, micro_batch) = Some(value);
            self.transit[port].rise();
        }
        if self.gradients {
            self.in_flight[stage].rise();
        }
        *self.backward_states.at(stage, micro_batch) = state;
        Ok(())
    }

    /// Recomputes a checkpointed micro-batch, and keeps the graph for its backward. With `keep`,
    /// its inputs are kept too, so that it can be recomputed again.
    pub(super) fn recompute(&self, action: Action, keep: bool) -> Result<(), Failure> {
        let cx = self.context(action, true);
        step(Phase::Recomputation, &cx, || self.second_pass(action, &cx, keep))
    }

    fn second_pass(&self, action: Action, cx: &Context, keep: bool) -> Result<(), String> {
        let Action { stage, micro_batch, .. } = action;
        let _modes = self.modes.enter().map_err(|error| error.to_string())?;
        let _stream = self.pipeline.streams.enter(stage).map_err(|error| error.to_string())?;
        let start = {
            let mut state = self.backward_states.at(stage, micro_batch);
            if state.start.is_none() && state.recorded.is_some() {
                return Ok(());
            }
            let start = if keep { state.start.as_ref().map(Start::share) } else { state.start.take() };
            start.ok_or("its state was freed by an earlier backward")?
        };
        let mut inputs = start.inputs.into_iter();
        let mut receive = |port: usize| {
            let received = inputs.next().expect("a recomputation receives what the first pass received");
            if received.value.is_changed() {
                give_up(
                    "an input of the stage was modified by an in-place operation after its first pass, so the stage cannot be \
                     recomputed: let its first layer work on a copy, or use checkpoint = never",
                );
            }
            assert_eq!(received.port, port, "a recomputation receives in the order of the first pass");
            received.value
        };
        let history = &self.histories[stage];
        let rewound =
            Rewound::before(&self.pipeline.state, history, stage, micro_batch).map_err(|error| error.to_string())?;
        let (slot, routes) = (&self.pipeline.stages[stage], &self.pipeline.routes);
        let (sent, recorded) = run_stage(slot, routes, cx, &mut receive, Recording::Graph)?;
        if fingerprints(&sent)? != start.sent {
            return Err(
                "the recomputation gave other values than the first pass, so the gradient would be that of another function. A layer keeps state in a cell of \
                 its own (it belongs into a variable, or into a `Carried` cell), draws random numbers that are not torch's, or was changed meanwhile; or \
                 use checkpoint = never"
                    .into(),
            );
        }
        if !keep {
            rewound.finish(history, micro_batch);
            self.cells.recomputed(self.id, stage, micro_batch);
        }
        self.backward_states.at(stage, micro_batch).recorded = recorded;
        Ok(())
    }
}

/// What autograd records while a stage runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Recording {
    /// Records nothing.
    Nothing,
    /// Only what layers record internally; the stage has no graph.
    LayersOwn,
    /// Records the stage's graph.
    Graph,
}

/// Runs a stage on one micro-batch, with its layers' random number generators. `recording` says
/// what autograd records.
fn run_stage(
    slot: &StageSlot,
    routes: &[Route],
    cx: &Context,
    receive: &mut dyn FnMut(usize) -> PackedValue,
    recording: Recording,
) -> Result<(Vec<Sent>, Option<Recorded>), String> {
    let body = lock(&slot.body);
    let body = body.as_ref().ok_or("the model was taken out of the pipeline")?;
    let _grad = GradMode::set(recording != Recording::Nothing);
    let mut io = Io::new(routes, receive, (recording == Recording::Graph).then(|| cx.stage()));
    {
        let _rng = LayerRng::enter().map_err(|error| error.to_string())?;
        body.run(&mut io, cx);
    }
    Ok(io.finish())
}

impl Start {
    fn share(&self) -> Self {
        let share = |received: &ReceivedValue| ReceivedValue { port: received.port, value: received.value.share() };
        Self { inputs: self.inputs.iter().map(share).collect(), sent: self.sent.clone() }
    }
}

fn fingerprints(sent: &[Sent]) -> Result<Vec<Fingerprint>, String> {
    let of = |(port, item): (usize, &PackedTensor)| {
        let bits = digest(&item.tensor).map_err(|error| error.to_string())?;
        Ok((port, item.needs_gradient, bits))
    };
    sent.iter().flat_map(|(port, value)| value.tensors.iter().map(move |item| (*port, item))).map(of).collect()
}
