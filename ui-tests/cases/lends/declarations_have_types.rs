//! What a block reads from outside has a name and a type.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(read(memory))]
struct Block {
    one: Linear,
}

#[pipeline(read())]
struct Other {
    one: Linear,
}

fn main() {}
