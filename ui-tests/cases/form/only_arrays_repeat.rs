//! `#[repeat]` goes on an array or a `Vec`.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[repeat]
    head: Linear,
}

fn main() {}
