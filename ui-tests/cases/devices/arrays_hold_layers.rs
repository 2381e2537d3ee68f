//! An array has at least one layer.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[repeat]
    blocks: [Linear; 0],
}

fn main() {}
