//! The struct has named fields, because layers have names.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Tuple(#[device("cpu")] Linear);

#[pipeline]
struct Unit;

fn main() {}
