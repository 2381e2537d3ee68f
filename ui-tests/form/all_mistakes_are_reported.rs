//! All that is wrong is reported in one go, in source order.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline(chunks = 0, chekpoint = never)]
struct Model {
    encode: Linear,
    #[device("gpu:0")]
    #[stash(a = output)]
    middle: Linear,
    #[layer(name = "encode")]
    #[pop(b, c)]
    decode: Concat,
    blocks: [Linear; 3],
    #[stash(b = output)]
    head: std::rc::Rc<Linear>,
}

fn main() {}
