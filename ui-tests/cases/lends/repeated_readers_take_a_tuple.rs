//! Each of repeated layers takes what the array reads.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[lend(memory = output)]
    one: Linear,
    #[repeat]
    #[read(memory)]
    two: [Linear; 3],
}

fn main() {}
