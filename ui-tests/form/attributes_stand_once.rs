//! Each attribute stands once on a field.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cpu")]
    #[device("cuda:0")]
    encode: Linear,
    #[stash(a = input)]
    #[stash(b = output)]
    decode: Linear,
}

fn main() {}
