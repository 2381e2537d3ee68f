//! The part of a value that is lent exists.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[lend(memory = output.1)]
    one: Linear,
    #[read(memory)]
    two: Concat,
    #[read(memory)]
    three: Concat,
}

fn main() {}
