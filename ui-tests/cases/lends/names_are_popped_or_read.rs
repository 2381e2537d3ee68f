//! What is lent is read, and what is stashed is popped.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[lend(memory = output)]
    #[stash(level = input)]
    one: Linear,
    #[read(memory)]
    two: Concat,
    #[pop(memory)]
    three: Concat,
    #[read(level)]
    four: Concat,
}

fn main() {}
