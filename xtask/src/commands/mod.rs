//! The commands, one file or folder each.

pub mod bench;
pub mod book;
pub mod data;
pub mod demo;
pub mod fixtures;
pub mod fuzz;
pub mod gpu_check;
pub mod libtorch;
pub mod minilm;
pub mod mpi;
pub mod new;
pub mod oracle;
pub mod pairs;
pub mod published;
pub mod test;
pub mod torture;
