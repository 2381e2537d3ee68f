//! The types that a user holds: a pipeline and its builder, training steps, optimizers, traces,
//! advice, the unpipelined run, and the balancing of a model.

mod advise;
pub mod balance;
mod builder;
mod handle;
mod memory;
mod step;
mod step_report;
mod told;
mod trace;
mod train;
mod unpipelined;

pub use builder::PipeBuilder;
pub use handle::Pipe;
pub use memory::{DeviceMemory, MemoryReport, RankMemory, StageMemory};
pub use step::{Reduction, TrainStep};
pub use step_report::{StageReport, StepReport};
pub use train::{Checkpoints, IterationReport, Optimizer, OptimizerBuilder, Trainer, Update};
pub use unpipelined::Unpipelined;
