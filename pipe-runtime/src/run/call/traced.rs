use std::any::Any;
use std::sync::{Arc, Mutex};

use pipe_engine::{Job, Link, Local};
use pipe_schedule::{Action, ActionKind, Order, TracedStep};
use tch::{Device, Tensor};

use super::forward::Call;
use crate::error::{Error, Result};
use crate::flow::{PackedTensor, PackedValue};
use crate::lock::lock;
use crate::run::recorder::Recording;
use crate::run::remote::RemoteCall;
use crate::torch::{ByHolder, Holder, Meter, MeteredStep, Metering, Observation, synchronize};

impl Call {
    /// Runs a job of this call, and records it if the pipeline is traced.
    pub(super) fn run_job(
        self: &Arc<Self>,
        job: Arc<dyn Job<Error = Error>>,
        local: Option<Local<'_, Error>>,
    ) -> Result<()> {
        let _ends = self.gradients.then(|| self.parameters.install()).transpose()?;
        let Some(recording) = self.pipeline.recorder.current() else { return self.pipeline.run(job, local) };
        let traced = Arc::new(TracedJob::new(Arc::clone(self), job, recording)?);
        match local {
            None => self.pipeline.run(traced.clone(), None)?,
            Some(Local { rank, perform }) => {
                let mut timed = |action| traced.time(action, || perform(action));
                self.pipeline.run(traced.clone(), Some(Local { rank, perform: &mut timed }))?;
            }
        }
        traced.finish();
        Ok(())
    }
}

/// Wraps a job and times its steps.
struct TracedJob {
    job: Arc<dyn Job<Error = Error>>,
    call: Arc<Call>,
    recording: Arc<Recording>,
    /// An empty tensor on each stage's device, used to synchronize with that device.
    on: Vec<Mutex<Tensor>>,
    steps: Mutex<Vec<TracedStep>>,
}

/// A step whose memory is counted.
struct CountedStep {
    /// What was held at its start.
    before: Metering,
    _metered: MeteredStep,
}

impl TracedJob {
    fn new(call: Arc<Call>, job: Arc<dyn Job<Error = Error>>, recording: Arc<Recording>) -> Result<Self> {
        // The two halves of a call have one meter.
        if call.meter.get().is_none() {
            let _ = call.meter.set(Arc::new(Meter::new(call.pipeline.rank_of())?));
        }
        let empty = |device| Tensor::f_empty([0], (tch::Kind::Float, device)).map(Mutex::new);
        let on = call.pipeline.stages.iter().map(|slot| empty(slot.device)).collect::<Result<_, _>>()?;
        Ok(Self { steps: Mutex::new(Vec::with_capacity(job.order().steps.len())), job, call, recording, on })
    }

    fn time<T>(&self, action: Action, perform: impl FnOnce() -> T) -> T {
        let stage = action.stage;
        if action.kind == ActionKind::Forward {
            self.note_given(action);
        }
        let observation = self.observe(action);
        let counted = self.meter(action);
        let start = self.now(stage);
        let result = perform();
        let end = self.now(stage);
        if let Some(counted) = counted {
            self.measure(action, counted);
        }
        if let Some(kept) = observation.and_then(|observation| observation.kept(1).ok()) {
            *lock(self.recording.activation(stage)) = Some(kept[0].bytes.unsigned_abs());
        }
        let (rank, thread) = (self.call.pipeline.rank_of()[stage], self.recording.thread());
        lock(&self.steps).push(TracedStep { action, rank, thread, start, end });
        result
    }

    /// Starts to count the memory that the step allocates. Only the CPU's allocator reports to the
    /// meter.
    fn meter(&self, Action { kind, stage, .. }: Action) -> Option<CountedStep> {
        let meter = self.call.meter.get()?;
        if self.call.pipeline.stages[stage].device != Device::Cpu {
            return None;
        }
        let holder = if kind.is_backward() { Holder::Working } else { Holder::Saved };
        let metered = meter.enter(stage, holder).ok()?;
        Some(CountedStep { before: meter.read(stage).ok()?, _metered: metered })
    }

    /// Records what the step has done to the memory of its rank.
    fn measure(&self, Action { kind, stage, micro_batch }: Action, counted: CountedStep) {
        let Some(after) = self.call.meter.get().and_then(|meter| meter.read(stage).ok()) else { return };
        let (before, peak) = (counted.before.now, after.peak_of_step);
        let after = after.now;
        let of = |bytes: &ByHolder, holder: Holder| bytes[holder as usize];
        // What graphs hold, and what holds still when the step has ended.
        let graphs = |bytes| of(bytes, Holder::Saved) + of(bytes, Holder::Working);
        let own = |bytes| graphs(bytes) + of(bytes, Holder::Input) + of(bytes, Holder::Gradient);
        let mut sizes = lock(self.recording.sizes(stage));
        sizes.metered = true;
        let raise = |most: &mut f64, bytes: i64| *most = most.max(bytes as f64);
        if !kind.is_backward() {
            match kind {
                ActionKind::Recompute => raise(&mut sizes.remade, graphs(&after) - graphs(&before)),
                _ if self.call.recomputes(stage, micro_batch) => {
                    raise(&mut sizes.inputs, own(&after) - own(&before));
                    return;
                }
                _ => {}
            }
            raise(&mut sizes.forward_working, peak - own(&after));
            return;
        }
        let released = graphs(&before) - graphs(&after);
        let inputs = of(&before, Holder::Input) - of(&after, Holder::Input);
        match kind {
            // Of a stage that is not recomputed, recomputed layers keep inputs.
            ActionKind::Backward if !self.call.recomputes(stage, micro_batch) => {
                raise(&mut sizes.released, released + inputs);
            }
            ActionKind::Backward => raise(&mut sizes.released, released),
            ActionKind::BackwardInput => {
                let released = released as f64;
                sizes.released_by_input = sizes.released_by_input.map(|most| most.max(released)).or(Some(released));
            }
            // Until then, kept inputs are a part of the graph.
            _ => raise(&mut sizes.released_by_weight, released + inputs),
        }
        let grown = of(&after, Holder::Gradient) - of(&before, Holder::Gradient);
        let working = match kind {
            ActionKind::BackwardWeight => &mut sizes.weight_working,
            ActionKind::BackwardInput => &mut sizes.input_working,
            _ => &mut sizes.backward_working,
        };
        raise(working, peak - own(&before) - grown);
    }

    /// The time after the stage's device has done its queued work. The step itself reports an error
    /// of the device.
    fn now(&self, stage: usize) -> f64 {
        let _ = synchronize(&lock(&self.on[stage]));
        self.recording.now()
    }

    /// Records the size of the value that the stage is about to receive.
    fn note_given(&self, Action { stage, micro_batch, .. }: Action) {
        for (port, route) in self.call.pipeline.routes.iter().enumerate() {
            if route.to == Some(stage) {
                let value = self.call.in_transit.at(port, micro_batch);
                self.recording.carries(
                    port,
                    bytes(value.as_ref(), |_| true),
                    bytes(value.as_ref(), |item| item.needs_gradient),
                );
                let tensors = value.iter().flat_map(|value| &value.tensors).map(|item| &item.tensor);
                // What comes from another process is there for this stage alone.
                let is_local = self.call.elsewhere(route.from).is_none();
                if let Some(meter) = self.call.meter.get().filter(|_| is_local) {
                    self.recording.waits(port, tensors.map(|tensor| meter.under_way(tensor)).sum());
                }
            }
        }
    }

    /// Observes the allocations of the step, if it records a graph and no other step of its stage
    /// was observed. If the user already observes this thread, there is no observation.
    fn observe(&self, Action { kind, stage, micro_batch }: Action) -> Option<Observation> {
        let makes_graph = match kind {
            ActionKind::Forward => self.call.gradients && !self.call.recomputes(stage, micro_batch),
            ActionKind::Recompute => true,
            _ => false,
        };
        if !makes_graph || lock(self.recording.activation(stage)).is_some() {
            return None;
        }
        let observation = Observation::start(&lock(&self.on[stage])).ok()?;
        observation.turn_to(Some(0));
        Some(observation)
    }

    fn finish(&self) {
        if let Some(meter) = self.call.meter.get() {
            self.recording.held(meter, &self.call.pipeline);
        }
        let steps = std::mem::take(&mut *lock(&self.steps));
        let number = self.call.remote.as_ref().map(RemoteCall::number);
        let stages = self.call.pipeline.stages.len();
        let run = Recording::run(self.job.order(), stages, self.call.micro_batches, steps);
        // Over processes, it counts once all have succeeded.
        match number {
            Some(number) => *lock(&self.call.traced) = Some((Arc::clone(&self.recording), number, run)),
            None => self.recording.ran(None, run),
        }
    }
}

/// The bytes of those tensors of a value that `counts`.
fn bytes(value: Option<&PackedValue>, counts: fn(&PackedTensor) -> bool) -> u64 {
    let bytes = |item: &PackedTensor| (item.tensor.numel() * item.tensor.kind().elt_size_in_bytes()) as u64;
    value.map_or(0, |value| value.tensors.iter().filter(|item| counts(item)).map(bytes).sum())
}

impl Job for TracedJob {
    type Error = Error;

    fn order(&self) -> &Order {
        self.job.order()
    }

    fn perform(&self, action: Action) -> Result<()> {
        self.time(action, || self.job.perform(action))
    }

    fn undo(&self) -> Result<()> {
        self.job.undo()
    }

    fn enter(&self) -> Result<Box<dyn Any>> {
        self.job.enter()
    }

    fn link(&self) -> Option<&dyn Link<Error>> {
        self.job.link()
    }
}
