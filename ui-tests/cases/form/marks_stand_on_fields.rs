//! An attribute about a layer is on a field, not on the struct.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
#[device("cpu")]
struct Model {
    encode: Linear,
}

fn main() {}
