//! A layer that reads takes a tuple of its input and what it reads.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[lend(memory = output)]
    one: Linear,
    #[read(memory)]
    two: Concat,
    #[read(memory)]
    three: Linear,
}

fn main() {}
