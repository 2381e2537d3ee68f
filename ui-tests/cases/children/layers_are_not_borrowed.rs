//! A layer is owned by its model, not borrowed.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    head: &'static Linear,
}

fn main() {}
