//! All mistakes in the skips are reported, in source order.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[pop(early)]
    one: Concat,
    #[stash(early = output, lost = output)]
    two: Linear,
    #[stash(twice = input, twice = output)]
    three: Linear,
    #[pop(twice, missing)]
    four: Concat,
    #[repeat]
    #[stash(each)]
    blocks: [Linear; 3],
    #[pop(each)]
    #[stash(own)]
    five: Concat,
    #[pop(own)]
    #[stash(level = output)]
    six: Concat,
    #[pop(levle)]
    seven: Concat,
}

fn main() {}
