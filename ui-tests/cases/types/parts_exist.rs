//! A part that is stashed is a part of the value.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[stash(noise = input.1)]
    encode: Linear,
    #[pop(noise)]
    join: Concat,
}

fn main() {}
