use std::ops::Deref;
use std::sync::Arc;

use crate::error::Result;
use crate::flow::{Flow, IntoFlow, PackedValue};
use crate::lock::lock;
use crate::model::{Checkpoint, Plan};
use crate::run::{BuiltPipeline, PipelineCore, ScheduleChoice};
use crate::stages::{Layers, Pipeline};

/// A model that runs as a pipeline.
///
/// It starts in training mode. It dereferences to the fields that are marked `#[not_a_layer]`.
///
/// ```
/// use pipe_runtime::{Devices, pipeline};
/// use tch::{Device, Kind, Tensor, nn};
///
/// #[pipeline(chunks = 4)]
/// struct Net {
///     #[device("cpu")]
///     encode: nn::Linear,
///     #[device("cpu")]
///     decode: nn::Linear,
/// }
///
/// let vars = Net::vars(&Devices::cpu(Net::STAGES))?;
/// let encode = nn::linear(vars.encode(), 16, 4, Default::default());
/// let decode = nn::linear(vars.decode(), 4, 16, Default::default());
/// let mut pipe = Net { encode, decode }.pipe(&vars).build()?;
/// let x = Tensor::rand([8, 16], (Kind::Float, Device::Cpu));
/// let output = pipe.forward(&x)?;
/// assert_eq!(output.size(), [8, 16]);
/// # Ok::<(), pipe_runtime::Error>(())
/// ```
pub struct Pipe<M: Pipeline> {
    pub(super) core: PipelineCore,
    pub(super) plain: M::Plain,
}

impl<M: Pipeline> Pipe<M> {
    /// The plan of the model: which layer runs in which stage, and on which device.
    pub const PLAN: Plan = M::PLAN;

    /// Runs a mini-batch through the stages, micro-batch by micro-batch, and returns the joined
    /// output.
    ///
    /// The call is transparent: the output carries autograd as the plain model's would, and
    /// `backward()` on anything made from it runs the pipelined backward. Where no gradient can be
    /// asked for (under [`tch::no_grad`], or if nothing requires one), nothing is kept for a
    /// backward.
    ///
    /// ```no_run
    /// # use pipe_runtime::{Pipe, Pipeline};
    /// # use tch::Tensor;
    /// # fn forward<M: Pipeline<Input = Tensor, Output = Tensor>>(
    /// #     mut pipe: Pipe<M>, x: &Tensor,
    /// # ) -> pipe_runtime::Result<()> {
    /// let output = pipe.forward(x)?;
    /// output.mean(None).backward();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// * [`Error::Setting`]: gradients are recorded, and the pipeline was built for another
    ///   schedule than GPipe; or the call comes from one of the pipeline's own layers, or from a
    ///   forked process.
    /// * [`Error::Input`]: the inputs cannot be split, or are not on the first stage's device; or a
    ///   layer changes in place an input that requires a gradient.
    /// * [`Error::Output`]: the outputs cannot be joined, or a variable on an accelerator is no
    ///   longer finite.
    /// * [`Error::Failed`]: a layer fails, or makes a variable on the CPU infinite or NaN. Of
    ///   several failures, this is the first in the schedule's order.
    /// * [`Error::Torch`] and [`Error::Tch`]: a call into libtorch fails outside any layer.
    ///
    /// After an error, parameters, gradients and statistics are as they were before the call, and
    /// the pipeline can be used again.
    ///
    /// [`Error::Setting`]: crate::Error::Setting
    /// [`Error::Input`]: crate::Error::Input
    /// [`Error::Output`]: crate::Error::Output
    /// [`Error::Failed`]: crate::Error::Failed
    /// [`Error::Torch`]: crate::Error::Torch
    /// [`Error::Tch`]: crate::Error::Tch
    pub fn forward(&mut self, inputs: impl IntoFlow<M::Input>) -> Result<M::Output> {
        let mut forwarded = self.core.forward(&PackedValue::of(inputs.into_flow()))?;
        let joined = M::Output::join(PackedValue::unpack_all(forwarded.take_outputs()), &forwarded.shape);
        forwarded.end(joined.is_ok())?;
        joined
    }

    pub(super) fn built(&self) -> &Arc<BuiltPipeline> {
        &self.core.pipeline
    }

    /// Switches to training mode: dropout is on, batch norm uses the batch's statistics and updates
    /// the running ones, and checkpointing applies.
    pub fn train(&mut self) {
        self.core.training = true;
    }

    /// Switches to evaluation mode.
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

    /// Returns the order of training steps.
    pub fn schedule(&self) -> &ScheduleChoice {
        &self.built().schedule
    }

    /// Returns which micro-batches are checkpointed.
    pub fn checkpoint(&self) -> Checkpoint {
        self.built().checkpoint
    }

    /// Takes the model back out of the pipeline. From then on, a backward of an earlier call fails
    /// if it has to recompute a stage.
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
            .field("stages", &M::PLAN.stages.len())
            .field("chunks", &self.chunks())
            .field("checkpoint", &self.checkpoint())
            .field("training", &self.is_training())
            .finish_non_exhaustive()
    }
}
