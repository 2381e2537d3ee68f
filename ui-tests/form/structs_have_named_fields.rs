//! Layers have names: enums, unions, tuple and unit structs have none.

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

#[pipeline]
struct Tuple(#[device("cpu")] Linear);

#[pipeline]
struct Unit;

fn main() {}
