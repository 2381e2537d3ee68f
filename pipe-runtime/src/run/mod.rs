//! A built pipeline, and one call of it.

mod call;
mod network;
mod recorder;
mod runner;
mod scheduling;
mod settings;
mod streams;

pub use scheduling::{IntoScheduling, Scheduling};

pub(crate) use call::{Given, Loss, TrainRun, loss_is_not_finite};
pub(crate) use network::Network;
pub(crate) use runner::{Runner, check_targets};
pub(crate) use settings::{Choices, check_chunks, check_threads};
