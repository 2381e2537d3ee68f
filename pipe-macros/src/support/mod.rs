//! Code that the phases of `#[pipeline]` and `#[derive(Flow)]` share. It imports nothing from them.

pub mod device;
pub mod errors;
pub mod names;
