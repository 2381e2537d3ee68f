//! One level of an array is repeated.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[repeat]
    blocks: [[Linear; 2]; 3],
}

fn main() {}
