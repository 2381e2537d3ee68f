//! What is read is lent by an earlier layer, or comes from outside of a block.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    one: Linear,
    #[read(memory)]
    two: Concat,
}

fn main() {}
