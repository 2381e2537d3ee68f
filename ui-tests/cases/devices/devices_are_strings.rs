//! A device is a string literal, because it is read at compile time.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device(cpu)]
    encode: Linear,
}

fn main() {}
