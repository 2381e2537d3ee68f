//! A device gets at least one layer.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[devices("cuda:0" = 0, "cuda:1" = 4)]
    blocks: [Linear; 4],
}

fn main() {}
