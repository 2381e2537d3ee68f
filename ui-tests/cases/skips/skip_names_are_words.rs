//! A skip's name is a word, not a string.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[stash(level = output)]
    encode: Linear,
    #[pop("level")]
    merge: Concat,
}

fn main() {}
