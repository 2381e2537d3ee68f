//! The runtime is where it is said to be.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(crate = nowhere)]
struct Model {
    encode: Linear,
}

fn main() {}
