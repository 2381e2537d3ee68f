//! Layers have names: those of tuple structs have none.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Tuple(#[device("cpu")] Linear);

#[pipeline]
struct Unit;

fn main() {}
