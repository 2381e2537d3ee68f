//! A skip is popped by one layer.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[stash(level = output)]
    one: Linear,
    #[pop(level)]
    two: Concat,
    #[pop(level)]
    three: Concat,
}

fn main() {}
