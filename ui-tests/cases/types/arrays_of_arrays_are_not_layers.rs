//! Only one level of an array is repeated: an inner array is not a layer.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[repeat]
    blocks: [[Linear; 2]; 3],
}

fn main() {}
