//! A model is a struct: it has all of its layers, where an enum has one of them.

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
