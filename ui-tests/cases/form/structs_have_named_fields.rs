//! A model has named fields, which name its layers.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Tuple(#[device("cpu")] Linear);

#[pipeline]
struct Unit;

fn main() {}
