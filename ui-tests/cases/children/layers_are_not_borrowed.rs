//! A layer is owned by its model, not borrowed from somebody else.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    head: &'static Linear,
}

fn main() {}
