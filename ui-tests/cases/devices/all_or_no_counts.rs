//! If one device has a number of layers, all of them have one.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[devices("cuda:0" = 5, "cuda:1")]
    blocks: [Linear; 8],
}

fn main() {}
