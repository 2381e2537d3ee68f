//! A device index is 127 or less, because torch counts devices in a signed byte.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cuda:128")]
    encode: Linear,
}

fn main() {}
