//! Repeated layers return the type that they take, because they run one after the other.

use pipe_runtime::nn::Concat;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[devices("cuda:0", "cuda:1")]
    blocks: [Concat; 4],
}

fn main() {}
