//! If one device has a process, all devices have one.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cuda:0", process = 0)]
    encode: Linear,
    #[device("cuda:1")]
    decode: Linear,
}

fn main() {}
