//! Pipeline parallelism for [tch](https://docs.rs/tch) models, compiled.
//!
//! [`#[pipeline]`](pipeline) on a struct of layers checks stages, devices and skips at compile time,
//! and generates what runs them. The model then trains over micro-batches, stages and devices:
//!
//! ```
//! use pipe_runtime::{Devices, pipeline};
//! use tch::{Tensor, nn};
//!
//! #[pipeline(chunks = 8, schedule = "1f1b")]
//! struct Net {
//!     #[device("cuda:0")]
//!     encode: nn::Linear,
//!     #[device("cuda:1")]
//!     decode: nn::Linear,
//! }
//!
//! fn train(x: &Tensor) -> pipe_runtime::Result<Tensor> {
//!     let vars = Net::vars(&Devices::cpu(2))?; // or `Net::devices()`, the annotated ones
//!     let encode = nn::linear(vars.encode(), 16, 4, Default::default());
//!     let decode = nn::linear(vars.decode(), 4, 16, Default::default());
//!     let mut pipe = Net { encode, decode }.pipe(&vars).build()?;
//!     let report = pipe.train_step(x, x, |y, x: &Tensor| y.mse_loss(x, tch::Reduction::Mean))?;
//!     Ok(report.loss) // the gradients are in `vars`, where tch's optimizers find them
//! }
//! # train(&Tensor::rand([64, 16], (tch::Kind::Float, tch::Device::Cpu)))?;
//! # Ok::<(), pipe_runtime::Error>(())
//! ```
//!
//! Where to go on:
//!
//! * [`pipeline`]: the attributes of the struct and of its fields. [`Layer`]: what a field can be.
//! * [`Vars`] and [`Devices`]: the variables, one store per stage's device, and where the stages are.
//! * [`PipeBuilder`]: chunks, checkpointing, schedule. [`Pipe`]: the model as it runs, by
//!   [`forward`](Pipe::forward) and `backward()` or by [`train_step`](Pipe::train_step).
//! * [`Flow`](trait@Flow): what can cross a stage boundary, and how a mini-batch is split.
//! * [`balance`]: measures the layers and cuts the model. [`schedule`]: schedules as data, their
//!   simulator, and advice.
//!
//! The repository's README says how to set libtorch up; its book has a tutorial, guides and the
//! reference. With the feature `mimalloc`, the whole program allocates by mimalloc (see
//! [`keep_freed_memory`]); with `doc-only`, documentation is built without a libtorch.

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
