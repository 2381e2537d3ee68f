//! Types are read as they are written: an alias is a single layer.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

type Blocks = [Linear; 4];

#[pipeline]
struct Model {
    #[repeat]
    blocks: Blocks,
}

fn main() {}
