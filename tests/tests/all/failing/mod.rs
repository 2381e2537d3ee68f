//! Failures, and the state after them.

mod errors;
mod failures;
mod process;
mod silence;
