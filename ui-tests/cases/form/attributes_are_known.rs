//! An attribute that does not exist is reported by rustc.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[devise("cpu")]
    encode: Linear,
}

fn main() {}
