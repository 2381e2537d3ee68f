//! A layer lends its input, its output, or its weight.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[lend(memory)]
    one: Linear,
    #[lend(mask = both)]
    two: Linear,
    #[read(memory, mask)]
    three: Concat,
}

fn main() {}
