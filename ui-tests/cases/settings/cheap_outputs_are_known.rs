//! What is done with cheap outputs is one of the three words that there are.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(cheap_outputs = recompute_al)]
struct Misspelt {
    encode: Linear,
}

#[pipeline(cheap_outputs = "keep")]
struct Quoted {
    encode: Linear,
}

fn main() {}
