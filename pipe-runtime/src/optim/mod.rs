//! Optimizers for pipelines: the rules by which parameters are updated, groups of parameters,
//! learning-rate schedules and loss scaling.
//!
//! [`Pipe::optimizer`](crate::Pipe::optimizer) makes an [`Optimizer`](crate::Optimizer) of them.
//!
//! Options have the names, the defaults and the bounds of `torch.optim`. The updates are those of
//! its `fused=True`, to the bit: libtorch's fused kernels make them.

mod group;
mod lr_schedule;
mod rule;
mod scaler;

pub use group::Group;
pub use lr_schedule::LrSchedule;
pub use rule::{Adam, AdamW, Rule, Sgd};
pub use scaler::LossScaler;
