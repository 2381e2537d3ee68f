//! An attribute appears once on a field.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cpu")]
    #[device("cuda:0")]
    encode: Linear,
    #[stash(a = input)]
    #[stash(b = output)]
    decode: Linear,
    #[pop(a)]
    merge: Concat,
    #[pop(b)]
    more: Concat,
}

fn main() {}
