//! A `cuda` or `xpu` device has an index.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cuda")]
    encode: Linear,
}

fn main() {}
