use std::any::Any;
use std::sync::{Arc, Mutex};

use pipe_engine::{Job, Link, Local};
use pipe_schedule::{Action, ActionKind, Order, TracedStep};
use tch::Tensor;

use super::forward::Call;
use crate::error::{Error, Result};
use crate::flow::{PackedTensor, PackedValue};
use crate::lock::lock;
use crate::run::recorder::Recording;
use crate::run::remote::RemoteCall;
use crate::torch::{Observation, synchronize};

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

impl TracedJob {
    fn new(call: Arc<Call>, job: Arc<dyn Job<Error = Error>>, recording: Arc<Recording>) -> Result<Self> {
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
        let start = self.now(stage);
        let result = perform();
        let end = self.now(stage);
        if let Some(kept) = observation.and_then(|observation| observation.kept(1).ok()) {
            *lock(self.recording.activation(stage)) = Some(kept[0].bytes.unsigned_abs());
        }
        let (rank, thread) = (self.call.pipeline.rank_of()[stage], self.recording.thread());
        lock(&self.steps).push(TracedStep { action, rank, thread, start, end });
        result
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
                self.recording.carries(port, bytes(self.call.in_transit.at(port, micro_batch).as_ref()));
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

fn bytes(value: Option<&PackedValue>) -> u64 {
    let bytes = |item: &PackedTensor| (item.tensor.numel() * item.tensor.kind().elt_size_in_bytes()) as u64;
    value.map_or(0, |value| value.tensors.iter().map(bytes).sum())
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
