//! Training steps under any schedule.

use tch::{Device, Kind, Tensor};

use super::handle::Pipe;
use crate::error::{Error, Result};
use crate::flow::{Flow, IntoFlow, MiniBatch, Parcel, Scattered, scatter_targets};
use crate::lock::give_up;
use crate::model::Context;
use crate::run::{Given, Loss, TrainRun, check_targets, loss_is_not_finite};
use crate::stages::{Pipeline, Route};
use crate::torch::{GradMode, grad_enabled, is_finite};

/// How the mini-batch's loss is made of the micro-batches' losses.
#[derive(Clone, Copy)]
pub enum Reduction<'a, T> {
    /// The sum: for a loss that is a sum over rows.
    Sum,
    /// The mean, each micro-batch weighted by its rows: for a loss that is a mean over rows.
    MeanRows,
    /// The mean, each micro-batch weighted by this number, made of its targets: for a loss that is a mean over something else than
    /// rows, such as those that are not ignored.
    Weighted(&'a dyn Fn(&T) -> f64),
}

/// What a training step gives back.
#[derive(Debug)]
pub struct Report<O> {
    /// The mini-batch's loss, a scalar.
    pub loss: Tensor,
    /// The micro-batches' own losses, scalars.
    pub losses: Vec<Tensor>,
    /// The output, joined; a constant. Nothing from [`Pipe::train_loss`].
    pub output: O,
    /// What was held at once, stage by stage.
    pub stages: Vec<StageReport>,
}

/// The most that a stage held at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageReport {
    /// Micro-batches of which activations (or inputs to recompute them from) were kept for the backward.
    pub kept: usize,
    /// Inputs that waited for the stage, the caller's own not counted.
    pub queued: usize,
    /// Skips that waited for it, of the one that had the most.
    pub skips: usize,
}

impl<M: Pipeline> Pipe<M> {
    /// Runs a training step: forward, loss and backward, in the order of the pipeline's schedule. `loss` is given a micro-batch's output and targets and makes a
    /// scalar, the mean over rows; use [`train_step_with`](Self::train_step_with) for another reduction. It runs on the calling thread and may borrow.
    ///
    /// Gradients are added to the parameters' own, so they accumulate over steps until they are
    /// zeroed. `optimizer.step()` comes next.
    ///
    /// `loss` is called once for each micro-batch, whatever is recomputed, and may change what it
    /// captures. It sees the rows of one micro-batch: a loss that compares all rows of the batch
    /// with each other (a contrastive one) belongs into [`forward`](Self::forward) and
    /// `backward()`.
    ///
    /// # Errors
    ///
    /// As [`forward`](Self::forward); besides, if no micro-batch's loss carries a gradient, or
    /// one that counts is not finite. On failure, parameters, gradients and statistics are as
    /// before.
    pub fn train_step<T: Flow>(
        &mut self,
        inputs: impl IntoFlow<M::Input>,
        targets: impl IntoFlow<T>,
        loss: impl FnMut(&M::Output, &T) -> Tensor,
    ) -> Result<Report<M::Output>> {
        self.train_step_with(Reduction::MeanRows, inputs, targets, loss)
    }

    /// As [`train_step`](Self::train_step), with the reduction that fits the loss.
    ///
    /// # Errors
    ///
    /// As [`train_step`](Self::train_step).
    pub fn train_step_with<T: Flow>(
        &mut self,
        reduction: Reduction<'_, T>,
        inputs: impl IntoFlow<M::Input>,
        targets: impl IntoFlow<T>,
        loss: impl FnMut(&M::Output, &T) -> Tensor,
    ) -> Result<Report<M::Output>> {
        self.step(reduction, inputs, targets, loss, true, M::Output::join)
    }

    /// As [`train_step`](Self::train_step), without the output: each micro-batch's is freed as
    /// soon as its loss is made, and its gradient, as large as it is, waits for the last stage's
    /// backward. In 1F1B that comes right after, so what a step holds does not grow with the
    /// number of micro-batches, which the output does (a language model's can be larger than all
    /// else).
    ///
    /// # Errors
    ///
    /// As [`train_step`](Self::train_step).
    pub fn train_loss<T: Flow>(
        &mut self,
        inputs: impl IntoFlow<M::Input>,
        targets: impl IntoFlow<T>,
        loss: impl FnMut(&M::Output, &T) -> Tensor,
    ) -> Result<Report<()>> {
        self.train_loss_with(Reduction::MeanRows, inputs, targets, loss)
    }

    /// As [`train_loss`](Self::train_loss), with the reduction that fits the loss.
    ///
    /// # Errors
    ///
    /// As [`train_step`](Self::train_step).
    pub fn train_loss_with<T: Flow>(
        &mut self,
        reduction: Reduction<'_, T>,
        inputs: impl IntoFlow<M::Input>,
        targets: impl IntoFlow<T>,
        loss: impl FnMut(&M::Output, &T) -> Tensor,
    ) -> Result<Report<()>> {
        self.step(reduction, inputs, targets, loss, false, |_, _: &_| Ok(()))
    }

    /// With `keep`, `join` gets the micro-batches' outputs.
    fn step<T: Flow, O>(
        &mut self,
        reduction: Reduction<'_, T>,
        inputs: impl IntoFlow<M::Input>,
        targets: impl IntoFlow<T>,
        mut loss: impl FnMut(&M::Output, &T) -> Tensor,
        keep: bool,
        join: impl FnOnce(Vec<M::Output>, &MiniBatch) -> Result<O>,
    ) -> Result<Report<O>> {
        if !grad_enabled() {
            return Err(Error::Setting("a training step needs gradients: call it outside of `no_grad`".into()));
        }
        let batch = Parcel::of(inputs.into_flow());
        if batch.items.iter().any(|item| item.needs_gradient) {
            return Err(Error::Input(
                "an input of a training step wants a gradient, which the step would not give: detach it, or use `forward` and `backward()`".into(),
            ));
        }
        let Scattered { micro_batches, shape, mut sources } = self.runner.scatter(&batch)?;
        let targets: Vec<T> = split_targets(&Parcel::of(targets.into_flow()), self.runner.last_device(), &shape)?;
        let weights = weights(reduction, &targets, &shape)?;

        let allow_non_finite = self.network().allow_non_finite;
        let mut losses: Vec<Option<Tensor>> = targets.iter().map(|_| None).collect();
        let mut make = |parcel: Parcel, cx: &Context| {
            cx.layer("loss").enter(|cx| {
                let micro_batch = cx.micro_batch();
                let value = loss(&parcel.open(), &targets[micro_batch]);
                // The closure may have filled the caller's tensors again, which stages still need.
                sources.tell_parts().unwrap_or_else(|error| give_up(error.to_string()));
                check_loss(&value, micro_batch, allow_non_finite || weights[micro_batch] == 0.)
                    .unwrap_or_else(|words| give_up(words));
                // A copy: some of libtorch's losses are one number in memory for as many as the output has.
                losses[micro_batch] = Some(value.detach().copy());
                value
            })
        };
        let given = Given {
            inputs: micro_batches,
            training: self.is_training(),
            gradients: true,
            parameters: self.runner.parameters()?,
        };
        let loss = Loss { make: &mut make, weights: &weights, keeps_output: keep };
        let trained = TrainRun::run(self.network(), given, loss);
        sources.note_changes()?;
        let trained = trained?;

        self.network().streams.used_here(losses.iter().flatten())?;
        let _constant = GradMode::set(false);
        let report = || {
            let counted = losses.iter().enumerate().filter(|&(micro_batch, _)| weights[micro_batch] != 0.);
            let counted = counted.filter_map(|(micro_batch, loss)| Some((micro_batch, loss.as_ref()?.shallow_clone())));
            trained.check_accelerators(&counted.collect::<Vec<_>>())?;
            let outputs = trained.outputs.iter().map(Parcel::share).collect();
            let scalar = |loss: Tensor| loss.f_reshape([0_i64; 0]);
            let losses = losses.into_iter().flatten().map(scalar).collect::<Result<Vec<_>, _>>()?;
            Ok(Report {
                loss: total(&losses, &weights)?,
                losses,
                output: join(Parcel::open_all(outputs), &shape)?,
                stages: stage_reports(&self.network().routes, &trained.kept, &trained.transit),
            })
        };
        // The gradients come last: what fails before leaves none.
        let report = report().and_then(|report| trained.commit().map(|()| report));
        if report.is_err() {
            trained.undo()?;
        }
        report
    }
}

/// What each stage held at once, from the peaks of what it `kept`, by stage, and of what was in
/// `transit`, by route.
fn stage_reports(routes: &[Route], kept: &[usize], transit: &[usize]) -> Vec<StageReport> {
    let report = |(stage, &kept): (usize, &usize)| {
        let most = |is_skip: bool| {
            let into = |route: &Route| route.to == Some(stage) && route.is_skip == is_skip;
            routes.iter().zip(transit).filter(|(route, _)| into(route)).map(|(_, &peak)| peak).max().unwrap_or(0)
        };
        StageReport { kept, queued: most(false), skips: most(true) }
    };
    kept.iter().enumerate().map(report).collect()
}

/// The targets of each micro-batch; without a part to split, all of them for each. They must be on
/// the last stage's `device`, where the loss is made.
fn split_targets<T: Flow>(targets: &Parcel, device: Device, shape: &MiniBatch) -> Result<Vec<T>> {
    check_targets(device, targets.items.iter().map(|item| item.tensor.device()))?;
    Ok(Parcel::open_all(scatter_targets(targets, shape)?))
}

/// Whether the loss is one number, and a finite one unless it need not be (on an accelerator,
/// that is looked at later).
fn check_loss(value: &Tensor, micro_batch: usize, any_number: bool) -> Result<(), String> {
    if value.numel() != 1 {
        return Err(format!(
            "the loss is one number per micro-batch, and this one is a tensor of shape {:?}: reduce it by a sum or a mean",
            value.size()
        ));
    }
    match is_finite(value).map_err(|error| error.to_string())? {
        Some(false) if !any_number => Err(loss_is_not_finite(micro_batch)),
        _ => Ok(()),
    }
}

fn weights<T>(reduction: Reduction<'_, T>, targets: &[T], shape: &MiniBatch) -> Result<Vec<f64>> {
    match reduction {
        Reduction::Sum => Ok(vec![1.; targets.len()]),
        Reduction::MeanRows => Ok(shape.weights()),
        Reduction::Weighted(denominator) => {
            let parts: Vec<f64> = targets.iter().map(denominator).collect();
            let total: f64 = parts.iter().sum();
            if !total.is_finite() || total <= 0. || parts.iter().any(|&part| part < 0.) {
                return Err(Error::Input(format!(
                    "the weights of the micro-batches must be positive numbers or zero, and not all zero: {parts:?}"
                )));
            }
            Ok(parts.into_iter().map(|part| part / total).collect())
        }
    }
}

/// The weighted sum. A micro-batch without weight does not count, whatever its loss is (a mean over nothing is NaN).
fn total(losses: &[Tensor], weights: &[f64]) -> Result<Tensor> {
    let mut parts = Vec::with_capacity(losses.len());
    for (loss, &weight) in losses.iter().zip(weights) {
        parts.push(if weight == 0. { loss.f_zeros_like()? } else { loss.f_mul_scalar(weight)? });
    }
    let kind = losses.first().map_or(Kind::Float, Tensor::kind);
    Ok(Tensor::f_stack(&parts, 0)?.f_sum(kind)?)
}
