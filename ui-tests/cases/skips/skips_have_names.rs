//! A skip has a name: `_` is none, because a layer takes all that it pops.

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
