//! Attributes of layers go on fields, not on the struct.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
#[device("cpu")]
struct Model {
    encode: Linear,
}

fn main() {}
