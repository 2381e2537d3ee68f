//! A read that misspells what is lent is one mistake.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[lend(memory = output)]
    one: Linear,
    #[read(memory)]
    two: Concat,
    #[read(memry)]
    three: Concat,
}

fn main() {}
