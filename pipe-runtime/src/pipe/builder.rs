use super::handle::Pipe;
use crate::error::Result;
use crate::model::{Checkpoint, Vars};
use crate::run::{Choices, IntoSchedule, PipelineCore};
use crate::stages::{Graph, Pipeline};

/// Builder of a [`Pipe`], made by an annotated struct's `pipe` method. A setting that is left out
/// keeps its annotated value.
///
/// ```no_run
/// # use pipe_runtime::{Checkpoint, Pipe, PipeBuilder, Pipeline, ScheduleKind};
/// # fn build<M: Pipeline>(builder: PipeBuilder<'_, M>) -> pipe_runtime::Result<Pipe<M>> {
/// builder.chunks(8).schedule(ScheduleKind::OneFOneB).checkpoint(Checkpoint::Never).build()
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

    /// Sets the greatest number of micro-batches that a mini-batch is split into. `None` stands for
    /// the annotated number, or for 1 if there is none.
    pub fn chunks(mut self, chunks: impl Into<Option<usize>>) -> Self {
        self.choices.chunks = chunks.into();
        self
    }

    /// Sets which micro-batches are checkpointed. `None` stands for the annotated mode, or for
    /// [`Checkpoint::ExceptLast`] if there is none.
    pub fn checkpoint(mut self, checkpoint: impl Into<Option<Checkpoint>>) -> Self {
        self.choices.checkpoint = checkpoint.into();
        self
    }

    /// Sets the order of [`Pipe::train_step`]: a [`ScheduleKind`](crate::ScheduleKind), a custom
    /// [`Schedule`](pipe_schedule::Schedule), or `None` for the annotated schedule (GPipe if there
    /// is none). [`Pipe::forward`] and `backward()` run in GPipe's order: where gradients are
    /// recorded, a pipeline that is built for another schedule refuses them.
    ///
    /// A custom schedule is made for one number of micro-batches. [`chunks`](Self::chunks) must be
    /// that number, and takes it if it is not set. A mini-batch that gives fewer micro-batches
    /// skips the actions of the missing ones. The schedule may place the stages on ranks freely, as
    /// long as each rank has one device and each accelerator one rank. Recomputations that it
    /// leaves out are inserted right before their backwards.
    pub fn schedule(mut self, schedule: impl IntoSchedule) -> Self {
        self.choices.schedule = schedule.into_choice();
        self
    }

    /// Sets the number of ranks that the stages are placed on, if all stages are on the CPU. By
    /// default, it follows from the number of stages per rank that the schedule needs. A schedule
    /// that takes any number gets one per rank (GPipe, ZB-H1) or two (the interleaved ones). On
    /// accelerators, each device is a rank, and [`build`](Self::build) refuses this setting.
    pub fn ranks(mut self, ranks: usize) -> Self {
        self.choices.ranks = Some(ranks);
        self
    }

    /// Sets how many threads libtorch uses inside one operator of a stage, from 1 to 4096. By
    /// default, the threads that run CPU stages at the same time get equal shares of the caller's
    /// number ([`tch::get_num_threads`]).
    pub fn intra_op_threads(mut self, threads: usize) -> Self {
        self.choices.intra_op_threads = Some(threads);
        self
    }

    /// Sets whether matrix products add a weight's gradient directly to its sum over the
    /// micro-batches, as Megatron-LM's `gradient_accumulation_fusion` does. Off by default. It
    /// saves a tensor of the weight's size per micro-batch, and the time to write and read it. It
    /// saves more the wider the layers are, and the fewer rows a micro-batch has.
    ///
    /// It applies from a stage's second micro-batch on, to the weights of `linear` and to
    /// two-dimensional second factors of `matmul`, as they are or transposed by `tr`, of a real
    /// floating type. A weight that autocast converts is summed as without this setting, and so are
    /// all weights where tensors have hooks. Gradients that are summed this way differ by rounding
    /// from those of the [unpipelined](crate::Unpipelined) run. Without it, they are equal to the
    /// bit.
    pub fn fuse_gradient_accumulation(mut self, fuse: bool) -> Self {
        self.choices.fuse_gradient_accumulation = fuse;
        self
    }

    /// Sets whether a call may leave numbers that are not finite. Off by default: a training step
    /// fails if its loss is infinite or NaN, and a call in training mode fails if its layers make a
    /// finite variable (a running statistic) infinite or NaN. Whatever the failed call changed is
    /// restored. Turn this on for a loss scaler, which skips such steps itself. On an accelerator,
    /// the check reads back one flag per call.
    pub fn allow_non_finite(mut self, allow: bool) -> Self {
        self.choices.allow_non_finite = allow;
        self
    }

    /// Splits the model into stages and starts the threads that run them.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Setting`](crate::Error::Setting) if
    ///
    /// * a setting is out of range;
    /// * the schedule is invalid, or does not fit the model or its devices;
    /// * the number of repeated layers does not fit their annotated division into stages;
    /// * a variable belongs to no layer, or is not on the device of its layer's stage;
    /// * a thread cannot be started.
    ///
    /// Returns [`Error::Torch`](crate::Error::Torch) if a call into libtorch fails.
    pub fn build(self) -> Result<Pipe<M>> {
        let mut graph = Graph::new();
        let plain = self.model.disassemble(&mut graph)?;
        Ok(Pipe { core: PipelineCore::new(graph, self.vars, self.choices, M::DEFAULTS)?, plain })
    }
}
