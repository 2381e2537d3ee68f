//! An array has `#[repeat]` or `#[devices(..)]`, not both.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[repeat]
    #[devices("cpu", "cpu")]
    blocks: [Linear; 4],
}

fn main() {}
