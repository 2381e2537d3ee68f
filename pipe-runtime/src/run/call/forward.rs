use std::any::Any;
use std::sync::{Arc, Mutex};

use pipe_engine::{Job, Link, News};
use pipe_schedule::{Action, ActionKind, Order};
use tch::Tensor;

use super::peak_counter::PeakCounter;
use super::{Table, step};
use crate::error::{Error, Failure, Phase, Result};
use crate::flow::{PackedTensor, PackedValue};
use crate::lock::{give_up, lock};
use crate::model::{Cells, Context, FirstPass, History, Next, Pass, Rewound, unique};
use crate::run::built_pipeline::{BuiltPipeline, StageSlot};
use crate::run::remote::{Arrival, RemoteCall};
use crate::stages::{Io, Recorded, Route, Sent};
use crate::torch::{Draw, GradMode, LayerRng, Modes, Parameters, digest, grad_enabled};

/// The state of one call: the values between stages, and what each stage keeps for the backward.
pub(crate) struct Call {
    pub(super) pipeline: Arc<BuiltPipeline>,
    pub(super) micro_batches: usize,
    training: bool,
    /// Whether a backward may follow, so that its inputs must be kept.
    pub(super) gradients: bool,
    /// Whether the caller's grad mode is on. Then layers may use autograd internally, even if the
    /// call records no graph.
    grad_mode: bool,
    /// A unique number of this call.
    id: u64,
    /// The draw of a number from the caller's generator.
    draw: Draw,
    /// The number that seeds the layers' random number generators: the one that was drawn, here or
    /// in the first process.
    seed: u64,
    /// The part of the call that runs in other processes.
    pub(super) remote: Option<RemoteCall>,
    /// The caller's torch modes at the time of the call. Recomputations run with them too.
    modes: Modes,
    pub(super) parameters: Arc<Parameters>,
    /// Whether to record which variables the stages use.
    notes_uses: bool,
    /// For each stage and micro-batch, whether its forward is recomputed for the backward.
    recomputed: Vec<bool>,
    /// For each port and micro-batch, the value that was sent and not received yet.
    pub(super) in_transit: Table<Option<PackedValue>>,
    /// For each stage and micro-batch, what the stage keeps for the backward.
    pub(super) backward_states: Table<BackwardState>,
    /// For each stage, the changes that its layers made, so that they can be undone.
    pub(super) histories: Vec<Mutex<History>>,
    /// The cells in which layers carry state from one micro-batch to the next.
    cells: Arc<Cells>,
    /// For each port, the number of values that were sent and not received yet.
    pub(super) transit: Vec<PeakCounter>,
    /// For each stage, the number of micro-batches in flight.
    pub(super) in_flight: Vec<PeakCounter>,
}

/// The arguments of a call.
pub(crate) struct Given {
    /// The inputs of the first stage, one per micro-batch, if it is in this process.
    pub(crate) inputs: Vec<PackedValue>,
    pub(crate) begun: Begun,
    pub(crate) training: bool,
    /// Whether to keep what the backward needs.
    pub(crate) gradients: bool,
    /// The parameters to train.
    pub(crate) parameters: Arc<Parameters>,
}

/// A call that all processes have begun.
pub(crate) struct Begun {
    pub(crate) micro_batches: usize,
    pub(crate) draw: Draw,
    pub(crate) seed: u64,
    /// The number of the call, if other processes take part in it.
    pub(crate) number: Option<u64>,
}

/// A job that runs the forward of a call.
struct ForwardRun {
    call: Arc<Call>,
    order: Arc<Order>,
}

impl Job for ForwardRun {
    type Error = Error;

    fn order(&self) -> &Order {
        &self.order
    }

    fn perform(&self, action: Action) -> Result<()> {
        Ok(self.call.forward(action)?)
    }

    fn undo(&self) -> Result<()> {
        self.call.undo()
    }

    fn enter(&self) -> Result<Box<dyn Any>> {
        self.call.enter()
    }

    fn link(&self) -> Option<&dyn Link<Error>> {
        self.call.remote.as_ref().map(|_| self as &dyn Link<Error>)
    }
}

impl Link<Error> for ForwardRun {
    fn is_remote(&self, rank: usize) -> bool {
        self.call.is_remote(rank)
    }

    fn poll(&self) -> Result<Vec<News>> {
        self.call.poll(|_, _, _| {})
    }

    fn has_failed(&self, step: usize) {
        self.call.has_failed(step);
    }
}

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
    /// Makes a call that runs `order` first. If it keeps gradients, the recomputations in
    /// `recomputing` say which micro-batches are recomputed.
    pub(super) fn new(pipeline: &Arc<BuiltPipeline>, given: Given, order: &Order, recomputing: &Order) -> Result<Self> {
        let Given { inputs, begun, training, gradients, parameters } = given;
        let Begun { micro_batches, draw, seed, number } = begun;
        let prepared = parameters.none_is_forgotten().map_err(Error::from);
        let prepared = prepared.and_then(|()| pipeline.state.refresh()).and_then(|()| Ok(Modes::capture()?));
        let modes = prepared.or_else(|error| draw.undo().map_err(Error::from).and(Err(error)))?;
        let stages = pipeline.stages.len();
        let counters = |count: usize| std::iter::repeat_with(PeakCounter::default).take(count).collect();
        let mut recomputed = vec![false; stages * micro_batches];
        for Action { stage, micro_batch, .. } in
            recomputing.steps.iter().map(|step| step.action).filter(|action| action.kind == ActionKind::Recompute)
        {
            recomputed[stage * micro_batches + micro_batch] = gradients;
        }
        let call = Self {
            micro_batches,
            training,
            gradients,
            grad_mode: grad_enabled(),
            id: unique(),
            draw,
            seed,
            remote: number
                .zip(pipeline.remote.as_ref())
                .map(|(number, remote)| RemoteCall::new(remote, number, order, &pipeline.routes)),
            modes,
            parameters,
            notes_uses: pipeline.state.notes_uses(training),
            recomputed,
            in_transit: Table::new(pipeline.routes.len(), micro_batches),
            backward_states: Table::new(stages, micro_batches),
            histories: pipeline.stages.iter().map(|_| Mutex::default()).collect(),
            cells: Arc::default(),
            transit: counters(pipeline.routes.len()),
            in_flight: counters(stages),
            pipeline: Arc::clone(pipeline),
        };
        let (input, _) = pipeline.ends();
        for (micro_batch, value) in inputs.into_iter().enumerate() {
            *call.in_transit.at(input, micro_batch) = Some(value);
        }
        Ok(call)
    }

    /// Runs the micro-batches forward through all stages. Returns the call and the output of each
    /// micro-batch.
    pub(crate) fn run(pipeline: &Arc<BuiltPipeline>, given: Given) -> Result<(Arc<Self>, Vec<PackedValue>)> {
        let orders = pipeline.orders(given.begun.micro_batches, given.training && given.gradients);
        let orders = orders.or_else(|error| given.begun.draw.undo().map_err(Error::from).and(Err(error)))?;
        let call = Arc::new(Self::new(pipeline, given, &orders.forward, &orders.backward)?);
        let order = Arc::clone(&orders.forward);
        let ran = call.run_job(Arc::new(ForwardRun { call: Arc::clone(&call), order }), None);
        ran.and_then(|()| call.check_accelerators(&[]))
            .and_then(|()| call.take_outputs())
            .map(|outputs| (Arc::clone(&call), outputs))
            .or_else(|error| {
                call.undo()?;
                Err(error)
            })
    }

    /// Takes the outputs of the last stage, one per micro-batch; none if it is elsewhere.
    pub(super) fn take_outputs(&self) -> Result<Vec<PackedValue>> {
        if !self.pipeline.has_last() {
            return Ok(Vec::new());
        }
        let (_, output) = self.pipeline.ends();
        let parts = (0..self.micro_batches).map(|micro_batch| self.in_transit.take(output, micro_batch));
        let parts: Option<Vec<PackedValue>> = parts.collect();
        let parts = parts.ok_or_else(|| Error::Output("a stage sent no output".into()))?;
        self.pipeline.streams.used_here(parts.iter().flat_map(|value| &value.tensors).map(|item| &item.tensor))?;
        Ok(parts)
    }

    /// Whether the stage recomputes this micro-batch for its backward.
    pub(super) fn recomputes(&self, stage: usize, micro_batch: usize) -> bool {
        self.recomputed[stage * self.micro_batches + micro_batch]
    }

    pub(super) fn is_training(&self) -> bool {
        self.training
    }

    /// Returns whether any micro-batch is recomputed.
    pub(super) fn recomputes_some(&self) -> bool {
        self.recomputed.contains(&true)
    }

    pub(super) fn context(&self, action: Action, recomputing: bool) -> Context {
        Context::new(Pass {
            training: self.training,
            recomputing,
            stage: action.stage,
            micro_batch: action.micro_batch,
            micro_batches: self.micro_batches,
            call_seed: self.seed,
            call: self.id,
            will_be_recomputed: !recomputing && self.recomputes(action.stage, action.micro_batch),
        })
        .noting(Arc::clone(&self.cells))
    }

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
                remote.send_value((port, to), micro_batch, &value)?;
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

    /// The remote part of the call and the stage, if that is a stage of another process.
    pub(super) fn elsewhere(&self, stage: Option<usize>) -> Option<(&RemoteCall, usize)> {
        let (remote, stage) = (self.remote.as_ref()?, stage?);
        remote.remote.is_elsewhere(stage).then_some((remote, stage))
    }

    /// Whether another process performs the steps of the rank.
    pub(super) fn is_remote(&self, rank: usize) -> bool {
        let stage = self.pipeline.rank_of().iter().position(|&other| other == rank);
        stage.is_some_and(|stage| !self.pipeline.is_here(stage))
    }

    /// Takes in what has arrived from other processes. `gradients` takes in the gradients for a
    /// port and a micro-batch.
    pub(super) fn poll(&self, mut gradients: impl FnMut(usize, usize, Vec<(usize, Tensor)>)) -> Result<Vec<News>> {
        let Some(remote) = &self.remote else { return Ok(Vec::new()) };
        remote.poll(&self.pipeline.routes, |arrival| match arrival {
            Arrival::Value { port, micro_batch, value } => {
                *self.in_transit.at(port, micro_batch) = Some(value);
                self.transit[port].rise();
            }
            Arrival::Gradients { port, micro_batch, gradients: found } => gradients(port, micro_batch, found),
        })
    }

    pub(super) fn has_failed(&self, step: usize) {
        if let Some(remote) = &self.remote {
            remote.has_failed(step);
        }
    }

    /// Starts to watch which variables a first pass of the stage changes.
    pub(super) fn watch(&self, stage: usize) -> Result<FirstPass<'_>> {
        Ok(FirstPass::start(&self.pipeline.state, &self.histories[stage], stage, self.notes_uses)?)
    }

    /// Ends a first pass that succeeded. Fails on variables that are no longer finite, unless that
    /// is allowed.
    pub(super) fn end_pass(&self, pass: FirstPass<'_>, micro_batch: usize, next: Next) -> Result<(), String> {
        let must_be_finite = self.training && !self.pipeline.allow_non_finite;
        pass.finish(&self.pipeline.state, micro_batch, next, must_be_finite)
    }

    /// If a later pass changed the stage's state, sets it back to what it was after this
    /// micro-batch's first pass, until the guard is dropped.
    pub(super) fn state_after(&self, stage: usize, micro_batch: usize) -> Result<Option<Rewound>> {
        Rewound::after(&self.pipeline.state, &self.histories[stage], stage, micro_batch)
    }

    /// Records that the micro-batch's last backward through the stage has ended.
    pub(super) fn has_gone_backward(&self, stage: usize, micro_batch: usize) {
        self.in_flight[stage].fall();
        lock(&self.histories[stage]).has_gone_backward(micro_batch);
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
            if received.value.tensors.iter().any(PackedTensor::is_changed) {
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

    /// The order of the call's backward, for a backward that is called after the forward.
    pub(super) fn backward_order(&self) -> Result<Arc<Order>> {
        Ok(Arc::clone(&self.pipeline.orders(self.micro_batches, self.training)?.backward))
    }

    /// Prepares a thread for the call's forward.
    pub(super) fn enter(&self) -> Result<Box<dyn Any>> {
        Ok(Box::new((self.modes.enter()?, self.pipeline.threads.enter())))
    }

    /// Keeps the changes that layers made. Called once the whole call has succeeded.
    pub(crate) fn keep(&self) {
        for history in &self.histories {
            lock(history).keep();
        }
        if self.notes_uses {
            self.pipeline.state.have_been_noted(self.training);
        }
    }

    /// Restores every variable that layers changed, and the caller's random number generator, to
    /// their state before the call. Called if the call fails, or what follows it.
    pub(crate) fn undo(&self) -> Result<()> {
        for (stage, history) in self.histories.iter().enumerate() {
            let _stream = self.pipeline.streams.enter(stage)?;
            lock(history).undo(&*self.pipeline.state.variables(stage)?)?;
        }
        self.cells.undo(self.id);
        self.draw.undo()?;
        Ok(self.pipeline.streams.join()?)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.cells.forget(self.id);
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
