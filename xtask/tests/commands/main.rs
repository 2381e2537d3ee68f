//! Tests the commands as a user runs them, with stand-ins for pip and the compiler.
#![cfg(unix)]

mod bench;
mod book;
mod data;
mod fixtures;
mod fuzz;
mod libtorch;
mod minilm;
mod new;
mod oracle;
mod published;
mod torture;
mod workbench;
