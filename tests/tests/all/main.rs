//! Tests of the public interface, in a folder for each part of the book.
//!
//! The tests of one binary run at the same time, in one process. Tests that create tensors take
//! `pipe_tests::serial()` first. Tests that need a separate process are files beside this folder.

mod book;
mod failing;
mod flow;
mod measured;
mod model;
mod same_as_plain;
mod training;
