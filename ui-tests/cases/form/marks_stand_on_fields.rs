//! What is said of a layer is not said of the struct.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
#[device("cpu")]
struct Model {
    encode: Linear,
}

fn main() {}
