use std::any::Any;
use std::sync::Arc;

use pipe_engine::{Job, Local};
use pipe_schedule::{Action, Kind, Order};
use tch::Tensor;

use super::backward::BackwardRun;
use super::forward::Call;
use super::io::{LOSS, Tail};
use crate::flow::Parcel;
use crate::network::Network;
use crate::torch::Parameters;
use crate::{Context, Error, Failure, Result};

/// A training step: forwards and backwards in the order of any schedule.
pub(crate) struct TrainRun {
    call: Arc<Call>,
    backward: BackwardRun,
    order: Arc<Order>,
}

/// What a training step leaves.
pub(crate) struct Trained {
    /// The output, micro-batch by micro-batch, as constants; nothing if it is not wanted.
    pub(crate) outputs: Vec<Parcel>,
    /// By stage: of how many micro-batches something was kept for the backward at once.
    pub(crate) kept: Vec<usize>,
    /// By port: how many values lay between its stages at once.
    pub(crate) transit: Vec<usize>,
    run: Arc<TrainRun>,
    parameters: Arc<Parameters>,
}

impl TrainRun {
    /// Runs a step over the micro-batches `inputs`. `loss` makes each one's loss of its output, on the calling thread; `weights` says how much each counts in the
    /// mini-batch's. With `keep`, the output is wanted too.
    pub(crate) fn run(
        network: &Arc<Network>,
        inputs: Vec<Parcel>,
        training: bool,
        parameters: &[Tensor],
        weights: &[f64],
        loss: &mut dyn FnMut(Parcel, &Context) -> Tensor,
        keep: bool,
    ) -> Result<Trained> {
        let order = network.train_order(inputs.len(), training)?;
        let call = Arc::new(Call::new(network, inputs, training, true)?);
        let parameters = Arc::new(Parameters::new(parameters, network.fuse_gradient_accumulation)?);
        let backward = BackwardRun::new(Arc::clone(&call), Arc::clone(&order), false, Arc::clone(&parameters))?;
        let run = Arc::new(Self { call: Arc::clone(&call), backward, order });

        let (_, output) = network.ends();
        let last = network.stages.len() - 1;
        let mut loss_and_seed = |parcel: Parcel, cx: &Context| {
            let loss = loss(parcel, cx);
            // Without weight there is no gradient, also where the loss is not a number: a mean over nothing.
            let weight = weights[cx.micro_batch()];
            if weight != 0. && !cx.is_recomputing() {
                let seed = loss.detach().full_like(weight);
                run.backward.gradients.at(output, cx.micro_batch()).push((LOSS, seed));
            }
            loss
        };
        let mut perform = |action: Action| {
            let tail = (action.stage == last).then_some(Tail { port: output, loss: &mut loss_and_seed, keep });
            Ok(run.perform_with(action, tail)?)
        };
        let local = Local { rank: network.last_rank(), perform: &mut perform };
        call.run_job(run.clone(), Some(local))?;
        Ok(Trained {
            outputs: if keep { call.take_outputs()? } else { Vec::new() },
            kept: call.kept.iter().map(|gauge| gauge.peak()).collect(),
            transit: call.transit.iter().map(|gauge| gauge.peak()).collect(),
            run,
            parameters,
        })
    }

    /// Performs a step; a forward or recomputation of the last stage ends in `tail`.
    fn perform_with(&self, action: Action, tail: Option<Tail<'_>>) -> Result<(), Failure> {
        match action.kind {
            Kind::Forward => self.call.forward(action, tail),
            Kind::Recompute => self.call.recompute(action, false, tail),
            _ => self.backward.perform_backward(action),
        }
    }
}

impl Trained {
    /// Adds the gradients to the parameters' own. If the step fails as a whole after it has run, [`undo`](Self::undo) is called in its place.
    pub(crate) fn commit(&self) -> Result<()> {
        self.run.backward.take_sums()?.commit(&self.parameters)?;
        self.run.call.keep_buffers();
        Ok(())
    }

    /// Puts the statistics back.
    pub(crate) fn undo(&self) -> Result<()> {
        self.run.call.restore_buffers()
    }
}

impl Job for TrainRun {
    type Error = Error;

    fn order(&self) -> &Order {
        &self.order
    }

    fn perform(&self, action: Action) -> Result<()> {
        Ok(self.perform_with(action, None)?)
    }

    fn undo(&self) -> Result<()> {
        self.call.restore_buffers()
    }

    fn enter(&self) -> Result<Box<dyn Any>> {
        self.call.enter()
    }
}
