use std::ops::Deref;
use std::sync::Arc;

use crate::error::Result;
use crate::flow::{Flow, IntoFlow, MiniBatch, PackedValue};
use crate::lock::lock;
use crate::model::{Checkpoint, Plan};
use crate::run::{BuiltPipeline, PipelineCore, ScheduleChoice};
use crate::stages::{Layers, Pipeline};

/// A model that runs as a pipeline.
///
/// ```no_run
/// # use pipe_runtime::{Pipe, Pipeline};
/// # use tch::{Tensor, nn, nn::OptimizerConfig};
/// # fn example<M: Pipeline<Input = Tensor, Output = Tensor>>(
/// #     mut pipe: Pipe<M>,
/// #     vars: &pipe_runtime::Vars,
/// #     batches: Vec<(Tensor, Tensor)>,
/// #     test: &Tensor,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// let mut optimizer = nn::Adam::default().build(vars.var_store(), 1e-3)?;
/// for (x, y) in &batches {
///     pipe.train_step(x, y, |output, y: &Tensor| output.cross_entropy_for_logits(y))?;
///     optimizer.step();
///     optimizer.zero_grad();
/// }
/// let logits = pipe.predict(test)?;
/// let model: M = pipe.into_inner(); // whole again
/// # Ok(())
/// # }
/// ```
///
/// It starts in training mode. Fields marked `#[not_a_layer]` can be read through it.
pub struct Pipe<M: Pipeline> {
    pub(super) core: PipelineCore,
    pub(super) plain: M::Plain,
}

impl<M: Pipeline> Pipe<M> {
    /// The plan: which layer runs in which stage, and where skips go.
    pub const PLAN: Plan = M::PLAN;

    /// Runs a mini-batch through the stages, in micro-batches, and returns the joined output.
    ///
    /// The output carries autograd as the plain model's would: `backward()` on anything computed
    /// from it runs the pipelined backward. Nothing is kept where no gradient can be asked for
    /// (under [`tch::no_grad`], or if nothing requires one).
    ///
    /// ```no_run
    /// # use pipe_runtime::{Pipe, Pipeline};
    /// # use tch::Tensor;
    /// # fn example<M: Pipeline<Input = Tensor, Output = Tensor>>(
    /// #     mut pipe: Pipe<M>, x: &Tensor, y: &Tensor,
    /// # ) -> pipe_runtime::Result<()> {
    /// let output = pipe.forward(x)?;
    /// let loss = (output - y).square().mean(tch::Kind::Float); // over the whole batch
    /// loss.backward(); // adds to the gradients of the variables
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Fails if the inputs cannot be split, if the outputs cannot be joined, or if a layer fails:
    /// then with the first [`Failure`](crate::Failure) in the schedule's order. Parameters,
    /// gradients and statistics are unchanged, and the pipeline can be used again.
    pub fn forward(&mut self, inputs: impl IntoFlow<M::Input>) -> Result<M::Output> {
        let mut forwarded =
            self.core.forward("forward", &PackedValue::of(inputs.into_flow()), true, &mut |_, _| Ok(()))?;
        let joined = M::Output::join(PackedValue::unpack_all(forwarded.take_outputs()), &forwarded.shape);
        forwarded.end(joined.is_ok())?;
        joined
    }

    /// Returns the output for `inputs` in evaluation mode, and keeps nothing for a backward.
    /// Afterwards, the pipeline's mode and tch's grad mode are what they were before. It works with
    /// every schedule.
    ///
    /// # Errors
    ///
    /// Fails in the same cases as [`forward`](Pipe::forward).
    pub fn predict(&mut self, inputs: impl IntoFlow<M::Input>) -> Result<M::Output> {
        self.evaluating(|pipe| {
            let _no_grad = tch::no_grad_guard();
            pipe.forward(inputs)
        })
    }

    /// Does what [`predict`](Self::predict) does, and leaves the output in the process that runs
    /// the last stage: the others get `None`, and nothing is sent to them. So an output may also
    /// have parts that cannot go to another process. Without other processes, this one gets it.
    ///
    /// # Errors
    ///
    /// Fails in the same cases as [`forward`](Pipe::forward).
    pub fn predict_on_last(&mut self, inputs: impl IntoFlow<M::Input>) -> Result<Option<M::Output>> {
        self.evaluating(|pipe| {
            let _no_grad = tch::no_grad_guard();
            let batch = PackedValue::of(inputs.into_flow());
            let mut joined = None;
            let mut join = |outputs: &[PackedValue], shape: &MiniBatch| {
                let outputs = outputs.iter().map(PackedValue::share).collect();
                joined = Some(M::Output::join(PackedValue::unpack_all(outputs), shape)?);
                Ok(())
            };
            pipe.core.forward("predict_on_last", &batch, false, &mut join)?.end(true)?;
            Ok(joined)
        })
    }

    /// Runs `evaluate` in [evaluation mode](Pipe::eval). Afterwards, the mode is what it was
    /// before, even after an error or a panic.
    ///
    /// Grad mode is not changed. [`predict`](Pipe::predict) also switches that off.
    pub fn evaluating<T>(&mut self, evaluate: impl FnOnce(&mut Self) -> T) -> T {
        /// Restores the mode when dropped.
        struct Evaluation<'p, M: Pipeline> {
            pipe: &'p mut Pipe<M>,
            was_training: bool,
        }
        impl<M: Pipeline> Drop for Evaluation<'_, M> {
            fn drop(&mut self) {
                self.pipe.core.training = self.was_training;
            }
        }
        let was_training = self.is_training();
        self.eval();
        let guard = Evaluation { pipe: self, was_training };
        evaluate(&mut *guard.pipe)
    }

    pub(super) fn built(&self) -> &Arc<BuiltPipeline> {
        &self.core.pipeline
    }

    /// Sets training mode: dropout is on, batch norm uses the batch's statistics and updates the
    /// running ones, and checkpointing applies.
    pub fn train(&mut self) {
        self.core.training = true;
    }

    /// Sets evaluation mode: dropout is off, and batch norm uses the running statistics.
    pub fn eval(&mut self) {
        self.core.training = false;
    }

    /// Returns whether the pipeline is in training mode.
    pub fn is_training(&self) -> bool {
        self.core.training
    }

    /// Returns the greatest number of micro-batches that a mini-batch is split into.
    pub fn chunks(&self) -> usize {
        self.core.chunks
    }

    /// The schedule of training steps.
    pub fn schedule(&self) -> &ScheduleChoice {
        &self.built().schedule
    }

    /// Returns which micro-batches are checkpointed.
    pub fn checkpoint(&self) -> Checkpoint {
        self.built().checkpoint
    }

    /// Returns the model. Graphs of earlier calls that need to recompute a stage fail from now on.
    ///
    /// Over several processes, the layers of the other processes have no memory in it: save the
    /// variables, and load them into a model of one process.
    pub fn into_inner(self) -> M {
        let stages = self.built().stages.iter().map(|slot| lock(&slot.body).take());
        let stages = stages.collect::<Option<Vec<_>>>().expect("only this handle takes the stages out");
        M::assemble(&mut Layers::new(stages), self.plain)
    }
}

impl<M: Pipeline> Deref for Pipe<M> {
    type Target = M::Plain;

    fn deref(&self) -> &M::Plain {
        &self.plain
    }
}

impl<M: Pipeline> std::fmt::Debug for Pipe<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipe")
            .field("model", &M::PLAN.name)
            .field("stages", &self.built().stages.len())
            .field("chunks", &self.chunks())
            .field("checkpoint", &self.checkpoint())
            .field("training", &self.is_training())
            .finish_non_exhaustive()
    }
}
