//! All mistakes with lent values are reported, in source order.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[read(early)]
    one: Concat,
    #[lend(early = output, lost = output)]
    two: Linear,
    #[read(missing)]
    three: Concat,
    #[lend(own = input)]
    #[read(own)]
    four: Concat,
    #[lend(early = output)]
    five: Linear,
    #[read(early, early)]
    six: Concat,
}

fn main() {}
