//! An unreadable attribute hides no other mistake and causes none.

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
