use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::str::FromStr;
use std::time::{Duration, Instant};

use tch::Tensor;

use super::optimizer::{Optimizer, Update};
use crate::error::{Error, Result};
use crate::flow::{Flow, IntoFlow};
use crate::optim::LossScaler;
use crate::pipe::{Pipe, StepReport, TrainStep};
use crate::stages::Pipeline;
use crate::torch::{random_state, set_random_state};

/// A pipeline with its optimizer: one call for a whole training iteration, and all the state that a
/// training needs to go on after an interruption.
///
/// ```no_run
/// # use pipe_runtime::{Checkpoints, Pipe, Pipeline, Trainer};
/// # use tch::Tensor;
/// use pipe_runtime::optim::AdamW;
///
/// # fn example<M: Pipeline<Input = Tensor, Output = Tensor>>(
/// #     pipe: Pipe<M>, batches: Vec<(Tensor, Tensor)>,
/// # ) -> pipe_runtime::Result<()> {
/// let optimizer = pipe.optimizer(AdamW::default()).clip_norm(1.).build()?;
/// let mut trainer = Trainer::new(pipe, optimizer)?;
/// let mut checkpoints = Checkpoints::in_folder("checkpoints").keep(2);
/// checkpoints.resume(&mut trainer)?;
/// for (x, y) in batches.iter().skip(trainer.steps() as usize) {
///     let report = trainer.step(x, y, |output, y: &Tensor| output.cross_entropy_for_logits(y))?;
///     println!("{report}");
///     if trainer.steps() % 1000 == 0 {
///         checkpoints.save(&trainer)?;
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// A [`step`](Self::step) is these calls, with some care for what fails in between:
///
/// ```no_run
/// # use pipe_runtime::{Optimizer, Pipe, Pipeline, optim::LossScaler};
/// # use tch::Tensor;
/// # fn example<M: Pipeline<Input = Tensor, Output = Tensor>>(
/// #     mut pipe: Pipe<M>,
/// #     mut optimizer: Optimizer,
/// #     mut scaler: LossScaler,
/// #     x: &Tensor,
/// #     y: &Tensor,
/// # ) -> pipe_runtime::Result<()> {
/// # let loss = |output: &Tensor, y: &Tensor| output.cross_entropy_for_logits(y);
/// let step = pipe.step().gradient_scale(scaler.scale());
/// let report = step.run(x, y, loss)?;
/// let update = optimizer.step_scaled(&mut scaler)?; // without loss scaling: `optimizer.step()`
/// optimizer.zero_grad()?;
/// # Ok(())
/// # }
/// ```
pub struct Trainer<M: Pipeline> {
    pub(super) pipe: Pipe<M>,
    pub(super) optimizer: Optimizer,
    pub(super) scaler: Option<LossScaler>,
    /// The number of steps whose gradients make one update.
    accumulate: usize,
    /// The number of steps since the last update.
    pub(super) accumulated: usize,
    pub(super) steps: u64,
    pub(super) values: BTreeMap<String, String>,
}

/// What one iteration did.
#[derive(Debug)]
#[non_exhaustive]
pub struct IterationReport<O = ()> {
    /// The forward and the backward.
    pub step: StepReport<O>,
    /// The update; `None` for a step whose gradients wait for those of later steps.
    pub update: Option<Update>,
    /// The loss scale of the step; 1 without loss scaling.
    pub loss_scale: f64,
    /// The time of the forward and the backward.
    pub step_time: Duration,
    /// The time of the update: the gradients' norm, clipping, the optimizer. On accelerators, the
    /// end of it is queued.
    pub update_time: Duration,
}

impl<M: Pipeline> Trainer<M> {
    /// Puts a pipeline and its optimizer together.
    ///
    /// # Errors
    ///
    /// Fails if the optimizer was made for another pipeline.
    pub fn new(pipe: Pipe<M>, optimizer: Optimizer) -> Result<Self> {
        if !optimizer.is_of(pipe.built()) {
            return Err(Error::Setting(
                "the optimizer is one of another pipeline: make it by `pipe.optimizer(..)`".into(),
            ));
        }
        let values = BTreeMap::new();
        Ok(Self { pipe, optimizer, scaler: None, accumulate: 1, accumulated: 0, steps: 0, values })
    }

    /// Scales the loss, for half precision. An update whose gradients are infinite or NaN is then
    /// skipped. A loss that is itself infinite or NaN still fails, unless the pipeline was built
    /// with [`allow_non_finite`](crate::PipeBuilder::allow_non_finite).
    ///
    /// # Errors
    ///
    /// Fails if a setting of the scaler is out of range.
    pub fn loss_scaling(mut self, scaler: LossScaler) -> Result<Self> {
        scaler.check()?;
        self.scaler = Some(scaler);
        Ok(self)
    }

    /// Updates the parameters after every `steps` steps, by the mean of their gradients.
    ///
    /// # Errors
    ///
    /// Fails if `steps` is 0.
    pub fn accumulate(mut self, steps: usize) -> Result<Self> {
        if steps == 0 {
            return Err(Error::Setting("an update takes the gradients of at least 1 step".into()));
        }
        self.accumulate = steps;
        Ok(self)
    }

    /// Runs an iteration: forward, loss and backward as [`Pipe::train_step`]; then, unless
    /// gradients are to be [accumulated](Self::accumulate), their norm, clipping and the update.
    ///
    /// # Errors
    ///
    /// Fails in the same cases as [`Pipe::train_step`] and [`Optimizer::step`]. After a failed
    /// iteration or a skipped update, parameters, the optimizer's state, its counters and the
    /// caller's random number generator are what they were before. If the forward or the backward
    /// failed, so are running statistics and the gradients of earlier steps. If the update failed
    /// or was skipped, all gradients are dropped, and running statistics keep the step's changes.
    /// If libtorch fails while it writes to parameters or gradients, the error says what is lost.
    pub fn step<T: Flow>(
        &mut self,
        inputs: impl IntoFlow<M::Input>,
        targets: impl IntoFlow<T>,
        loss: impl FnMut(&M::Output, &T) -> Tensor,
    ) -> Result<IterationReport> {
        self.step_by(|step| step.run(inputs, targets, loss))
    }

    /// Runs an iteration with options: `run` gets the prepared training step, sets its options, and
    /// runs it.
    ///
    /// ```no_run
    /// # use pipe_runtime::{Pipeline, Reduction, Trainer};
    /// # use tch::Tensor;
    /// # fn example<M: Pipeline<Input = Tensor, Output = Tensor>>(
    /// #     mut trainer: Trainer<M>, x: &Tensor, y: &Tensor,
    /// # ) -> pipe_runtime::Result<()> {
    /// # let squares = |output: &Tensor, y: &Tensor| (output - y).square().sum(tch::Kind::Float);
    /// let report = trainer.step_by(|step| {
    ///     step.reduction(Reduction::Sum).keep_output().run(x, y, squares)
    /// })?;
    /// println!("{:?}", report.step.output.size());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Fails in the same cases as [`step`](Self::step).
    pub fn step_by<T: Flow, O>(
        &mut self,
        run: impl FnOnce(TrainStep<'_, M, T>) -> Result<StepReport<O>>,
    ) -> Result<IterationReport<O>> {
        let loss_scale = self.scaler.map_or(1., |scaler| scaler.scale());
        let random = random_state()?;
        let begin = Instant::now();
        let had_gradients = self.accumulated > 0 && self.optimizer.has_gradients();
        let step = run(self.pipe.step().gradient_scale(loss_scale / self.accumulate as f64));
        // An error after which the gradients of earlier steps are gone says so. A process whose
        // stages are frozen had none.
        if step.is_err() && had_gradients && !self.optimizer.has_gradients() {
            self.accumulated = 0;
        }
        let step = step?;
        let step_time = begin.elapsed();

        let begin = Instant::now();
        let last = self.accumulated + 1 == self.accumulate;
        let update = last.then(|| self.update(&random)).transpose()?;
        self.accumulated = if last { 0 } else { self.accumulated + 1 };
        self.steps += 1;
        Ok(IterationReport { step, update, loss_scale, step_time, update_time: begin.elapsed() })
    }

    fn update(&mut self, random: &Tensor) -> Result<Update> {
        let update = match &mut self.scaler {
            None => self.optimizer.step(),
            Some(scaler) => self.optimizer.step_scaled(scaler),
        };
        if update.as_ref().map_or(true, |update| update.skipped) {
            set_random_state(random)?;
        }
        if update.is_err() {
            self.accumulated = 0;
        }
        self.optimizer.zero_grad()?;
        update
    }

    /// Returns the number of steps that were made, those with a skipped update too. It is the
    /// number of mini-batches that were used.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Returns the pipeline, to evaluate with.
    pub fn pipe(&mut self) -> &mut Pipe<M> {
        &mut self.pipe
    }

    /// Returns the optimizer.
    pub fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    /// Returns the loss scaler, if the loss is scaled.
    pub fn scaler(&self) -> Option<&LossScaler> {
        self.scaler.as_ref()
    }

    /// Runs `evaluate` with the moving averages of the parameters in the model, in evaluation mode
    /// and without gradients.
    ///
    /// # Errors
    ///
    /// Fails if `evaluate` fails, or if the optimizer keeps no
    /// [moving average](crate::OptimizerBuilder::moving_average).
    pub fn with_average<T>(&mut self, evaluate: impl FnOnce(&mut Pipe<M>) -> Result<T>) -> Result<T> {
        if self.optimizer.is_swapped() {
            // An earlier evaluation could not put the parameters back.
            self.optimizer.swap_average()?;
        }
        self.optimizer.swap_average()?;
        let _no_grad = tch::no_grad_guard();
        // A panic of the user's goes on once the parameters are back.
        let result = catch_unwind(AssertUnwindSafe(|| self.pipe.evaluating(evaluate)));
        // The evaluation may have freed what lacked. If not, training is refused until it is there.
        self.optimizer.swap_average().or_else(|_| self.optimizer.swap_average())?;
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Sets a value of the user's own, which [`Checkpoints`](crate::Checkpoints) save and restore:
    /// an epoch, the best accuracy so far, a position in the data.
    pub fn set_value(&mut self, name: impl Into<String>, value: impl fmt::Display) {
        self.values.insert(name.into(), value.to_string());
    }

    /// Returns a value that [`set_value`](Self::set_value) has set, in this run or in the one whose
    /// checkpoint was resumed; `None` if there is none of this name. Floats come back to the bit.
    ///
    /// # Errors
    ///
    /// Fails if the value is not a `T`.
    pub fn value<T: FromStr>(&self, name: &str) -> Result<Option<T>> {
        let parse = |text: &String| {
            text.parse().map_err(|_| {
                Error::Setting(format!("the value `{name}` is {text:?}, which is not a {}", std::any::type_name::<T>()))
            })
        };
        self.values.get(name).map(parse).transpose()
    }

    /// Returns the pipeline and the optimizer.
    pub fn into_parts(self) -> (Pipe<M>, Optimizer) {
        (self.pipe, self.optimizer)
    }
}

impl<O> fmt::Display for IterationReport<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let loss = self.step.loss.f_double_value(&[]).map_err(|_| fmt::Error)?;
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        write!(f, "loss {loss:.6}")?;
        if let Some(Update { norm, lr, skipped, .. }) = self.update {
            write!(f, ", gradient norm {norm:.4}, learning rate {lr:.3e}")?;
            if skipped {
                write!(f, ", update skipped at a loss scale of {}", self.loss_scale)?;
            }
        }
        write!(f, ", {:.1} + {:.1} ms", milliseconds(self.step_time), milliseconds(self.update_time))
    }
}

impl<M: Pipeline> fmt::Debug for Trainer<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trainer")
            .field("pipe", &self.pipe)
            .field("optimizer", &self.optimizer)
            .field("scaler", &self.scaler)
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}
