//! `crate` is a path.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(crate = "pipe")]
struct Model {
    encode: Linear,
}

fn main() {}
