//! `#[pipeline]` goes on a struct.

use pipe_runtime::pipeline;

#[pipeline]
fn model() {}

fn main() {}
