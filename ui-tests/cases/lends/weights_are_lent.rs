//! A weight is lent and read, not stashed and popped.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[stash(weight = tied)]
    one: Linear,
    #[pop(weight)]
    two: Concat,
}

fn main() {}
