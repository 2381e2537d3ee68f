//! All mistakes are reported at once, in source order: here seven, of all classes.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(chunks = 0)]
struct Model {
    encode: Linear,
    #[device("gpu:0")]
    #[stash(a = output)]
    middle: Linear,
    #[layer(name = "encode")]
    decode: Linear,
    blocks: [Linear; 3],
    head: std::rc::Rc<Linear>,
}

fn main() {}
