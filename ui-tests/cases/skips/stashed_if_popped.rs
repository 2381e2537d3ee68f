//! Every pop has a stash.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    one: Linear,
    #[pop(level)]
    two: Concat,
}

fn main() {}
