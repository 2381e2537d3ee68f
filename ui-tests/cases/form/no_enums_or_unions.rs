//! A model is all of its layers, not one of them.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
enum Enum {
    One(Linear),
}

#[pipeline]
union Union {
    one: u8,
}

fn main() {}
