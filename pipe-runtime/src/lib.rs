//! Pipeline parallelism for [tch](https://docs.rs/tch) models, compiled.
//!
//! [`#[pipeline]`](pipeline) on a struct of layers checks stages, devices and skips at compile
//! time, and generates what runs them. The model then trains over micro-batches, stages and
//! devices:
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
//! * [`Vars`] and [`Devices`]: the variables, one store per stage's device, and where the stages
//!   are.
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
mod files;
mod flow;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod lock;
mod model;
pub mod nn;
pub mod optim;
mod pipe;
mod quiet;
mod run;
mod stages;
mod threads;
mod torch;
mod world;

pub use autocast::autocast;
pub use error::{Error, Failure, Phase, Result};
pub use flow::{
    Along, Each, Flow, IntoFlow, List, Mean, MiniBatch, Packer, PerRow, Portable, Replicate, Rows, Sum, Unpacker,
};
pub use model::{
    Carried, CheapOutputs, Checkpoint, Context, Defaults, Devices, Layer, LayerPlan, LentPlan, LoadReport, Loader,
    Model, Plan, Recomputed, RecomputedPlan, Repeat, SkipPlan, Split, StagePlan, SumPlan, Tied, Vars,
};
pub use pipe::{
    Checkpoints, DeviceMemory, IterationReport, MemoryReport, Optimizer, OptimizerBuilder, Pipe, PipeBuilder,
    RankMemory, Reduction, StageMemory, StageReport, StepReport, TrainStep, Trainer, Unpipelined, Update, balance,
};
/// ```
/// use pipe_runtime::{Flow, nn::Identity, pipeline};
/// use tch::Tensor;
///
/// #[derive(Flow)]
/// struct Tokens {
///     ids: Tensor,  // `[N, length]`
///     mask: Tensor, // `[N, length]`
/// }
///
/// #[pipeline(input = Tokens, output = Tokens)]
/// struct Net {
///     #[device("cuda:0")]
///     first: Identity,
///     #[device("cuda:1")]
///     second: Identity,
/// }
/// ```
pub use pipe_macros::Flow;
/// # Examples
///
/// `#[device]` opens a stage, which goes on until the next one. `#[stage]` opens one on the same
/// device.
///
/// ```
/// # use pipe_runtime::pipeline;
/// # use tch::nn;
/// #[pipeline(chunks = 8, checkpoint = except_last, schedule = zbv)]
/// struct Net {
///     #[device("cuda:0")]
///     embed: nn::Embedding,
///     first: nn::Linear, // in the stage of `embed`
///     #[device("cuda:1")]
///     second: nn::Linear,
///     #[stage]
///     third: nn::Linear,
///     #[device("cuda:0")]
///     last: nn::Linear,
/// }
/// assert_eq!(Net::STAGES, 4); // a V over two devices, as `zbv` wants them
/// ```
///
/// `#[devices]` spreads an array or a `Vec` of layers over stages, evenly or by counts. `#[repeat]`
/// runs one in the stage where it stands.
///
/// ```
/// # use pipe_runtime::pipeline;
/// # use tch::nn;
/// #[pipeline]
/// struct Net {
///     #[device("cuda:0")]
///     #[repeat]
///     early: [nn::Linear; 2],
///     #[devices("cuda:0" = 5, "cuda:1" = 7)]
///     blocks: [nn::Linear; 12],
/// }
/// assert_eq!(Net::STAGES, 2);
/// ```
///
/// `#[stash]` keeps a value for a later layer, and `#[pop]` takes it: what the layer takes
/// (`input`), gives (`output`), a part of that (`input.1`), or what it returns beside its output
/// (the name alone). A layer that pops takes `(input, popped)`.
///
/// ```
/// # use pipe_runtime::{nn::Add, pipeline};
/// # use tch::nn;
/// #[pipeline]
/// struct Net {
///     #[device("cuda:0")]
///     #[stash(residual = input)]
///     first: nn::Linear,
///     #[device("cuda:1")]
///     #[pop(residual)]
///     add: Add,
/// }
/// ```
///
/// `#[lend]` makes such a value, or a weight (`tied`), one that any number of later layers read by
/// `#[read]`. A layer with `#[sum]` returns `(output, value)`, and the values of all such layers
/// are added up, in their order; the sum arrives beside the model's output.
///
/// ```
/// use pipe_runtime::{Context, Layer, Mean, pipeline};
/// use tch::{Kind, Tensor, nn};
///
/// /// Adds the square of what it gives.
/// struct Block(nn::Linear);
///
/// impl Layer<(Tensor, Tensor)> for Block {
///     type Out = (Tensor, Tensor);
///
///     fn run(&self, (x, memory): (Tensor, Tensor), _cx: &Context) -> (Tensor, Tensor) {
///         let x = x.apply(&self.0) + memory;
///         let penalty = x.square().mean(Kind::Float);
///         (x, penalty)
///     }
/// }
///
/// #[pipeline(sum(penalty: Mean))] // gives `(Tensor, Mean)`
/// struct Net {
///     #[device("cuda:0")]
///     #[lend(memory = output)]
///     first: nn::Linear,
///     #[devices("cuda:0", "cuda:1")]
///     #[read(memory)]
///     #[sum(penalty)]
///     blocks: [Block; 4],
/// }
/// ```
///
/// `#[layer(name = "..")]` gives a layer another name in parameter paths, such as the one that it
/// has in a file of PyTorch's. `#[not_a_layer]` keeps a field out of the pipeline. A field of type
/// `Option<L>` is a layer that may be absent.
///
/// ```
/// # use pipe_runtime::pipeline;
/// # use tch::nn;
/// #[pipeline]
/// struct Net {
///     #[device("cpu")]
///     #[layer(name = "0")]
///     first: nn::Linear,
///     #[device("cpu")]
///     norm: Option<nn::LayerNorm>,
///     #[not_a_layer]
///     vocabulary: Vec<String>,
/// }
/// ```
///
/// A struct without devices is a block, which nests as one layer of another one:
///
/// ```
/// # use pipe_runtime::{Devices, pipeline};
/// # use tch::nn;
/// #[pipeline]
/// struct Block {
///     linear: nn::Linear,
///     norm: nn::LayerNorm,
/// }
///
/// #[pipeline]
/// struct Net {
///     #[devices("cpu", "cpu")]
///     blocks: [Block; 4],
/// }
///
/// let vars = Net::vars(&Devices::cpu(Net::STAGES))?;
/// let blocks = vars.blocks().map(|path| {
///     let vars = Block::vars_at(path);
///     let linear = nn::linear(vars.linear(), 8, 8, Default::default());
///     Block { linear, norm: nn::layer_norm(vars.norm(), vec![8], Default::default()) }
/// });
/// let pipe = Net { blocks }.pipe(&vars).build()?;
/// # Ok::<(), pipe_runtime::Error>(())
/// ```
pub use pipe_macros::pipeline;
#[doc(no_inline)]
pub use pipe_schedule as schedule;
pub use pipe_schedule::{Schedule, ScheduleKind, Trace};
pub use run::{IntoSchedule, ScheduleChoice};
pub use stages::Pipeline;
pub use torch::{Offload, TorchError, keep_freed_memory};
pub use world::{MessagePrice, World};
