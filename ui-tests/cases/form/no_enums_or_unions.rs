//! A model is a struct, not an enum or a union.

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
