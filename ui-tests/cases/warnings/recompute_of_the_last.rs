//! The last layer has nothing to recompute where its backward comes at once.
#![deny(deprecated)]

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(schedule = "1f1b", chunks = 4)]
struct Model {
    #[device("cuda:0")]
    #[recompute]
    encode: Linear,
    #[device("cuda:1")]
    #[recompute]
    decode: Linear,
}

fn main() {}
