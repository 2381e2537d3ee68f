//! A part that is stashed exists in the value.

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
