//! An even split gives each device at least one layer.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[devices("cuda:0", "cuda:1", "cuda:2")]
    blocks: [Linear; 2],
}

fn main() {}
