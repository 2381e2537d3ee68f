//! A value that one layer reads is a skip.
#![deny(deprecated)]

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cpu")]
    #[lend(memory = output)]
    encode: Linear,
    middle: Linear,
    #[device("cpu")]
    #[read(memory)]
    decode: Concat,
}

fn main() {}
