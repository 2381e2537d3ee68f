use std::any::Any;
use std::sync::{Arc, Mutex};

use pipe_engine::Job;
use pipe_schedule::{Action, Order};
use tch::Tensor;

use super::gauge::Gauge;
use super::io::{Io, Recorded, Sent, Tail, Wanted};
use super::{Table, give_up, lock, step};
use crate::context::Pass;
use crate::flow::{Item, Parcel};
use crate::network::{Network, StageSlot};
use crate::torch::{GradMode, Modes, RandomStreams, draw_seed, grad_enabled};
use crate::{Context, Error, Failure, Phase, Result};

/// One call: what flows between its stages, and what each stage keeps for the backward.
pub(crate) struct Call {
    pub(super) network: Arc<Network>,
    pub(super) micro_batches: usize,
    training: bool,
    /// Whether gradients are wanted at all.
    pub(super) gradients: bool,
    /// Whether the caller's grad mode is on: where nothing is recorded, layers may still differentiate inside.
    grad_mode: bool,
    seed: u64,
    /// The caller's modes at the time of the call; a recomputation runs under them too.
    modes: Modes,
    /// By port and micro-batch: what was sent and not received yet.
    pub(super) in_transit: Table<Option<Parcel>>,
    /// By stage and micro-batch.
    pub(super) held: Table<Held>,
    /// By stage: its buffers as they were before the call.
    saved_buffers: Vec<Mutex<Option<Vec<Tensor>>>>,
    /// By port: how many values lie between the two stages.
    pub(super) transit: Vec<Gauge>,
    /// By stage: of how many micro-batches something is kept for the backward.
    pub(super) kept: Vec<Gauge>,
}

/// The forward of a call alone.
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
        Ok(self.call.forward(action, None)?)
    }

    fn undo(&self) -> Result<()> {
        self.call.restore_buffers()
    }

    fn enter(&self) -> Result<Box<dyn Any>> {
        self.call.enter()
    }
}

/// What a stage keeps of a micro-batch for its backward.
#[derive(Default)]
pub(super) struct Held {
    /// The graph, of the forward or of a recomputation.
    pub(super) recorded: Option<Recorded>,
    /// What its recomputation starts from, if it is checkpointed.
    start: Option<Start>,
}

/// What a recomputation starts from.
struct Start {
    inputs: Vec<Kept>,
    /// The stage's buffers as they were before the first pass.
    buffers: Vec<Tensor>,
}

/// A received value, kept for the recomputation.
struct Kept {
    port: usize,
    parcel: Parcel,
}

impl Call {
    /// A call that has the micro-batches `inputs` at its first stage. With `gradients`, what the backward needs will be kept.
    pub(super) fn new(network: &Arc<Network>, inputs: Vec<Parcel>, training: bool, gradients: bool) -> Result<Self> {
        let micro_batches = inputs.len();
        let gauges = |count: usize| std::iter::repeat_with(Gauge::default).take(count).collect();
        let call = Self {
            micro_batches,
            training,
            gradients,
            grad_mode: grad_enabled(),
            seed: draw_seed()?,
            modes: Modes::capture()?,
            in_transit: Table::new(network.routes.len(), micro_batches),
            held: Table::new(network.stages.len(), micro_batches),
            saved_buffers: network.stages.iter().map(|_| Mutex::default()).collect(),
            transit: gauges(network.routes.len()),
            kept: gauges(network.stages.len()),
            network: Arc::clone(network),
        };
        let (input, _) = network.ends();
        for (micro_batch, parcel) in inputs.into_iter().enumerate() {
            *call.in_transit.at(input, micro_batch) = Some(parcel);
        }
        Ok(call)
    }

    /// Runs the micro-batches `inputs` forward through all stages, and gives those of the output.
    pub(crate) fn run(
        network: &Arc<Network>,
        inputs: Vec<Parcel>,
        training: bool,
        gradients: bool,
    ) -> Result<(Arc<Self>, Vec<Parcel>)> {
        let order = network.orders(inputs.len(), training && gradients)?.forward.clone();
        let call = Arc::new(Self::new(network, inputs, training, gradients)?);
        call.run_job(Arc::new(ForwardRun { call: Arc::clone(&call), order }), None)?;
        let outputs = call.take_outputs()?;
        Ok((call, outputs))
    }

    /// What the last stage gave, micro-batch by micro-batch.
    pub(super) fn take_outputs(&self) -> Result<Vec<Parcel>> {
        let (_, output) = self.network.ends();
        let parts = (0..self.micro_batches).map(|micro_batch| self.in_transit.take(output, micro_batch));
        let parts: Option<Vec<Parcel>> = parts.collect();
        let parts = parts.ok_or_else(|| Error::Output("a stage sent no output".into()))?;
        self.network.streams.used_here(parts.iter().flat_map(|parcel| &parcel.items).map(|item| &item.tensor))?;
        Ok(parts)
    }

    /// Whether the backward of this micro-batch makes its graph anew.
    pub(super) fn recomputes(&self, micro_batch: usize) -> bool {
        self.training && self.gradients && self.network.checkpoint.applies(micro_batch, self.micro_batches)
    }

    pub(super) fn context(&self, action: Action, recomputing: bool) -> Context {
        Context::new(Pass {
            training: self.training,
            recomputing,
            stage: action.stage,
            micro_batch: action.micro_batch,
            micro_batches: self.micro_batches,
            call_seed: self.seed,
        })
    }

    /// The first pass of one micro-batch through one stage.
    pub(super) fn forward(&self, action: Action, tail: Option<Tail<'_>>) -> Result<(), Failure> {
        let cx = self.context(action, false);
        step(Phase::Forward, &cx, || self.first_pass(action, &cx, tail))
    }

    fn first_pass(&self, action: Action, cx: &Context, tail: Option<Tail<'_>>) -> Result<(), String> {
        let Action { stage, micro_batch, .. } = action;
        let slot = &self.network.stages[stage];
        let checkpointed = self.recomputes(micro_batch);
        let _stream = self.network.streams.enter(stage).map_err(|error| error.to_string())?;
        self.save_buffers(stage, slot).map_err(|error| error.to_string())?;

        let buffers = if checkpointed && self.training { copies(&lock(&slot.buffers)) } else { Ok(Vec::new()) };
        let buffers = buffers.map_err(|error| error.to_string())?;
        let mut kept = Vec::new();
        let mut receive = |port: usize| {
            let parcel = self.in_transit.take(port, micro_batch).expect("a value is sent before it is received");
            self.transit[port].fall();
            let parcel = self.arrive(stage, port, parcel);
            if checkpointed {
                kept.push(Kept { port, parcel: parcel.share() });
            }
            parcel
        };
        let recording = match self.gradients {
            true if checkpointed => Recording::Nothing,
            true => Recording::Graph,
            // There is nothing to record, but a layer may differentiate inside as far as the caller's mode lets it.
            false if self.grad_mode => Recording::LayersOwn,
            false => Recording::Nothing,
        };
        let wanted = if checkpointed { Wanted::Perhaps } else { Wanted::No };
        let (sent, recorded) = run_stage(slot, cx, &mut receive, recording, wanted, tail)?;

        let ready = self.network.streams.mark(stage).map_err(|error| error.to_string())?;
        for (port, mut parcel) in sent {
            parcel.ready.clone_from(&ready);
            *self.in_transit.at(port, micro_batch) = Some(parcel);
            self.transit[port].rise();
        }
        if self.gradients {
            self.kept[stage].rise();
        }
        *self.held.at(stage, micro_batch) =
            Held { recorded, start: checkpointed.then_some(Start { inputs: kept, buffers }) };
        Ok(())
    }

    /// The second pass of a checkpointed micro-batch, which leaves the graph for its backward. With `keep`, a third one can follow.
    pub(super) fn recompute(&self, action: Action, keep: bool, tail: Option<Tail<'_>>) -> Result<(), Failure> {
        let cx = self.context(action, true);
        step(Phase::Recomputation, &cx, || {
            let _modes = self.modes.enter().map_err(|error| error.to_string())?;
            let _stream = self.network.streams.enter(action.stage).map_err(|error| error.to_string())?;
            let slot = &self.network.stages[action.stage];
            let start = {
                let mut held = self.held.at(action.stage, action.micro_batch);
                let start = if keep { held.start.as_ref().map(Start::share) } else { held.start.take() };
                start.ok_or("its state was freed by an earlier backward")?
            };
            let mut inputs = start.inputs.into_iter();
            let mut receive = |port: usize| {
                let kept = inputs.next().expect("a recomputation receives what the first pass received");
                if kept.parcel.items.iter().any(Item::is_changed) {
                    give_up(
                        "an input of the stage was modified by an in-place operation after its first pass, so the stage cannot be \
                         recomputed: let its first layer work on a copy, or use checkpoint = never",
                    );
                }
                assert_eq!(kept.port, port, "a recomputation receives in the order of the first pass");
                kept.parcel
            };
            let _buffers = RestoredBuffers::load(slot, &start.buffers).map_err(|error| error.to_string())?;
            let (_, recorded) = run_stage(slot, &cx, &mut receive, Recording::Graph, Wanted::No, tail)?;
            self.held.at(action.stage, action.micro_batch).recorded = recorded;
            Ok(())
        })
    }

    /// The steps of the call's backward, where that is asked for later.
    pub(super) fn backward_order(&self) -> Result<Arc<Order>> {
        Ok(Arc::clone(&self.network.orders(self.micro_batches, self.training)?.backward))
    }

    /// Prepares a thread for the call's forward.
    pub(super) fn enter(&self) -> Result<Box<dyn Any>> {
        Ok(Box::new((self.modes.enter()?, self.network.threads.enter())))
    }

    /// Before a stage's first micro-batch: what its buffers are, for the case that the call fails.
    fn save_buffers(&self, stage: usize, slot: &StageSlot) -> Result<()> {
        let mut saved = lock(&self.saved_buffers[stage]);
        if self.training && saved.is_none() {
            *saved = Some(copies(&lock(&slot.buffers))?);
        }
        Ok(())
    }

    /// After the call has succeeded as a whole: there is nothing to put back any more.
    pub(crate) fn keep_buffers(&self) {
        for saved in &self.saved_buffers {
            *lock(saved) = None;
        }
    }

    /// After a failure, also of what follows the call: every statistic as it was before the call.
    pub(crate) fn restore_buffers(&self) -> Result<()> {
        for (stage, (slot, saved)) in self.network.stages.iter().zip(&self.saved_buffers).enumerate() {
            if let Some(saved) = lock(saved).take() {
                let _stream = self.network.streams.enter(stage)?;
                write_back(&lock(&slot.buffers), &saved)?;
            }
        }
        Ok(self.network.streams.join()?)
    }
}

/// What autograd does while a stage runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Recording {
    /// Nothing.
    Nothing,
    /// What layers ask for inside; the stage has no graph.
    LayersOwn,
    /// The stage's graph.
    Graph,
}

/// Runs a stage on one micro-batch: on its random streams, recording its graph or nothing at all.
fn run_stage(
    slot: &StageSlot,
    cx: &Context,
    receive: &mut dyn FnMut(usize) -> Parcel,
    recording: Recording,
    wanted: Wanted,
    tail: Option<Tail<'_>>,
) -> Result<(Vec<Sent>, Option<Recorded>), String> {
    let body = lock(&slot.body);
    let body = body.as_ref().ok_or("the model was taken out of the pipeline")?;
    let _grad = GradMode::set(recording != Recording::Nothing);
    let mut io = Io::new(receive, recording == Recording::Graph);
    {
        let _streams = RandomStreams::enter().map_err(|error| error.to_string())?;
        body.run(&mut io, cx);
        if let Some(tail) = tail {
            io.end(cx, tail);
        }
    }
    Ok(io.finish(wanted))
}

impl Start {
    fn share(&self) -> Self {
        let share = |kept: &Kept| Kept { port: kept.port, parcel: kept.parcel.share() };
        Self {
            inputs: self.inputs.iter().map(share).collect(),
            buffers: self.buffers.iter().map(Tensor::shallow_clone).collect(),
        }
    }
}

/// A stage's buffers as they were at some time, for a recomputation; they are put back when dropped, as the first passes have left them.
struct RestoredBuffers<'a> {
    slot: &'a StageSlot,
    saved: Vec<Tensor>,
}

impl<'a> RestoredBuffers<'a> {
    fn load(slot: &'a StageSlot, then: &[Tensor]) -> Result<Self> {
        let buffers = lock(&slot.buffers);
        let saved = if then.is_empty() { Vec::new() } else { copies(&buffers)? };
        let restored = Self { slot, saved };
        write_back(&buffers, then)?;
        Ok(restored)
    }
}

impl Drop for RestoredBuffers<'_> {
    fn drop(&mut self) {
        // Copying between tensors of equal shape and device fails only where libtorch itself is broken.
        let _ = write_back(&lock(&self.slot.buffers), &self.saved);
    }
}

fn copies(buffers: &[Tensor]) -> Result<Vec<Tensor>> {
    let _constant = GradMode::set(false);
    let copy = |buffer: &Tensor| {
        let mut copy = buffer.f_empty_like()?;
        copy.f_copy_(buffer)?;
        Ok(copy)
    };
    Ok(buffers.iter().map(copy).collect::<Result<_, tch::TchError>>()?)
}

fn write_back(buffers: &[Tensor], saved: &[Tensor]) -> Result<()> {
    let _constant = GradMode::set(false);
    for (buffer, saved) in buffers.iter().zip(saved) {
        // Through `data`: the graphs that saved the buffer must not take this for a change.
        buffer.f_data()?.f_copy_(saved)?;
    }
    Ok(())
}
