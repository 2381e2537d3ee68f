//! An absent layer is the identity, which reads and lends nothing.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[lend(weight = tied)]
    one: Option<Linear>,
    #[lend(memory = output)]
    two: Option<Linear>,
    #[read(memory)]
    three: Option<Concat>,
    #[read(memory, weight)]
    four: Concat,
}

fn main() {}
