//! Helpers that the commands share. They import no command.

pub mod cache;
pub mod cargo;
pub mod checkout;
pub mod digits;
pub mod disk;
pub mod environment;
pub mod libtorch;
pub mod minilm;
pub mod mpi;
pub mod pip;
pub mod python;
pub mod tally;
pub mod wheel;
