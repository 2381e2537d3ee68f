//! A block that declares what it reads from outside is a layer that reads it.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::{Tensor, pipeline};

#[pipeline(read(memory: Tensor))]
struct Block {
    one: Linear,
    #[read(memory)]
    two: Concat,
}

#[pipeline]
struct Model {
    #[lend(memory = output)]
    encode: Linear,
    #[read(memory)]
    first: Block,
    #[read(memory)]
    second: Block,
    third: Block,
}

fn main() {}
