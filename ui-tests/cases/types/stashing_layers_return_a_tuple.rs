//! A layer that stashes returns `(output, skip)`.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cuda:0")]
    first: Linear,
    #[stash(level)]
    encode: Linear,
    #[device("cuda:1")]
    decode: Linear,
    #[pop(level)]
    merge: Concat,
}

fn main() {}
