//! There are at least as many layers as devices: every stage needs a layer.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[devices("cuda:0", "cuda:1", "cuda:2")]
    blocks: [Linear; 2],
}

fn main() {}
