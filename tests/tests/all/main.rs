//! What a pipeline promises, tested from outside: a folder for each part of the book.
//!
//! The tests of one binary run at the same time, in one process. Those that make tensors take
//! `pipe_tests::serial()` first; those that need a process of their own are files beside this
//! folder.

mod book;
mod failing;
mod flow;
mod measured;
mod model;
mod same_as_plain;
mod training;
