//! A name is that of a skip or of a lent value, not of both.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[lend(memory = output)]
    #[stash(memory = input)]
    one: Linear,
    #[read(memory)]
    two: Concat,
    #[pop(memory)]
    three: Concat,
}

fn main() {}
