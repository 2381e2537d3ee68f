//! An `Option` of a layer is not a layer.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    encode: Linear,
    drop: Option<Linear>,
}

fn main() {}
