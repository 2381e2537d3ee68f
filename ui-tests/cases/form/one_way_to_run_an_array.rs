//! An array runs as one layer or is spread, not both.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[repeat]
    #[devices("cpu", "cpu")]
    blocks: [Linear; 4],
}

fn main() {}
