use super::handle::Pipe;
use crate::error::Result;
use crate::model::{Checkpoint, Vars};
use crate::run::{Choices, IntoSchedule, PipelineCore};
use crate::stages::{Graph, Pipeline};

/// Settings of a pipeline that is about to be built; those left out are the annotated ones.
///
/// ```no_run
/// # use pipe_runtime::{Checkpoint, PipeBuilder, Pipeline, ScheduleKind};
/// # fn example<M: Pipeline>(builder: PipeBuilder<'_, M>) -> pipe_runtime::Result<()> {
/// // `net.pipe(&vars)` makes the builder.
/// let pipe = builder.chunks(8).checkpoint(Checkpoint::Never).schedule(ScheduleKind::OneFOneB).build()?;
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

    /// The greatest number of micro-batches that a mini-batch is split into; `None` for the
    /// annotated number, or 1 if none is.
    pub fn chunks(mut self, chunks: impl Into<Option<usize>>) -> Self {
        self.choices.chunks = chunks.into();
        self
    }

    /// Which micro-batches are checkpointed; `None` for the annotated mode, or all but the last if
    /// none is.
    pub fn checkpoint(mut self, checkpoint: impl Into<Option<Checkpoint>>) -> Self {
        self.choices.checkpoint = checkpoint.into();
        self
    }

    /// The order in which [`Pipe::train_step`] works: a [`ScheduleKind`](crate::ScheduleKind), or a
    /// custom [`Schedule`](pipe_schedule::Schedule); `None` for the annotated one, or GPipe's if
    /// none is. [`Pipe::forward`] and `backward()` are for GPipe's order: a pipeline
    /// that is built for another schedule refuses them where gradients are recorded.
    ///
    /// A custom schedule is for its number of micro-batches, which [`chunks`](Self::chunks)
    /// then is if it is not set; a mini-batch that gives fewer goes through it without the
    /// others' actions. It may place the stages on any ranks that the devices allow.
    /// What recomputations it leaves out are put right before their backwards.
    pub fn schedule(mut self, schedule: impl IntoSchedule) -> Self {
        self.choices.schedule = schedule.into_choice();
        self
    }

    /// Over how many ranks a schedule with several stages per rank loops, where all stages are on
    /// the CPU; by default, each rank has two (or as many as the schedule wants). On accelerators,
    /// a rank is a device.
    pub fn ranks(mut self, ranks: usize) -> Self {
        self.choices.ranks = Some(ranks);
        self
    }

    /// How many threads libtorch uses inside one operator of a stage. An equal share of the
    /// caller's ([`tch::get_num_threads`]) if not set.
    pub fn intra_op_threads(mut self, threads: usize) -> Self {
        self.choices.intra_op_threads = Some(threads);
        self
    }

    /// Whether matrix products add a weight's gradient straight to its sum over the micro-batches,
    /// as Megatron-LM's `gradient_accumulation_fusion` does; off by default. It saves a tensor of
    /// the weight's size per micro-batch, and the time to write and read it: the wider the layers
    /// and the fewer rows a micro-batch has, the more.
    ///
    /// It is for the weights of `linear` and second factors of `matmul` with two dimensions, as
    /// they are or transposed by `tr`, of a real floating type, from a stage's second micro-batch
    /// on. A weight that autocast converts is added up as without this, and so are all where
    /// tensors have hooks. Their gradients then differ from those of the
    /// [unpipelined](crate::Unpipelined) run by rounding, where otherwise they are equal to the
    /// bit.
    pub fn fuse_gradient_accumulation(mut self, fuse: bool) -> Self {
        self.choices.fuse_gradient_accumulation = fuse;
        self
    }

    /// Whether a step may leave numbers that are not finite; off by default. A training step
    /// whose loss is infinite or NaN fails then, and so does every call in training mode whose
    /// layers make a variable so that was finite (running statistics); what has been changed is
    /// put back. A loss scaler that skips such steps itself switches this on. On an accelerator,
    /// the check reads one flag back per call.
    pub fn allow_non_finite(mut self, allow: bool) -> Self {
        self.choices.allow_non_finite = allow;
        self
    }

    /// Takes the model apart into stages and starts the threads that run them.
    ///
    /// # Errors
    ///
    /// If a setting is out of range, the schedule is not valid or does not fit the model, repeated
    /// layers do not fit their devices, or a thread cannot be started.
    pub fn build(self) -> Result<Pipe<M>> {
        let mut graph = Graph::new();
        let plain = self.model.disassemble(&mut graph)?;
        Ok(Pipe { core: PipelineCore::new(graph, self.vars, self.choices, M::DEFAULTS)?, plain })
    }
}
