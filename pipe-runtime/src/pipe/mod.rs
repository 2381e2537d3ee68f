//! What a user holds: a pipeline and its builder, training steps, traces and advice, the run in
//! place, and the measuring of a model.

mod advise;
pub mod balance;
mod builder;
mod handle;
mod in_place;
mod report;
mod trace;
mod train_step;

pub use builder::PipeBuilder;
pub use handle::Pipe;
pub use in_place::InPlace;
pub use report::{DeviceMemory, PipeReport};
pub use train_step::{Reduction, Report, StageReport};
