//! The passes of a micro-batch through a stage: the first one, and the recomputation for the
//! backward.

use pipe_schedule::Action;
use tch::Tensor;

use super::forward::Call;
use super::step;
use crate::error::{Failure, Phase};
use crate::flow::{ONE_OF_TWO_CHANGED, PackedTensor, PackedValue};
use crate::lock::{give_up, lock};
use crate::model::{Context, Rewound, Statistics};
use crate::run::built_pipeline::StageSlot;
use crate::stages::{Io, Recorded, Segment, Sent, is_inner};
use crate::torch::{GradMode, Holder, LayerRng, OffloadStreams, Offloaded, SavingPass, TorchError, digest};

/// What a run of a segment has made.
struct SegmentRun {
    sent: Vec<Sent>,
    /// The graph, if one was recorded.
    recorded: Option<Recorded>,
    /// What the graph keeps on the host.
    offloaded: Option<Offloaded>,
}

/// The state that a stage keeps of one micro-batch for its backward.
#[derive(Default)]
pub(super) struct BackwardState {
    /// The segments, as the forward or a recomputation of the stage left them.
    pub(super) segments: Vec<KeptSegment>,
    /// The start of the recomputation, if the whole stage is recomputed.
    pub(super) start: Option<Start>,
}

/// What is kept of one segment.
pub(super) struct KeptSegment {
    /// Its number in the stage.
    number: usize,
    segment: Segment,
    /// The graph; `None` if the backward makes it.
    pub(super) recorded: Option<Recorded>,
    /// What the graph keeps on the host.
    pub(super) offloaded: Option<Offloaded>,
    /// The start of the recomputation, if the segment is recomputed.
    pub(super) start: Option<Start>,
}

impl KeptSegment {
    /// The ports and positions of the tensors whose gradients the backward of the segment needs.
    pub(super) fn roots(&self) -> &[(usize, usize)] {
        match (&self.recorded, &self.start) {
            (Some(recorded), _) => &recorded.roots,
            (None, Some(start)) => &start.roots,
            (None, None) => &[],
        }
    }

    /// Whether the backward makes, or has made, the graph.
    pub(super) fn is_recomputed(&self) -> bool {
        self.segment.recomputed
    }

    /// The number of the segment, if the backward makes its graph.
    pub(super) fn recomputed(&self) -> Option<usize> {
        self.is_recomputed().then_some(self.number)
    }
}

/// The start of a recomputation, and what its results must match.
pub(super) struct Start {
    inputs: Vec<ReceivedValue>,
    sent: Vec<Fingerprint>,
    /// The ports and positions of the tensors whose gradients it needs.
    roots: Vec<(usize, usize)>,
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
        step(Phase::Forward, &cx, || {
            self.bring_back(action).map_err(|error| error.to_string())?;
            self.first_pass(action, &cx)
        })
    }

    /// If gradients are kept, the graph is recorded even if the micro-batch will be recomputed, and
    /// dropped then. Without a graph, libtorch's operators may use another implementation, but the
    /// recomputation must give the same values. The dropped graph takes no more memory than that of
    /// the recomputation will.
    fn first_pass(&self, action: Action, cx: &Context) -> Result<(), String> {
        let Action { stage, micro_batch, .. } = action;
        let slot = &self.pipeline.stages[stage];
        let whole = self.recomputes(stage, micro_batch);
        let _stream = self.pipeline.streams.enter(stage).map_err(|error| error.to_string())?;
        let recording = match self.gradients {
            true => Recording::Graph,
            // Nothing is recorded here, but a layer may use autograd internally if the caller's
            // grad mode is on.
            false if self.grad_mode => Recording::LayersOwn,
            false => Recording::Nothing,
        };
        let segments = segments_of(slot, recording == Recording::Graph && !whole)?;
        let (mut inner, mut sent): (Vec<Sent>, Vec<Sent>) = (Vec::new(), Vec::new());
        let mut state = BackwardState::default();
        let mut any_goes_backward = false;
        for (number, segment) in segments.into_iter().enumerate() {
            cx.enters_segment(number, whole || segment.recomputed);
            let pass = self.watch(stage).map_err(|error| error.to_string())?;
            let mut inputs = Vec::new();
            let mut receive = |port: usize| {
                let value = match take(&mut inner, port) {
                    Some(value) if value.is_changed() => give_up(ONE_OF_TWO_CHANGED),
                    Some(value) => value,
                    None => {
                        let sent = self.in_transit.take(port, micro_batch);
                        self.transit[port].fall();
                        self.receive(stage, port, sent.expect("a value is sent before it is received"))
                    }
                };
                let is_kept = whole || segment.recomputed;
                let tensors = value.tensors.iter().map(|item| &item.tensor);
                self.are_received(tensors, stage, if is_kept { Holder::Input } else { Holder::Saved });
                if is_kept {
                    inputs.push(ReceivedValue { port, value: value.share() });
                }
                value
            };
            let offload = self.offloads(action).filter(|_| !whole && !segment.recomputed);
            let SegmentRun { sent: found, recorded, offloaded } =
                self.run_segment(&segment, cx, &mut receive, recording, offload)?;
            // If no gradient can come back, there is nothing to recompute.
            let goes_backward = recorded.as_ref().is_some_and(|recorded| !recorded.roots.is_empty());
            let is_recomputed = goes_backward && (whole || segment.recomputed);
            let roots = recorded.as_ref().filter(|_| is_recomputed).map(|recorded| recorded.roots.clone());
            let start = roots.map(|roots| Ok::<_, String>(Start { inputs, sent: fingerprints(&found)?, roots }));
            let start = start.transpose()?;
            self.end_pass(pass)?;
            if is_recomputed {
                lock(&self.histories[stage]).will_be_recomputed((micro_batch, number));
            }
            any_goes_backward |= goes_backward;
            if whole && is_recomputed {
                state.start = start;
            } else {
                let recorded = recorded.filter(|_| !is_recomputed);
                state.segments.push(KeptSegment { number, segment, recorded, offloaded, start });
            }
            for (port, value) in found {
                if is_inner(&self.pipeline.routes, port) { &mut inner } else { &mut sent }.push((port, value));
            }
        }
        lock(&self.histories[stage]).has_gone_forward(micro_batch, any_goes_backward);

        let ready = self.pipeline.streams.mark(stage).map_err(|error| error.to_string())?;
        self.are_under_way(sent.iter().flat_map(|(port, value)| {
            let route = &self.pipeline.routes[*port];
            value.tensors.iter().map(move |item| (&item.tensor, route.waits_at(stage, route.to)))
        }));
        for (port, mut value) in sent {
            if let Some((remote, to)) = self.elsewhere(self.pipeline.routes[port].to) {
                let variables = self.pipeline.state.variables(stage).map_err(|error| error.to_string())?;
                let is_variable =
                    |tensor: &Tensor| variables.iter().any(|variable| variable.tensor.data_ptr() == tensor.data_ptr());
                remote.send_value((port, stage, to), micro_batch, &value, &is_variable)?;
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
        step(Phase::Recomputation, &cx, || {
            self.bring_back(action).map_err(|error| error.to_string())?;
            self.second_pass(action, &cx, keep)
        })
    }

    fn second_pass(&self, action: Action, cx: &Context, keep: bool) -> Result<(), String> {
        let Action { stage, micro_batch, .. } = action;
        let _stream = self.pipeline.streams.enter(stage).map_err(|error| error.to_string())?;
        let start = {
            let mut state = self.backward_states.at(stage, micro_batch);
            if state.start.is_none() && !state.segments.is_empty() {
                return Ok(());
            }
            let start = if keep { state.start.as_ref().map(Start::share) } else { state.start.take() };
            start.ok_or("its state was freed by an earlier backward")?
        };
        let slot = &self.pipeline.stages[stage];
        let segment = segments_of(slot, false)?.swap_remove(0);
        let mut statistics = Statistics::default();
        let recorded = self.pass_again(action, cx, (0, &segment), start, &mut statistics)?;
        statistics.end().map_err(|error| error.to_string())?;
        if !keep {
            self.has_been_recomputed(stage, micro_batch);
        }
        self.backward_states.at(stage, micro_batch).segments =
            vec![KeptSegment { number: 0, segment, recorded, offloaded: None, start: None }];
        Ok(())
    }

    /// Makes the graph of a segment that the backward recomputes. With `keep`, its inputs are kept,
    /// so that it can be recomputed again. The stage's stream is the current one. `statistics` are
    /// those of the micro-batch's later segments.
    pub(super) fn recompute_segment(
        &self,
        action: Action,
        kept: &mut KeptSegment,
        keep: bool,
        statistics: &mut Statistics,
    ) -> Result<(), Failure> {
        if kept.recorded.is_some() {
            return Ok(());
        }
        let cx = self.context(action, true);
        step(Phase::Recomputation, &cx, || {
            let start = if keep { kept.start.as_ref().map(Start::share) } else { kept.start.take() };
            let start = start.ok_or("its state was freed by an earlier backward")?;
            kept.recorded = self.pass_again(action, &cx, (kept.number, &kept.segment), start, statistics)?;
            Ok(())
        })
    }

    /// The stage is not recomputed for this micro-batch any more.
    pub(super) fn has_been_recomputed(&self, stage: usize, micro_batch: usize) {
        lock(&self.histories[stage]).has_been_recomputed(micro_batch);
        self.cells.recomputed(self.id, stage, micro_batch);
    }

    /// Runs a segment again, on what its first pass received and on the state that the stage had
    /// then. What it sends must be what it sent.
    fn pass_again(
        &self,
        action: Action,
        cx: &Context,
        (number, segment): (usize, &Segment),
        start: Start,
        statistics: &mut Statistics,
    ) -> Result<Option<Recorded>, String> {
        let Action { stage, micro_batch, .. } = action;
        cx.enters_segment(number, false);
        let _modes = self.modes.enter().map_err(|error| error.to_string())?;
        let mut inputs = start.inputs.into_iter();
        let mut receive = |port: usize| {
            let received = inputs.next().expect("a recomputation receives what the first pass received");
            if received.value.is_changed() {
                give_up(match segment.recomputed {
                    true => {
                        "an input of the layer was modified by an in-place operation after its first pass, so the layer cannot be \
                         recomputed: let the layer that modifies it work on a copy, or remove `#[recompute]`"
                    }
                    false => {
                        "an input of the stage was modified by an in-place operation after its first pass, so the stage cannot be \
                         recomputed: let its first layer work on a copy, or use checkpoint = never"
                    }
                });
            }
            assert_eq!(received.port, port, "a recomputation receives in the order of the first pass");
            received.value
        };
        let (state, history) = (&self.pipeline.state, &self.histories[stage]);
        let rewound = Rewound::before(state, history, stage, (micro_batch, number), statistics);
        let rewound = rewound.map_err(|error| error.to_string())?;
        let SegmentRun { sent, recorded, .. } = self.run_segment(segment, cx, &mut receive, Recording::Graph, None)?;
        rewound.end().map_err(|error| error.to_string())?;
        if fingerprints(&sent)? != start.sent {
            let otherwise = if segment.recomputed { "remove `#[recompute]`" } else { "use checkpoint = never" };
            return Err(format!(
                "the recomputation gave other values than the first pass, so the gradient would be that of another function. A layer keeps state in a cell of \
                 its own (it belongs into a variable, or into a `Carried` cell; what layers add up is returned, by `#[sum(..)]`), draws random numbers that are not torch's, or was changed meanwhile; or \
                 {otherwise}"
            ));
        }
        Ok(recorded)
    }

    /// Runs a segment of a stage on one micro-batch, with its layers' random number generators.
    /// `recording` says what autograd records, and `offload` how what it keeps is moved to the
    /// host.
    fn run_segment(
        &self,
        segment: &Segment,
        cx: &Context,
        receive: &mut dyn FnMut(usize) -> PackedValue,
        recording: Recording,
        offload: Option<(OffloadStreams, usize)>,
    ) -> Result<SegmentRun, String> {
        let body = lock(&self.pipeline.stages[cx.stage()].body);
        let body = body.as_ref().ok_or(TAKEN_OUT)?;
        let records = recording == Recording::Graph;
        let _grad = GradMode::set(recording != Recording::Nothing);
        let mut io = Io::new(&self.pipeline.routes, receive, records.then(|| cx.stage()));
        let words = |error: TorchError| error.to_string();
        let offload = offload.filter(|_| records);
        let pass = records.then(|| SavingPass::start(self.pipeline.cheap_outputs, offload.is_some()));
        let pass = pass.transpose().map_err(words)?.flatten();
        {
            let _rng = LayerRng::enter().map_err(words)?;
            body.run(segment, &mut io, cx);
        }
        let offloaded = pass.zip(offload).map(|(pass, (streams, min_bytes))| pass.offload(streams, min_bytes));
        let offloaded = offloaded.transpose().map_err(words)?;
        let (sent, recorded) = io.finish();
        Ok(SegmentRun { sent, recorded, offloaded })
    }
}

/// Takes the value that waits on a port.
fn take(waiting: &mut Vec<Sent>, port: usize) -> Option<PackedValue> {
    let index = waiting.iter().position(|(at, _)| *at == port)?;
    Some(waiting.swap_remove(index).1)
}

/// The segments of a stage: those that `#[recompute]` makes, or one.
fn segments_of(slot: &StageSlot, several: bool) -> Result<Vec<Segment>, String> {
    let body = lock(&slot.body);
    let body = body.as_ref().ok_or(TAKEN_OUT)?;
    Ok(if several { body.segments() } else { vec![body.whole()] })
}

const TAKEN_OUT: &str = "the model was taken out of the pipeline";

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

impl Start {
    fn share(&self) -> Self {
        let share = |received: &ReceivedValue| ReceivedValue { port: received.port, value: received.value.share() };
        let Self { inputs, sent, roots } = self;
        Self { inputs: inputs.iter().map(share).collect(), sent: sent.clone(), roots: roots.clone() }
    }
}

fn fingerprints(sent: &[Sent]) -> Result<Vec<Fingerprint>, String> {
    let of = |(port, item): (usize, &PackedTensor)| {
        let bits = digest(&item.tensor).map_err(|error| error.to_string())?;
        Ok((port, item.needs_gradient, bits))
    };
    sent.iter().flat_map(|(port, value)| value.tensors.iter().map(move |item| (*port, item))).map(of).collect()
}
