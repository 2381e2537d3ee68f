//! A field has `#[device(..)]` or `#[devices(..)]`, not both.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cpu")]
    #[devices("cpu", "cuda:0")]
    blocks: [Linear; 4],
}

fn main() {}
