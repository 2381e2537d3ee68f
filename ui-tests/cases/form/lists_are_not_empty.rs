//! A list of names has at least one name.

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
