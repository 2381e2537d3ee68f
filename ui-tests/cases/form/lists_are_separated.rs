//! Names in a list are separated by commas.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[stash(a = input, b = output)]
    encode: Linear,
    #[pop(a b)]
    decode: Concat,
}

fn main() {}
