//! An array says how its layers run: with `#[repeat]` as one layer, with `#[devices(..)]` spread.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    blocks: [Linear; 4],
    more: Vec<Linear>,
}

fn main() {}
