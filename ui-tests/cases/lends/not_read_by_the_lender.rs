//! A layer does not read what it lends.

use pipe_runtime::nn::Concat;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[lend(memory = input)]
    #[read(memory)]
    one: Concat,
    #[read(memory)]
    two: Concat,
}

fn main() {}
