//! Layers run in the order of the fields, so a value is lent above its readers.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[read(memory)]
    one: Concat,
    #[lend(memory = output)]
    two: Linear,
    #[read(memory)]
    three: Concat,
}

fn main() {}
