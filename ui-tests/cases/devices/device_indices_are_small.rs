//! An index is at most 127, because torch stores it in a signed byte.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cuda:128")]
    encode: Linear,
}

fn main() {}
