//! An attribute that needs arguments has them.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device]
    encode: Linear,
    #[pop = "a"]
    decode: Linear,
}

fn main() {}
