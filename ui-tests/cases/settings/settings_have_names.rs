//! A setting has a name.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(8, checkpoint = never)]
struct Model {
    encode: Linear,
}

fn main() {}
