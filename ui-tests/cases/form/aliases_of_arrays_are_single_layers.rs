//! A type is read as it is written, so an alias of an array is a single layer.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

type Blocks = [Linear; 4];

#[pipeline]
struct Model {
    #[repeat]
    blocks: Blocks,
}

fn main() {}
