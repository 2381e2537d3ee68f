//! An even split gives every device a layer.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[devices("cuda:0", "cuda:1", "cuda:2")]
    blocks: [Linear; 2],
}

fn main() {}
