//! What goes wrong, and what is left then.

mod errors;
mod failures;
mod process;
mod silence;
