//! Pipeline parallelism for tch models, compiled.
//!
//! Annotate a struct of layers with [`#[pipeline]`](pipeline), and it trains over micro-batches,
//! stages and devices: see the repository's README and book. This crate is the run-time half: the
//! values that [flow](Flow), the [layers](Layer), the [variables](Vars), and the [`Pipe`] that runs
//! them.

#![deny(missing_docs)]

#[doc(hidden)]
#[path = "rt.rs"]
pub mod __rt;
mod autocast;
mod error;
mod flow;
mod lock;
mod model;
pub mod nn;
mod pipe;
mod quiet;
mod run;
mod stages;
mod threads;
mod torch;

pub use autocast::autocast;
pub use error::{Error, Failure, Phase, Result};
pub use flow::{Along, Each, Flow, IntoFlow, List, Mean, MiniBatch, Packer, PerRow, Replicate, Rows, Sum, Unpacker};
pub use model::{
    Carried, Checkpoint, Context, Defaults, Devices, Layer, LayerPlan, Model, Plan, Repeat, SkipPlan, Split, StagePlan,
    Tied, Vars,
};
pub use pipe::{
    DeviceMemory, MemoryReport, Pipe, PipeBuilder, Reduction, StageReport, StepReport, TrainStep, Unpipelined, balance,
};
pub use pipe_macros::{Flow, pipeline};
#[doc(no_inline)]
pub use pipe_schedule as schedule;
pub use pipe_schedule::{Schedule, ScheduleKind, Trace};
pub use run::{IntoSchedule, ScheduleChoice};
pub use stages::Pipeline;
pub use torch::{TorchError, keep_freed_memory};
