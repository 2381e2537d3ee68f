//! If one device says how many layers it gets, all do.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[devices("cuda:0" = 5, "cuda:1")]
    blocks: [Linear; 8],
}

fn main() {}
