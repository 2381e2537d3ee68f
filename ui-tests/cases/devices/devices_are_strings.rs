//! A device is read at compile time, so it is written as a string.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device(cpu)]
    encode: Linear,
}

fn main() {}
