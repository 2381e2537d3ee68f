//! A list of processes has one for each device.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[devices("cuda:0", "cuda:0", process = [0, 1, 2])]
    blocks: [Linear; 8],
}

fn main() {}
