//! The counts add up to the length of the array.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[devices("cuda:0" = 2, "cuda:1" = 3)]
    blocks: [Linear; 4],
}

fn main() {}
