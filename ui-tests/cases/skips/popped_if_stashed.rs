//! Every stash has a pop.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[stash(left = output)]
    one: Linear,
    two: Linear,
}

fn main() {}
