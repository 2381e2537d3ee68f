//! The runtime is at the path in `crate = ..`.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(crate = nowhere)]
struct Model {
    encode: Linear,
}

fn main() {}
