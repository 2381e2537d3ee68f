//! An unknown attribute is reported by rustc.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[devise("cpu")]
    encode: Linear,
}

fn main() {}
