//! An array of arrays is not a layer: only one level is repeated.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[repeat]
    blocks: [[Linear; 2]; 3],
}

fn main() {}
