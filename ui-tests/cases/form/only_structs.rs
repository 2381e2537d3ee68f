//! `#[pipeline]` goes on nothing else than a struct.

use pipe_runtime::pipeline;

#[pipeline]
fn model() {}

fn main() {}
