use super::handle::Pipe;
use crate::error::Result;
use crate::model::{CheapOutputs, Checkpoint, Vars};
use crate::run::{Choices, IntoSchedule, PipelineCore};
use crate::stages::{Graph, Pipeline};
use crate::torch::Offload;

/// The settings of a pipeline that is about to be built. Settings that are not made are those of
/// the annotations.
///
/// ```no_run
/// # use pipe_runtime::{Checkpoint, PipeBuilder, Pipeline, ScheduleKind};
/// # fn example<M: Pipeline>(builder: PipeBuilder<'_, M>) -> pipe_runtime::Result<()> {
/// // `net.pipe(&vars)` makes the builder.
/// let builder = builder.chunks(8).checkpoint(Checkpoint::Never);
/// let pipe = builder.schedule(ScheduleKind::OneFOneB).build()?;
/// assert_eq!(pipe.chunks(), 8);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct PipeBuilder<'v, M> {
    model: M,
    vars: &'v Vars,
    choices: Choices,
}

impl<'v, M: Pipeline> PipeBuilder<'v, M> {
    #[doc(hidden)]
    pub fn new(model: M, vars: &'v Vars) -> Self {
        Self { model, vars, choices: Choices::new() }
    }

    /// Sets the greatest number of micro-batches that a mini-batch is split into. `None` is the
    /// annotated number, or 1 if there is none.
    pub fn chunks(mut self, chunks: impl Into<Option<usize>>) -> Self {
        self.choices.chunks = chunks.into();
        self
    }

    /// Sets which micro-batches are checkpointed. `None` is the annotated mode, or all but the last
    /// if there is none.
    pub fn checkpoint(mut self, checkpoint: impl Into<Option<Checkpoint>>) -> Self {
        self.choices.checkpoint = checkpoint.into();
        self
    }

    /// Sets the schedule of [`Pipe::train_step`]: a [`ScheduleKind`](crate::ScheduleKind), or a
    /// custom [`Schedule`](pipe_schedule::Schedule). `None` is the annotated schedule, or GPipe's
    /// if there is none. [`Pipe::forward`] with `backward()` works in GPipe's order only: a
    /// pipeline that is built for another schedule refuses it where gradients are recorded.
    ///
    /// A custom schedule has a number of micro-batches, which is the default of
    /// [`chunks`](Self::chunks). For a mini-batch with fewer of them, the actions of the others are
    /// left out. The schedule may place the stages on any ranks that the devices allow.
    /// Recomputations that it lacks are put right before their backwards.
    pub fn schedule(mut self, schedule: impl IntoSchedule) -> Self {
        self.choices.schedule = schedule.into_choice();
        self
    }

    /// Sets the number of ranks of a schedule with several stages per rank, if all stages are on
    /// the CPU. By default, each rank has two stages, or as many as the schedule needs. On
    /// accelerators, each device is a rank.
    pub fn ranks(mut self, ranks: usize) -> Self {
        self.choices.ranks = Some(ranks);
        self
    }

    /// Sets the number of threads that libtorch uses inside one operator of a stage. The default is
    /// an equal share of the caller's threads ([`tch::get_num_threads`]).
    pub fn intra_op_threads(mut self, threads: usize) -> Self {
        self.choices.intra_op_threads = Some(threads);
        self
    }

    /// Sets whether matrix products add a weight's gradient directly to its sum over the
    /// micro-batches, as Megatron-LM's `gradient_accumulation_fusion` does. Off by default. It
    /// saves a tensor of the weight's size per micro-batch, and the time to write and read it. The
    /// gain grows with the width of the layers, and as micro-batches have fewer rows.
    ///
    /// It applies to the weights of `linear` and to second factors of `matmul` with two dimensions,
    /// as they are or transposed by `tr`, of a real floating type, from a stage's second
    /// micro-batch on. It does not apply to a weight that autocast converts, nor where tensors have
    /// hooks. The gradients differ by rounding from those of the [unpipelined](crate::Unpipelined)
    /// run; without this setting, they are equal to the bit.
    pub fn fuse_gradient_accumulation(mut self, fuse: bool) -> Self {
        self.choices.fuse_gradient_accumulation = fuse;
        self
    }

    /// Sets whether the outputs of operators that take little time are kept for the backward, which
    /// is the default, or made again by it. What the next operator saves of such an output is then
    /// only a note of how to make it. All numbers stay the same, to the bit. It works under every
    /// schedule and checkpoint mode, and beside `#[recompute]`. What layers compute in place is
    /// kept. In the struct, it is `#[pipeline(cheap_outputs = recompute_all)]`.
    ///
    /// ```no_run
    /// # use pipe_runtime::{CheapOutputs, PipeBuilder, Pipeline};
    /// # fn example<M: Pipeline>(builder: PipeBuilder<'_, M>) -> pipe_runtime::Result<()> {
    /// let pipe = builder.cheap_outputs(CheapOutputs::RecomputeAll).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn cheap_outputs(mut self, outputs: CheapOutputs) -> Self {
        self.choices.cheap_outputs = Some(outputs);
        self
    }

    /// Sets which activations are moved to the host's memory between a forward and its backward.
    /// `None`, the default, moves nothing. All numbers stay the same, to the bit. It works under
    /// every schedule, and beside [`cheap_outputs`](Self::cheap_outputs): what is made again is not
    /// moved, and what is kept is.
    ///
    /// When the forward of a micro-batch has ended, the tensors that its graph alone holds are
    /// copied to pinned memory on a stream for copies, and freed on the device. They are copied
    /// back from the start of the action that the rank performs before their backward. So about one
    /// micro-batch of a rank is on its way back, beside the one in use. No thread waits for a copy.
    /// What stays on the device: variables and their views, the caller's input, values that another
    /// stage or a layer still holds, and what was changed in place since it was saved, which is an
    /// error of the backward as always. A graph whose backward is the rank's next action stays, and
    /// so does one that is recomputed. In evaluation mode and under `no_grad`, nothing is kept and
    /// nothing moves.
    ///
    /// Stages on the CPU are not affected: their tensors are in the host's memory already. What is
    /// gained on GPUs is not measured. Traces, balances and advice count what is moved as kept.
    ///
    /// ```no_run
    /// # use pipe_runtime::{Offload, PipeBuilder, Pipeline};
    /// # fn example<M: Pipeline>(builder: PipeBuilder<'_, M>) -> pipe_runtime::Result<()> {
    /// let pipe = builder.offload(Offload::at_least(1 << 20)).build()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`build`](Self::build) fails if [`Offload::stages`] names a stage that does not exist or is
    /// on the CPU. A step fails if the host has no pinned memory left.
    pub fn offload(mut self, offload: impl Into<Option<Offload>>) -> Self {
        self.choices.offload = offload.into();
        self
    }

    /// Sets whether a step may leave numbers that are not finite. Off by default: then a training
    /// step whose loss is infinite or NaN fails, and so does a call in training mode whose layers
    /// make a finite variable (running statistics) infinite or NaN. All changes are undone. Switch
    /// it on for a loss scaler that skips such steps itself. On an accelerator, the check reads
    /// back one flag per call.
    pub fn allow_non_finite(mut self, allow: bool) -> Self {
        self.choices.allow_non_finite = allow;
        self
    }

    /// Splits the model into stages and starts the threads that run them.
    ///
    /// # Errors
    ///
    /// Fails if a setting is out of range, if the schedule is not valid or does not fit the model,
    /// if repeated layers do not fit their devices, or if a thread cannot be started.
    pub fn build(self) -> Result<Pipe<M>> {
        let mut graph = Graph::new();
        let plain = self.model.disassemble(&mut graph)?;
        Ok(Pipe { core: PipelineCore::new(graph, self.vars, self.choices, M::DEFAULTS)?, plain })
    }
}
