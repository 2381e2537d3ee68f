//! A list of devices or names is not empty.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[devices()]
    blocks: [Linear; 2],
    #[stash()]
    decode: Linear,
}

fn main() {}
