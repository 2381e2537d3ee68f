//! Training steps under any schedule.

use std::fmt;

use tch::{Device, Kind, Tensor};

use super::handle::Pipe;
use super::step_report::{StepReport, stage_reports};
use super::told::Told;
use crate::error::{Error, Result};
use crate::flow::{Flow, IntoFlow, MiniBatch, PackedValue, scatter_targets};
use crate::lock::give_up;
use crate::model::Context;
use crate::run::{Given, LOSS, Loss, Prepared, TrainRun, Trained, check_targets, loss_is_not_finite};
use crate::stages::Pipeline;
use crate::torch::{GradMode, caught, grad_enabled, is_finite, times};

/// How the loss of the mini-batch is computed from the losses of the micro-batches.
///
/// ```no_run
/// # use pipe_runtime::{Pipe, Pipeline, Reduction};
/// # use tch::{Kind, Tensor};
/// # fn example<M: Pipeline<Input = Tensor, Output = Tensor>>(
/// #     mut pipe: Pipe<M>, x: &Tensor, labels: &Tensor,
/// # ) -> pipe_runtime::Result<()> {
/// // `cross_entropy_for_logits` leaves out the rows with the label -100, and is the mean of the
/// // others.
/// let counted = |labels: &Tensor| labels.ne(-100).sum(Kind::Int64).int64_value(&[]) as f64;
/// let loss = |output: &Tensor, labels: &Tensor| output.cross_entropy_for_logits(labels);
/// pipe.step().reduction(Reduction::Weighted(&counted)).run(x, labels, loss)?;
/// # Ok(())
/// # }
/// ```
pub enum Reduction<'a, T> {
    /// The sum, for a loss that is a sum over rows.
    Sum,
    /// The mean, where each micro-batch is weighted by its number of rows: for a loss that is a
    /// mean over rows.
    MeanRows,
    /// The mean, where each micro-batch is weighted by this number, computed from its targets. For
    /// a loss that is a mean over something other than rows, such as the rows that are not ignored.
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
    /// `loss` gets the output and the targets of one micro-batch and returns a scalar, the mean
    /// over its rows. It runs on the calling thread and may borrow from it. For another reduction,
    /// or to keep the output, use [`step`](Self::step).
    ///
    /// ```no_run
    /// # use pipe_runtime::{Pipe, Pipeline};
    /// # use tch::Tensor;
    /// # fn example<M: Pipeline<Input = Tensor, Output = Tensor>>(
    /// #     mut pipe: Pipe<M>, x: &Tensor, y: &Tensor,
    /// # ) -> pipe_runtime::Result<()> {
    /// let loss = |output: &Tensor, y: &Tensor| output.mse_loss(y, tch::Reduction::Mean);
    /// let report = pipe.train_step(x, y, loss)?;
    /// println!("loss {}", f64::try_from(report.loss)?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Gradients are added to those that the parameters already have, so they accumulate over steps
    /// until they are zeroed. Call `optimizer.step()` next.
    ///
    /// `loss` is called once per micro-batch, even if stages are recomputed, and may change what it
    /// captures. It sees the rows of one micro-batch only. For a loss that compares all rows of the
    /// batch with each other (a contrastive loss), use [`forward`](Self::forward) and `backward()`.
    ///
    /// The output of a micro-batch is freed as soon as its loss is computed. Its gradient, which is
    /// as large, waits for the backward of the last stage. In 1F1B that comes right after, so the
    /// memory of a step does not grow with the number of micro-batches.
    ///
    /// # Errors
    ///
    /// Fails in the same cases as [`forward`](Self::forward), if no micro-batch's loss has a
    /// gradient, or if the loss of a micro-batch with a nonzero weight is not finite. After a
    /// failure, parameters, gradients and statistics are unchanged.
    pub fn train_step<T: Flow>(
        &mut self,
        inputs: impl IntoFlow<M::Input>,
        targets: impl IntoFlow<T>,
        loss: impl FnMut(&M::Output, &T) -> Tensor,
    ) -> Result<StepReport> {
        self.step().run(inputs, targets, loss)
    }

    /// Prepares a training step with options: the reduction of the loss, and whether to keep the
    /// output.
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
        TrainStep { pipe: self, reduction: Reduction::MeanRows, scale: 1., keeps: Keeps::Nothing, join: |_, _| Ok(()) }
    }
}

/// Which processes get the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeps {
    Nothing,
    /// The one with the last stage does.
    OnLast,
    /// All do.
    Everywhere,
}

/// A training step that is being prepared. Made by [`Pipe::step`].
///
/// `T` is the type of the targets, `O` the type of the report's output.
#[must_use = "a training step does nothing until `run` is called"]
pub struct TrainStep<'a, M: Pipeline, T, O = ()> {
    pipe: &'a mut Pipe<M>,
    reduction: Reduction<'a, T>,
    scale: f64,
    keeps: Keeps,
    /// Joins the outputs of the micro-batches. There are none unless they are kept here.
    join: fn(Vec<M::Output>, &MiniBatch) -> Result<O>,
}

impl<'a, M: Pipeline, T: Flow, O> TrainStep<'a, M, T, O> {
    /// Sets how the loss of the mini-batch is computed from the losses of the micro-batches;
    /// [`MeanRows`](Reduction::MeanRows) is the default.
    pub fn reduction(mut self, reduction: Reduction<'a, T>) -> Self {
        self.reduction = reduction;
        self
    }

    /// Multiplies the gradients by `scale`, and not the reported loss: for loss scaling, or by
    /// 1 / n to accumulate the gradients of n steps. [`Trainer`](crate::Trainer) does both.
    pub fn gradient_scale(mut self, scale: f64) -> Self {
        self.scale = scale;
        self
    }

    /// Keeps the output: the report has it, joined over the micro-batches. This takes memory for
    /// the whole mini-batch. For a language model, that can be more than everything else.
    pub fn keep_output(self) -> TrainStep<'a, M, T, M::Output> {
        TrainStep {
            pipe: self.pipe,
            reduction: self.reduction,
            scale: self.scale,
            keeps: Keeps::Everywhere,
            join: M::Output::join,
        }
    }

    /// Keeps the output in the process that runs the last stage: the report of the others has
    /// `None`, and nothing is sent to them. Without other processes, this one keeps it.
    pub fn keep_output_on_last(self) -> TrainStep<'a, M, T, Option<M::Output>> {
        TrainStep {
            pipe: self.pipe,
            reduction: self.reduction,
            scale: self.scale,
            keeps: Keeps::OnLast,
            join: |outputs, shape| match outputs.is_empty() {
                true => Ok(None),
                false => M::Output::join(outputs, shape).map(Some),
            },
        }
    }

    /// Runs the step, as [`Pipe::train_step`] does.
    ///
    /// # Errors
    ///
    /// Fails in the same cases as [`Pipe::train_step`], if the output is kept and cannot be joined,
    /// or if the numbers of [`Reduction::Weighted`] are negative, not finite, or all zero.
    pub fn run(
        self,
        inputs: impl IntoFlow<M::Input>,
        targets: impl IntoFlow<T>,
        mut loss: impl FnMut(&M::Output, &T) -> Tensor,
    ) -> Result<StepReport<O>> {
        let Self { pipe, reduction, scale, keeps, join } = self;
        let batch = PackedValue::of(inputs.into_flow());
        let checked = if !(scale.is_finite() && scale != 0.) {
            Err(Error::Setting(format!("gradients are scaled by a finite number other than 0, and not by {scale}")))
        } else if !grad_enabled() {
            Err(Error::Setting("a training step needs gradients: call it outside of `no_grad`".into()))
        } else if pipe.built().has_first() && batch.tensors.iter().any(|item| item.needs_gradient) {
            Err(Error::Input(
                "an input of a training step wants a gradient, which the step would not give: detach it, or use `forward` and `backward()`".into(),
            ))
        } else {
            pipe.core.parameters()
        };
        let mut what = "train_step".to_owned();
        what.push_str(match keeps {
            Keeps::Nothing => "",
            Keeps::OnLast => " that keeps the output on the last process",
            Keeps::Everywhere => " that keeps the output",
        });
        match reduction {
            Reduction::Sum => what.push_str(" with `Reduction::Sum`"),
            Reduction::MeanRows => {}
            Reduction::Weighted(_) => what.push_str(" with `Reduction::Weighted`"),
        }
        if scale.to_bits() != 1_f64.to_bits() {
            what.push_str(&format!(" with gradients times {scale}"));
        }
        let Prepared { micro_batches, shape, mut sources, begun, parameters } =
            pipe.core.begin(&what, &batch, checked)?;
        let number = begun.number;
        // Only the process with the last stage uses targets.
        let targets = match pipe.built().has_last() {
            true => unless_panicked(|| {
                let targets: Vec<T> =
                    split_targets(&PackedValue::of(targets.into_flow()), pipe.core.last_device(), &shape)?;
                Ok((parts(reduction, &targets, &shape)?, targets))
            }),
            false => Ok((Vec::new(), Vec::new())),
        };
        let weighed = match pipe.built().has_replicas() {
            true => {
                // The loss is over the rows of all replicas.
                let own = targets.as_ref().map(|(parts, _)| parts.iter().sum::<f64>());
                let total = pipe.built().agree_on("the weights of a step", own);
                let total = total.or_else(|error| Ok(begun.draw.undo()?).and(Err(error)))?.into_iter().sum();
                targets.and_then(|(parts, targets)| Ok((weights(reduction, parts, total)?, targets)))
            }
            false => targets.and_then(|(parts, targets)| {
                let total = parts.iter().sum();
                Ok((weights(reduction, parts, total)?, targets))
            }),
        };
        let (weights, targets) = match weighed {
            Ok(weighed) => weighed,
            Err(error) => {
                let closed = pipe.built().close::<()>(number, Err(error));
                begun.draw.undo()?;
                return Err(closed.err().unwrap_or(Error::Elsewhere));
            }
        };

        let allow_non_finite = pipe.built().allow_non_finite;
        let mut losses: Vec<Option<Tensor>> = targets.iter().map(|_| None).collect();
        let mut make = |value: PackedValue, cx: &Context| {
            cx.layer(LOSS).enter(|cx| {
                let micro_batch = cx.micro_batch();
                let value = loss(&value.unpack(), &targets[micro_batch]);
                // The closure may have changed the caller's tensors in place, and stages may still
                // need them.
                sources.tell_parts().unwrap_or_else(|error| give_up(error.to_string()));
                check_loss(&value, micro_batch, allow_non_finite || weights[micro_batch] == 0.)
                    .unwrap_or_else(|words| give_up(words));
                // A copy, because some of libtorch's losses are one number in memory that was
                // allocated for the whole output.
                losses[micro_batch] = Some(value.detach().copy());
                value
            })
        };
        let given = Given { inputs: micro_batches, begun, training: pipe.is_training(), gradients: true, parameters };
        let keeps_output = keeps != Keeps::Nothing;
        let loss = Loss { make: &mut make, weights: &weights, scale, keeps_output };
        let trained = TrainRun::run(pipe.built(), given, loss);
        let noted = sources.note_changes();
        let (trained, told) = match trained {
            Ok(trained) => (Some(trained), noted),
            Err(error) => (None, Err(error)),
        };
        let undo = || trained.as_ref().map_or(Ok(()), Trained::undo);

        let _constant = GradMode::set(false);
        // The process with the last stage joins the outputs before all agree that they can be.
        let mut joined = None;
        let told = told.and_then(|()| {
            let trained = trained.as_ref().ok_or(Error::Elsewhere)?;
            pipe.built().streams.used_here(losses.iter().flatten())?;
            let counted = losses.iter().enumerate().filter(|&(micro_batch, _)| weights[micro_batch] != 0.);
            let counted = counted.filter_map(|(micro_batch, loss)| Some((micro_batch, loss.as_ref()?.shallow_clone())));
            trained.check_accelerators(&counted.collect::<Vec<_>>())?;
            if keeps == Keeps::Everywhere {
                pipe.built().can_share(&trained.outputs)?;
            }
            if pipe.built().has_last() {
                let outputs = trained.outputs.iter().map(PackedValue::share).collect();
                joined = Some(join(PackedValue::unpack_all(outputs), &shape)?);
            }
            trained.combine_replicas()?;
            number.map(|_| Told::of(trained, &losses, &weights)).transpose()
        });
        let told: Vec<_> =
            pipe.built().close(number, told).or_else(|error| undo().and(Err(error)))?.into_iter().flatten().collect();
        let report = || {
            let trained = trained.as_ref().ok_or(Error::Elsewhere)?;
            let outputs = trained.outputs.iter().map(PackedValue::share).collect();
            let outputs = match keeps {
                Keeps::Everywhere => pipe.built().share_outputs(number, shape.rows().len(), outputs)?,
                Keeps::Nothing | Keeps::OnLast => outputs,
            };
            let scalar = |loss: Tensor| loss.f_reshape([0_i64; 0]);
            let own = losses.into_iter().flatten().map(scalar).collect::<Result<Vec<_>, _>>()?;
            let has_own = pipe.built().has_last() && !pipe.built().has_replicas();
            let (losses, weights) = match Told::losses(&told, has_own) {
                Some(losses) => losses?,
                None => (own, weights),
            };
            let (in_flight, transit) = Told::peaks(&told, trained);
            Ok(StepReport {
                loss: total(&losses, &weights)?,
                losses,
                output: match joined {
                    Some(joined) => joined,
                    None => join(PackedValue::unpack_all(outputs), &shape)?,
                },
                stages: stage_reports(&pipe.built().routes, &in_flight, &transit),
            })
        };
        // Gradients are committed last, so that an earlier failure leaves none.
        let commit = || trained.as_ref().map_or(Ok(()), Trained::commit);
        let committed = report().and_then(|report| commit().map(|()| report));
        committed.or_else(|error| undo().and(Err(pipe.built().parted(error))))
    }
}

impl<M: Pipeline, T, O> fmt::Debug for TrainStep<'_, M, T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrainStep").field("pipe", &self.pipe).field("keeps", &self.keeps).finish_non_exhaustive()
    }
}

/// Runs code of the user's between two agreements: other processes wait for the second one.
fn unless_panicked<T>(run: impl FnOnce() -> Result<T>) -> Result<T> {
    caught(run).unwrap_or_else(|message| {
        Err(Error::Input(format!("the targets or their weights cannot be computed: {message}")))
    })
}

/// Splits the targets into micro-batches; targets without a part to split go whole to each. They
/// must be on the last stage's `device`, where the loss is computed.
fn split_targets<T: Flow>(targets: &PackedValue, device: Device, shape: &MiniBatch) -> Result<Vec<T>> {
    check_targets(device, targets.tensors.iter().map(|item| item.tensor.device()))?;
    Ok(PackedValue::unpack_all(scatter_targets(targets, shape)?))
}

/// Checks that the loss is one number and, unless `any_number`, that it is finite. On an
/// accelerator, the second check happens later.
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

/// What the weights of the micro-batches' losses are proportional to.
fn parts<T>(reduction: Reduction<'_, T>, targets: &[T], shape: &MiniBatch) -> Result<Vec<f64>> {
    match reduction {
        Reduction::Sum => Ok(vec![1.; targets.len()]),
        Reduction::MeanRows => Ok(shape.rows().iter().map(|&rows| rows as f64).collect()),
        Reduction::Weighted(denominator) => {
            let parts: Vec<f64> = targets.iter().map(denominator).collect();
            match parts.iter().all(|&part| part >= 0.) {
                true => Ok(parts),
                false => Err(wrong_weights(&parts)),
            }
        }
    }
}

/// The weights of the micro-batches' losses; `total` is the sum of all parts.
fn weights<T>(reduction: Reduction<'_, T>, parts: Vec<f64>, total: f64) -> Result<Vec<f64>> {
    match reduction {
        Reduction::Sum => Ok(parts),
        // The last stage is in another process.
        _ if parts.is_empty() => Ok(parts),
        // An empty mini-batch.
        Reduction::MeanRows if total == 0. => Ok(vec![1. / parts.len() as f64; parts.len()]),
        Reduction::Weighted(_) if !total.is_finite() || total <= 0. => Err(wrong_weights(&parts)),
        _ => Ok(parts.into_iter().map(|part| part / total).collect()),
    }
}

fn wrong_weights(parts: &[f64]) -> Error {
    Error::Input(format!(
        "the weights of the micro-batches must be positive numbers or zero, and not all zero: {parts:?}"
    ))
}

/// Computes the weighted sum. A micro-batch of weight 0 does not count, even if its loss is NaN
/// (the mean over no elements).
fn total(losses: &[Tensor], weights: &[f64]) -> Result<Tensor> {
    let mut parts = Vec::with_capacity(losses.len());
    for (loss, &weight) in losses.iter().zip(weights) {
        parts.push(if weight == 0. { loss.f_zeros_like()? } else { times(loss, weight)? });
    }
    let kind = losses.first().map_or(Kind::Float, Tensor::kind);
    Ok(Tensor::f_stack(&parts, 0)?.f_sum(kind)?)
}
