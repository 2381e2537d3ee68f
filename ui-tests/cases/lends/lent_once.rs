//! One layer lends a name: it has one value.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[lend(memory = output)]
    one: Linear,
    #[lend(memory = output)]
    two: Linear,
    #[read(memory)]
    three: Concat,
    #[read(memory)]
    four: Concat,
}

fn main() {}
