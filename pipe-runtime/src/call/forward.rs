use std::any::Any;
use std::sync::{Arc, Mutex};

use pipe_schedule::{Action, Order};
use tch::Tensor;

use super::io::{Io, Recorded, Sent, Wanted};
use super::{Table, give_up, lock, step};
use crate::context::Pass;
use crate::engine::Job;
use crate::flow::{Item, Parcel};
use crate::network::{Network, Orders, StageSlot};
use crate::torch::{GradMode, Modes, RandomStreams, draw_seed};
use crate::{Context, Error, Failure, Phase, Result};

/// One call: what flows between its stages, and what each stage keeps for the backward.
pub(crate) struct Call {
    pub(super) network: Arc<Network>,
    pub(super) orders: Arc<Orders>,
    pub(super) micro_batches: usize,
    training: bool,
    /// Whether gradients are wanted at all.
    gradients: bool,
    seed: u64,
    /// The caller's modes at the time of the call; a recomputation runs under them too.
    modes: Modes,
    /// By port and micro-batch: what was sent and not received yet.
    in_transit: Table<Option<Parcel>>,
    /// By stage and micro-batch.
    pub(super) held: Table<Held>,
    /// By stage: its buffers as they were before the call.
    saved_buffers: Vec<Mutex<Option<Vec<Tensor>>>>,
}

/// What a stage keeps of a micro-batch for its backward.
#[derive(Default)]
pub(super) struct Held {
    /// The graph, of the forward or of a recomputation.
    pub(super) recorded: Option<Recorded>,
    /// What it received, if it is checkpointed.
    inputs: Option<Vec<Kept>>,
}

/// A received value, kept for the recomputation.
struct Kept {
    port: usize,
    parcel: Parcel,
}

impl Call {
    /// Runs the micro-batches `inputs` forward through all stages. With `gradients`, what the backward needs is kept.
    pub(crate) fn run(
        network: &Arc<Network>,
        inputs: Vec<Parcel>,
        training: bool,
        gradients: bool,
    ) -> Result<(Arc<Self>, Vec<Parcel>)> {
        let (input, output) = network.ends();
        let micro_batches = inputs.len();
        let call = Arc::new(Self {
            orders: network.orders(micro_batches, training && gradients)?,
            micro_batches,
            training,
            gradients,
            seed: draw_seed()?,
            modes: Modes::capture()?,
            in_transit: Table::new(network.routes.len(), micro_batches),
            held: Table::new(network.stages.len(), micro_batches),
            saved_buffers: network.stages.iter().map(|_| Mutex::default()).collect(),
            network: Arc::clone(network),
        });
        for (micro_batch, parcel) in inputs.into_iter().enumerate() {
            *call.in_transit.at(input, micro_batch) = Some(parcel);
        }
        let job: Arc<dyn Job> = call.clone();
        let outcome = network.engine.run(job);
        if let Err(error) = outcome {
            call.restore_buffers()?;
            return Err(error);
        }
        let parts = (0..micro_batches).map(|micro_batch| call.in_transit.take(output, micro_batch));
        let outputs =
            parts.collect::<Option<Vec<_>>>().ok_or_else(|| Error::Output("a stage sent no output".into()))?;
        Ok((call, outputs))
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
    fn forward(&self, action: Action, cx: &Context) -> Result<(), String> {
        let Action { stage, micro_batch, .. } = action;
        let slot = &self.network.stages[stage];
        let checkpointed = self.recomputes(micro_batch);
        self.save_buffers(stage, slot).map_err(|error| error.to_string())?;

        let mut kept = Vec::new();
        let mut receive = |port: usize| {
            let parcel = self.in_transit.take(port, micro_batch).expect("a value is sent before it is received");
            if checkpointed {
                kept.push(Kept { port, parcel: parcel.share() });
            }
            parcel
        };
        let record = self.gradients && !checkpointed;
        let wanted = if checkpointed { Wanted::Perhaps } else { Wanted::No };
        let (sent, recorded) = run_stage(slot, cx, &mut receive, record, wanted)?;

        for (port, parcel) in sent {
            *self.in_transit.at(port, micro_batch) = Some(parcel);
        }
        *self.held.at(stage, micro_batch) = Held { recorded, inputs: checkpointed.then_some(kept) };
        Ok(())
    }

    /// The second pass of a checkpointed micro-batch, which leaves the graph for its backward. With `keep`, a third one can follow.
    pub(super) fn recompute(&self, action: Action, keep: bool) -> Result<(), Failure> {
        let cx = self.context(action, true);
        step(Phase::Recomputation, &cx, || {
            let _modes = self.modes.enter().map_err(|error| error.to_string())?;
            let slot = &self.network.stages[action.stage];
            let mut inputs = {
                let mut held = self.held.at(action.stage, action.micro_batch);
                let inputs = if keep { held.inputs.as_ref().map(|inputs| share(inputs)) } else { held.inputs.take() };
                inputs.ok_or("its state was freed by an earlier backward")?.into_iter()
            };
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
            // The first pass has updated running statistics; they stay as it left them.
            let _buffers =
                if self.training { Some(RestoredBuffers::new(slot).map_err(|e| e.to_string())?) } else { None };
            let (_, recorded) = run_stage(slot, &cx, &mut receive, true, Wanted::No)?;
            self.held.at(action.stage, action.micro_batch).recorded = recorded;
            Ok(())
        })
    }

    /// Before a stage's first micro-batch: what its buffers are, for the case that the call fails.
    fn save_buffers(&self, stage: usize, slot: &StageSlot) -> Result<()> {
        let mut saved = lock(&self.saved_buffers[stage]);
        if self.training && saved.is_none() {
            *saved = Some(copies(&lock(&slot.buffers))?);
        }
        Ok(())
    }

    /// After a failure, also of what follows the call: every statistic as it was before the call.
    pub(crate) fn restore_buffers(&self) -> Result<()> {
        for (slot, saved) in self.network.stages.iter().zip(&self.saved_buffers) {
            if let Some(saved) = lock(saved).take() {
                write_back(&lock(&slot.buffers), &saved)?;
            }
        }
        Ok(())
    }
}

impl Job for Call {
    fn order(&self) -> &Order {
        &self.orders.forward
    }

    fn perform(&self, action: Action) -> Result<(), Failure> {
        let cx = self.context(action, false);
        step(Phase::Forward, &cx, || self.forward(action, &cx))
    }

    fn enter(&self) -> Result<Box<dyn Any>> {
        Ok(Box::new((self.modes.enter()?, self.network.threads.enter())))
    }
}

/// Runs a stage on one micro-batch: on its random streams, recording its graph or nothing at all.
fn run_stage(
    slot: &StageSlot,
    cx: &Context,
    receive: &mut dyn FnMut(usize) -> Parcel,
    record: bool,
    wanted: Wanted,
) -> Result<(Vec<Sent>, Option<Recorded>), String> {
    let body = lock(&slot.body);
    let body = body.as_ref().ok_or("the model was taken out of the pipeline")?;
    let _grad = GradMode::set(record);
    let mut io = Io::new(receive, slot.device, record);
    {
        let _streams = RandomStreams::enter().map_err(|error| error.to_string())?;
        body.run(&mut io, cx);
    }
    Ok(io.finish(wanted))
}

fn share(inputs: &[Kept]) -> Vec<Kept> {
    inputs.iter().map(|kept| Kept { port: kept.port, parcel: kept.parcel.share() }).collect()
}

/// Puts a stage's buffers back when dropped.
struct RestoredBuffers<'a> {
    slot: &'a StageSlot,
    saved: Vec<Tensor>,
}

impl<'a> RestoredBuffers<'a> {
    fn new(slot: &'a StageSlot) -> Result<Self> {
        let saved = copies(&lock(&slot.buffers))?;
        Ok(Self { slot, saved })
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
