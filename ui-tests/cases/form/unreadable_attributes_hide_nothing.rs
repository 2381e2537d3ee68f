//! An attribute that cannot be read is one mistake. The other mistakes are found, and no errors
//! follow from it.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline(chunks, checkpoint = sometimes)]
struct Model {
    #[device(cuda)]
    #[stash(a = both, b = output)]
    encode: Linear,
    #[device("gpu:1")]
    #[pop(a)]
    decode: Concat,
    #[pop(b)]
    merge: Concat,
    #[layer(name = "merge")]
    head: Linear,
}

fn main() {}
