//! Repeated layers take and return the same type, because they run one after another.

use pipe_runtime::nn::Concat;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[devices("cuda:0", "cuda:1")]
    blocks: [Concat; 4],
}

fn main() {}
