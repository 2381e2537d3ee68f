use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pipe_engine::{Job, Link, Local, News};
use pipe_schedule::{Action, ActionKind, Order};
use tch::{Kind, Tensor};

use super::backward::BackwardRun;
use super::forward::{Call, Given};
use super::step;
use crate::error::{Error, Failure, Phase, Result};
use crate::flow::PackedValue;
use crate::lock::lock;
use crate::model::Context;
use crate::run::built_pipeline::BuiltPipeline;
use crate::run::remote::Operation;
use crate::torch::{GradMode, LayerRng, StageGraph, Sums, full_like};

/// The name of the loss in errors.
pub(crate) const LOSS: &str = "loss";

/// A training step, which runs forwards and backwards in the order of its schedule.
pub(crate) struct TrainRun {
    call: Arc<Call>,
    backward: BackwardRun,
    order: Arc<Order>,
    /// Whether the loss of any micro-batch with a nonzero weight has a gradient.
    trains: AtomicBool,
}

/// How the loss of a step is computed. `make` runs on the calling thread, once per micro-batch.
pub(crate) struct Loss<'l> {
    /// Computes the loss of a micro-batch from its output.
    pub(crate) make: &'l mut dyn FnMut(PackedValue, &Context) -> Tensor,
    /// For each micro-batch, the weight of its loss in the loss of the mini-batch.
    pub(crate) weights: &'l [f64],
    /// The number by which all gradients are multiplied.
    pub(crate) scale: f64,
    /// Whether the output is kept after the loss is computed.
    pub(crate) keeps_output: bool,
}

/// The result of a training step whose gradients are not committed yet.
pub(crate) struct Trained {
    /// The output of each micro-batch, without gradients; empty if the output is not kept.
    pub(crate) outputs: Vec<PackedValue>,
    /// For each stage, the peak number of micro-batches in flight.
    pub(crate) in_flight: Vec<usize>,
    /// For each port, the peak number of values that were sent and not received yet.
    pub(crate) transit: Vec<usize>,
    run: Arc<TrainRun>,
    /// The sums of the gradients.
    sums: Mutex<Option<Sums>>,
}

impl TrainRun {
    /// Runs a training step on the micro-batches in `given`. If it fails, all changes are undone.
    pub(crate) fn run(pipeline: &Arc<BuiltPipeline>, given: Given, mut loss: Loss<'_>) -> Result<Trained> {
        let order = pipeline.train_order(given.begun.micro_batches, given.training);
        let order = order.or_else(|error| given.begun.draw.undo().map_err(Error::from).and(Err(error)))?;
        let call = Arc::new(Call::new(pipeline, given, &order, &order)?);
        let backward = BackwardRun::new(Arc::clone(&call), Arc::clone(&order), false)?;
        let run = Arc::new(Self { call: Arc::clone(&call), backward, order, trains: AtomicBool::new(false) });

        let last = pipeline.stages.len() - 1;
        let mut perform = |action: Action| {
            run.perform_step(action)?;
            if action.stage == last && action.kind == ActionKind::Forward {
                run.make_loss(action, &mut loss)?;
            }
            Ok(())
        };
        let local = pipeline.has_last().then_some(Local { rank: pipeline.last_rank(), perform: &mut perform });
        let ran = call.run_job(run.clone(), local);
        // A replica may have nothing to train with.
        let counts = loss.weights.iter().any(|&weight| weight != 0.) || !pipeline.has_replicas();
        ran.and_then(|()| run.ended(loss.keeps_output, counts)).or_else(|error| {
            call.undo()?;
            Err(error)
        })
    }

    fn ended(self: Arc<Self>, keeps_output: bool, counts: bool) -> Result<Trained> {
        let call = &self.call;
        if counts && call.pipeline.has_last() && !self.trains.load(Ordering::Relaxed) {
            return Err(Error::Output(
                "the step would train nothing: no micro-batch's loss carries a gradient. Are all variables frozen, or is the output or the loss detached, \
                 made under `no_grad`, or made of integers (an `argmax`)?"
                    .into(),
            ));
        }
        call.parameters.none_is_forgotten()?;
        Ok(Trained {
            outputs: if keeps_output { call.take_outputs()? } else { Vec::new() },
            in_flight: call.in_flight.iter().map(|counter| counter.peak()).collect(),
            transit: call.transit.iter().map(|counter| counter.peak()).collect(),
            sums: Mutex::new(Some(self.backward.take_sums()?)),
            run: self,
        })
    }

    fn perform_step(&self, action: Action) -> Result<(), Failure> {
        match action.kind {
            ActionKind::Forward => self.call.forward(action),
            ActionKind::Recompute => self.call.recompute(action, false),
            _ => self.backward.perform_backward(action),
        }
    }

    /// Runs after the last stage's forward of a micro-batch: computes its loss and, at once, the
    /// gradient of the loss with respect to the output. The graph of the loss is not kept. So the
    /// user's closure and its side effects run once, even if stages are recomputed.
    fn make_loss(&self, action: Action, loss: &mut Loss<'_>) -> Result<(), Failure> {
        let cx = self.call.context(action, false);
        let Some(made) = step(Phase::Forward, &cx, || self.loss_value(action, &cx, loss))? else { return Ok(()) };
        let in_loss = |failure| Failure { layer: LOSS.to_owned(), ..failure };
        step(Phase::Backward, &cx, || self.loss_gradient(action, made)).map_err(in_loss)
    }

    /// Computes the loss. Returns its graph if it contributes a gradient.
    fn loss_value(&self, action: Action, cx: &Context, loss: &mut Loss<'_>) -> Result<Option<LossGraph>, String> {
        let Action { stage, micro_batch, .. } = action;
        let words = |error: crate::torch::TorchError| error.to_string();
        let pipeline = &self.call.pipeline;
        let (_, port) = pipeline.ends();
        let _stream = pipeline.streams.enter(stage).map_err(words)?;
        let value = self.call.in_transit.take(port, micro_batch).ok_or("the last stage sent no output")?;
        let mut output = value.share();
        if loss.keeps_output {
            *self.call.in_transit.at(port, micro_batch) = Some(value);
        }

        let pass = self.call.watch(stage).map_err(|error| error.to_string())?;
        let mut graph = StageGraph::new(stage).map_err(words)?;
        let mut received = Vec::new();
        for (position, item) in output.tensors.iter_mut().enumerate().filter(|(_, item)| item.needs_gradient) {
            item.tensor = graph.receive(&item.tensor).map_err(words)?;
            received.push(position);
        }
        let (value, carries_gradient) = {
            let _grad = GradMode::set(true);
            let _rng = LayerRng::enter().map_err(words)?;
            let value = (loss.make)(output, cx);
            let (_, carries_gradient) = graph.send(&value).map_err(words)?;
            graph.end().map_err(words)?;
            (value, carries_gradient)
        };
        self.call.end_pass(pass)?;

        // A micro-batch of weight 0 contributes no gradient. Its loss may be NaN (the mean over no
        // elements), so it must be skipped rather than multiplied by 0.
        let weight = loss.weights[micro_batch];
        if !carries_gradient || weight == 0. {
            return Ok(None);
        }
        let seed = weight * loss.scale;
        if seed.abs() > greatest(value.kind()) {
            return Err(format!(
                "the loss is a {:?}, which cannot hold the scale {seed}: compute the loss in Float (`output.to_kind(Kind::Float)`)",
                value.kind()
            ));
        }
        let seed = full_like(&value.detach(), seed).map_err(|error| error.to_string())?;
        Ok(Some(LossGraph { graph, seed, received }))
    }

    /// Computes the gradient of the output, and adds those of the parameters that the loss uses.
    fn loss_gradient(&self, action: Action, made: LossGraph) -> Result<(), String> {
        let LossGraph { mut graph, seed, received } = made;
        let words = |error: crate::torch::TorchError| error.to_string();
        let Action { stage, micro_batch, .. } = action;
        let pipeline = &self.call.pipeline;
        let (_, port) = pipeline.ends();
        let _stream = pipeline.streams.enter(stage).map_err(words)?;
        let parameters = &self.call.parameters;
        let found =
            self.backward.with_sums(action, |sums, _| graph.backward(&[Some(seed)], false, parameters, sums, false));
        let gradients = received.into_iter().zip(found.map_err(words)?);
        let gradients: Vec<_> = gradients.filter_map(|(position, gradient)| Some((position, gradient?))).collect();
        if !gradients.is_empty() || graph.reaches_parameters() {
            self.trains.store(true, Ordering::Relaxed);
        }
        self.backward.gradients.at(port, micro_batch).extend(gradients);
        let ready = pipeline.streams.mark(stage).map_err(words)?;
        self.backward.ready.at(port, micro_batch).clone_from(&ready);
        Ok(())
    }
}

/// The graph of a loss, and the gradient with which its backward begins.
struct LossGraph {
    graph: StageGraph,
    seed: Tensor,
    /// The tensors of the output that get a gradient, by position.
    received: Vec<usize>,
}

/// The greatest number of a kind.
fn greatest(kind: Kind) -> f64 {
    match kind {
        Kind::Half => 65504.,
        Kind::Double => f64::MAX,
        _ => f64::from(f32::MAX),
    }
}

impl Trained {
    /// Checks that all statistics, and the `losses` that count, on accelerators are finite.
    pub(crate) fn check_accelerators(&self, losses: &[(usize, Tensor)]) -> Result<()> {
        self.run.call.check_accelerators(losses)
    }

    /// Sums the gradients over all replicas, if there are several, and takes the mean of the
    /// statistics that layers have changed.
    pub(crate) fn combine_replicas(&self) -> Result<()> {
        let call = &self.run.call;
        let Some(remote) = call.remote.as_ref().filter(|remote| remote.has_replicas()) else { return Ok(()) };
        let mut sums = lock(&self.sums);
        let sums = sums.as_mut().ok_or(Error::Elsewhere)?;
        let parameters = call.parameters.tensors();
        let own = (0..parameters.len()).map(|index| sums.take(index)).collect::<Result<_, _>>()?;
        let combined = remote.combine(Operation::Sum, own, parameters, call.names_of_trained())?;
        for (index, gradient) in combined.iter().enumerate() {
            gradient.as_ref().map_or(Ok(()), |gradient| sums.put(index, gradient))?;
        }
        call.combine_statistics()
    }

    /// Adds the gradients to those of the parameters. The caller calls this or, if something fails
    /// after the run, [`undo`](Self::undo).
    pub(crate) fn commit(&self) -> Result<()> {
        let sums = lock(&self.sums).take();
        sums.map_or(Ok(()), |sums| sums.commit(&self.run.call.parameters))?;
        self.run.call.keep();
        Ok(())
    }

    /// Restores the state that layers changed during the step.
    pub(crate) fn undo(&self) -> Result<()> {
        self.run.call.undo()
    }
}

impl Job for TrainRun {
    type Error = Error;

    fn order(&self) -> &Order {
        &self.order
    }

    fn perform(&self, action: Action) -> Result<()> {
        Ok(self.perform_step(action)?)
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

impl Link<Error> for TrainRun {
    fn is_remote(&self, rank: usize) -> bool {
        self.call.is_remote(rank)
    }

    fn poll(&self) -> Result<Vec<News>> {
        self.backward.poll()
    }

    fn pause(&self, idle: Duration) {
        pipe_comm::pause(idle);
    }

    fn has_failed(&self, step: usize) {
        self.call.has_failed(step);
    }
}
