//! Helpers that the phases of `#[pipeline]` and `#[derive(Flow)]` share. They import nothing from
//! the phases.

pub mod depth;
pub mod device;
pub mod errors;
pub mod names;
