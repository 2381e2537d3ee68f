//! A popped skip has a name: the layer takes all that it pops, so there is no `_`.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[stash(level = output)]
    encode: Linear,
    #[pop(_)]
    merge: Concat,
}

fn main() {}
