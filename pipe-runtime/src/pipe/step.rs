//! Training steps under any schedule.

use std::fmt;

use tch::{Device, Kind, Tensor};

use super::handle::Pipe;
use super::step_report::{StepReport, stage_reports};
use crate::error::{Error, Result};
use crate::flow::{Flow, IntoFlow, MiniBatch, PackedValue, Scattered, scatter_targets};
use crate::lock::give_up;
use crate::model::Context;
use crate::run::{Given, Loss, TrainRun, check_targets, loss_is_not_finite};
use crate::stages::Pipeline;
use crate::torch::{GradMode, grad_enabled, is_finite};

/// How the losses of the micro-batches make up the loss of the mini-batch.
///
/// ```no_run
/// # use pipe_runtime::{Pipe, Pipeline, Reduction};
/// # use tch::{Kind, Tensor};
/// # fn step<M: Pipeline<Input = Tensor, Output = Tensor>>(
/// #     mut pipe: Pipe<M>, x: &Tensor, labels: &Tensor,
/// # ) -> pipe_runtime::Result<()> {
/// // A mean over the rows whose label is not -100, which the loss ignores.
/// let counted = |y: &Tensor| y.ne(-100).sum(Kind::Int64).int64_value(&[]) as f64;
/// let loss = |logits: &Tensor, y: &Tensor| logits.cross_entropy_for_logits(y);
/// let report = pipe.step().reduction(Reduction::Weighted(&counted)).run(x, labels, loss)?;
/// # Ok(())
/// # }
/// ```
pub enum Reduction<'a, T> {
    /// The sum, for a loss that is a sum over rows.
    Sum,
    /// The mean weighted by the micro-batches' numbers of rows, for a loss that is a mean over
    /// rows.
    MeanRows,
    /// The mean weighted by what this function returns for each micro-batch's targets, for a loss
    /// that is a mean over something other than all rows, such as those that are not ignored.
    Weighted(&'a dyn Fn(&T) -> f64),
}

impl<T> Clone for Reduction<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Reduction<'_, T> {}

impl<M: Pipeline> Pipe<M> {
    /// Runs a training step: forward, loss and backward, in the order of the pipeline's schedule.
    ///
    /// `loss` takes the output and the targets of one micro-batch, and returns a scalar: the mean
    /// over the rows. It runs on the calling thread and may borrow. For another reduction, or to
    /// keep the output, use [`step`](Self::step). `targets` are on the last stage's device, and are
    /// split as the inputs are.
    ///
    /// Gradients are added to the parameters' own, so they accumulate over steps until they are
    /// zeroed. `optimizer.step()` comes next.
    ///
    /// `loss` is called once for each micro-batch, even where stages are recomputed, and may change
    /// what it captures. It sees the rows of one micro-batch. A loss that compares all rows of the
    /// mini-batch with each other (a contrastive loss) needs [`forward`](Self::forward) and
    /// `backward()`.
    ///
    /// A micro-batch's output is freed as soon as its loss is made. The output's gradient, which
    /// has the same size, is kept until the last stage's backward. Under 1F1B that backward comes
    /// right after, so the memory of a step does not grow with the number of micro-batches.
    ///
    /// ```no_run
    /// # use pipe_runtime::{Pipe, Pipeline};
    /// # use tch::{Tensor, nn};
    /// # fn step<M: Pipeline<Input = Tensor, Output = Tensor>>(
    /// #     mut pipe: Pipe<M>, x: &Tensor, y: &Tensor, mut optimizer: nn::Optimizer,
    /// # ) -> pipe_runtime::Result<()> {
    /// let loss = |output: &Tensor, y: &Tensor| output.mse_loss(y, tch::Reduction::Mean);
    /// let report = pipe.train_step(x, y, loss)?;
    /// optimizer.step();
    /// optimizer.zero_grad();
    /// println!("{}", report.loss);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the errors of [`forward`](Self::forward), except the one about the schedule. It also
    /// returns
    ///
    /// * [`Error::Setting`] under [`tch::no_grad`];
    /// * [`Error::Input`] if an input requires a gradient, or if the targets do not have the
    ///   inputs' rows or are not on the last stage's device;
    /// * [`Error::Output`] if no micro-batch's loss carries a gradient, or if a loss on an
    ///   accelerator is not finite;
    /// * [`Error::Failed`] if `loss` panics, or returns more than one number, or (on the CPU) one
    ///   that is not finite.
    ///
    /// After an error, parameters, gradients and statistics are as they were before the step.
    pub fn train_step<T: Flow>(
        &mut self,
        inputs: impl IntoFlow<M::Input>,
        targets: impl IntoFlow<T>,
        loss: impl FnMut(&M::Output, &T) -> Tensor,
    ) -> Result<StepReport> {
        self.step().run(inputs, targets, loss)
    }

    /// Prepares a training step with options: the reduction of the loss, and whether the output is
    /// kept.
    ///
    /// ```no_run
    /// # use pipe_runtime::{Pipe, Pipeline, Reduction};
    /// # use tch::Tensor;
    /// # fn step<M: Pipeline<Input = Tensor, Output = Tensor>>(
    /// #     mut pipe: Pipe<M>, x: &Tensor, y: &Tensor,
    /// # ) -> pipe_runtime::Result<()> {
    /// let squares = |output: &Tensor, y: &Tensor| (output - y).square().sum(tch::Kind::Float);
    /// let report = pipe.step().reduction(Reduction::Sum).keep_output().run(x, y, squares)?;
    /// println!("{} for {:?}", report.loss, report.output.size());
    /// # Ok(())
    /// # }
    /// ```
    pub fn step<T: Flow>(&mut self) -> TrainStep<'_, M, T> {
        TrainStep { pipe: self, reduction: Reduction::MeanRows, keeps_output: false, join: |_, _| Ok(()) }
    }
}

/// A training step that is about to run, made by [`Pipe::step`].
///
/// `T` is the type of the targets, and `O` that of the report's output.
#[must_use = "a training step does nothing until `run` is called"]
pub struct TrainStep<'a, M: Pipeline, T, O = ()> {
    pipe: &'a mut Pipe<M>,
    reduction: Reduction<'a, T>,
    keeps_output: bool,
    /// Joins the micro-batches' outputs. There are none unless they are kept.
    join: fn(Vec<M::Output>, &MiniBatch) -> Result<O>,
}

impl<'a, M: Pipeline, T: Flow, O> TrainStep<'a, M, T, O> {
    /// Sets how the losses of the micro-batches make up the loss of the mini-batch. The default is
    /// [`MeanRows`](Reduction::MeanRows).
    pub fn reduction(mut self, reduction: Reduction<'a, T>) -> Self {
        self.reduction = reduction;
        self
    }

    /// Keeps the output: the report has it, joined over the micro-batches. This takes memory for
    /// the output of the whole mini-batch, which for a language model can be more than everything
    /// else.
    pub fn keep_output(self) -> TrainStep<'a, M, T, M::Output> {
        TrainStep { pipe: self.pipe, reduction: self.reduction, keeps_output: true, join: M::Output::join }
    }

    /// Runs the step, as [`Pipe::train_step`] does.
    ///
    /// # Errors
    ///
    /// Fails as [`Pipe::train_step`] does. It also returns [`Error::Input`] if
    /// [`Reduction::Weighted`] gives a negative number, one that is not finite, or only zeros, and
    /// [`Error::Output`] if the output is kept and cannot be joined.
    pub fn run(
        self,
        inputs: impl IntoFlow<M::Input>,
        targets: impl IntoFlow<T>,
        mut loss: impl FnMut(&M::Output, &T) -> Tensor,
    ) -> Result<StepReport<O>> {
        let Self { pipe, reduction, keeps_output, join } = self;
        if !grad_enabled() {
            return Err(Error::Setting("a training step needs gradients: call it outside of `no_grad`".into()));
        }
        let batch = PackedValue::of(inputs.into_flow());
        if batch.tensors.iter().any(|item| item.needs_gradient) {
            return Err(Error::Input(
                "an input of a training step wants a gradient, which the step would not give: detach it, or use `forward` and `backward()`".into(),
            ));
        }
        let Scattered { micro_batches, shape, mut sources } = pipe.core.scatter(&batch)?;
        let targets: Vec<T> = split_targets(&PackedValue::of(targets.into_flow()), pipe.core.last_device(), &shape)?;
        let weights = weights(reduction, &targets, &shape)?;

        let allow_non_finite = pipe.built().allow_non_finite;
        let mut losses: Vec<Option<Tensor>> = targets.iter().map(|_| None).collect();
        let mut make = |value: PackedValue, cx: &Context| {
            cx.layer("loss").enter(|cx| {
                let micro_batch = cx.micro_batch();
                let value = loss(&value.unpack(), &targets[micro_batch]);
                // The closure may have overwritten the caller's tensors, which stages still need:
                // their parts must count that change.
                sources.tell_parts().unwrap_or_else(|error| give_up(error.to_string()));
                check_loss(&value, micro_batch, allow_non_finite || weights[micro_batch] == 0.)
                    .unwrap_or_else(|words| give_up(words));
                // A copy, because some of libtorch's losses are one number in a storage as large as
                // the output.
                losses[micro_batch] = Some(value.detach().copy());
                value
            })
        };
        let given = Given {
            inputs: micro_batches,
            training: pipe.is_training(),
            gradients: true,
            parameters: pipe.core.parameters()?,
        };
        let loss = Loss { make: &mut make, weights: &weights, keeps_output };
        let trained = TrainRun::run(pipe.built(), given, loss);
        sources.note_changes()?;
        let trained = trained?;

        pipe.built().streams.used_here(losses.iter().flatten())?;
        let _constant = GradMode::set(false);
        let report = || {
            let counted = losses.iter().enumerate().filter(|&(micro_batch, _)| weights[micro_batch] != 0.);
            let counted = counted.filter_map(|(micro_batch, loss)| Some((micro_batch, loss.as_ref()?.shallow_clone())));
            trained.check_accelerators(&counted.collect::<Vec<_>>())?;
            let outputs = trained.outputs.iter().map(PackedValue::share).collect();
            let scalar = |loss: Tensor| loss.f_reshape([0_i64; 0]);
            let losses = losses.into_iter().flatten().map(scalar).collect::<Result<Vec<_>, _>>()?;
            Ok(StepReport {
                loss: total(&losses, &weights)?,
                losses,
                output: join(PackedValue::unpack_all(outputs), &shape)?,
                stages: stage_reports(&pipe.built().routes, &trained.in_flight, &trained.transit),
            })
        };
        // The gradients come last, so that a failure before this leaves none.
        let report = report().and_then(|report| trained.commit().map(|()| report));
        if report.is_err() {
            trained.undo()?;
        }
        report
    }
}

impl<M: Pipeline, T, O> fmt::Debug for TrainStep<'_, M, T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrainStep")
            .field("pipe", &self.pipe)
            .field("keeps_output", &self.keeps_output)
            .finish_non_exhaustive()
    }
}

/// Splits the targets by micro-batch. If there is nothing to split in them, each micro-batch gets
/// all of them. They must be on `device`, the last stage's, where the loss is made.
fn split_targets<T: Flow>(targets: &PackedValue, device: Device, shape: &MiniBatch) -> Result<Vec<T>> {
    check_targets(device, targets.tensors.iter().map(|item| item.tensor.device()))?;
    Ok(PackedValue::unpack_all(scatter_targets(targets, shape)?))
}

/// Checks that the loss is one number, and a finite one unless `any_number` is set. A loss on an
/// accelerator is checked for that later.
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

/// Returns the weighted sum. A micro-batch of weight 0 does not count, whatever its loss is (a mean
/// over nothing is NaN).
fn total(losses: &[Tensor], weights: &[f64]) -> Result<Tensor> {
    let mut parts = Vec::with_capacity(losses.len());
    for (loss, &weight) in losses.iter().zip(weights) {
        parts.push(if weight == 0. { loss.f_zeros_like()? } else { loss.f_mul_scalar(weight)? });
    }
    let kind = losses.first().map_or(Kind::Float, Tensor::kind);
    Ok(Tensor::f_stack(&parts, 0)?.f_sum(kind)?)
}
