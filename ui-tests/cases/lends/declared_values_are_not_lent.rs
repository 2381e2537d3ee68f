//! A value comes from outside once, and no layer of the block lends it.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::{Tensor, pipeline};

#[pipeline(read(memory: Tensor, mask: Tensor, mask: Tensor))]
struct Block {
    #[lend(memory = output)]
    one: Linear,
    #[read(memory)]
    two: Concat,
    #[read(mask)]
    three: Concat,
}

fn main() {}
