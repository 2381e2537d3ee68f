//! A layer reads a value once.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[lend(memory = output)]
    one: Linear,
    #[read(memory, memory)]
    two: Concat,
    #[read(memory)]
    three: Concat,
}

fn main() {}
