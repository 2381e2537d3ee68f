//! An accelerator has an index, because there can be several.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cuda")]
    encode: Linear,
}

fn main() {}
