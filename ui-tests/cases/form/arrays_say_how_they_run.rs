//! An array has a way to run: as one layer, or spread.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    blocks: [Linear; 4],
    more: Vec<Linear>,
}

fn main() {}
