//! Repeated layers have one type, so none of them can pop a skip.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[stash(level = output)]
    encode: Linear,
    #[repeat]
    #[pop(level)]
    blocks: [Concat; 4],
}

fn main() {}
