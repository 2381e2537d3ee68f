//! `#[device(..)]` takes one device.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cuda:0", "cuda:1")]
    encode: Linear,
}

fn main() {}
