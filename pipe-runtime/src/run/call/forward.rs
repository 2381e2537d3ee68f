use std::any::Any;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use pipe_engine::{Job, Link, News};
use pipe_schedule::{Action, ActionKind, Order, Run};
use tch::Tensor;

use super::Table;
use super::offload::NextActions;
use super::passes::BackwardState;
use super::peak_counter::PeakCounter;
use super::receive::Copied;
use crate::error::{Error, Result};
use crate::flow::PackedValue;
use crate::lock::lock;
use crate::model::{Cells, Context, FirstPass, History, Pass, Rewound, unique};
use crate::run::built_pipeline::{BuiltPipeline, StageSlot};
use crate::run::recorder::Recording;
use crate::run::remote::{Arrival, RemoteCall};
use crate::torch::{Draw, Event, Holder, Meter, Modes, Parameters, grad_enabled, memory_of};

/// The state of one call: the values between stages, and what each stage keeps for the backward.
pub(crate) struct Call {
    pub(super) pipeline: Arc<BuiltPipeline>,
    pub(super) micro_batches: usize,
    /// The number of micro-batches of the replicas before this one.
    before: usize,
    training: bool,
    /// Whether a backward may follow, so that its inputs must be kept.
    pub(super) gradients: bool,
    /// Whether the caller's grad mode is on. Then layers may use autograd internally, even if the
    /// call records no graph.
    pub(super) grad_mode: bool,
    /// A unique number of this call.
    pub(super) id: u64,
    /// The draw of a number from the caller's generator.
    draw: Draw,
    /// The number that seeds the layers' random number generators: the one that was drawn, here or
    /// in the first process.
    seed: u64,
    /// The part of the call that runs in other processes.
    pub(super) remote: Option<RemoteCall>,
    /// The caller's torch modes at the time of the call. Recomputations run with them too.
    pub(super) modes: Modes,
    pub(super) parameters: Arc<Parameters>,
    /// Whether to record which variables the stages use.
    notes_uses: bool,
    /// For each stage and micro-batch, whether its forward is recomputed for the backward.
    recomputed: Vec<bool>,
    /// The order of each rank's actions.
    pub(super) next_actions: NextActions,
    /// For each port and micro-batch, the value that was sent and not received yet.
    pub(super) in_transit: Table<Option<PackedValue>>,
    /// What was copied to another device for several micro-batches.
    pub(super) copied: Copied,
    /// For each stage and micro-batch, what the stage keeps for the backward.
    pub(super) backward_states: Table<BackwardState>,
    /// For each stage, the changes that its layers made, so that they can be undone.
    pub(super) histories: Vec<Mutex<History>>,
    /// What a trace has recorded of the call, until all processes have succeeded.
    pub(super) traced: Mutex<Option<(Arc<Recording>, u64, Run)>>,
    /// Counts the memory of what runs, if the call is traced.
    pub(super) meter: OnceLock<Arc<Meter>>,
    /// The cells in which layers carry state from one micro-batch to the next.
    pub(super) cells: Arc<Cells>,
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
    /// The number of micro-batches of the replicas before this one.
    pub(crate) before: usize,
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
        self.call.poll(|_, _, _, _| {})
    }

    fn pause(&self, idle: Duration) {
        pipe_comm::pause(idle);
    }

    fn has_failed(&self, step: usize) {
        self.call.has_failed(step);
    }
}

impl Call {
    /// Makes a call that runs `order` first. If it keeps gradients, the recomputations in
    /// `recomputing` say which micro-batches are recomputed.
    pub(super) fn new(pipeline: &Arc<BuiltPipeline>, given: Given, order: &Order, recomputing: &Order) -> Result<Self> {
        let Given { inputs, begun, training, gradients, parameters } = given;
        let Begun { micro_batches, before, draw, seed, number } = begun;
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
            before,
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
            next_actions: NextActions::new(pipeline, [order, recomputing]),
            in_transit: Table::new(pipeline.routes.len(), micro_batches),
            copied: Copied::default(),
            backward_states: Table::new(stages, micro_batches),
            histories: pipeline.stages.iter().map(|_| Mutex::default()).collect(),
            traced: Mutex::default(),
            meter: OnceLock::new(),
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

    /// If the call is traced, counts the tensors as under way to each stage. These are all handles
    /// to them, except for those of graphs.
    pub(super) fn are_under_way<'t>(&self, tensors: impl IntoIterator<Item = (&'t Tensor, usize)>) {
        let Some(meter) = self.meter.get() else { return };
        let tensors: Vec<_> = tensors.into_iter().collect();
        let memory = |tensor: &Tensor| memory_of(tensor).map(|(address, _)| address);
        for (tensor, stage) in &tensors {
            let handles = tensors.iter().filter(|(other, _)| memory(other) == memory(tensor)).count();
            // Without memory for its table, the meter counts the tensor for the stage that made it.
            let _ = meter.send(tensor, *stage, handles);
        }
    }

    /// If the call is traced, counts the tensors as held by this stage, which has received them.
    pub(super) fn are_received<'t>(&self, tensors: impl IntoIterator<Item = &'t Tensor>, stage: usize, holder: Holder) {
        let Some(meter) = self.meter.get() else { return };
        for tensor in tensors {
            // As above.
            let _ = meter.receive(tensor, stage, holder);
        }
    }

    pub(super) fn is_training(&self) -> bool {
        self.training
    }

    /// Returns whether any micro-batch is recomputed, or a part of a stage.
    pub(super) fn recomputes_some(&self) -> bool {
        self.recomputed.contains(&true) || (self.gradients && self.pipeline.stages.iter().any(StageSlot::recomputes))
    }

    pub(super) fn context(&self, action: Action, recomputing: bool) -> Context {
        Context::new(Pass {
            training: self.training,
            recomputing,
            stage: action.stage,
            micro_batch: action.micro_batch,
            micro_batches: self.micro_batches,
            before: self.before,
            call_seed: self.seed,
            call: self.id,
            will_be_recomputed: !recomputing && self.recomputes(action.stage, action.micro_batch),
        })
        .noting(Arc::clone(&self.cells))
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
    pub(super) fn poll(
        &self,
        mut gradients: impl FnMut(usize, usize, Vec<(usize, Tensor)>, Option<Arc<Event>>),
    ) -> Result<Vec<News>> {
        let Some(remote) = &self.remote else { return Ok(Vec::new()) };
        // Which stage a value is for is counted once it is used.
        let here = (0..self.pipeline.stages.len()).find(|&stage| self.pipeline.is_here(stage));
        let place = self.meter.get().zip(here);
        let _metered = place.map(|(meter, stage)| meter.enter(stage, Holder::UnderWay)).transpose()?;
        remote.poll(&self.pipeline.routes, |arrival| match arrival {
            Arrival::Value { port, micro_batch, value } => {
                *self.in_transit.at(port, micro_batch) = Some(value);
                self.transit[port].rise();
            }
            Arrival::Gradients { port, micro_batch, gradients: found, ready } => {
                gradients(port, micro_batch, found, ready);
            }
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
    pub(super) fn end_pass(&self, pass: FirstPass<'_>) -> Result<(), String> {
        let must_be_finite = self.training && !self.pipeline.allow_non_finite;
        pass.finish(&self.pipeline.state, must_be_finite)
    }

    /// If a later pass changed the stage's state, sets it back to what it was after this
    /// micro-batch's first pass, until the guard ends.
    pub(super) fn state_after(&self, stage: usize, micro_batch: usize) -> Result<Option<Rewound>> {
        Rewound::after(&self.pipeline.state, &self.histories[stage], stage, micro_batch)
    }

    /// The same for the segment of this number, if it was recomputed: its graph is of the state
    /// right after its own first pass.
    pub(super) fn state_after_segment(&self, action: Action, recomputed: Option<usize>) -> Result<Option<Rewound>> {
        let Some(number) = recomputed else { return Ok(None) };
        let Action { stage, micro_batch, .. } = action;
        Rewound::after_part(&self.pipeline.state, &self.histories[stage], stage, (micro_batch, number))
    }

    /// Records that the micro-batch's last backward through the stage has ended.
    pub(super) fn has_gone_backward(&self, stage: usize, micro_batch: usize) {
        self.in_flight[stage].fall();
        lock(&self.histories[stage]).has_gone_backward(micro_batch);
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
        if let Some((recording, number, run)) = lock(&self.traced).take() {
            recording.ran(Some(number), run);
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
