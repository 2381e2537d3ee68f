//! A count fits into a `usize`.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[devices("cuda:0" = 99999999999999999999, "cuda:1" = 4)]
    blocks: Vec<Linear>,
}

fn main() {}
