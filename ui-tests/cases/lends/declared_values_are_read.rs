//! A layer of the block reads what the block declares.

use pipe_runtime::nn::Linear;
use pipe_runtime::{Tensor, pipeline};

#[pipeline(read(memory: Tensor))]
struct Block {
    one: Linear,
}

fn main() {}
