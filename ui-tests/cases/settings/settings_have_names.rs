//! A value has the name of its setting.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(8, checkpoint = never)]
struct Model {
    encode: Linear,
}

fn main() {}
