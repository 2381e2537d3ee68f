//! An array or a `Vec` of layers has `#[repeat]` or `#[devices(..)]`.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    blocks: [Linear; 4],
    more: Vec<Linear>,
}

fn main() {}
