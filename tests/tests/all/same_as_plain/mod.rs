//! Equality with plain tch: `docs/same-as-plain.md`.

mod autograd;
mod batch_norm;
mod cheap_outputs;
mod first_pass;
mod frozen;
mod fusion;
mod in_place;
mod modes;
mod operators;
mod random;
mod recompute;
mod state;
mod sums;
mod transparency;
mod zoo;
