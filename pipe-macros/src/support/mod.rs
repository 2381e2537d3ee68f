//! What the phases of `#[pipeline]` and `#[derive(Flow)]` share. Imports nothing from them.

pub mod device;
pub mod errors;
pub mod names;
