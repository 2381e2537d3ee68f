//! Every setting is a known one.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(chunk = 8, banana = 3)]
struct Model {
    encode: Linear,
}

fn main() {}
