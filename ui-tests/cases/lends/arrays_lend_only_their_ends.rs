//! No single one of repeated layers can lend its weight.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[repeat]
    #[lend(memory = tied)]
    one: [Linear; 3],
    #[read(memory)]
    two: Concat,
    #[read(memory)]
    three: Concat,
}

fn main() {}
