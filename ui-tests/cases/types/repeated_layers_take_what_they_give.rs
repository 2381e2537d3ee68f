//! Repeated layers are run one after the other, so they give what they take.

use pipe_runtime::nn::Concat;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[devices("cuda:0", "cuda:1")]
    blocks: [Concat; 4],
}

fn main() {}
