//! What is lent is read by a later layer.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[lend(memory = output)]
    one: Linear,
    two: Linear,
}

fn main() {}
