//! A layer is there: what is there only sometimes is a layer of its own.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    encode: Linear,
    drop: Option<Linear>,
}

fn main() {}
