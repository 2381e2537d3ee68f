//! `#[repeat]` is on an array or a `Vec`: a single layer has nothing to repeat.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[repeat]
    head: Linear,
}

fn main() {}
